"""What Dagster keeps of a run, at a provider that says key and prompts back in every error: neither."""

from pathlib import Path

import pytest

from tests.edges.dagster.conftest import Deployment

KEY = "sk-CANARY-4f9a7c21d8e34b60"
PROMPT = "canary-4711"  # in every prompt of `location.py`
QUOTED = f"Incorrect key Bearer {KEY} for prompt '{PROMPT} ticket 1'"
DAY = "2026-11-01"


@pytest.mark.wide
def test_no_file_of_dagsters_tells_a_key_or_a_prompt(deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its event log is read by everybody who may open the UI; a run that failed and one that did not, as bytes on the disk."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refusal = {"at": "upload", "do": "status", "status": 401, "message": QUOTED, "code": KEY, "times": None}
    deployment.emulator.faults({"rules": [refusal]})
    deployment.launch(DAY, "tickets", "labels_batch")
    deployment.turn_until(lambda: any(run.status.value == "FAILURE" for run in deployment.runs()) or len(deployment.ticks()) > 12)
    deployment.emulator.clear_faults()
    deployment.emulator.faults({"rules": [{"at": "rows", "do": "error", "status": 400, "message": QUOTED, "count": 2}]})
    deployment.launch(DAY, "labels_batch", "labels")
    for _ in range(40):
        deployment.turn()
        deployment.provider_ends()
        if DAY in deployment.materialized("labels"):
            break
    kept = [path for folder in (Path(deployment.instance.root_directory), tmp_path) for path in folder.rglob("*") if path.is_file()]
    told = {path for path in kept for secret in (KEY, PROMPT) if secret.encode() in path.read_bytes()}
    ours = {path for path in told if {"tables", "staging"} & set(path.parts)}
    assert [path for path in kept if path.suffix == ".db"]
    assert told - ours == set()
    assert not [path for path in kept if KEY.encode() in path.read_bytes() and "tables" not in path.parts and path.suffix != ".parquet"]
