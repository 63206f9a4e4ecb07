"""Rule: what the owners know, in a TOML file under version control; the first rule that matches a group holds.

timezone = "Europe/Berlin"
words = ["nightly", "etl"]              # in names, a sign that nobody waits

[priors]
operations = [0, 20]                    # USD a month for a group, from and to

[[group]]
match = {service = "ticket-tagger", model = "gpt-*"}
waits = false
acceptable_delay = "9h"
owner = "support-data"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from keld.audit.capacity import Fleet
from keld.audit.evidence import WORDS
from keld.audit.group import Key
from keld.audit.prior import Priors
from keld.errors import InvalidJob
from keld.instant import instant_or_span

_TEXTS = ("owner", "note", "fallback", "harm", "seen_by", "retry_window")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.

    Args:
        match: part of the key -> a pattern with `*` and `?`.
        waits: None: the evidence decides.
        acceptable_delay: None: nobody said.
        staging_gb: what a month of it takes in staging; None: estimated from its tokens.
        fleet: the machines of one's own that serve it; None: tokens are paid.
    """

    number: int
    match: Mapping[str, str]
    waits: bool | None = None
    acceptable_delay: timedelta | None = None
    owner: str = ""
    note: str = ""
    fallback: str = ""
    harm: str = ""
    seen_by: str = ""
    retry_window: str = ""
    staging_gb: float | None = None
    fleet: Fleet | None = None

    def fits(self, key: Key) -> bool:
        return all(fnmatchcase(getattr(key, part), pattern) for part, pattern in self.match.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All of a rules file; without one, its defaults.

    Args:
        zone: where the people are who might wait; None: nobody said.
        given: the priors that the file itself has, which no history replaces.
    """

    rules: tuple[Rule, ...] = ()
    zone: ZoneInfo | None = None
    words: tuple[str, ...] = WORDS
    priors: Priors = field(default_factory=Priors)
    given: frozenset[str] = frozenset()
    prices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def learned(self, seen: Mapping[str, float], job_runs: int) -> Rules:
        """The same rules with priors that `job_runs` job runs have shown, but for those that the file gives."""
        return replace(self, priors=self.priors.learned({name: share for name, share in seen.items() if name not in self.given}, job_runs))

    def of(self, key: Key) -> Rule | None:
        """The first rule that fits; None: no rule does."""
        return next((rule for rule in self.rules if rule.fits(key)), None)


def rules_of(path: str) -> Rules:
    """The rules in a file.

    Raises:
        InvalidJob: it cannot be read, or a value in it is not valid; names it.
    """
    try:
        given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        if unknown := set(given) - {"group", "timezone", "words", "priors", "prices"}:
            raise InvalidJob(f"{sorted(unknown)} is not known; it may have group, timezone, words, priors, prices.")
        return Rules(
            rules=tuple(_rule(number, one) for number, one in enumerate(given.get("group", ()), 1)),
            zone=ZoneInfo(given["timezone"]) if "timezone" in given else None,
            words=tuple(map(str, given.get("words", WORDS))),
            priors=Priors.of(given.get("priors", {})),
            given=frozenset(given.get("priors", {})),
            prices=given.get("prices", {}),
        )
    except (OSError, ValueError, TypeError, KeyError, tomllib.TOMLDecodeError, InvalidJob) as error:
        raise InvalidJob(f"The rules file {path} is not valid: {error}", field="rules") from None


def _rule(number: int, given: Mapping[str, Any]) -> Rule:
    known = {one.name for one in fields(Rule)} - {"number", "fleet"} | {"capacity"}
    if unknown := sorted(set(given) - known):
        raise InvalidJob(f"group {number} has {', '.join(unknown)}; it may have {', '.join(sorted(known))}.")
    match = given.get("match", {})
    if not match or set(match) - set(Key._fields):
        raise InvalidJob(f"group {number}: match needs one or more of {', '.join(Key._fields)}.")
    waits = given.get("waits")
    if waits is not None and not isinstance(waits, bool):
        raise InvalidJob(f"group {number}: waits={waits!r} must be true or false.")
    return Rule(
        number=number,
        match={part: str(pattern) for part, pattern in match.items()},
        waits=waits,
        acceptable_delay=_delay(number, given.get("acceptable_delay")),
        staging_gb=given.get("staging_gb"),
        fleet=Fleet.of(given["capacity"]) if "capacity" in given else None,
        **{name: str(given.get(name, "")) for name in _TEXTS},
    )


def _delay(number: int, given: Any) -> timedelta | None:
    if given is None:
        return None
    found = instant_or_span(str(given), f"group {number}: acceptable_delay")
    if isinstance(found, datetime):
        raise InvalidJob(f"group {number}: acceptable_delay={given!r} is an instant; give a span, such as '9h'.")
    return found
