"""History: what moves to batches were like, by the job runs of a ledger: in place of what an audit would assume.

Counts what the ledger has, which is O(shards).  A row that moved to the standard lane was late; one in the standard lane beside a batch is its probe,
and no move.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from keld.ledger import CostLine, JobRun
from keld.price import Lane


def shares_of(runs: Iterable[JobRun], lines: Iterable[CostLine]) -> tuple[Mapping[str, float], int]:
    """(`late`, `again` and `twice` as shares, of how many job runs); of those that are over and had a batch.

    `again` counts each request beyond the first of a row that was no move: also of rows that expired, which cost nothing, so that it is never too small.
    """
    of_run: dict[str, list[CostLine]] = defaultdict(list)
    for line in lines:
        of_run[line.run_id].append(line)
    over = [run for run in runs if run.over and any(line.lane == Lane.BATCH for line in of_run[run.id])]
    answered = moved = asked = rows = 0
    paid = twice = 0.0
    for run in over:
        mine = of_run[run.id]
        answered += sum(line.answered for line in mine)
        beside = sum(line.answered for line in mine if line.lane == Lane.STANDARD)
        moved += beside if beside > 1 else 0
        asked += sum(line.asked for line in mine)
        rows += run.rows - run.reused
        paid += sum(float(line.paid_usd) for line in mine)
        twice += sum(float(line.twice_usd) for line in mine)
    if not (answered and asked and paid):
        return {}, 0
    return {"late": moved / answered, "again": max(asked - rows - moved, 0) / asked, "twice": twice / paid}, len(over)
