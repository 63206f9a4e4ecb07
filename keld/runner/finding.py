"""Finding: a batch that a provider has and the ledger does not, and what is to be done about it.

Below `orphan`, which finds them.  Plain data, light: the command line shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum


class Verdict(StrEnum):
    """What is to be done about a batch that the ledger does not have."""

    ADOPT = "adopt"  # its shard has no batch: the answers of this one are used
    CANCEL = "cancel"  # its shard was sent again: it is cancelled, and its cost is counted
    SETTLE = "settle"  # the same, and it has ended: its cost is counted
    SEARCHED = "searched"  # its shard is being looked for right now; nothing to do here
    UNPROVEN = "unproven"  # it may be ours; only its results can show it, when it has ended
    RELEASE = "release"  # it is not the second batch of a create of ours, as was possible: its reservation is released
    ANOTHERS = "another's"  # it has a mark of Keld's that this ledger never gave: from another ledger, or from one that was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A batch at a provider that the ledger does not have, or has not settled; `cost_usd` is what it cost, or may cost at worst."""

    provider: str
    host: str
    batch_id: str
    native: str
    created_at: datetime
    requests: int | None
    verdict: Verdict
    job: str | None = None
    partition: str | None = None
    shard: int | None = None
    job_run: str | None = None
    shard_id: str | None = None
    cost_usd: Decimal | None = None
    cost_is_worst: bool = True
    lost: int = 0  # rows of which its results say nothing
