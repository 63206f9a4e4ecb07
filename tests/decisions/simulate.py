"""Simulate: every policy over the same weeks, and what came of it, in figures.

Above `policy` and `clairvoyant`.  What is compared: **kept** is of all job runs; **kept, possible** of those that somebody kept within their
ceiling: the clairvoyant, or always-standard.  **Cost** is over the job runs of which policy and clairvoyant answered every row, in time or
late, so that nobody looks cheap by leaving rows out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.decisions.clairvoyant import Clairvoyant
from tests.decisions.engine import Engine, Run
from tests.decisions.policy import AlwaysBatch, AlwaysStandard, Buffer, KeldPolicy
from tests.decisions.world import World


@dataclass(frozen=True, kw_only=True)
class Played:
    """What came of each job run, by policy, in the order of arrival."""

    world: World
    runs: dict[str, list[Run]]

    def possible(self, number: int) -> bool:
        """Whether the deadline could be kept under the ceiling."""
        return any(kept_under_ceiling(self.runs[name][number]) for name in ("clairvoyant", "always standard"))


@dataclass(frozen=True, kw_only=True)
class Figures:
    runs: int
    kept: int
    possible: int
    kept_possible: int
    cost: float  # as a multiple of the clairvoyant's
    cost_mean: float  # the mean of the job runs' own multiples
    twice: int  # rows paid more than once
    breaches: int
    unanswered: int  # job runs that a ceiling left without all their answers


def play(world: World) -> Played:
    policies = (KeldPolicy(), AlwaysBatch(), AlwaysStandard(), Buffer())
    runs = {policy.name: Engine(world, policy).play() for policy in policies}
    return Played(world=world, runs=runs | {"clairvoyant": Clairvoyant(world).play()})


def figures(played: Played, policy: str, wanted: Callable[[Run], bool] = lambda run: True) -> Figures:
    mine = [run for run in played.runs[policy] if wanted(run)]
    best = played.runs["clairvoyant"]
    possible = [run for run in mine if played.possible(run.order.number)]
    whole = [(run, best[run.order.number]) for run in mine if run.answered == run.order.rows]
    return Figures(
        runs=len(mine),
        kept=sum(run.kept for run in mine),
        possible=len(possible),
        kept_possible=sum(run.kept for run in possible),
        cost=sum(run.spent_usd for run, _ in whole) / max(sum(other.spent_usd for _, other in whole), 1e-12),
        cost_mean=sum(run.spent_usd / other.spent_usd for run, other in whole) / max(len(whole), 1),
        twice=sum(run.bought - run.answered for run in mine),
        breaches=sum(breached(run) for run in mine),
        unanswered=len(mine) - len(whole),
    )


def breached(run: Run) -> bool:
    return run.order.ceiling_usd is not None and run.spent_usd > float(run.order.ceiling_usd) * (1 + 1e-9)


def kept_under_ceiling(run: Run) -> bool:
    return run.kept and not breached(run)


def names(played: Played) -> Iterable[str]:
    return played.runs
