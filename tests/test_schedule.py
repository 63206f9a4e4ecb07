"""No row lost, no row paid twice, whatever the order in which workers run, freeze and die (see `schedule`).

`make schedules N=200000` runs that many, spread over the cores; each test is a shard of them with a seed of its own, which is in its name.
A failure is shrunk and printed as the steps to it; `make schedules SEED=...` with the printed seed runs the same again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import anthropic
import openai
import pytest
import scene
import sqlalchemy as sa
from schedule import SHARDS, Schedule, Violation, explore, prepared

import keld.ledger
from keld.ledger import Lease, Ledger
from keld.record import SHARD, Shard
from keld.state import Event, State


@pytest.fixture(autouse=True)
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The SDKs' way to the emulator of this process."""
    with prepared(monkeypatch, tmp_path_factory.mktemp("no-certificates")):
        yield


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("seed", "schedules"), SHARDS, ids=str)
def test_no_schedule_loses_a_row_or_pays_it_twice(seed: int, schedules: int, record_property: Callable[[str, object], None]) -> None:
    for name, count in explore(seed, schedules).items():
        record_property(name, count)


# --- the schedules can fail: three faults that they must find -----------------------------------------------------------


@contextmanager
def intent_after_create(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The intent is recorded when the create has been answered."""
    record_intent, record = Ledger.record_intent, Ledger.record

    def put_off(ledger: Ledger, lease: Lease, shard: Shard, now: datetime, after_batch: str | None = None) -> Shard:
        return replace(shard, state=State.SUBMITTING, attempt=shard.attempt + 1, intent_at=now)

    def made_up(ledger: Ledger, lease: Lease, shard: Shard, event: Event, now: datetime, **more: Any) -> Shard:
        known = ledger.shard(shard.id)
        if shard.state is State.SUBMITTING and known is not None and known.state is State.STAGED:
            record_intent(ledger, lease, known, now)
        return record(ledger, lease, shard, event, now, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "record_intent", put_off)
        patch.setattr(Ledger, "record", made_up)
        yield


@contextmanager
def creates_retried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The SDKs' own tries are left on for creates, too."""
    with monkeypatch.context() as patch:
        for client in (openai.OpenAI, anthropic.Anthropic):
            patch.setattr(client, "with_options", lambda client, **_: client)
        yield


@contextmanager
def lease_unchecked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A write is accepted from whoever makes it, in whatever state the shard has got to."""

    @contextmanager
    def held(ledger: Ledger, lease: Lease, now: datetime) -> Iterator[sa.Connection]:
        with ledger._db.write() as db:
            yield db

    move = keld.ledger._move

    def moved(db: sa.Connection, lease: Lease, shard: Shard, *more: Any) -> Shard:
        db.execute(sa.update(SHARD).where(SHARD.c.id == shard.id).values(state=shard.state, attempt=shard.attempt))
        return move(db, lease, shard, *more)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_held", held)
        patch.setattr(keld.ledger, "_move", moved)
        yield


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bug", [intent_after_create, creates_retried, lease_unchecked], ids=lambda bug: bug.__name__)
def test_a_bug_is_found(bug: Any, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]) -> None:
    """A thousand schedules that find nothing prove something only if they would have found it."""
    with bug(monkeypatch), pytest.raises(Violation) as found:
        explore(1, 1000, shrink=False)
    record_property("found", str(found.value))


# --- single schedules, found once and mended ---------------------------------------------------------

_GARBAGE = {"at": "download", "do": "garbage"}
_LOST_REPLY = {"at": "create", "do": "drop_after"}
MENDED = {
    "a page of HTML instead of results, once: the rest of the file is fetched behind it": (scene.openai, [_GARBAGE]),
    "a page of HTML instead of results, as often as they are fetched": (scene.openai, [{**_GARBAGE, "times": 8}]),
    "the same of a batch without a mark": (scene.anthropic, [{**_GARBAGE, "times": 8}]),
    "a page of HTML instead of the sample that tells whose a batch is": (scene.anthropic, [_LOST_REPLY, _GARBAGE]),
    "all lines of a batch whose create is looked for are lost": (scene.anthropic, [_LOST_REPLY, {"at": "lines", "do": "missing"}]),
    "a batch whose create is looked for never ends": (scene.anthropic, [_LOST_REPLY, {"at": "life", "do": "stuck"}]),
    "a batch whose create is looked for lies about its size": (
        scene.anthropic,
        [_LOST_REPLY, {"at": "life", "do": "counts", "processing": 99}],
    ),
}


def replay(peer: scene.Peer, omens: list[dict[str, Any]]) -> None:
    """One partition of one batch, looked at until it is over."""
    schedule = Schedule()
    schedule.declare(peer=peer, omens=omens, shapes=[(3, 6)], ceiling=None, submitted=True)
    for _ in range(12):
        schedule.tick(n=0, ticks=3)
    schedule.teardown()


@pytest.mark.parametrize("name", MENDED)
def test_what_was_found_stays_mended(name: str) -> None:
    replay(*MENDED[name])
