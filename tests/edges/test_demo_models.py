"""The demo's two jobs at each kind of provider that `KELD_DEMO_MODELS` may name, for one day, without an orchestrator."""

import subprocess
import sys
from pathlib import Path

import pytest

MODELS = {
    "anthropic": "anthropic:claude-haiku-4-5",
    "azure": "azure:gpt-5-mini",
    "bedrock": "bedrock:us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "gemini": "gemini:gemini-3.8-flash",
    "groq": "groq:openai/gpt-oss-20b",
    "mistral": "mistral:mistral-small-latest",
    "self_hosted": "self_hosted:gpt-oss-20b",
    "vertex": "vertex:gemini-3.8-flash",
    "mixed": "bedrock:us.anthropic.claude-haiku-4-5-20251001-v1:0,anthropic:claude-haiku-4-5",
}
ROOT = Path(__file__).parents[2]
DAY = """
from datetime import date
from example_project.jobs import embeddings, triage
from example_project.provider import emulated_provider
from example_project.tickets import tickets_of
from keld import Keld

with emulated_provider(0) as provider:
    import os
    os.environ.update(provider.env())
    with Keld(home="home") as keld:
        for job, rows in ((triage, tickets_of(date(2026, 9, 7)).head(120)), (embeddings, None)):
            table = rows if rows is not None else keld.read(status.id).read_all().to_pandas().drop(columns=["keld_outcome", "keld_error", "keld_model", "keld_cost_usd"])
            status = keld.run(job, table, poll_s=0.1, partition="2026-09-07")
            print(job.name, status.model, status.lane, status.answered, status.cost_usd > 0)
        print(sorted(set(table["category"])))
"""


@pytest.mark.share(2)
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=() if kind in ("bedrock", "gemini") else pytest.mark.slow) for kind in MODELS])
def test_the_demos_jobs_run_at_each_kind(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELD_DEMO_MODELS", MODELS[kind])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran = subprocess.run([sys.executable, "-c", DAY], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2_000:]
    triaged, embedded, categories = ran.stdout.splitlines()
    name, model, lane, answered, paid = triaged.split()
    # Gemini's batches cannot be rescued when the deadline comes near, and its flex lane costs the same; a server of one's own has no batches.
    lanes = {"gemini": "flex", "self_hosted": "standard"}
    assert (name, lane, answered, paid) == ("ticket_triage", lanes.get(kind, "batch"), "120", "True")
    assert model in MODELS[kind].split(",")
    assert embedded.split()[0] == "ticket_embeddings"
    assert embedded.split()[-2:] == ["120", "True"]
    assert "billing" in categories
