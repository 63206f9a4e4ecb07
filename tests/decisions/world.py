"""World: weeks of two providers and of the job runs that meet them; everything random is drawn here, from one seed.

Below `engine`.  A batch's future depends on (seed, job run, provider, how often it was sent there) alone: every policy meets the same
futures, and the clairvoyant may look them up.  Times are seconds since the first Monday; rows are whole, money is USD.
What a provider does is set by hand after what is known (median 1 h, 10 % over 8 h, 2 % never): it is a world to decide in, no forecast.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache, cached_property

import numpy as np

from keld.plan import Work
from keld.price import Bracket, Lane, Rates

HOUR = 3_600.0
WINDOW = 24 * HOUR  # after which a provider expires a batch
SLOT = 600.0  # a fast lane's capacity is constant for as long
# Turnaround of a batch while its provider works, by share; the last 2 % never end by themselves.
_TURNAROUND = ((0.0, 120.0), (0.25, 1_200.0), (0.5, HOUR), (0.75, 3 * HOUR), (0.9, 8 * HOUR), (0.98, 23.5 * HOUR))


def flat(usd: float, output: float) -> Rates:
    """One rate for all input and one for the output, USD per million tokens."""
    one, other = Decimal(str(usd)), Decimal(str(output))
    bracket = Bracket(above=0, input=one, cached=one, cache_write=one, cache_write_1h=one, output=other)
    return Rates(brackets=(bracket,), source="simulation")


@dataclass(frozen=True, kw_only=True)
class Account:
    """One provider's account.

    Args:
        rows_per_s: what all stretches together get in the standard lane, about.
        live: whether a batch under way tells how many rows are done.
    """

    name: str
    rates: dict[Lane, Rates]
    rows_per_s: float
    live: bool


ACCOUNTS = {
    "openai": Account(
        name="openai", rates={Lane.BATCH: flat(0.5, 2), Lane.FLEX: flat(0.5, 2), Lane.STANDARD: flat(1, 4)}, rows_per_s=20, live=True
    ),
    "anthropic": Account(name="anthropic", rates={Lane.BATCH: flat(0.6, 2.4), Lane.STANDARD: flat(1.2, 4.8)}, rows_per_s=20, live=False),
}


@dataclass(frozen=True, kw_only=True)
class Order:
    """One job run as it is asked for.

    Args:
        factor: what its rows really cost, as a share of what is expected.
    """

    number: int
    at: float
    due: float
    accounts: tuple[str, ...]
    work: Work
    factor: float
    ceiling_usd: Decimal | None
    ceiling: str  # in words

    @property
    def rows(self) -> int:
        return self.work.requests

    def row_usd(self, account: str, lane: Lane) -> float:
        """What one row really costs."""
        return self._usd[account, lane]

    @cached_property
    def _usd(self) -> dict[tuple[str, Lane], float]:
        return {(name, lane): self._row_usd(name, lane) for name in self.accounts for lane in ACCOUNTS[name].rates}

    def _row_usd(self, account: str, lane: Lane) -> float:
        rates = ACCOUNTS[account].rates[lane]
        return min(float(self.work.expected_usd(rates)) * self.factor, float(self.work.worst_usd(rates))) / self.rows


@dataclass(frozen=True)
class Batch:
    """A batch's future, if nobody cancels it.

    Args:
        seconds: of its provider's work that it takes; infinite: for ever.
        queued: the share of them before the first row is done.
        most: the share of rows that are ever done.
    """

    rows: int
    sent: float
    seconds: float
    queued: float
    most: float
    clock: WorkClock

    @cached_property
    def end(self) -> float:
        """When it says its last word by itself: completed or expired."""
        return min(self.clock.after(self.sent, self.seconds), self.sent + WINDOW)

    @property
    def completes(self) -> bool:
        return self.done(self.end) == self.rows

    def done(self, at: float) -> int:
        """How many rows are done."""
        worked = self.clock.worked(self.sent, at)
        if self.most < 1:
            reached = self.most * min(1.0, worked / (WINDOW / 2))
        else:
            reached = min(1.0, max(0.0, (worked / self.seconds - self.queued) / (1 - self.queued)))
        return self.rows if reached > 1 - 1e-9 else int(self.rows * reached)


@dataclass(frozen=True)
class WorkClock:
    """A provider's working time: it stands still in incidents."""

    incidents: tuple[tuple[float, float], ...]

    def worked(self, since: float, until: float) -> float:
        return until - since - sum(max(0.0, min(until, end) - max(since, begin)) for begin, end in self.incidents)

    def after(self, since: float, seconds: float) -> float:
        """The instant at which that much has been worked since."""
        at = since + seconds
        for begin, end in self.incidents:
            if end > since and begin < at:
                at += end - max(begin, since)
        return at

    def touches(self, since: float, until: float) -> bool:
        return any(begin < until and end > since for begin, end in self.incidents)


@dataclass(eq=False)
class World:
    """What happens, whoever decides."""

    seed: int
    count: int
    span: float = field(init=False)
    orders: list[Order] = field(init=False)
    clocks: dict[str, WorkClock] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng([self.seed, 1])
        self.span = self.count * 480.0  # a job run every eight minutes
        self.clocks = {name: WorkClock(tuple(_incidents(random, self.span))) for name in ACCOUNTS}
        slots = int((self.span + 30 * 24 * HOUR) / SLOT)
        self._speed = {name: np.clip(random.normal(1.0, 0.1, slots), 0.7, 1.3) * a.rows_per_s for name, a in ACCOUNTS.items()}
        self._flex = _available(random, slots)
        times = np.sort(random.uniform(0, self.span, self.count))
        self.orders = [_order(random, number, float(at)) for number, at in enumerate(times)]

    def batch(self, order: Order, account: str, nth: int, rows: int, at: float) -> Batch:
        """The future of a batch that is sent now."""
        seconds, queued, most = self._future(order.number, account, nth)
        return Batch(rows, at, seconds, queued, most, self.clocks[account])

    @cache  # noqa: B019  one world is played a few times, and then it is over
    def _future(self, number: int, account: str, nth: int) -> tuple[float, float, float]:
        """Seconds of work, the share of them before the first row, the share of rows that are ever done."""
        random = np.random.default_rng([self.seed, 2, number, sorted(ACCOUNTS).index(account), nth])
        q, queued, most = random.uniform(), random.uniform(0.2, 0.95), random.beta(1, 1)
        if q > _TURNAROUND[-1][0]:
            return np.inf, queued, min(most, 0.99)
        shares, spans = zip(*_TURNAROUND, strict=True)
        seconds = float(np.exp(np.interp(q, shares, np.log(spans))))
        return seconds, queued, 1.0

    def cancel_s(self, order: Order, nth: int) -> float:
        """From asking a cancel to the provider's last word: seconds to ten minutes."""
        return float(np.exp(np.random.default_rng([self.seed, 3, order.number, nth]).uniform(np.log(3), np.log(600))))

    def collect_s(self, order: Order) -> float:
        return float(np.random.default_rng([self.seed, 4, order.number]).uniform(5, 90))

    def rows_per_s(self, account: str, at: float) -> float:
        return float(self._speed[account][int(at / SLOT)])

    def flex_open(self, at: float) -> bool:
        """Whether the flex lane has any capacity."""
        return bool(self._flex[int(at / SLOT)])

    def incident(self, order: Order) -> bool:
        """Whether a provider that this job run may use stalls before its deadline."""
        return any(self.clocks[name].touches(order.at, order.due) for name in order.accounts)


def _incidents(random: np.random.Generator, span: float) -> list[tuple[float, float]]:
    """One stall of 12 h in about ten days."""
    begins, at = [], float(random.exponential(8 * 24 * HOUR))
    while at < span:
        begins.append((at, at + 12 * HOUR))
        at += 12 * HOUR + float(random.exponential(8 * 24 * HOUR))
    return begins


def _available(random: np.random.Generator, slots: int) -> np.ndarray:
    """Flex turns everything away for about an hour, twice a day."""
    open_ = np.ones(slots, dtype=bool)
    for begin in np.flatnonzero(random.uniform(size=slots) < 1 / 72):
        open_[begin : begin + int(random.integers(2, 11))] = False
    return open_


_CEILINGS = ("none", "generous", "fair", "tight")


def _order(random: np.random.Generator, number: int, at: float) -> Order:
    rows = round(float(np.exp(random.uniform(np.log(10), np.log(50_000)))))
    span = float(np.exp(random.uniform(np.log(0.5), np.log(24)))) * HOUR
    accounts: tuple[str, ...] = (("openai", "anthropic"), ("openai",), ("anthropic",))[int(random.choice(3, p=[0.6, 0.2, 0.2]))]
    length = int(random.uniform(200, 2_000))
    work = Work(
        requests=rows,
        prompt_bytes=rows * length,
        longest_bytes=2 * length,
        shared_bytes=int(random.uniform(200, 2_000)),
        output_kind="object",
        max_output_tokens=int(random.choice([64, 128, 256])),
    )
    cheapest = {lane: min(work.worst_usd(ACCOUNTS[a].rates[lane]) for a in accounts) for lane in (Lane.BATCH, Lane.STANDARD)}
    ceiling = _CEILINGS[int(random.choice(4, p=[0.4, 0.3, 0.15, 0.15]))]
    usd = {
        "none": None,
        "generous": cheapest[Lane.STANDARD] * 2,
        "fair": cheapest[Lane.STANDARD] * Decimal("1.1"),
        "tight": cheapest[Lane.BATCH] * Decimal("1.02"),
    }[ceiling]
    factor = float(random.uniform(0.6, 1.4))
    return Order(
        number=number, at=at, due=at + span, accounts=accounts, work=work, factor=factor, ceiling_usd=usd, ceiling=ceiling
    )  # fmt: skip


def bucket(order: Order) -> str:
    """The deadline in words."""
    hours = (order.due - order.at) / HOUR
    return ("under 1 h", "1-2 h", "2-4 h", "4-8 h", "8-24 h")[bisect_right((1, 2, 4, 8), hours)]


def share(order: Order) -> float:
    """How much of an account's standard capacity, from submission to deadline, its rows need."""
    return order.rows / (ACCOUNTS[order.accounts[0]].rows_per_s * (order.due - order.at))
