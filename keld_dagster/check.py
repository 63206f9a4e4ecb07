"""Check: the three checks of a result: completion_rate, deadline_met, cost_under_ceiling.

Evaluated in the op, from the status, when a result is materialised.  Only `completion_rate` blocks downstream assets: a partition
that is late or expensive is still correct.
"""

from __future__ import annotations

import dagster as dg

from keld import Status

COMPLETION, DEADLINE, COST = "completion_rate", "deadline_met", "cost_under_ceiling"


def check_specs(result: dg.AssetKey, completion_rate: float) -> list[dg.AssetCheckSpec]:
    """The three checks of a result asset."""
    return [
        dg.AssetCheckSpec(
            COMPLETION, asset=result, blocking=True, description=f"At least {completion_rate:.1%} of the askable rows are answered."
        ),
        dg.AssetCheckSpec(DEADLINE, asset=result, description="Every row had its outcome before the partition's deadline."),
        dg.AssetCheckSpec(COST, asset=result, description="The partition, retries included, cost no more than the job's ceiling."),
    ]


def check_results(result: dg.AssetKey, status: Status, completion_rate: float) -> list[dg.AssetCheckResult]:
    """The three checks, evaluated for a job run that is over."""
    return [_completion(result, status, completion_rate), _deadline(result, status), _cost(result, status)]


def _completion(result: dg.AssetKey, status: Status, wanted: float) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=result,
        check_name=COMPLETION,
        passed=status.completion_rate >= wanted,
        severity=dg.AssetCheckSeverity.ERROR,
        description=f"{status.answered:,} of {status.askable:,} askable rows are answered; {wanted:.1%} are required.",
        metadata={"rate": round(status.completion_rate, 6), "wanted": wanted, "outcomes": dict(status.outcomes)},
    )


def _deadline(result: dg.AssetKey, status: Status) -> dg.AssetCheckResult:
    due, ended = status.deadline_at, status.finished_at
    if due is None or ended is None:
        text, metadata = "There is no deadline.", {}
    else:
        text = f"Due {due:%Y-%m-%d %H:%M} UTC, finished {ended:%Y-%m-%d %H:%M} UTC."
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
        description=f"It cost ${status.cost_usd:.4f}; "
        + ("there is no ceiling." if ceiling is None else f"the ceiling is ${ceiling:.2f}."),
        metadata={"cost_usd": round(float(status.cost_usd), 6)},
    )
