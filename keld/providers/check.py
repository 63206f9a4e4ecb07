"""Check: one finding of `Keld.doctor`.

Below `health` and `keld/doctor.py`, which make them.  Plain data, light: the command line shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckState(StrEnum):
    """What a check found."""

    OK = "ok"
    NOTE = "note"  # it stops no job
    PROBLEM = "problem"  # it would stop a job


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding of `Keld.doctor`.

    Args:
        subject: the name of an account, `ledger`, `staging` or `environment`.
        what: was checked: `settings`, `key`, `address`, `clock`, `bucket`, `models`, `price`, `quota`, `ledger`, `staging`.
        finding: one sentence.
        fix: what to do, one sentence; "": nothing.
    """

    subject: str
    what: str
    state: CheckState
    finding: str
    fix: str = ""
