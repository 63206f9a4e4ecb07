"""Notices, as Dagster sees them: the sensor's tick passes on what nobody would hear of while no run is active."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keld import Job, Keld
from keld.emulator import Emulator
from tests.edges.dagster.test_sensor import JOB, Desk, desk

__all__ = ["desk"]  # the fixture


def test_a_tick_says_which_job_run_is_late_to_the_function_that_the_environment_names(
    desk: Desk, keld_emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Dagster run sensor hears of runs, and none is active while the provider works."""
    (tmp_path / "tick_alerts.py").write_text("heard = []\ndef tell(notice):\n    heard.append((notice.kind, notice.status.partition))\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KELD_ON_EVENT", "tick_alerts:tell")
    due = Job(name=JOB.name, key=JOB.key, prompt=JOB.prompt, models=JOB.models, deadline=timedelta(hours=2), lane="batch")
    with Keld(home=desk.keld.home, clock=lambda: datetime.now(UTC) - timedelta(hours=3)) as earlier:
        earlier.submit(due, [{"id": "a", "body": "ticket"}], partition="day3")
    desk.tick()
    desk.tick()
    assert sys.modules["tick_alerts"].heard == [("late", "day3")]
