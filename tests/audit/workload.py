"""Workload: a month of calls of a made-up company, by seed: groups for which somebody waits, groups for which nobody does, and those that deceive.

The rules of `keld.audit` and these groups have one author: what the tests show is coherence, not accuracy in the field.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache

BEGIN = datetime(2026, 10, 26, tzinfo=UTC)  # a Monday
DAYS = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call, as its service knows it; seconds since `BEGIN`."""

    at: float
    end: float
    service: str
    job: str
    model: str = "gpt-5-mini"
    streamed: bool = False
    user: str = ""
    session: str = ""
    trace: str = ""
    input: int = 900
    cached: int = 0
    output: int = 120

    @property
    def began(self) -> datetime:
        return BEGIN + timedelta(seconds=self.at)

    @property
    def ended(self) -> datetime:
        return BEGIN + timedelta(seconds=self.end)


Maker = Callable[[random.Random, str], Iterator[Call]]


def _took(rng: random.Random) -> float:
    return rng.lognormvariate(0.6, 0.4)


def _by_day(rng: random.Random, days: range | list[int], first: float, last: float, calls: int) -> Iterator[float]:
    for day in days:
        for _ in range(calls):
            yield day * 86_400 + rng.uniform(first, last) * 3_600


def conversations(rng: random.Random, name: str) -> Iterator[Call]:
    """People who talk, read and answer."""
    for number, begin in enumerate(_by_day(rng, range(DAYS), 7, 21, 6)):
        at = begin
        for _ in range(rng.randint(2, 6)):
            took = _took(rng)
            yield Call(at=at, end=at + took, service=name, job="", streamed=True, user=f"u{rng.randrange(60)}", session=f"{name}-{number}")
            at += took + rng.lognormvariate(2.8, 0.8)


def clicks(rng: random.Random, name: str) -> Iterator[Call]:
    """People who press a button: no session, but they are known, and the answer streams."""
    for at in _by_day(rng, range(DAYS), 6, 22, 20):
        yield Call(at=at, end=at + _took(rng), service=name, job="", streamed=True, user=f"u{rng.randrange(200)}")


def anonymous(rng: random.Random, name: str) -> Iterator[Call]:
    """Somebody waits, and the log does not show it: no id, one schema, no stream (a fraud check at a checkout)."""
    for at in _by_day(rng, range(DAYS), 0, 24, 25):
        yield Call(at=at, end=at + _took(rng) / 3, service=name, job="", output=12)


def _run(rng: random.Random, name: str, job: str, begin: float, calls: int, workers: int = 4, **fields: object) -> Iterator[Call]:
    """A program with some workers, each of which asks again as soon as it has its answer."""
    free = [begin + rng.uniform(0, 0.05) for _ in range(workers)]
    for _ in range(calls):
        worker = min(range(workers), key=free.__getitem__)
        at = free[worker] + rng.uniform(0.003, 0.03)
        free[worker] = at + _took(rng)
        yield replace(Call(at=at, end=free[worker], service=name, job=job), **fields)  # type: ignore[arg-type]


def nightly(rng: random.Random, name: str) -> Iterator[Call]:
    for day in range(DAYS):
        yield from _run(rng, name, "", day * 86_400 + 7_200 + rng.uniform(0, 20), 30)


def nightly_tagged(rng: random.Random, name: str) -> Iterator[Call]:
    for day in range(DAYS):
        yield from _run(rng, name, "nightly", day * 86_400 + 11_700 + rng.uniform(0, 20), 30)


def quarter_daily(rng: random.Random, name: str) -> Iterator[Call]:
    for hour in range(0, DAYS * 24, 6):
        yield from _run(rng, name, "", hour * 3_600 + rng.uniform(0, 30), 22)


def weekly(rng: random.Random, name: str) -> Iterator[Call]:
    for week in range(DAYS // 7):
        yield from _run(rng, name, "reindex", week * 7 * 86_400 + 3_600 + rng.uniform(0, 20), 120, workers=8)


def digest(rng: random.Random, name: str) -> Iterator[Call]:
    """A morning digest whose framework streams by default."""
    for day in range(DAYS):
        yield from _run(rng, name, "digest", day * 86_400 + 23_400 + rng.uniform(0, 20), 25, streamed=True)


def backfill(rng: random.Random, name: str) -> Iterator[Call]:
    yield from _run(rng, name, "backfill", 11 * 86_400 + 50_000, 800, workers=8)


def evals(rng: random.Random, name: str) -> Iterator[Call]:
    """Started by CI at any hour."""
    for begin in _by_day(rng, range(DAYS), 0, 24, 1):
        yield from _run(rng, name, "", begin, 25)


def queue(rng: random.Random, name: str) -> Iterator[Call]:
    """A consumer of a queue: the same in a log as a service that serves people."""
    yield from anonymous(rng, name)


def standup(rng: random.Random, name: str) -> Iterator[Call]:
    """Runs at 7:58 for a meeting at 8:00: nobody waits for seconds, and yet it is due in two minutes."""
    for day in [day for day in range(DAYS) if day % 7 < 5]:
        yield from _run(rng, name, "", day * 86_400 + 28_680 + rng.uniform(0, 5), 22)


def nightly_of_users(rng: random.Random, name: str) -> Iterator[Call]:
    """A nightly job that passes on whose rows these are."""
    for call in nightly(rng, name):
        yield replace(call, user=f"u{rng.randrange(500)}")


def saturated(rng: random.Random, name: str) -> Iterator[Call]:
    """People whose calls fill a pool all day, so that one begins when another ends."""
    for day in range(DAYS):
        for begin in [day * 86_400 + rng.uniform(8, 18) * 3_600 for _ in range(2)]:
            yield from _run(rng, name, "", begin, 40)


def maintained(rng: random.Random, name: str) -> Iterator[Call]:
    """A checkout that is busy day and night, without any id, and is maintained from 3:00 to 3:30: after it calls begin on time, every day."""
    for day in range(DAYS):
        at = day * 86_400 + 12_600 + rng.uniform(0, 30)
        while at < day * 86_400 + 86_400 + 10_800:
            yield Call(at=at, end=at + _took(rng) / 3, service=name, job="", output=12)
            at += rng.expovariate(1 / 240)


def opened(rng: random.Random, name: str) -> Iterator[Call]:
    """A shop that opens at 9:00 sharp, and whose log has no id."""
    for day in range(DAYS):
        at = day * 86_400 + 32_400 + rng.uniform(0, 60)
        while at < day * 86_400 + 64_800:
            yield Call(at=at, end=at + _took(rng) / 3, service=name, job="", output=12)
            at += rng.expovariate(1 / 120)


def abroad(rng: random.Random, name: str) -> Iterator[Call]:
    """People on another continent, for whom it is day at night in UTC; their tool is called after a scheduler, and the log has no id."""
    for at in _by_day(rng, range(DAYS), 22, 30, 25):
        yield Call(at=at, end=at + _took(rng), service=name, job="")


def launch(rng: random.Random, name: str) -> Iterator[Call]:
    """Two days on which people fill a pool, and none before or after."""
    for day in (9, 10):
        for _ in range(3):
            yield from _run(rng, name, "", day * 86_400 + rng.uniform(8, 18) * 3_600, 200)


def _weekdays_from(rng: random.Random, name: str, hour: float, hours: float, calls_an_hour: float) -> Iterator[Call]:
    for day in [day for day in range(DAYS) if day % 7 < 5]:
        begin = day * 86_400 + hour * 3_600
        at = begin + rng.uniform(0, 40)
        while at < begin + hours * 3_600:
            yield Call(at=at, end=at + _took(rng), service=name, job="")
            at += rng.expovariate(calls_an_hour / 3_600)


def lecture(rng: random.Random, name: str) -> Iterator[Call]:
    """Students who ask during a lecture, on each weekday at ten, with a tool whose log has no id."""
    yield from _weekdays_from(rng, name, 10, 0.8, 75)


def consultation(rng: random.Random, name: str) -> Iterator[Call]:
    """A hotline that is open from eight to twelve, whose log has no id."""
    yield from _weekdays_from(rng, name, 8, 4, 60)


WAITING: dict[str, Maker] = {
    "chat": conversations, "copilot": conversations, "summarize": clicks, "completion": clicks, "fraud-check": anonymous, "rewrite": anonymous,
}  # fmt: skip
FREE: dict[str, Maker] = {
    "classify": nightly, "embed": nightly_tagged, "tagger": quarter_daily, "translate": nightly, "catalog": weekly, "morning": digest,
    "migration": backfill, "checks-ci": evals, "consumer": queue, "triage": queue,
}  # fmt: skip
DECEIVING: dict[str, Maker] = {"pool": saturated, "notices": nightly_of_users, "standup": standup}
ANONYMOUS: dict[str, Maker] = {
    "checkout": maintained,
    "shop": opened,
    "airflow-helper": abroad,
    "launch": launch,
    "lecture": lecture,
    "hotline": consultation,
}  # somebody waits in each


def month(seed: int, *, days: int = DAYS, groups: dict[str, Maker] | None = None) -> list[Call]:
    """The calls of the first `days` days, in the order in which they began, each at a whole microsecond."""
    return list(_month(seed, days, tuple(({**WAITING, **FREE} if groups is None else groups).items())))


@lru_cache(maxsize=8)  # a test file asks for the same month again and again
def _month(seed: int, days: int, groups: tuple[tuple[str, Maker], ...]) -> tuple[Call, ...]:
    calls = [call for name, make in groups for call in make(random.Random(f"{seed} {name}"), name)]
    kept = (call for call in calls if call.at < days * 86_400)
    return tuple(sorted((replace(call, at=round(call.at, 6), end=round(call.end, 6)) for call in kept), key=lambda call: call.at))


def whole_seconds(calls: list[Call]) -> list[Call]:
    return [replace(call, at=math.floor(call.at), end=math.floor(call.end)) for call in calls]
