"""Policies: Keld's own decisions, and what it is compared with.

Above `engine`.  `KeldPolicy` does what the runner does, with the runner's functions of `plan`, `deadline` and `turnaround`; what it knows is
what the ledger would hold: what was sent, what has ended, how fast stretches were, and what a live batch tells.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from keld.deadline import escalation_time
from keld.plan import Candidate, Constraints, Option, Work, choose_first, choose_rest, evaluate, would_escalate
from keld.price import Lane
from keld.speed import Speed, measured
from keld.turnaround import Turnaround, turnaround
from tests.decisions.engine import Engine, Flow, Run
from tests.decisions.world import ACCOUNTS, Batch

EPOCH = datetime(2026, 1, 5, tzinfo=UTC)
STRETCH_ROWS = 2_000  # as the runner's


def instant(at: float) -> datetime:
    return EPOCH + timedelta(seconds=at)


def slices(rows: int, most: int) -> list[int]:
    """Rows in shards."""
    return [most] * (rows // most) + ([rows % most] if rows % most else [])


class Plain:
    """What a policy does that knows no ceiling and learns nothing."""

    name = "plain"

    def submit(self, engine: Engine, run: Run) -> None:
        raise NotImplementedError

    def ended(self, engine: Engine, run: Run) -> None:
        self.submit(engine, run)

    def sliced(self, engine: Engine, flow: Flow) -> None: ...

    def allows(self, engine: Engine, flow: Flow, rows: int) -> bool:
        return True

    def batch_over(self, engine: Engine, run: Run, batch: Batch, done: int) -> None: ...


class AlwaysBatch(Plain):
    """The cheapest batch, and again what it leaves."""

    name = "always batch"

    def submit(self, engine: Engine, run: Run) -> None:
        engine.send(run, cheapest(run, Lane.BATCH))


class AlwaysStandard(Plain):
    """Every row at once, at the full price."""

    name = "always standard"

    def submit(self, engine: Engine, run: Run) -> None:
        engine.hurry(run, cheapest(run, Lane.STANDARD), Lane.STANDARD, slices(run.left, STRETCH_ROWS))


class Buffer(Plain):
    """The usual peer: a batch; at 85 % of the time it is given up, and all rows are asked again in the standard lane."""

    name = "15 % buffer, full re-run"

    def submit(self, engine: Engine, run: Run) -> None:
        engine.send(run, cheapest(run, Lane.BATCH))
        engine.at(run.order.at + 0.85 * (run.order.due - run.order.at), lambda: self._give_up(engine, run))

    def _give_up(self, engine: Engine, run: Run) -> None:
        if run.batch is not None:
            run.escalated = True
            engine.cancel(run)

    def batch_over(self, engine: Engine, run: Run, batch: Batch, done: int) -> None:
        if run.escalated and done < batch.rows:
            run.answered = 0  # what the batch has answered is thrown away

    def ended(self, engine: Engine, run: Run) -> None:
        engine.hurry(run, cheapest(run, Lane.STANDARD), Lane.STANDARD, slices(run.left, STRETCH_ROWS))


def cheapest(run: Run, lane: Lane) -> str:
    return min((name for name in run.order.accounts if lane in ACCOUNTS[name].rates), key=lambda name: run.order.row_usd(name, lane))


@dataclass
class _Sent:
    at: float
    ended_at: float | None = None
    completed: bool = False


@dataclass
class KeldPolicy:
    """What Keld's runner decides, with the same functions."""

    name: str = "Keld"
    probability: float = 0.99
    sent: dict[str, list[_Sent]] = field(default_factory=lambda: {name: [] for name in ACCOUNTS})
    stretches: dict[tuple[str, Lane], list[tuple[float, float, float]]] = field(default_factory=lambda: defaultdict(list))
    _records: dict[int, _Sent] = field(default_factory=dict)
    speeds: dict[tuple[str, Lane], tuple[int, float | None]] = field(default_factory=dict)

    # -- what the ledger knows --------------------------------------------------------------------------------

    def _turnaround(self, account: str, now: float) -> Turnaround:
        latest = self.sent[account][-200:]
        completed = [each.ended_at - each.at for each in latest if each.completed and each.ended_at is not None]
        others = [(now if each.ended_at is None else each.ended_at) - each.at for each in latest if not each.completed]
        return turnaround(Lane.BATCH, completed, others)

    def _speed_of(self, engine: Engine, run: Run, account: str) -> Speed:
        """How fast an account's fast lanes are, and who else is in them."""
        others = tuple(flow.left / (2 if flow.lane is Lane.FLEX else 1) for flow in engine.roads[account].flows if flow.run is not run)
        standard, flex = (self._speed(account, lane) for lane in (Lane.STANDARD, Lane.FLEX))
        return Speed(rows_per_s=standard or max(Speed().rows_per_s, flex or 0.0), flex_rows_per_s=flex, others=others)

    def _speed(self, account: str, lane: Lane) -> float | None:
        known = self.stretches[account, lane]
        if self.speeds.get((account, lane), (0, None))[0] != len(known):
            self.speeds[account, lane] = len(known), measured(known[-20:])
        return self.speeds.get((account, lane), (0, None))[1]

    def _options(
        self, engine: Engine, run: Run, ceiling_usd: Decimal | None, due: float | None, left: int | None = None
    ) -> tuple[list[Option], Constraints]:
        order, now = run.order, engine.now
        speeds = {name: self._speed_of(engine, run, name) for name in order.accounts}
        candidates = [
            Candidate(
                provider=name,
                model="m",
                lane=lane,
                rates=rates,
                turnaround=self._turnaround(name, now) if lane is Lane.BATCH else turnaround(lane),
                shards=1,
                speed=speeds[name],
                worst_rates=ACCOUNTS[name].rates[Lane.STANDARD] if lane is Lane.FLEX else rates,
            )
            for name in order.accounts
            for lane, rates in ACCOUNTS[name].rates.items()
        ]
        terms = Constraints(
            now=instant(now),
            due=None if due is None else instant(due),
            ceiling_usd=ceiling_usd,
            probability=self.probability,
        )
        return evaluate(candidates, work_left(run, left), terms), terms

    # -- what the runner does ---------------------------------------------------------------------------------

    def submit(self, engine: Engine, run: Run) -> None:
        found, terms = self._options(engine, run, run.order.ceiling_usd, run.order.due)
        self._go(engine, run, *choose_first("simulation", "", found, terms))

    def ended(self, engine: Engine, run: Run) -> None:
        if run.rounds >= 10:
            run.over_ceiling += run.left
            run.finished_at = engine.now
            return
        run.rounds += 1
        due = run.order.due if run.order.due > engine.now else None
        found, terms = self._options(engine, run, room(run), due)
        self._go(engine, run, *choose_rest("simulation", "", found, terms))

    def _go(self, engine: Engine, run: Run, option: Option, most_rows: int | None) -> None:
        run.reserved_usd = 0.0
        if option.lane is not Lane.BATCH:
            engine.hurry(run, option.provider, option.lane, slices(run.left, min(STRETCH_ROWS, most_rows or STRETCH_ROWS)))
            if option.lane is Lane.FLEX and run.flow is not None:
                self._look(engine, run, run.flow)
            return
        if most_rows is not None and most_rows < run.left:
            run.over_ceiling += run.left - most_rows
        rates = ACCOUNTS[option.provider].rates[Lane.BATCH]
        run.reserved_usd = float(work_left(run).worst_usd(rates))
        batch = engine.send(run, option.provider)
        self._records[run.order.number] = _Sent(engine.now)
        self.sent[option.provider].append(self._records[run.order.number])
        self._look(engine, run, batch)

    def _look(self, engine: Engine, run: Run, at_hand: Batch | Flow) -> None:
        """The runner's look at a job run whose rows are in a batch, or in flex."""
        if at_hand not in (run.batch, run.flow) or run.cancelled_at is not None or engine.now >= run.order.due:
            return
        batch = isinstance(at_hand, Batch)
        if isinstance(at_hand, Batch):
            left = at_hand.rows - (at_hand.done(engine.now) if ACCOUNTS[run.account].live else 0)
        else:
            left = engine.roads["openai"].left(at_hand)
        speeds = {name: self._speed_of(engine, run, name) for name in run.order.accounts}
        flex = speeds["openai"] if batch and self._flex_costs_no_more(run) else None
        at = (escalation_time(instant(run.order.due), left, list(speeds.values()), batch=batch, flex=flex) - EPOCH).total_seconds()
        if engine.now >= at and self._would_escalate(engine, run, left, Lane.BATCH if batch else Lane.FLEX):
            run.escalated = True
            if batch:
                engine.cancel(run)
            else:
                engine.stop(run)
            return
        engine.at(min(at, engine.now + 300) if at > engine.now else engine.now + 60, lambda: self._look(engine, run, at_hand))

    def _flex_costs_no_more(self, run: Run) -> bool:
        return "openai" in run.order.accounts and run.order.row_usd("openai", Lane.FLEX) <= run.order.row_usd(run.account, Lane.BATCH)

    def _would_escalate(self, engine: Engine, run: Run, left: int, lane: Lane) -> bool:
        free = room(run)
        found, terms = self._options(engine, run, None if free is None else free + Decimal(run.reserved_usd), run.order.due, left)
        return would_escalate(found, terms, lane)

    def batch_over(self, engine: Engine, run: Run, batch: Batch, done: int) -> None:
        record = self._records[run.order.number]
        record.ended_at, record.completed = engine.now, done == batch.rows
        run.reserved_usd = 0.0

    def allows(self, engine: Engine, flow: Flow, rows: int) -> bool:
        """The reservation under the ceiling, as the ledger takes it."""
        order = flow.run.order
        worst = order.work.of(rows, order.work.prompt_bytes * rows // order.rows).worst_usd(ACCOUNTS[flow.account].rates[Lane.STANDARD])
        left = room(flow.run)
        if left is not None and worst > left:
            return False
        flow.run.reserved_usd = float(worst)
        return True

    def sliced(self, engine: Engine, flow: Flow) -> None:
        if flow.rows >= 20:
            self.stretches[flow.account, flow.lane].append((flow.rows, flow.begun, engine.now))


def room(run: Run) -> Decimal | None:
    """What is left under the ceiling."""
    return None if run.order.ceiling_usd is None else run.order.ceiling_usd - Decimal(run.spent_usd) - Decimal(run.reserved_usd)


def work_left(run: Run, left: int | None = None) -> Work:
    rows = run.left if left is None else left
    return run.order.work.of(rows, run.order.work.prompt_bytes * rows // run.order.rows)
