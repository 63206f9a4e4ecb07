"""Finding: what an audit says about one group, and about all of them.

Ranked by money.  Holds names, counts, instants and money; a prompt only where samples were asked for.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from keld.audit.evidence import Evidence
from keld.audit.group import Group, Key
from keld.audit.money import Bill, Net, quantile
from keld.audit.record import Floats
from keld.audit.rule import Rule
from keld.audit.verdict import Waits
from keld.price import Lane

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What is said of one group.

    Args:
        name: unique in the audit.
        group: None after an audit was read back; here always the group itself.
        delay: how long the answers may take; None: nobody said, and no clock was seen.  `delay_basis` says where it is from.
        bill: what its calls cost in the time of the log, or why that is not known.
        net: what moving it saves in a month; None: not known.
        fleet_usd: of machines of one's own, (what they cost less, what the batch costs) in a month.
        monthly: False for what happened only once: its figures are of the log, not of a month.
        usd: what it costs now in a month, at list prices or as logged.
        samples: beginnings of prompts, where they were asked for.
    """

    name: str
    key: Key
    waits: Waits
    reason: str
    evidence: Evidence
    group: Group
    rule: Rule | None
    delay: timedelta | None
    delay_basis: str
    bill: Bill | str
    net: Net | None
    fleet_usd: tuple[Decimal, Decimal] | None
    monthly: bool
    usd: Decimal
    samples: tuple[str, ...] = ()

    @property
    def worth(self) -> Decimal | None:
        """USD that moving it is expected to save in a month; None: not known."""
        if self.fleet_usd is not None:
            return self.fleet_usd[0] - self.fleet_usd[1]
        return None if self.net is None else self.net.net_usd

    @property
    def tokens(self) -> tuple[int, int]:
        """(input, output) of its calls in the standard lane."""
        counts = [one for (lane, _), one in self.group.tokens.items() if lane is Lane.STANDARD]
        return sum(int(one[0]) for one in counts), sum(int(one[4]) for one in counts)

    @property
    def failed(self) -> float | None:
        return self.group.failed / self.group.failed_known if self.group.failed_known else None

    def stanza(self) -> str:
        """The rule that would settle it, for the rules file."""
        parts = [part for part in ("service", "job", "model", "operation") if getattr(self.key, part)]
        match = ", ".join(f"{part} = {_quoted(getattr(self.key, part))}" for part in parts)
        waits = "false" if self.waits is Waits.NO else "true"
        delay = f'acceptable_delay = "{span_text(self.delay)}"\n' if self.delay is not None and self.waits is Waits.NO else ""
        return f"[[group]]\nmatch = {{{match}}}\nwaits = {waits}\n{delay}"

    def to_json(self) -> dict[str, Any]:
        """The same, as JSON values: money as decimal text."""
        return {
            "name": self.name,
            **self.key._asdict(),
            "verdict": self.waits.value,
            "reason": self.reason,
            "calls": self.group.calls,
            "usd": _usd(self.usd),
            "monthly": self.monthly,
            "points": {"waits": self.evidence.waits, "does_not_wait": self.evidence.free},
            "evidence": [{"waits": one.waits, "does_not_wait": one.free, "text": one.text} for one in self.evidence.signs],
            "missing": list(self.evidence.missing),
            "rounds": self.evidence.rounds,
            "acceptable_delay_s": None if self.delay is None else self.delay.total_seconds(),
            "acceptable_delay_basis": self.delay_basis,
            "not_counted": self.bill if isinstance(self.bill, str) else None,
            "input_tokens": self.tokens[0],
            "output_tokens": self.tokens[1],
            "cached_share": None if isinstance(self.bill, str) else round(self.bill.cached, 4),
            "lane": None if isinstance(self.bill, str) else self.bill.lane.value,
            "basis": None if isinstance(self.bill, str) else self.bill.basis,
            "saving": None if self.net is None else _net_json(self.net),
            "fleet_usd": None if self.fleet_usd is None else [_usd(one) for one in self.fleet_usd],
            "rule": self.stanza(),
            "samples": list(self.samples),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A file that was read.

    Args:
        passed: True if nothing of it was read; `title` says why.
        again: calls that were counted before, from this file or another.
        other: rows that are no calls.
        bad: rows that cannot be read.
    """

    where: str
    title: str
    passed: bool
    calls: int
    again: int
    other: int
    bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit found, the most expensive group first.

    Args:
        days: of the log, from its first call to the one that would have come after its last.
        factor: from the log to a month of 30 days; 1 for a log that is too short for that.
        priced_at: the day of the price lists.
    """

    findings: tuple[Finding, ...]
    sources: tuple[Source, ...]
    first: datetime | None
    last: datetime | None
    days: float
    factor: float
    priced_at: datetime
    zone: str
    priors: dict[str, Any] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """Of what time the amounts are, in words."""
        return "a month" if self.factor != 1 else "in this log"

    @property
    def bad(self) -> int:
        return sum(one.bad for one in self.sources)

    def usd(self, waits: Waits) -> Decimal:
        """What groups with that verdict cost in a month."""
        return sum((one.usd for one in self.findings if one.waits is waits), Decimal(0))

    def worth_it(self, *verdicts: Waits) -> list[Finding]:
        """The groups with one of the verdicts that are expected to save money."""
        return [one for one in self.findings if one.waits in verdicts and one.worth is not None and one.worth > 0]

    def saving(self, *verdicts: Waits) -> tuple[Decimal, Decimal, Decimal]:
        """USD a month: p10, p50 and p90 of what moving the groups that are worth it saves together."""
        total: Floats = np.zeros(1)
        for one in self.worth_it(*verdicts):
            total = total + (float(one.worth or 0) if one.net is None else one.net.draws)
        low, middle, high = (quantile(total, q) for q in QUANTILES)
        return low, middle, high

    @property
    def free_usd(self) -> Decimal:
        """What could be saved in a month for sure: the expected saving of what does not wait."""
        return sum((one.worth or Decimal(0) for one in self.worth_it(Waits.NO)), Decimal(0))

    @property
    def not_counted(self) -> dict[str, tuple[int, int, int]]:
        """Why a saving is not known -> (groups, input tokens, output tokens)."""
        found: dict[str, tuple[int, int, int]] = {}
        for one in self.findings:
            if isinstance(one.bill, str) and one.waits in (Waits.NO, Waits.ASK) and one.fleet_usd is None:
                groups, tokens_in, tokens_out = found.get(one.bill, (0, 0, 0))
                found[one.bill] = (groups + 1, tokens_in + one.tokens[0], tokens_out + one.tokens[1])
        return found

    def to_json(self) -> dict[str, Any]:
        """The same, as JSON values."""
        verdicts = Counter(one.waits for one in self.findings)
        return {
            "first": None if self.first is None else self.first.isoformat(),
            "last": None if self.last is None else self.last.isoformat(),
            "days": round(self.days, 3),
            "month_factor": round(self.factor, 6),
            "priced_at": self.priced_at.date().isoformat(),
            "timezone": self.zone,
            "priors": self.priors,
            "sources": [
                {
                    "where": one.where,
                    "format": one.title,
                    "calls": one.calls,
                    "counted_before": one.again,
                    "other_rows": one.other,
                    "bad_rows": one.bad,
                }
                for one in self.sources
            ],
            "bad_rows": self.bad,
            "usd": {waits.value: _usd(self.usd(waits)) for waits in Waits},
            "groups": {waits.value: verdicts[waits] for waits in Waits},
            "saving_usd": {
                "does not wait": dict(zip(("p10", "p50", "p90"), map(_usd, self.saving(Waits.NO)), strict=True)),
                "and ask the owner": dict(zip(("p10", "p50", "p90"), map(_usd, self.saving(Waits.NO, Waits.ASK)), strict=True)),
            },
            "not_counted": [
                {"why": why, "groups": groups, "input_tokens": tokens_in, "output_tokens": tokens_out}
                for why, (groups, tokens_in, tokens_out) in self.not_counted.items()
            ],
            "findings": [one.to_json() for one in self.findings],
        }


def span_text(length: timedelta) -> str:
    """`9h`, `45m`, `1d 6h`: as `Job.deadline` takes it."""
    minutes = max(int(length.total_seconds() // 60), 1)
    days, hours, minutes = minutes // 1440, minutes % 1440 // 60, minutes % 60
    return " ".join(f"{number}{unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "m")) if number)


def _quoted(text: str) -> str:
    """A TOML string; what a pattern would read as a mark is a mark here, too."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in escaped) + '"'


def _usd(amount: Decimal) -> str:
    return f"{amount.quantize(Decimal('0.01')):f}"


def _net_json(found: Net) -> dict[str, Any]:
    return {
        "now_usd": _usd(found.now_usd),
        "then_usd": _usd(found.then_usd),
        **{name: f"{getattr(found, name):f}" for name in ("late", "again", "twice", "eligible")},
        "staging_usd": _usd(found.staging_usd),
        "operations_usd": _usd(found.operations_usd),
        "net_usd": _usd(found.net_usd),
        "no_hits_usd": _usd(found.no_hits_usd),
        "same_hits_usd": _usd(found.same_hits_usd),
        **{f"p{round(q * 100)}_usd": _usd(found.quantile(q)) for q in QUANTILES},
    }
