"""A wake, as Airflow sees it: the triggerer that waits for an hour hears within half a minute that a batch has ended."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from keld import Keld, Settings
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import ROWS, job

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("woken", [True, False])
def test_a_task_in_the_triggerer_is_due_half_a_minute_after_a_wake_and_an_hour_later_without_it(
    open_keld: Callable[..., Keld], emulator: Emulator, woken: bool
) -> None:
    """Its poller waits in memory; the wake is in the ledger."""
    from keld_airflow.poller import Poller

    def opened() -> Keld:
        return open_keld(settings=Settings(poll_least=HOUR, poll_most=HOUR))

    keld = opened()
    run_id = keld.submit(job(), ROWS).id
    batch = keld.advance(run_id).batches[0]
    begun = emulator.now()

    async def turning(_: asyncio.Event, seconds: float) -> None:
        emulator.advance(seconds)
        if woken and emulator.now() - begun > timedelta(minutes=5):
            assert batch.batch_id is not None
            keld.wake(batch.provider, batch.batch_id)
        await asyncio.sleep(0)

    def ignore(*_: Any) -> None: ...

    async def until_due() -> None:
        await Poller(opened, clock=emulator.now, pause=turning).due(run_id, begun, ignore)

    asyncio.run(until_due())
    took = emulator.now() - begun
    assert keld.status(run_id).wants_worker
    assert (took < timedelta(minutes=7)) if woken else (took >= HOUR)
    keld.advance(run_id)
