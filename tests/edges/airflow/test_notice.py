"""Notices, as Airflow sees them: the triggerer's poll passes on what nobody would hear of while no worker is busy."""

import asyncio
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keld import Keld
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import ROWS, job
from tests.support.ticket_job import fault


def test_a_poll_says_which_job_run_is_late_to_the_function_that_the_environment_names(
    open_keld: Callable[..., Keld], emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keld_airflow.poller import Poller

    (tmp_path / "poll_alerts.py").write_text("heard = []\ndef tell(notice):\n    heard.append(notice.kind)\n")
    monkeypatch.syspath_prepend(tmp_path)
    keld = open_keld()
    fault(emulator, "life", "stuck")
    run_id = keld.submit(job(deadline=timedelta(hours=1), lane="batch"), ROWS).id
    keld.advance(run_id)
    monkeypatch.setenv("KELD_ON_EVENT", "poll_alerts:tell")
    end = emulator.now() + timedelta(hours=2)

    async def turning(_: asyncio.Event, seconds: float) -> None:
        emulator.advance(max(seconds, 600))
        await asyncio.sleep(0)
        if emulator.now() > end:
            raise asyncio.CancelledError

    def ignore(*_: Any) -> None: ...

    async def wait() -> None:
        poller = Poller(open_keld, clock=emulator.now, pause=turning)
        waiting = asyncio.create_task(poller.due(run_id, emulator.now(), ignore))
        await asyncio.sleep(0)
        assert poller._loop is not None
        await asyncio.wait([poller._loop])
        waiting.cancel()

    asyncio.run(wait())
    assert sys.modules["poll_alerts"].heard == ["late"]
