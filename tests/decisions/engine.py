"""Engine: lets a policy decide, job run by job run, in one world, and keeps the books.

Between `world` and `policy`.  Events in order of time; an account's fast lanes are one stream of rows that all stretches share, as rate
limits are.  The books know nothing of what a policy believes: what is done is paid, when it is done.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from keld.price import Lane
from tests.decisions.world import ACCOUNTS, SLOT, Batch, Order, World


@dataclass
class Run:
    """One job run under way."""

    order: Order
    answered: int = 0
    bought: int = 0  # rows paid, each as often as it was
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    over_ceiling: int = 0  # rows that were not asked, since they would not have fitted
    account: str = ""
    batch: Batch | None = None
    cancelled_at: float | None = None
    sent_to: dict[str, int] = field(default_factory=dict)  # batches, by account
    flow: Flow | None = None
    finished_at: float | None = None
    escalated: bool = False
    rounds: int = 0
    went: list[str] = field(default_factory=list)  # lanes taken, in order

    @property
    def left(self) -> int:
        return self.order.rows - self.answered - self.over_ceiling

    @property
    def kept(self) -> bool:
        return self.finished_at is not None and self.finished_at <= self.order.due and self.answered == self.order.rows


@dataclass(eq=False)
class Flow:
    """A job run's rows in a fast lane, slice by slice."""

    run: Run
    account: str
    lane: Lane
    slices: list[int]
    rows: int = 0  # of the slice under way
    done: float = 0.0
    begun: float = 0.0

    @property
    def left(self) -> float:
        return self.rows - self.done + sum(self.slices)


class Policy(Protocol):
    name: str

    def submit(self, engine: Engine, run: Run) -> None: ...

    def ended(self, engine: Engine, run: Run) -> None:
        """Everything that was asked has ended, and rows are left."""

    def sliced(self, engine: Engine, flow: Flow) -> None:
        """A slice has come home; `begun` to now, `rows`."""

    def allows(self, engine: Engine, flow: Flow, rows: int) -> bool:
        """Whether the next slice may be asked; what may not is over the ceiling."""

    def batch_over(self, engine: Engine, run: Run, batch: Batch, done: int) -> None: ...


class Engine:
    def __init__(self, world: World, policy: Policy) -> None:
        self.world, self.policy = world, policy
        self.now = 0.0
        self.random = np.random.default_rng([world.seed, 5])
        self.runs = [Run(order) for order in world.orders]
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.roads = {name: _Road(self, name) for name in ACCOUNTS}

    def play(self) -> list[Run]:
        for run in self.runs:
            self.at(run.order.at, lambda run=run: self.policy.submit(self, run))  # type: ignore[misc]
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
        return self.runs

    def at(self, when: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (max(when, self.now), self._count, event))

    def glance(self) -> float:
        """Until somebody looks: the runner's poll."""
        return float(self.random.uniform(10, 60))

    # -- batches ----------------------------------------------------------------------------------------------

    def send(self, run: Run, account: str) -> Batch:
        nth = run.sent_to.get(account, 0)
        batch = self.world.batch(run.order, account, nth, run.left, self.now)
        run.batch, run.account, run.cancelled_at, run.sent_to[account] = batch, account, None, nth + 1
        run.went.append(f"{account} batch")
        self.at(batch.end, lambda: self._over(run, batch))
        return batch

    def cancel(self, run: Run) -> None:
        batch = run.batch
        assert batch is not None
        assert run.cancelled_at is None
        run.cancelled_at = self.now
        self.at(min(batch.end, self.now + self.world.cancel_s(run.order, run.sent_to[run.account])), lambda: self._over(run, batch))

    def _over(self, run: Run, batch: Batch) -> None:
        if run.batch is not batch:
            return
        run.batch, run.cancelled_at = None, None
        done = batch.done(self.now)
        self.pay(run, run.account, Lane.BATCH, done)
        self.policy.batch_over(self, run, batch, done)
        self.at(self.now + self.glance(), lambda: self._next(run))

    # -- fast lanes -------------------------------------------------------------------------------------------

    def hurry(self, run: Run, account: str, lane: Lane, slices: list[int]) -> None:
        run.flow = Flow(run, account, lane, slices)
        run.went.append(f"{account} {lane.value}")
        self.roads[account].join(run.flow)

    def stop(self, run: Run) -> None:
        """What is in a fast lane stops; what it has answered is paid."""
        assert run.flow is not None
        self.roads[run.flow.account].leave(run.flow)

    def pay(self, run: Run, account: str, lane: Lane, rows: int) -> None:
        run.bought += rows
        run.answered += min(rows, run.left)
        run.spent_usd += rows * run.order.row_usd(account, lane)

    def flow_over(self, flow: Flow) -> None:
        flow.run.flow = None
        self.at(self.now, lambda: self._next(flow.run))

    def _next(self, run: Run) -> None:
        if run.left:
            self.policy.ended(self, run)
        else:
            run.finished_at = self.now + self.world.collect_s(run.order)


class _Road:
    """The fast lanes of an account: flex gets up to half of it, and nothing when it is closed; in a lane the earliest deadline goes first."""

    def __init__(self, engine: Engine, account: str) -> None:
        self._engine, self._account = engine, account
        self.flows: list[Flow] = []
        self._at = 0.0
        self._version = 0

    def join(self, flow: Flow) -> None:
        self._move()
        self.flows.append(flow)
        if not self._begin(flow):
            self.flows.remove(flow)
            self._engine.flow_over(flow)
        self._plan()

    def left(self, flow: Flow) -> int:
        """Rows of a stretch that have no answer yet."""
        self._move()
        return round(flow.left)

    def leave(self, flow: Flow) -> None:
        self._move()
        if flow not in self.flows:
            return
        self.flows.remove(flow)
        self._engine.pay(flow.run, self._account, flow.lane, int(flow.done))
        flow.run.reserved_usd = 0.0
        self._engine.flow_over(flow)
        self._plan()

    def _begin(self, flow: Flow) -> bool:
        """The next slice that may be asked; False if there is none."""
        while flow.slices:
            rows = flow.slices.pop(0)
            if self._engine.policy.allows(self._engine, flow, rows):
                flow.rows, flow.done, flow.begun = rows, 0.0, self._engine.now
                return True
        return False  # what is over the ceiling is left

    def _rates(self) -> list[float]:
        speed, open_ = self._engine.world.rows_per_s(self._account, self._at), self._engine.world.flex_open(self._at)
        flex = sum(flow.lane is Lane.FLEX for flow in self.flows) if open_ else 0
        standard = sum(flow.lane is Lane.STANDARD for flow in self.flows)
        for_flex = 0.0 if not flex else min(speed / 2, speed * flex / 2 / (flex / 2 + standard))
        first = {
            lane: min((flow for flow in self.flows if flow.lane is lane), key=lambda flow: flow.run.order.due, default=None)
            for lane in (Lane.FLEX, Lane.STANDARD)
        }
        return [
            0.0 if flow is not first[flow.lane] else (for_flex if flow.lane is Lane.FLEX else speed - for_flex) for flow in self.flows
        ]  # fmt: skip

    def _move(self) -> None:
        """Brings what flows up to now."""
        span = self._engine.now - self._at
        if span > 0:
            for flow, rate in zip(self.flows, self._rates(), strict=True):
                flow.done = min(float(flow.rows), flow.done + rate * span)
        self._at = self._engine.now

    def _plan(self) -> None:
        """When something changes next: a slice is home, or a slot is over."""
        self._version += 1
        if not self.flows:
            return
        version = self._version
        until = (int(self._at / SLOT) + 1) * SLOT
        for flow, rate in zip(self.flows, self._rates(), strict=True):
            if rate > 0:
                until = min(until, self._at + (flow.rows - flow.done) / rate)
        self._engine.at(until + 1e-6, lambda: self._tick(version))

    def _tick(self, version: int) -> None:
        if version != self._version:
            return
        self._move()
        for flow in [flow for flow in self.flows if flow.done >= flow.rows - 1e-6]:
            self._engine.pay(flow.run, self._account, flow.lane, flow.rows)
            flow.run.reserved_usd = 0.0
            self._engine.policy.sliced(self._engine, flow)
            flow.done = 0.0
            if not self._begin(flow):
                self.flows.remove(flow)
                self._engine.flow_over(flow)
        self._plan()
