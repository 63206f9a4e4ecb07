"""Check: the checks of a result: completion_rate, valid_rate, deadline_met, cost_under_ceiling, each of one partition.

Evaluated in the op, from the status, when a result is materialised.  Only `completion_rate` blocks downstream assets: a partition
that is late or expensive is still correct.
"""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import Any

import dagster as dg

from keld import Embedding, Job, Status
from keld_dagster.metadata import clock, money

COMPLETION, VALID, DEADLINE, COST = "completion_rate", "valid_rate", "deadline_met", "cost_under_ceiling"
_PARTITIONED = "partitions_def" in inspect.signature(dg.AssetCheckSpec.__new__).parameters  # absent in Dagster 1.12.12, there in 1.12.22


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The least shares, 0 to 1: of askable rows that are answered, and of answers that fit the schema; None if there is no schema."""

    completion_rate: float
    valid_rate: float | None

    @staticmethod
    def of(job: Job, completion_rate: float, valid_rate: float) -> Wanted:
        """For a job: free text and embeddings have no schema that an answer could break."""
        typed = job.output_type is not str and not isinstance(job.output_type, Embedding)
        return Wanted(completion_rate=completion_rate, valid_rate=valid_rate if typed else None)


def check_specs(result: dg.AssetKey, wanted: Wanted, partitions_def: dg.PartitionsDefinition[Any] | None) -> list[dg.AssetCheckSpec]:
    """The checks of a result asset; partitioned as it is, where Dagster has that."""
    more: dict[str, Any] = {"partitions_def": partitions_def} if _PARTITIONED else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # partitioned checks are a preview in 1.13; each user's load need not say so
        specs = [
            dg.AssetCheckSpec(
                COMPLETION,
                asset=result,
                blocking=True,
                description=f"At least {wanted.completion_rate:.1%} of the askable rows are answered.",
                **more,
            ),
            dg.AssetCheckSpec(DEADLINE, asset=result, description="Every row had its outcome before the partition's deadline.", **more),
            dg.AssetCheckSpec(
                COST, asset=result, description="The partition, retries included, cost no more than the job's ceiling.", **more
            ),
        ]
        if wanted.valid_rate is not None:
            described = f"At least {wanted.valid_rate:.1%} of the answers fit the output schema."
            specs.insert(1, dg.AssetCheckSpec(VALID, asset=result, description=described, **more))
    return specs


def check_results(result: dg.AssetKey, status: Status, wanted: Wanted) -> list[dg.AssetCheckResult]:
    """The checks, evaluated for a job run that is over."""
    valid = [] if wanted.valid_rate is None else [_valid(result, status, wanted.valid_rate)]
    return [_completion(result, status, wanted.completion_rate), *valid, _deadline(result, status), _cost(result, status)]


def _completion(result: dg.AssetKey, status: Status, wanted: float) -> dg.AssetCheckResult:
    # A share of nothing is whole; but nothing asked of rows that are there is mostly a column that came empty.  It blocks nothing: it may be meant.
    nothing_asked = status.rows > 0 and status.askable == 0
    text = f"{status.answered:,} of {status.askable:,} askable rows are answered; {wanted:.1%} are required."
    if status.unaskable:
        text += f" {status.unaskable:,} of {status.rows:,} rows have no prompt and were not asked: the column keld_error says why."
    return dg.AssetCheckResult(
        asset_key=result,
        check_name=COMPLETION,
        passed=status.completion_rate >= wanted and not nothing_asked,
        severity=dg.AssetCheckSeverity.WARN if nothing_asked else dg.AssetCheckSeverity.ERROR,
        description=text,
        metadata={"answered_share": round(status.completion_rate, 6)},
    )


def _valid(result: dg.AssetKey, status: Status, wanted: float) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=result,
        check_name=VALID,
        passed=status.valid_rate >= wanted,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{status.answered:,} of {status.answered + status.invalid:,} answers fit the output schema; {wanted:.1%} are wanted.",
        metadata={"valid_share": round(status.valid_rate, 6)},
    )


def _deadline(result: dg.AssetKey, status: Status) -> dg.AssetCheckResult:
    due, ended = status.deadline_at, status.finished_at
    if due is None or ended is None:
        text, metadata = "There is no deadline.", {}
    else:
        text = f"Due {clock(due)}, finished {clock(ended)}."
        metadata = {"minutes_to_spare": round((due - ended).total_seconds() / 60, 1)}
    return dg.AssetCheckResult(
        asset_key=result,
        check_name=DEADLINE,
        passed=status.deadline_met is not False,
        severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata=metadata,
    )


def _cost(result: dg.AssetKey, status: Status) -> dg.AssetCheckResult:
    ceiling = status.ceiling_usd
    return dg.AssetCheckResult(
        asset_key=result,
        check_name=COST,
        passed=ceiling is None or status.cost_usd <= ceiling,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"It cost {money(status.cost_usd)}; "
        + ("there is no ceiling." if ceiling is None else f"the ceiling is {money(ceiling)}."),
        metadata={"cost_usd": round(float(status.cost_usd), 6)},
    )
