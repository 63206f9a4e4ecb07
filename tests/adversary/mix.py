"""Mix: any number of things that go wrong at once, drawn by Hypothesis: replies, lists, results, workers that die, users who cancel.

What must be true of every mix is what `Play.check` says: rows out once each with an outcome; what is bought more than once is told and counted;
what is spent and reserved covers the bill; every verb comes back; every job run ends, a cancelled one soon.  A mix is a value whose `repr` is the
Python that makes it: `replay(...)` plays one that was found.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, Phase, given, note, seed, settings
from hypothesis import strategies as st

from tests.adversary.mode import LISTS, LIVES, REPLIES, RESULTS, SLOW, Fault
from tests.adversary.play import Play, host_of, impatient

COUNTS: Counter[str] = Counter()
# The shapes of the other clouds are drawn if the environment names them (`KELD_SHAPES=azure,gemini,mistral,vertex`); Bedrock is in the table alone: it
# takes no fewer than 100 rows, and a mix has a few.
DRAWN = tuple(os.environ.get("KELD_SHAPES", "openai,anthropic").split(","))
_SHARD = 100  # mixes a seed


class Violation(AssertionError):
    """A promise that was broken."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """One host, one partition, and what happens.

    Args:
        steps: (what, how much) in their order; then it is looked at until it is over.
        ahead: one row goes ahead of the others as a batch of one, if there are four or more.
    """

    shape: str
    faults: tuple[Fault, ...] = ()
    quirks: tuple[str, ...] = ()
    heals_s: float | None = None
    rows: int = 3
    shard: int | None = None
    crowd: int = 2
    steps: tuple[tuple[str, int], ...] = ()
    ahead: bool = False


# --- what is drawn ------------------------------------------------------------------------------------------------------

_QUICK = tuple(how for how in REPLIES if how not in (*SLOW, "429 json, retry-after", "true"))
_TIMES = st.sampled_from([1, 1, 2, 4, 9])


def _faults(how: Sequence[str]) -> st.SearchStrategy[Fault]:
    return st.builds(
        Fault, at=st.sampled_from(["create", "get", "list", "upload", "size", "download", "cancel", "delete"]), how=st.sampled_from(how),
        done=st.booleans(), skip=st.sampled_from([0, 0, 0, 1, 3]), times=_TIMES,
    )  # fmt: skip


_CREATES = st.one_of(
    st.builds(Fault, at=st.just("create"), how=st.sampled_from(["dropped", *_QUICK]), done=st.just(True), times=st.sampled_from([1, 1, 2])),
    st.builds(Fault, at=st.just("create"), how=st.sampled_from(["true", "true", "dropped", "500", "404 html"]), calls=st.sampled_from([2, 2, 3]), first=st.booleans()),
    st.builds(Fault, at=st.just("create"), how=st.sampled_from(["dropped", "502 html"]), lands_s=st.sampled_from([5.0, 80.0, 500.0, 4000.0, 100_000.0])),
)  # fmt: skip
_EVER = st.builds(
    Fault, at=st.sampled_from(["create", "get", "list", "upload", "download", "cancel", "delete"]), how=st.sampled_from(_QUICK), done=st.booleans(),
    times=st.none(), for_s=st.sampled_from([None, 7_200.0]),
)  # fmt: skip
_SLOWLY = st.builds(
    Fault, at=st.sampled_from(["create", "get", "list", "upload", "download", "cancel"]), how=st.sampled_from(SLOW), done=st.booleans(), times=st.just(1)
)  # fmt: skip
_STEPS = st.one_of(
    st.tuples(st.just("tick"), st.integers(1, 4)),
    st.tuples(st.just("tick"), st.integers(1, 4)),
    st.tuples(st.just("die"), st.integers(0, 25)),
    st.tuples(st.just("die"), st.integers(0, 25)),
    st.tuples(st.just("turn"), st.sampled_from([5, 60, 130, 600, 7_200, 90_000])),
    st.tuples(st.just("skew"), st.sampled_from([-86_400, -600, 600, 7_200])),
    st.tuples(st.sampled_from(["restart", "poll", "reconcile", "submit"]), st.just(0)),
)


@st.composite
def mixes(draw: st.DrawFn) -> Mix:
    shape = draw(st.sampled_from(DRAWN))
    faults = draw(st.lists(_faults(_QUICK), max_size=3))
    faults += draw(st.one_of(st.just([]), st.lists(_CREATES, max_size=2)))
    rare = draw(st.integers(0, 19))
    faults += [draw(_EVER)] if rare < 4 else [draw(_SLOWLY)] if rare == 4 else []
    quirks = draw(st.sets(st.sampled_from(sorted(LISTS)), max_size=2)) | draw(st.sets(st.sampled_from([*LIVES]), max_size=1))
    quirks |= draw(st.one_of(st.just(set()), st.sets(st.sampled_from([*RESULTS]), max_size=1)))
    if shape == "azure":
        quirks.discard("stuck")  # nothing expires there: without a deadline only the user ends such a batch
    steps = draw(st.lists(_STEPS, max_size=8))
    if draw(st.integers(0, 3)) == 0:
        steps.insert(draw(st.integers(0, len(steps))), ("cancel", 0))
    return Mix(
        shape=shape, faults=tuple(faults), quirks=tuple(sorted(quirks)), heals_s=draw(st.sampled_from([None, 30.0, 3_600.0])),
        rows=draw(st.integers(2, 6)), shard=draw(st.sampled_from([None, None, 2])), crowd=draw(st.integers(0, 4)), steps=tuple(steps),
        ahead=draw(st.sampled_from([False, False, True])),
    )  # fmt: skip


# --- how it is played ---------------------------------------------------------------------------------------------------


def replay(mix: Mix) -> Play:
    """The mix, played to its end; the play is closed, and tells what was found.

    Raises:
        Violation: something that was promised is not so.
    """
    host = host_of(mix.shape, *mix.faults, quirks=mix.quirks, heals_s=mix.heals_s, rows=mix.rows, crowd=mix.crowd)
    play = Play(host, rows=mix.rows, shard=mix.shard, terms={"probe": "batch", "lane": "batch"} if mix.ahead else {})
    play.lost_track = _is_beyond_telling(mix)
    try:
        for what, much in mix.steps:
            _step(play, what, much)
        play.finish()
        play.settle()
        found = play.check()
        _count(play)
    finally:
        play.close()
    if found:
        raise Violation("; ".join(found))
    return play


def _step(play: Play, what: str, much: int) -> None:
    match what:
        case "tick":
            for n in range(much):
                play.tick(n)
        case "die":
            play.dies_in(much)
            play.tick()
            play.dies_in(None)
        case "turn":
            play.turn(timedelta(seconds=much))
        case "skew":
            play.skew = timedelta(seconds=much)
        case "restart":
            play.restart()
        case "poll":
            play.poll()
        case "reconcile":
            play.reconcile()
        case "submit":
            play.submit()
        case "cancel":
            play.cancel()
        case _:
            raise ValueError(what)


def _is_beyond_telling(mix: Mix) -> bool:
    """Whether the host itself hides, for good, that a row was bought twice: no reply of it could ever tell."""
    quirks = set(mix.quirks)
    creates = [fault for fault in mix.faults if fault.at == "create" and fault.done]
    # One that is listed, or lands, after the last look for it is sent again: whether it is ever shown is the list's to say.
    late = any(fault.lands_s or "lags_long" in quirks for fault in creates)
    repeated = late or any(fault.calls > 1 for fault in creates)
    two_only = {"ignores_after", "pages_of_two"} <= quirks  # the first page for ever, and it is of two: what else there is, is never listed
    unlisted = (
        bool({"list_404", "fails_later", "ignores_after_all_new"} & quirks)
        or two_only
        or any(fault.at == "list" and fault.times is None and fault.for_s is None for fault in mix.faults)
    )
    unmarked = mix.shape == "anthropic" or {"no_metadata", "no_input_id"} <= quirks
    # Only the results of a batch without a mark say whose it is: of one that never ends there are none, and it is not cancelled, since it may be another's.
    lies = "res_foreign" in quirks or (unmarked and ("stuck" in quirks or (bool(set(RESULTS) & quirks) and mix.heals_s is None)))
    lost = bool(creates) or any(
        what == "die" for what, _ in mix.steps
    )  # a worker that dies between its create and the reply has none either
    return (repeated and unlisted) or (lost and unmarked and lies)


def _count(play: Play) -> None:
    COUNTS["mixes"] += 1
    COUNTS["workers killed"] += play.deaths
    COUNTS["faults met"] += len(play.host.plan.hits)
    COUNTS["slow replies"] += play.wire.slow
    status, times = play.status(), Counter(len(entries) for entries in play.purchases().values())
    COUNTS["rows bought once"] += times[1]
    COUNTS["rows bought more than once, told"] += sum(count for often, count in times.items() if often > 1)
    for outcome, count in (status.outcomes if status is not None else {}).items():
        COUNTS[f"rows {outcome}"] += count


def explore(first: int, count: int, *, on_found: Callable[[Mix, Violation], None] | None = None) -> Counter[str]:
    """Plays `count` mixes drawn from the seed `first`, and counts what they came to.

    Args:
        on_found: is told of each violation, and the next mix is drawn; None: the first one is shrunk, and raised.
    """
    COUNTS.clear()
    phases = (Phase.generate, Phase.shrink) if on_found is None else (Phase.generate,)

    @seed(first)
    @settings(max_examples=count, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck), print_blob=False)
    @given(mixes())
    def play(mix: Mix) -> None:
        note(f"from tests.adversary.mix import *; replay({mix!r})")
        try:
            replay(mix)
        except Violation as found:
            if on_found is None:
                raise
            on_found(mix, found)

    with impatient():
        play()
    return Counter(COUNTS)


def shards() -> list[tuple[int, int]]:
    """(seed, count) of each shard of what the environment asks for: `KELD_MIXES` from `KELD_SEED` on; by default a few."""
    total, first = int(os.environ.get("KELD_MIXES", "4")), int(os.environ.get("KELD_SEED", "1"))
    size = _SHARD if total >= 10 * _SHARD else max(10, total // 8)
    return [(first + n, min(size, total - n * size)) for n in range(-(-total // size))]


def survey(first: int, count: int) -> dict[str, Any]:
    """All violations of so many mixes, by their words without numbers; for whoever mends."""
    found: dict[str, list[Mix]] = {}

    def on_found(mix: Mix, violation: Violation) -> None:
        found.setdefault(str(violation), []).append(mix)

    explore(first, count, on_found=on_found)
    return dict(found)
