"""Airflow 2 and 3.0, in which Keld cannot be installed: the Dag of docs/how-to/airflow-2.md, in that Airflow's own environment, with Keld in another one beside it.

Minutes, so not in the fast suite; `make older` makes the environments, from the pins in tests/versions/older.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from keld import Keld
from keld.emulator import Emulator
from tests.support.documents import DOCS, ROOT, blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DAY = "2026-11-19"
BESIDE = Path(sys.executable).parent  # the environment that has Keld


@pytest.fixture(params=["2.10", "2.11", "3.0"])
def older(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with that Airflow and without Keld."""
    python = ROOT / ".venv" / "older" / f"airflow-{request.param}" / "bin" / "python"
    if not python.exists():
        pytest.skip("`make older` makes the environment")
    return python


def test_the_dag_of_the_documentation_sends_once_frees_its_slot_and_collects(
    older: Path, open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = open_emulator(latency_s=3600, frozen=True)
    for block in blocks(DOCS / "how-to" / "airflow-2.md"):
        if block.title is not None:
            (tmp_path / block.title).parent.mkdir(exist_ok=True)
            (tmp_path / block.title).write_text(block.text)
    for name, value in {
        "AIRFLOW_HOME": tmp_path / "airflow", "AIRFLOW__CORE__DAGS_FOLDER": tmp_path / "dags", "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db", "KELD_HOME": tmp_path / "keld", "BIN": BESIDE,
        "TABLES": tmp_path, "JOBS": tmp_path / "jobs.py", "POKE_S": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    for name in [name for name in os.environ if name.startswith("AIRFLOW__LOGGING")]:
        monkeypatch.delenv(name)
    airflow = [older, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], check=True, capture_output=True)
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen([*airflow, "dags", "test", "ticket_labels", DAY], stdout=log, stderr=log) as dag,
    ):
        try:
            _until(lambda: "will retry later" in (tmp_path / "log").read_text(), dag, tmp_path / "log")
            assert len(provider.batches()) == 1
            provider.advance(3600)
            assert dag.wait(600) == 0
        finally:
            dag.kill()
    said = (tmp_path / "log").read_text()
    assert "UP_FOR_RESCHEDULE" in said, "between two looks it holds no slot"
    assert "state=success" in said or "state:success" in said, said[-3_000:]
    table = pq.read_table(tmp_path / "labels" / f"{DAY}.parquet")
    assert table.column("keld_outcome").to_pylist() == ["answered"] * 5
    assert (len(provider.batches()), len(provider.bill())) == (1, 5)
    with Keld(home=tmp_path / "keld") as keld:
        [status] = keld.statuses()
    assert (status.job, status.partition, status.over) == ("ticket_labels", DAY, True)


def _until(there: Callable[[], bool], dag: subprocess.Popen[bytes], log: Path) -> None:
    while not there():
        assert dag.poll() is None, log.read_text()[-3_000:]
        time.sleep(0.2)
