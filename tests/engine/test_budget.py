"""Every verb keeps its time, and a cancel always ends, though the provider takes its own time for ever, or is gone."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keld import Account, Keld, Settings, failpoint, http
from keld.emulator import Emulator
from keld.state import State
from tests.support.slow_server import BODY, HEAD, SILENT, OneBatch, one_batch
from tests.support.ticket_job import Peer, fault, openai, outcomes, tickets, triage

GENEROUS_S = 120.0  # of what takes a second: only against what has no bound
SECOND = timedelta(seconds=1)
SETTINGS = Settings(call_within=SECOND, reply_within=SECOND, stalled_after=SECOND)
Desk = tuple[Keld, OneBatch]


@pytest.fixture
def open_desk(tmp_path: Path, clock: Any, peer: Peer) -> Iterator[Callable[[str], Desk]]:
    """An environment whose provider answers all that `dawdles` does not name; that, in one of the slow ways."""
    with ExitStack() as stack:

        def start(mode: str) -> Desk:
            made, server = stack.enter_context(one_batch(mode))
            url = server.url + ("/v1" if peer.name == "openai" else "")
            account = Account(kind=peer.name, base_url=url, api_key=lambda: "sk-any")
            return stack.enter_context(Keld(home=tmp_path / "home", clock=clock, settings=SETTINGS, accounts={peer.name: account})), made

        yield start


def timed(work: Callable[[], Any]) -> Any:
    """What `work` gives; fails where it does not come back."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    began = time.monotonic()
    thread.start()
    thread.join(GENEROUS_S)
    assert found, f"not back after {time.monotonic() - began:.0f} s"
    return found[0]


@pytest.mark.parametrize("mode", [SILENT, HEAD, BODY])
def test_a_poll_is_back_within_its_budget_whatever_the_provider_does(open_desk: Callable[[str], Desk], peer: Peer, mode: str) -> None:
    """Six batches, each look as slow as can be: the sensor that calls it has a minute for all of its job runs."""
    keld, made = open_desk(mode)
    ids = [keld.advance(keld.submit(triage(peer, output_type=str), tickets(), partition=f"p{n}").id).id for n in range(3)]
    assert made.creates == 3
    made.dawdles = lambda method, route, head: method == "GET"
    status = timed(lambda: keld.poll(ids, budget_s=0.5))[0]
    assert status.problem_kind == "ProviderUnreachable"
    assert {batch.state for batch in status.batches} == {State.IN_PROGRESS}


@pytest.mark.parametrize(
    "route", [pytest.param("files", marks=pytest.mark.wide), "batches", pytest.param("batch", marks=pytest.mark.wide), "results"]
)
def test_a_call_that_hangs_costs_a_visit_its_time_and_nothing_else(
    open_desk: Callable[[str], Desk], peer: Peer, clock: Any, route: str
) -> None:
    """It is broken off and told; when the provider is back, the job run ends, and every row was bought once."""
    keld, made = open_desk(BODY)
    status = keld.submit(triage(peer, output_type=str), tickets())
    made.dawdles = lambda method, told, head: told == route and (route, method) != ("batches", "POST")
    for _ in range(3):
        status = timed(partial(keld.advance, status.id, budget_s=0.1))
        clock.advance(120)
    if made.dawdled.is_set() and route != "batches":  # the list only shows what a create made besides: paid answers do not wait for it
        assert not status.over
        assert status.problem_kind == "ProviderUnreachable"
    made.dawdles = lambda method, told, head: False
    for _ in range(40):
        status = keld.advance(status.id)
        if status.over:
            break
        clock.advance(600)
    assert outcomes(keld, status) == ["answered"] * 6
    assert made.creates == 1


def test_a_second_result_file_is_fetched_though_the_first_took_all_of_the_time(
    keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is begun is finished: else a batch with answers and errors, over a slow line, would be fetched for ever and never be had."""

    def time_is_over(point: str) -> None:
        if point == "download.rename":
            http._until.set(time.monotonic() - 1)

    fault(emulator, "rows", "error", status=400, count=1)
    status = keld.advance(keld.submit(triage(openai), tickets()).id)
    emulator.advance(100)
    monkeypatch.setattr(failpoint, "on_pass", time_is_over)
    status = keld.advance(status.id)
    assert (status.problem, [batch.state for batch in status.batches]) == (None, [State.COLLECTED])
    assert sorted(outcomes(keld, status)) == ["answered"] * 5 + ["errored"]


@pytest.mark.parametrize("dead", ["all", "cancel", "results"])
def test_a_cancel_ends_though_the_provider_is_dead_and_says_what_may_be_out_there(
    open_desk: Callable[[str], Desk], peer: Peer, clock: Any, dead: str
) -> None:
    """Half an hour after the user asked; what was sent is quarantined with its batch's id, its worst case reserved."""
    keld, made = open_desk(BODY)
    status = keld.advance(keld.submit(triage(peer, output_type=str), tickets()).id)
    assert [batch.batch_id for batch in status.batches] == ["batch_1"]
    made.dawdles = lambda method, route, head: dead in ("all", route)
    asked_at = clock()
    keld.cancel(status.id)
    while not status.over:
        assert clock() - asked_at < timedelta(hours=2), status.batches
        status = timed(partial(keld.advance, status.id, budget_s=0.1))
        clock.advance(300)
    if dead == "cancel":  # it has ended by itself, and what it answered is had
        assert outcomes(keld, status) == ["answered"] * 6
        return
    assert outcomes(keld, status) == ["quarantined"] * 6
    assert "batch_1" in keld.read(status.id).read_all().column("keld_error").to_pylist()[0]
    assert [(batch.state, batch.batch_id) for batch in status.maybe_running] == [(State.QUARANTINED, "batch_1")]
    assert status.reserved_usd > 0
    made.dawdles = lambda method, route, head: False
    keld.reconcile()
    for _ in range(9):
        status = keld.advance(status.id)
        clock.advance(600)
    assert outcomes(keld, status) == ["answered"] * 6, "`keld reconcile` collects what turns up"
    assert (made.creates, status.reserved_usd) == (1, 0)
