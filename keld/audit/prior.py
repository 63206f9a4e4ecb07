"""Prior: what is assumed of a move to batches before any job ran, each a distribution that a rules file may replace.

`late`: the share of the rows that are rescued in the standard lane.  `again`: those asked again though they were billed.  `twice`: those billed
in both lanes at a cancel.  `eligible`: the share of a group that moves.  `kept`: the share of the cache hits that a batch still has; nobody
publishes one, and batches were seen with none (docs/how-to/audit.md), so every share is as likely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np

from keld.audit.record import Floats
from keld.errors import InvalidJob

DRAWS = 20_000
SHARES = ("late", "again", "twice", "eligible", "kept")
MEANINGS = {
    "late": "of the rows are rescued in the standard lane",
    "again": "of the rows are asked again although they were billed",
    "twice": "of the rows are billed in both lanes at a cancel",
    "eligible": "of a group's calls can move",
    "kept": "of the cache hits a batch still has",
    "operations": "a month for the operation of one group",
    "staging_usd_per_gb": "a month for a GB in staging",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """The (a, b) of a beta distribution for each share; USD a month from and to for the operation of one group.

    Args:
        staging_usd_per_gb: a month of storage with its requests and transfer.
    """

    late: tuple[float, float] = (1, 99)
    again: tuple[float, float] = (2, 98)
    twice: tuple[float, float] = (1, 199)
    eligible: tuple[float, float] = (30, 2)
    kept: tuple[float, float] = (1, 1)
    operations: tuple[float, float] = (0, 20)
    staging_usd_per_gb: float = 0.10

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Priors:
        """The defaults with what is given.

        Raises:
            InvalidJob: a name that is not known, or a value that is no pair of numbers above zero.
        """
        if unknown := sorted(set(given) - {one.name for one in fields(cls)}):
            raise InvalidJob(f"priors has {', '.join(unknown)}; it may have {', '.join(one.name for one in fields(cls))}.")
        for name in SHARES:
            pair = given.get(name, (1, 1))
            if not isinstance(pair, list | tuple) or len(pair) != 2 or min(pair) <= 0:
                raise InvalidJob(f"priors.{name}={pair!r}: give the two numbers of a beta distribution, above zero, e.g. [1, 99].")
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
        return cls(**values)

    def learned(self, seen: Mapping[str, float], job_runs: int) -> Priors:
        """The same with the shares that job runs have shown; each counts as one draw, since the rows of one job run share its fate."""
        found: dict[str, Any] = {}
        for name, share in seen.items():
            a, b = getattr(self, name)
            found[name] = (round(a + share * job_runs, 3), round(b + (1 - share) * job_runs, 3))
        return replace(self, **found)

    def mean(self, name: str) -> Decimal:
        """The mean of a share, or of the cost of operation."""
        a, b = (Decimal(str(one)) for one in getattr(self, name))
        return a / (a + b) if name in SHARES else (a + b) / 2

    def draws(self, name: str) -> Floats:
        """`DRAWS` values, the same in every process."""
        a, b = getattr(self, name)
        return _draws([one.name for one in fields(self)].index(name), a, b, name in SHARES)


@cache
def _draws(seed: int, a: float, b: float, is_share: bool) -> Floats:
    seeded = np.random.default_rng([seed, 16])
    found = seeded.beta(a, b, DRAWS) if is_share else seeded.uniform(a, b, DRAWS)
    found.flags.writeable = False  # the same ones for every group
    return found
