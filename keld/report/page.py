"""Page: the overview as one file of HTML, without a script, a font or an image from elsewhere.

People mail it, print it and open it from a build server, so it carries the strictest policy itself: nothing is loaded and nothing runs; its one
style sheet is allowed by its hash.  Where a server forbids that too, the tables and the drawings are still there.  Each drawing is in a table that
says the same, or has one below it.  Lists are cut where nobody would read on; `keld report --json` and the tables for BI have all of it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from itertools import groupby
from typing import TypeVar
from xml.etree.ElementTree import Element

from keld.price import Lane
from keld.report import figure
from keld.report.alternative import Alternative
from keld.report.curve import Curve
from keld.report.deadline import JobDeadlines, Kept, Missed
from keld.report.html import document, tag
from keld.report.overview import Overview
from keld.spend import Report, Spend
from keld.turnaround import turnaround
from keld.view import instant, span, usd

_LINES = 15  # of a table of groups
_JOBS = 25  # of a table of jobs
_RUNS = 25  # of a table of job runs
_CURVES = len(figure.SERIES)  # in one drawing
_NAME = 80  # characters of a name: a tag may hold anything


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A column of a table: its name, and whether its cells are numbers or drawings."""

    name: str
    kind: str | None = "n"  # the class of its cells; None: text


_TEXT, _DRAWN = None, "drawn"
_Cell = str | Element
_Line = TypeVar("_Line")


def page_of(overview: Overview) -> str:
    """The page of an overview."""
    style = (files("keld.report") / "page.css").read_text()
    sections = [
        ("Paid by day", "days", _days(overview)),
        ("Paid and standard price", "groups", _groups(overview)),
        ("Deadlines", "deadlines", _deadlines(overview)),
        ("Turnaround", "turnaround", _turnaround(overview.curves)),
        ("Estimate and paid", "estimate", _estimates(overview)),
        ("Paid twice, quarantined, unknown", "doubt", _doubt(overview)),
        ("Open job runs", "open", _open(overview)),
        ("The ten most expensive jobs", "jobs", _alternatives(overview.alternatives)),
        ("How to read this", "notes", _notes()),
    ]
    policy = (
        f"default-src 'none'; style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'; base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"Keld report: {overview.namespace}"),
        tag("style", style),
    )
    main = tag(
        "main",
        tag("h1", f"What LLM batches cost: {_named(overview.namespace)}"),
        tag("p", f"{_span_of_days(overview)}; as of {instant(overview.as_of)}.", class_="muted"),
        _summary(overview),
        tag("nav", tag("ul", *(tag("li", tag("a", title, href=f"#{anchor}")) for title, anchor, _ in sections)), aria_label="Sections"),
        *(tag("section", tag("h2", title), *content, id=anchor) for title, anchor, content in sections),
    )
    return document(tag("html", head, tag("body", main), lang="en"))


def _span_of_days(overview: Overview) -> str:
    match overview.since, overview.until:
        case None, None:
            return "All job runs"
        case since, None:
            return f"Job runs submitted since {since}"
        case None, until:
            return f"Job runs submitted until {until}"
        case since, until:
            return f"Job runs submitted {since} to {until}"


# -- the sections ---------------------------------------------------------------------------------------------


def _summary(overview: Overview) -> Element:
    total, deadlines = overview.total, overview.deadlines
    kept = deadlines.count(Kept.KEPT, Kept.MOVED)
    due = kept + deadlines.count(Kept.MISSED, Kept.OVERDUE)
    figures = [
        ("Paid", usd(total.paid_usd), f"{total.answered:,} answers in {total.job_runs:,} job runs", False),
        ("Standard price", usd(total.standard_usd), "of the same tokens", False),
        ("Saved", usd(total.saved_usd), _share(total.saved_usd, total.standard_usd) or "", total.saved_usd < 0),
        ("Deadlines kept", f"{kept:,} of {due:,}", "that are due", kept < due),
        ("In flight, at most", usd(total.in_flight_usd), "reserved, not paid", False),
        ("Paid twice", usd(total.twice_usd), "part of what was paid", total.twice_usd > 0),
    ]
    return tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", value, tag("small", note), class_="late" if bad else None))
            for name, value, note, bad in figures
        ),
    )


def _days(overview: Overview) -> list[Element]:
    days = overview.days
    if not days.starts:
        return [_nothing("No job runs were submitted.")]
    legend = tag(
        "ul",
        *(tag("li", figure.patch(n), _named(name)) for n, name in enumerate(days.paid_usd)),
        tag("li", "line above: standard price"),
        class_="legend",
    )
    head = [
        _Column(name=days.unit, kind=_TEXT),
        *(_Column(name=_named(name)) for name in days.paid_usd),
        _Column(name="paid"),
        _Column(name="standard"),
    ]
    rows = [
        [f"{start}", *map(_money, amounts), _money(sum(amounts, Decimal(0))), _money(standard)]
        for start, amounts, standard in zip(days.starts, zip(*days.paid_usd.values(), strict=True), days.standard_usd, strict=True)
        if standard or any(amounts)
    ] if days.paid_usd else []  # fmt: skip
    if not rows:
        return [_nothing("Nothing was paid.")]
    caption = f"By {days.unit} of submission and {_dimension(overview.by)}, in US dollars"
    return [
        tag("figure", tag("figcaption", f"{caption}."), legend, figure.columns(days)),
        tag("details", tag("summary", "The same as a table"), _table(caption, head, rows)),
    ]


def _groups(overview: Overview) -> list[Element]:
    """One table for each dimension; of those that only divide off what has no tag, a line says so."""
    found, empty = [], []
    for report in overview.groups:
        if [line.group for line in report.lines] in ([], ["-"]):
            empty.append(_dimension(report.by))
        else:
            found += [tag("h3", f"By {_dimension(report.by)}"), _money_table(report)]
    if empty:
        found.append(tag("p", f"No job run has a {' or '.join(empty)}.", class_="muted"))
    return found


def _money_table(report: Report) -> Element:
    head = [
        _Column(name=_dimension(report.by), kind=_TEXT),
        *(_Column(name=name) for name in ("paid", "standard", "saved", "saved, %", "job runs", "answers")),
        _Column(name="paid, and standard price as outline", kind=_DRAWN),
    ]
    most = max((max(line.paid_usd, line.standard_usd) for line in report.lines), default=Decimal(0))

    def cells(line: Spend) -> list[_Cell]:
        return [
            _named(line.group), usd(line.paid_usd), usd(line.standard_usd), _saved(line), _share(line.saved_usd, line.standard_usd) or "-",
            f"{line.job_runs:,}", f"{line.answered:,}", figure.bar(line.paid_usd, line.standard_usd, most),
        ]  # fmt: skip

    total = ["total", *cells(report.total)[1:-1], ""]
    return _table(f"Money by {_dimension(report.by)}", head, _cut(report.lines, _LINES, cells, len(head)), total)


def _deadlines(overview: Overview) -> list[Element]:
    deadlines = overview.deadlines
    if not deadlines.jobs:
        return [_nothing("No job run has a deadline.")]
    reach = max((abs(second) for job in deadlines.jobs for second in job.margins_s), default=0.0) or 1.0
    head = [
        _Column(name="job", kind=_TEXT),
        *(_Column(name=name) for name in ("kept", "after moving", "missed", "not due", "median margin")),
        _Column(name=f"late | early, up to {span(reach)}", kind=_DRAWN),
    ]

    def cells(job: JobDeadlines) -> list[_Cell]:
        missed = job.counts.get(Kept.MISSED, 0) + job.counts.get(Kept.OVERDUE, 0)
        middle = sorted(job.margins_s)[len(job.margins_s) // 2] if job.margins_s else None
        counts = (job.counts.get(Kept.KEPT, 0), job.counts.get(Kept.MOVED, 0))
        return [
            _named(job.job), *(_count(count) for count in counts), _bad(_count(missed), missed), _count(job.counts.get(Kept.AHEAD, 0)),
            _margin(middle), figure.margins(job.margins_s, reach),
        ]  # fmt: skip

    found = [
        tag("p", "One mark is one job run: right of the middle line it ended before its deadline, left of it after. After moving: kept because rows "
            "went on to a faster lane.", class_="muted"),
        _table("Deadlines by job", head, _cut(deadlines.jobs, _JOBS, cells, len(head))),
    ]  # fmt: skip
    if deadlines.missed:
        head = [_Column(name=name, kind=_TEXT) for name in ("job", "partition", "due")] + [
            _Column(name="late by"),
            _Column(name="what took the time", kind=_TEXT),
        ]

        def missed_cells(one: Missed) -> list[_Cell]:
            late = span(one.late_s) + ("" if one.finished_at else ", open")
            return [_named(one.job), _named(one.partition or "-"), instant(one.deadline_at), late, one.reason]

        rows = _cut(deadlines.missed, _RUNS, missed_cells, len(head))
        found += [tag("h3", "Missed"), _table("Missed deadlines, the latest first", head, rows)]
    return found


def _turnaround(curves: Sequence[Curve]) -> list[Element]:
    if not curves:
        return [_nothing("Nothing was sent.")]
    found = [
        tag("p", "From submission of a shard to its end. Planned is what a plan counts with: what was observed, with the prior, which is what is assumed "
            "before anything was observed.", class_="muted"),
    ]  # fmt: skip
    for lane, of_lane in groupby(curves, key=lambda one: one.lane):
        found += _lane(lane, list(of_lane))
    return found


def _lane(lane: Lane, curves: Sequence[Curve]) -> list[Element]:
    shown, prior = curves[:_CURVES], turnaround(lane)
    names = (
        "completed",
        "other ends, or running",
        "observed: half",
        "planned: half",
        "planned: nine in ten",
        "prior: half",
        "prior: nine in ten",
    )
    head = [_Column(name="model", kind=_TEXT), *(_Column(name=name) for name in names)]

    def cells(one: Curve) -> list[_Cell]:
        planned = [span(of.quantile(share).total_seconds()) for of in (one.learned, prior) for share in (0.5, 0.9)]
        return [_named(one.name), f"{len(one.completed_s):,}", _count(one.others), span(one.median_s), *planned]

    legend = tag(
        "ul",
        *(tag("li", figure.swatch(n), _named(one.name)) for n, one in enumerate(shown)),
        tag("li", "dotted: the prior"),
        class_="legend",
    )
    return [
        tag("h3", f"Lane {lane}"),
        tag("figure", tag("figcaption", "Share that had completed, by time since submission."), legend, figure.curves(lane, shown)),
        _table(f"Turnaround in the {lane} lane", head, _cut(curves, _LINES, cells, len(head))),
    ]


def _estimates(overview: Overview) -> list[Element]:
    lines = sorted((line for line in overview.group("job").lines if line.estimated_usd), key=lambda line: -line.estimated_usd)
    if not lines:
        return [_nothing("Nothing that was estimated has ended.")]
    head = [
        _Column(name="job", kind=_TEXT),
        *(_Column(name=name) for name in ("estimated", "paid", "difference")),
        _Column(name="paid, and estimate as outline", kind=_DRAWN),
    ]
    most = max(max(line.estimated_usd, line.estimate_paid_usd) for line in lines)

    def cells(line: Spend) -> list[_Cell]:
        return [
            _named(line.group), usd(line.estimated_usd), usd(line.estimate_paid_usd),
            "-" if line.estimate_error is None else f"{line.estimate_error:+.0%}", figure.bar(line.estimate_paid_usd, line.estimated_usd, most),
        ]  # fmt: skip

    note = "Of shards that completed without a lost row: what they were expected to cost when they were sent, and what they did cost."
    return [tag("p", note, class_="muted"), _table("Estimate and paid by job", head, _cut(lines, _JOBS, cells, len(head)))]


def _doubt(overview: Overview) -> list[Element]:
    total = overview.total
    head = [_Column(name="model", kind=_TEXT), *(_Column(name=name) for name in ("paid twice", "unknown rows", "unknown, at most"))]
    lines = [line for line in overview.group("model").lines if line.twice_usd or line.unknown_rows]
    found = [
        tag("p", f"Paid twice: {usd(total.twice_usd) if total.twice_usd else 'nothing, as far as the ledger knows'}. Quarantined rows, which are not asked "
            f"again because they may be on the bill: {overview.quarantined:,}. Rows of which nothing more will be known: {total.unknown_rows:,}, "
            f"{usd(total.unknown_usd)} at most."),
    ]  # fmt: skip
    if lines:
        rows = _cut(
            lines,
            _LINES,
            lambda line: [_named(line.group), _money(line.twice_usd), _count(line.unknown_rows), _money(line.unknown_usd)],
            len(head),
        )
        found.append(_table("Paid twice and unknown by model", head, rows, titled=False))
    if overview.outcomes:
        rows = [[_named(outcome), f"{count:,}"] for outcome, count in overview.outcomes.items()]
        found.append(
            _table(
                "Rows by outcome, of job runs that are over",
                [_Column(name="outcome", kind=_TEXT), _Column(name="rows")],
                rows,
                titled=False,
            )
        )
    return found


def _open(overview: Overview) -> list[Element]:
    if not overview.open_runs:
        return [_nothing("No job run is open.")]
    head = [_Column(name=name, kind=_TEXT) for name in ("job", "partition", "state", "due", "moves on")] + [
        _Column(name=name) for name in ("rows", "paid", "still, at most", "ceiling")
    ]
    rows = _cut(
        overview.open_runs, _RUNS,
        lambda one: [
            _named(one.job), _named(one.partition or "-"), one.state.value, instant(one.deadline_at), instant(one.escalates_at), f"{one.rows:,}",
            usd(one.spent_usd), usd(one.reserved_usd), "-" if one.ceiling_usd is None else usd(one.ceiling_usd),
        ],
        len(head),
    )  # fmt: skip
    still = sum((one.reserved_usd for one in overview.open_runs), Decimal(0))
    note = f"What they may still cost, at most: {usd(still)}, which is reserved for what was sent. Rows that are asked again are added when they are sent."
    return [tag("p", note), _table("Open job runs, by what they may still cost", head, rows)]


def _alternatives(found: Sequence[Alternative]) -> list[Element]:
    if not found:
        return [_nothing("Nothing was paid.")]
    head = [_Column(name="job", kind=_TEXT), _Column(name="paid"), _Column(name="mostly in", kind=_TEXT), _Column(name="next best", kind=_TEXT),
            _Column(name="it would cost"), _Column(name="change"), _Column(name="needs", kind=_TEXT)]  # fmt: skip
    rows: list[list[_Cell]] = [
        [
            _named(one.job), usd(one.spend.paid_usd), _named(one.way), _named(one.other or "no other is acceptable, or its price is not known"),
            "-" if one.other_usd is None else usd(one.other_usd), "-" if one.change is None else f"{one.change:+.0%}", one.needs or "-",
        ]
        for one in found
    ]  # fmt: skip
    note = (
        "The same tokens at today's list prices of each model and lane that the job accepts. Another model counts and writes other tokens, so this is a "
        "hint: keld plan counts them."
    )
    return [tag("p", note, class_="muted"), _table("The ten most expensive jobs, each with its next best option", head, rows)]


def _notes() -> list[Element]:
    said = (
        "Amounts are US dollars at the list prices of the day of submission: no discounts, no credits, no tax. Paid is what the tokens that the providers "
        "reported cost; it is not their invoice.",
        "Standard price: the same tokens in the standard lane. Saved is the difference; it is below zero where a faster lane or a row that was paid twice "
        "cost more.",
        "Days are those of submission, in UTC. A row that was asked again counts again as an answer, where it ran.",
        f"Made by Keld {version('keld')} from its ledger; no prompt and no answer is in it. Prices come from genai-prices and Keld's own list.",
    )
    return [tag("p", text) for text in said]


# -- cells ----------------------------------------------------------------------------------------------------


def _table(
    caption: str, head: Sequence[_Column], rows: Iterable[Sequence[_Cell]], total: Sequence[_Cell] | None = None, *, titled: bool = True
) -> Element:
    """A table that scrolls by itself on a narrow screen; `titled`: a heading above says the caption, which is then for screen readers only."""

    def line(cells: Sequence[_Cell]) -> Element:
        first, *others = cells
        rest = (tag("td", cell, class_=column.kind) for column, cell in zip(head[1:], others, strict=False))
        return tag("tr", tag("th", first, scope="row"), *rest)

    made = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *(tag("th", column.name, scope="col", class_=column.kind) for column in head))),
        tag("tbody", *(line(row) for row in rows)),
        tag("tfoot", line(total)) if total is not None else None,
    )
    return tag("div", made, class_="wide said" if titled else "wide", tabindex=0, role="region", aria_label=caption)


def _cut(lines: Sequence[_Line], most: int, cells: Callable[[_Line], Sequence[_Cell]], width: int) -> list[Sequence[_Cell]]:
    """The cells of the first lines, and one line that says how many are left out."""
    rows = [cells(line) for line in lines[:most]]
    if left := len(lines) - most if len(lines) > most else 0:
        rows.append([f"{left:,} more", *[""] * (width - 1)])
    return rows


def _named(name: str) -> str:
    """A name of a user's, cut if it is very long."""
    return name if len(name) <= _NAME else f"{name[:_NAME]}..."


def _dimension(by: str) -> str:
    return _named(by.removeprefix("tag:"))


def _nothing(text: str) -> Element:
    return tag("p", text, class_="muted")


def _money(amount: Decimal) -> str:
    return usd(amount) if amount else "-"


def _count(count: int) -> str:
    return f"{count:,}" if count else "-"


def _bad(text: str, bad: object) -> _Cell:
    return tag("strong", text, class_="late") if bad else text


def _saved(line: Spend) -> _Cell:
    return _bad(usd(line.saved_usd), line.saved_usd < 0)


def _share(part: Decimal, whole: Decimal) -> str | None:
    return f"{part / whole:.0%}" if whole else None


def _margin(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds) if seconds >= 0 else f"{span(-seconds)} late"
