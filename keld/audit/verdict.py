"""Verdict: does somebody wait for a group's answers?  By points for both sides; in doubt the owner is asked.

`waits` needs 2 points and at most 1 against.  `does not wait` is the verdict that may not be wrong, so that a name, a night or a few days alone never
give it: the calls themselves must keep a time (then 3 points and none against) or be a closed loop (then 4); with up to 2 against it needs 5.
No verdict from a log of less than a week: every group of a short log looks like a single backfill.  A log of buckets never says `waits`: it shows
no person.
"""

from __future__ import annotations

from enum import StrEnum

from keld.audit.evidence import Evidence
from keld.audit.group import Group
from keld.audit.rule import Rule
from keld.price import Lane

LEAST_DAYS = 7


class Waits(StrEnum):
    """Whether somebody waits for the answers of a group."""

    YES = "waits"
    NO = "does not wait"
    ASK = "ask the owner"
    ALREADY = "already in a slower lane"


def verdict(group: Group, seen: Evidence, days: float, rule: Rule | None) -> tuple[Waits, str]:
    """The verdict on a group and its reason in a few words; a rule is stronger than any evidence."""
    slower = group.requests[Lane.BATCH] + group.requests[Lane.FLEX]
    if slower >= 0.95 * group.calls:
        return Waits.ALREADY, f"{slower / group.calls:.0%} of the calls are in the batch or flex lane"
    if rule is not None and rule.waits is not None:
        return Waits.YES if rule.waits else Waits.NO, f"rule {rule.number} of the rules file"
    if days < LEAST_DAYS:
        return Waits.ASK, f"the log has {days:.3g} days with calls; a verdict needs {LEAST_DAYS}"
    points = f"{seen.waits} points for waiting, {seen.free} against"
    if seen.waits >= 2 and seen.free <= 1 and not group.width:
        return Waits.YES, points
    enough = 5 if seen.waits else 3 if seen.clocked else 4  # a pool that serves people may be full, which looks like a closed loop
    if (seen.clocked or seen.looped) and seen.free >= enough and seen.waits <= 2:
        return Waits.NO, points
    return Waits.ASK, points
