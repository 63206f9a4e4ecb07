"""The slow half of a step, begun for the next shard while this one's step goes on: it records nothing, asks nothing, and is dropped if nobody wants it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keld import Keld, answer, failpoint, staging
from keld.emulator import Emulator
from keld.errors import StagingError
from keld.runner import collect
from keld.state import State
from tests.engine.test_runner import states
from tests.support.ticket_job import Peer, check_promise, creates, finish, run, tickets, triage

_PATIENCE_S = 60  # far longer than it takes: it ends a test that would hang


class Told:
    """Calls a function, and tells when it has been called so often."""

    def __init__(self, function: Callable[..., Any], times: int) -> None:
        self.function, self.left, self.done = function, times, threading.Event()

    def __call__(self, *args: Any) -> Any:
        try:
            return self.function(*args)
        finally:
            self.left -= 1
            if not self.left:
                self.done.set()


def drafts(keld: Keld) -> list[Path]:
    """Input files that are written and not at their place."""
    return [path for path in Path(keld.home).rglob(".*") if path.is_file() and "input" in path.name]


def test_the_next_input_file_is_written_while_a_shard_is_sent(
    keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Told(staging.draft, 1)
    monkeypatch.setattr("keld.runner.submit.draft", written)
    seen: list[bool] = []

    def wait(name: str) -> None:
        if name == "create.send" and not seen:
            seen.append(written.done.wait(_PATIENCE_S))

    monkeypatch.setattr(failpoint, "on_pass", wait)
    status = run(keld, emulator, triage(peer, max_shard_rows=2), tickets(6))
    assert seen == [True], "the second shard's file was there before the first create was sent"
    check_promise(keld, emulator, status, tickets(6))
    assert drafts(keld) == []


def test_the_next_results_are_fetched_while_a_shard_is_judged(
    keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = Told(collect._fetched, 4)
    monkeypatch.setattr(collect, "_fetched", fetched)
    judged, seen = answer.judge_results, list[bool]()

    def wait(*args: Any) -> Any:
        if not seen:
            seen.append(fetched.done.wait(_PATIENCE_S))
        return judged(*args)

    monkeypatch.setattr(answer, "judge_results", wait)
    status = run(keld, emulator, triage(peer, max_shard_rows=2), tickets(12))
    assert seen == [True], "the results of the next three shards were there before the first one's were judged"
    check_promise(keld, emulator, status, tickets(12))


def test_a_file_that_nobody_takes_over_is_gone(keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    status = keld.submit(triage(peer, max_shard_rows=2), tickets(6))
    with monkeypatch.context() as patched, pytest.raises(failpoint.FailpointHit):
        patched.setattr(failpoint, "on_pass", _fails_at("upload.send"))
        keld.advance(status.id)
    assert drafts(keld) == []
    check_promise(keld, emulator, finish(keld, emulator, status.id), tickets(6))


def test_a_disk_that_is_full_is_told_by_the_shard_whose_file_it_is(
    keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    status = keld.submit(triage(peer, max_shard_rows=2), tickets(6))
    with monkeypatch.context() as patched, pytest.raises(StagingError, match="This shard was not sent"):
        patched.setattr("keld.runner.submit.draft", full)
        keld.advance(status.id)
    assert states(keld, status.id) == [State.IN_PROGRESS, State.PLANNED, State.PLANNED]
    assert len(creates(emulator, peer)) == 1, "the one before it was sent all the same"
    check_promise(keld, emulator, finish(keld, emulator, status.id), tickets(6))


def _fails_at(point: str) -> Callable[[str], None]:
    def fail(name: str) -> None:
        if name == point:
            raise failpoint.FailpointHit(name)

    return fail
