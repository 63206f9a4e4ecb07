"""Clairvoyant: the cheapest way that keeps deadline and ceiling, for one who knows every batch's future.

Beside `policy`; it needs no engine.  In order of arrival each job run takes what is cheapest for it: a batch that ends in time; else as many
rows as a batch has answered by the best moment to cancel it, and the rest in another's batch, in flex, in standard, as far as the accounts
have capacity that no earlier job run took.  It cancels within no time, wastes none and knows what each row will cost.  Greedy in the order of
arrival, and it sends one batch to each provider: a yardstick that is hard to reach, not a proof of the optimum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from keld.price import Lane
from tests.decisions.engine import Run
from tests.decisions.world import ACCOUNTS, SLOT, Batch, Order, World

_MOMENTS = 48  # at which a batch may be given up


@dataclass(frozen=True, kw_only=True)
class _Way:
    usd: float
    flex: int = 0
    standard: int = 0
    account: str = ""  # of the standard rows
    since: float = 0.0


class Clairvoyant:
    name = "clairvoyant"

    def __init__(self, world: World) -> None:
        self.world = world
        slots = int((world.span + 3 * 24 * 3_600) / SLOT)
        self._free = {name: np.array([world.rows_per_s(name, n * SLOT) * SLOT for n in range(slots)]) for name in ACCOUNTS}
        self._flex = np.array([world.rows_per_s("openai", n * SLOT) * SLOT / 2 * world.flex_open(n * SLOT) for n in range(slots)])

    def play(self) -> list[Run]:
        return [self._run(order) for order in self.world.orders]

    def _run(self, order: Order) -> Run:
        run = Run(order)
        ceiling = float("inf") if order.ceiling_usd is None else float(order.ceiling_usd)
        ways = [way for way in self._ways(order) if way.usd <= ceiling]
        if ways:
            best = min(ways, key=lambda way: (way.usd, way.standard + way.flex))
            self._take(best, order)
            run.finished_at = order.due
            run.spent_usd = best.usd
        else:
            run.finished_at = order.due + 24 * 3_600  # late, and so as cheap as can be
            run.spent_usd = order.rows * min(order.row_usd(name, Lane.BATCH) for name in order.accounts)
        run.answered = run.bought = order.rows
        return run

    def _ways(self, order: Order) -> Iterator[_Way]:
        last = order.due - self.world.collect_s(order)
        moments = np.linspace(order.at, last, _MOMENTS)
        batch: dict[str, Batch] = {name: self.world.batch(order, name, 0, order.rows, order.at) for name in order.accounts}
        for name in order.accounts:
            if batch[name].completes and batch[name].end <= last:
                yield _Way(usd=order.rows * order.row_usd(name, Lane.BATCH))
        for name in order.accounts:
            usd = order.row_usd(name, Lane.BATCH)
            for at in moments:
                done = batch[name].done(at) if at <= batch[name].end else batch[name].done(batch[name].end)
                yield from self._rescues(order, order.rows - done, float(at), last, done * usd)
        for one, other in permutations(order.accounts, 2):
            for at in moments:
                done = batch[one].done(min(at, batch[one].end))
                next_ = self.world.batch(order, other, 0, order.rows - done, float(at))
                if done and next_.completes and next_.end <= last:
                    yield _Way(usd=done * order.row_usd(one, Lane.BATCH) + (order.rows - done) * order.row_usd(other, Lane.BATCH))

    def _rescues(self, order: Order, rows: int, since: float, last: float, spent: float) -> Iterator[_Way]:
        """The fast lanes, flex as far as it reaches."""
        flex = 0
        if "openai" in order.accounts:
            flex = min(rows, int(min(self._sum(np.minimum(self._flex, self._free["openai"]), since, last), 1e12)))
        for account in order.accounts:
            free = int(self._sum(self._free[account], since, last)) - (flex if account == "openai" else 0)
            if rows - flex <= free:
                usd = (
                    spent
                    + (rows - flex) * order.row_usd(account, Lane.STANDARD)
                    + (flex * order.row_usd("openai", Lane.FLEX) if flex else 0)
                )
                yield _Way(usd=usd, flex=flex, standard=rows - flex, account=account, since=since)

    @staticmethod
    def _span(since: float, last: float) -> tuple[int, int, float, float]:
        first, final = int(since / SLOT), int(last / SLOT)
        return first, final, (first + 1) - since / SLOT, last / SLOT - final

    def _sum(self, slots: np.ndarray, since: float, last: float) -> float:
        first, final, head, tail = self._span(since, last)
        if first == final:
            return float(slots[first]) * max(0.0, last - since) / SLOT
        return float(slots[first]) * head + float(slots[first + 1 : final].sum()) + float(slots[final]) * tail

    def _take(self, way: _Way, order: Order) -> None:
        if way.flex:
            self._book(way.flex, way.since, order.due, [self._flex, self._free["openai"]])
        if way.standard:
            self._book(way.standard, way.since, order.due, [self._free[way.account]])

    def _book(self, rows: float, since: float, last: float, books: list[np.ndarray]) -> None:
        """Takes the rows out of the capacity, the earliest first."""
        for slot in range(int(since / SLOT), int(last / SLOT) + 1):
            taken = min(rows, *(float(book[slot]) for book in books))
            for book in books:
                book[slot] -= taken
            rows -= taken
            if rows <= 0:
                return
