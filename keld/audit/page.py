"""Page: an audit as one HTML page that can be mailed: money first, then each group with its evidence.

Lists are cut where nobody would read on; `keld audit --json` has all of it.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from xml.etree.ElementTree import Element

from keld.audit.finding import Audit, Finding, Source
from keld.audit.prior import MEANINGS, SHARES
from keld.audit.verdict import Waits
from keld.audit.view import cost, headline, notes, reasons, saving_cells, usd
from keld.audit.week import week
from keld.page.drawing import bar
from keld.page.element import tag
from keld.page.frame import Figure, Section, figures, frame, muted
from keld.page.table import DRAWN, TEXT, Cell, Column, columns, cut, named, table

_SHOWN = 25  # groups with their evidence
_ROWS = 100
_SERIES = {Waits.YES: 0, Waits.NO: 2, Waits.ASK: 1, Waits.ALREADY: 3}


def page(audit: Audit) -> str:
    """The page; it names files and groups, and holds no prompt unless samples were asked for."""
    sections = [
        Section("Groups", "groups", _groups(audit)),
        Section("Evidence", "evidence", [part for one in audit.findings[:_SHOWN] for part in _evidence(one)]),
        Section("What was read, and what is assumed", "read", [*map(muted, notes(audit)), _sources(audit), _assumed(audit)]),
    ]
    return frame("Which calls can wait", [tag("h1", "Which calls can wait"), muted(headline(audit)), _summary(audit)], sections)


def _summary(audit: Audit) -> Element:
    low, middle, high = audit.saving(Waits.NO)
    _, possible, _ = audit.saving(Waits.NO, Waits.ASK)
    shown = [Figure(waits.value.capitalize(), usd(audit.usd(waits)), f"cost {audit.unit}") for waits in Waits if audit.usd(waits)]
    shown += [
        Figure("Saved by moving", usd(middle), f"{audit.unit}, what does not wait: {usd(low)} to {usd(high)}"),
        Figure("With what is asked", usd(possible), f"{audit.unit}, if none of it waits"),
    ]
    return figures(shown)


def _groups(audit: Audit) -> list[Element]:
    head = [
        *columns("group", kind=TEXT),
        *columns("verdict", kind="whole"),
        *columns(f"cost {audit.unit}", "saves", "p10 to p90", "if no cache hits", "calls"),
        *columns("model", kind=TEXT),
        Column(name="cost", kind=f"{DRAWN} slim"),
    ]
    most = max((one.usd for one in audit.findings), default=Decimal(0))

    def cells(one: Finding) -> list[Cell]:
        return [
            named(one.name), one.waits.value, cost(one), *saving_cells(one), f"{one.group.calls:,}", named(f"{one.key.provider}:{one.key.model}"),
            bar(one.usd, most, series=_SERIES[one.waits]),
        ]  # fmt: skip

    return [table("The most expensive first", head, cut(audit.findings, _ROWS, cells, len(head)))]


def _evidence(finding: Finding) -> list[Element]:
    found = [
        tag("h3", f"{named(finding.name)}: {finding.waits.value}"),
        muted(finding.reason),
        tag("ul", *(tag("li", text) for text in reasons(finding))),
    ]
    if finding.waits is Waits.ASK:
        rule = tag("pre", finding.stanza(), tabindex=0, role="region", aria_label=f"Rule for {named(finding.name)}")
        found += [tag("p", "Ask its owner: may the answers come later, and by when? The rule that settles it:"), rule]
    if finding.group.at:
        found += week(finding.group.heat_requests.tolist(), named(finding.name))
    return found


def _sources(audit: Audit) -> Element:
    head = [*columns("file", "format", kind=TEXT), *columns("calls", "counted before", "other rows", "rows that cannot be read")]

    def cells(one: Source) -> list[Cell]:
        return [named(one.where), one.title, f"{one.calls:,}", f"{one.again:,}", f"{one.other:,}", f"{one.bad:,}"]

    return table("Files", head, cut(audit.sources, _ROWS, cells, len(head)))


def _assumed(audit: Audit) -> Element:
    rows = [(name, _value(name, audit.priors[name]), meaning) for name, meaning in MEANINGS.items() if name in audit.priors]
    rows += [
        ("price lists of", f"{audit.priced_at:%Y-%m-%d}", "what now and then are priced by"),
        ("time zone", audit.zone, "where the people are; without it no hour is night"),
    ]
    return table("What is assumed of a move, until job runs have shown it", columns("assumption", "value", "what it is", kind=TEXT), rows)


def _value(name: str, given: Any) -> str:
    if name in SHARES:
        return f"{given[0] / sum(given):.1%}, beta({given[0]:g}, {given[1]:g})"
    return f"${given:g}" if isinstance(given, int | float) else f"${given[0]:g} to ${given[1]:g}"
