"""Page: an audit as one HTML page that can be mailed: money first, then each group with its evidence.

Lists are cut where nobody would read on; `keld audit --json` has all of it.
"""

from __future__ import annotations

from decimal import Decimal
from xml.etree.ElementTree import Element

from keld.audit.finding import Audit, Finding, Source
from keld.audit.verdict import Waits
from keld.audit.view import headline, notes, reasons, saving_cells, usd
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
        *columns("group", "model", kind=TEXT),
        *columns("verdict", kind="whole"),
        *columns("calls", f"cost {audit.unit}", "saves", "p10 to p90", "if no cache hits"),
        Column(name="cost", kind=f"{DRAWN} slim"),
    ]
    most = max((one.usd for one in audit.findings), default=Decimal(0))

    def cells(one: Finding) -> list[Cell]:
        return [
            named(one.name), named(f"{one.key.provider}:{one.key.model}"), one.waits.value, f"{one.group.calls:,}", usd(one.usd), *saving_cells(one),
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
    rows = [(name, f"{value}") for name, value in audit.priors.items()]
    rows += [("price lists of", f"{audit.priced_at:%Y-%m-%d}"), ("time zone", audit.zone)]
    return table(
        "Assumed: the two numbers of a beta distribution, or a range in USD a month", columns("assumption", "value", kind=TEXT), rows
    )
