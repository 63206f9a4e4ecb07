"""Audited: the result of `keld audit --json`, as far as the report shows it beside what Keld did."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec

from keld.errors import SourceError
from keld.table.place import PathLike, place_of


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedGroup:
    """A group of calls; `saves_usd` is what moving it is expected to save, None where that is not known or it is not to be moved."""

    name: str
    model: str
    verdict: str
    calls: int
    usd: Decimal
    saves_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Audited:
    """What an audit found, the most expensive group first.

    Args:
        unit: of what time the amounts are, in words.
        usd: verdict -> what its groups cost.
        saving, possible: p10, p50 and p90 of what moving saves: of what does not wait, and with all that is to be asked about, too.
    """

    first: date | None
    last: date | None
    priced_at: date
    unit: str
    usd: dict[str, Decimal]
    saving: tuple[Decimal, Decimal, Decimal]
    possible: tuple[Decimal, Decimal, Decimal]
    groups: tuple[AuditedGroup, ...]


class _Range(msgspec.Struct):
    p10: Decimal
    p50: Decimal
    p90: Decimal


class _Saving(msgspec.Struct):
    net_usd: Decimal


class _Finding(msgspec.Struct):
    name: str
    provider: str
    model: str
    verdict: str
    calls: int
    usd: Decimal
    saving: _Saving | None
    fleet_usd: tuple[Decimal, Decimal] | None


class _Document(msgspec.Struct):
    first: str | None
    last: str | None
    priced_at: date
    month_factor: float
    usd: dict[str, Decimal]
    saving_usd: dict[str, _Range]
    findings: list[_Finding]


def audited(path: PathLike) -> Audited:
    """The result in a file, a local path or a URI.

    Raises:
        SourceError: it cannot be read, or is no result of `keld audit --json`.
    """
    place = place_of(path)
    try:
        with place.open() as stream:
            found = msgspec.json.decode(stream.read(), type=_Document)
        free, both = (found.saving_usd[name] for name in ("does not wait", "and ask the owner"))
        days = [None if text is None else date.fromisoformat(text[:10]) for text in (found.first, found.last)]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, KeyError, ValueError) as error:
        raise SourceError(f"{place.uri} is no result of `keld audit --json`: {error}.", source=place.uri) from None
    return Audited(
        first=days[0],
        last=days[1],
        priced_at=found.priced_at,
        unit="a month" if found.month_factor != 1 else "in this log",
        usd=found.usd,
        saving=(free.p10, free.p50, free.p90),
        possible=(both.p10, both.p50, both.p90),
        groups=tuple(map(_group, found.findings)),
    )


def _group(one: _Finding) -> AuditedGroup:
    movable = one.verdict in ("does not wait", "ask the owner")
    net: Any = one.fleet_usd[0] - one.fleet_usd[1] if one.fleet_usd is not None else None if one.saving is None else one.saving.net_usd
    return AuditedGroup(
        name=one.name,
        model=f"{one.provider}:{one.model}",
        verdict=one.verdict,
        calls=one.calls,
        usd=one.usd,
        saves_usd=net if movable else None,
    )
