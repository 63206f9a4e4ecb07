"""Runs of a multi-process launcher, each in a process with a HOME, a working directory, temporary files and a Keld home of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keld.emulator import Emulator
from tests.edges.dagster.pod import ROWS
from tests.support.worker_process import KILLED, opened


def run_pod(place: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    place.mkdir()
    command = [sys.executable, "-m", "tests.edges.dagster.pod", str(place)]
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root, **variables}, cwd=place, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.slow
def test_a_run_in_a_new_pod_collects_what_a_dead_one_sent(keld_emulator: Emulator, tmp_path: Path, postgres: Callable[[], str]) -> None:
    """The node of the first was lost right after its create; all that is left of it is in Postgres and in the bucket."""
    shared = {"KELD_LEDGER_URL": postgres(), "KELD_STAGING": "s3://staging/keld"}
    dead = run_pod(tmp_path / "first", KELD_FAILPOINT="ledger.created.after:kill9", **shared)
    assert dead.returncode == KILLED, dead.stderr
    assert len(keld_emulator.batches()) == 1
    second = run_pod(tmp_path / "second", **shared)
    assert second.returncode == 0, second.stderr
    assert "labels" in second.stdout.split()
    assert len(keld_emulator.bill()) == ROWS
    assert sorted(opened(tmp_path / "first") & opened(tmp_path / "second")) == []
