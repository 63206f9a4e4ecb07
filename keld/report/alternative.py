"""Alternative: what the tokens of a job would have cost in the next best way that its terms accept; pure but for the rates it is given.

The same tokens are priced at today's rates for each acceptable model in each lane.  It is a comparison, not a plan: another model counts and
writes other tokens, and cached tokens are taken as cached there, too.  `keld plan` counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from keld.ledger import CostLine, JobRun
from keld.price import Lane, Usage
from keld.report.book import Book, RatesOf
from keld.spend import Spend, report

_JOBS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A job, and the cheapest way that it did not take.

    Args:
        way: `provider:model lane`, in which most of its money was spent.
        other: the next best one; None if no other is acceptable, or no price is known.
        other_usd: what the tokens that were paid would cost there.
        needs: what in the job's terms has to change for it; "" if nothing.
    """

    spend: Spend
    way: str
    other: str | None
    other_usd: Decimal | None
    needs: str

    @property
    def job(self) -> str:
        return self.spend.group

    @property
    def change(self) -> float | None:
        """-0.5: the other way costs half of what was paid once for each row."""
        paid = self.spend.paid_usd - self.spend.twice_usd
        return None if self.other_usd is None or not paid else float(self.other_usd / paid) - 1


def alternatives_of(book: Book, rates_of: RatesOf) -> tuple[Alternative, ...]:
    """The ten jobs on which most was spent, each with its next best option."""
    lines: defaultdict[str, list[CostLine]] = defaultdict(list)
    runs: dict[str, JobRun] = {}
    for run in book.runs.values():
        runs.setdefault(run.job, run)  # the youngest, whose terms count
    for line in book.cost_lines:
        lines[book.runs[line.run_id].job].append(line)
    dearest = report(book.runs.values(), book.cost_lines, "job").lines[:_JOBS]
    return tuple(_alternative(job, runs[job.group], lines[job.group], rates_of, book.as_of) for job in dearest if job.paid_usd)


def _alternative(job: Spend, run: JobRun, lines: Sequence[CostLine], rates_of: RatesOf, at: datetime) -> Alternative:
    paid: defaultdict[str, Decimal] = defaultdict(Decimal)
    for line in lines:
        paid[f"{line.provider}:{line.model} {line.lane}"] += line.paid_usd
    way = max(paid, key=lambda name: (paid[name], name))
    costs = {name: usd for name, usd in _costs(run, lines, rates_of, at).items() if name != way}
    other = min(costs, key=lambda name: (costs[name], name), default=None)
    return Alternative(
        spend=job,
        way=way,
        other=other,
        other_usd=None if other is None else costs[other],
        needs="" if other is None else _needs(run, way, other),
    )


def _costs(run: JobRun, lines: Sequence[CostLine], rates_of: RatesOf, at: datetime) -> Mapping[str, Decimal]:
    """By `provider:model lane`, what all tokens of `lines` would cost; without ways whose price per token is unknown."""
    usage = Usage(
        input_tokens=sum(line.input_tokens for line in lines),
        cached_tokens=sum(line.cached_tokens for line in lines),
        cache_write_tokens=sum(line.cache_write_tokens for line in lines),
        output_tokens=sum(line.output_tokens for line in lines),
    )
    request_tokens = usage.input_tokens // max(1, sum(line.answered for line in lines))
    found = {}
    for name in run.terms.models:
        for lane in Lane:
            rates = rates_of(name, lane, at, run.terms.prices)
            if rates is not None and rates.gpu_hour_usd is None:
                found[f"{name} {lane}"] = rates.total(usage, request_tokens)
    return found


def _needs(run: JobRun, way: str, other: str) -> str:
    lane = other.rpartition(" ")[2]
    if not run.terms.any_lane and lane != run.terms.lane:
        return "lane='auto' in the job"
    if lane == Lane.BATCH and not way.endswith(f" {Lane.BATCH}"):
        return "a later deadline"
    return ""
