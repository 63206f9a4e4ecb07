"""Page: an audit as one HTML page that can be mailed: money first, then each group with its evidence."""

from __future__ import annotations

from html import escape

from keld.audit.figure import bars, frame, table, tiles, week
from keld.audit.finding import Audit, Finding
from keld.audit.verdict import Waits
from keld.audit.view import headline, reasons, saving_cells, usd

_SHOWN = 40  # groups with a section of their own; the table has 200
_ROWS = 200
_COLOURS = {Waits.YES: 0, Waits.NO: 1, Waits.ASK: 2, Waits.ALREADY: 3}


def page(audit: Audit) -> str:
    """The page; it names files and groups, and holds no prompt unless samples were asked for."""
    unit = "a month" if audit.factor != 1 else "in this log"
    low, middle, high = audit.saving(Waits.NO)
    _, possible, _ = audit.saving(Waits.NO, Waits.ASK)
    body = [
        f"<header><h1>Which calls can wait</h1><p>{escape(headline(audit))}</p></header><main>",
        tiles([(f"{waits.value}, {unit}", usd(audit.usd(waits))) for waits in Waits]),
        tiles(
            [
                (f"saved {unit} by moving what does not wait ({usd(low)} to {usd(high)})", usd(middle)),
                (f"at most, with all that is asked about, {unit}", usd(possible)),
            ]
        ),
        bars(
            f"What groups cost {unit}",
            [(one.name, float(one.usd), _COLOURS[one.waits], f"{usd(one.usd)} {one.waits.value}") for one in audit.findings[:12]],
            "USD",
        ),
        "<h2>Groups</h2>",
        _groups(audit),
        *(_section(one) for one in audit.findings[:_SHOWN]),
        "<h2>What was read, and what is assumed</h2>",
        _sources(audit),
        _assumed(audit),
        "</main>",
    ]
    return frame("Which calls can wait", "\n".join(body))


def _groups(audit: Audit) -> str:
    rows = [
        (one.name, f"{one.key.provider}:{one.key.model}", one.waits.value, f"{one.group.calls:,}", usd(one.usd), *saving_cells(one))
        for one in audit.findings[:_ROWS]
    ]
    return table(
        "The most expensive first",
        ("group", "model", "verdict", "calls", "cost", "saves", "p10 to p90", "if no cache hits"),
        rows,
        range(3, 8),
    )


def _section(finding: Finding) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in reasons(finding))
    settle = (
        f"<p>Ask its owner: may the answers come later, and by when? The rule that settles it:</p><pre>{escape(finding.stanza())}</pre>"
    )
    heat = week("Calls by hour of the week, UTC", finding.group.heat_requests.tolist()) if finding.group.at else ""
    return (
        f"<section><h3>{escape(finding.name)}: {escape(finding.waits.value)}</h3><p class='muted'>{escape(finding.reason)}</p>"
        f"<ul>{lines}</ul>{settle if finding.waits is Waits.ASK else ''}{heat}</section>"
    )


def _sources(audit: Audit) -> str:
    rows = [(one.where, one.title, f"{one.calls:,}", f"{one.other:,}", f"{one.bad:,}") for one in audit.sources[:_ROWS]]
    return table("Files", ("file", "format", "calls", "other rows", "rows that cannot be read"), rows, (2, 3, 4))


def _assumed(audit: Audit) -> str:
    rows = [(name, f"{value}") for name, value in audit.priors.items()]
    rows.append(("price lists of", f"{audit.priced_at:%Y-%m-%d}"))
    rows.append(("time zone", audit.zone))
    return table("Assumed: the two numbers of a beta distribution, or a range in USD a month", ("", "value"), rows)
