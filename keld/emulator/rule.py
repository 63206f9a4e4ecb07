"""Rule: one planned fault, and whether it applies to something that happens.

`fault` has the table of what a rule may say, and the rules in force.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from .error import error_of

RowFate = Literal["refusal", "length", "invalid", "model_not_found", "standard_tier", "cache_miss"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something to which a rule may apply."""

    provider: str
    path: str = ""
    model: str | None = None
    batch: int | None = None
    lane: str | None = None


@dataclass(kw_only=True, eq=False)
class Rule:
    """One rule and how often it has fired."""

    at: str
    do: str
    times: int | None = 1
    skip: int = 0
    match: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    hits: int = 0
    seen: int = 0

    def __repr__(self) -> str:
        return f"<Rule {self.at}.{self.do} {self.hits}/{'∞' if self.times is None else self.times}>"

    def get(self, name: str, default: Any) -> Any:
        return self.arguments.get(name, default)

    def matches(self, event: Event) -> bool:
        wanted = self.match
        return (
            all(wanted[name] == getattr(event, name) for name in ("provider", "model", "batch", "lane") if name in wanted)
            and wanted.get("path", "") in event.path
        )

    def fires(self) -> bool:
        """Count an event that matches; True if the rule applies to it."""
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True

    def picks(self, ordinal: int, custom_id: str) -> bool:
        """True if the row that finishes as number `ordinal` (from 0) is chosen: exactly `fraction` of them, evenly."""
        if not custom_id.endswith(self.match.get("custom_id", "")):
            return False
        if "count" in self.arguments:
            return ordinal < int(self.arguments["count"])
        fraction = float(self.get("fraction", 1.0))
        return int((ordinal + 1) * fraction + 1e-9) > int(ordinal * fraction + 1e-9)

    def as_dict(self) -> dict[str, Any]:
        own = {"at": self.at, "do": self.do, "times": self.times, "skip": self.skip, "match": self.match}
        return {**own, **self.arguments, "hits": self.hits}


def row_fate(rules: list[Rule], ordinal: int, custom_id: str) -> RowFate | None:
    """The fault of the row that finishes as number `ordinal`, by the `rows` rules; None: there is none.

    Raises:
        ApiError: the row is refused with a planned status.
    """
    for rule in rules:
        if not rule.picks(ordinal, custom_id):
            continue
        match rule.do:
            case "error":
                raise error_of(int(rule.get("status", 500)), rule.get("message", None), rule.get("code", None))
            case "refusal" | "length" | "invalid" | "model_not_found" | "standard_tier" | "cache_miss" as fate:
                return fate
            case _:
                pass
    return None


def twist_of(fate: RowFate | None) -> Literal["refusal", "length", "invalid"] | None:
    """How a row's fault changes the answer's text; None: not at all."""
    match fate:
        case "refusal" | "length" | "invalid":
            return fate
        case _:
            return None
