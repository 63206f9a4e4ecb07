"""Page: the overview as one file of HTML, without a script, a font or an image from elsewhere.

Each drawing is in a table that says the same, or has one below it.  Lists are cut where nobody would read on; `keld report --json` and the tables
for BI have all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from importlib.metadata import version
from itertools import groupby
from xml.etree.ElementTree import Element

from keld.page.drawing import SERIES, bar, patch
from keld.page.element import tag
from keld.page.frame import Figure, Section, figures, frame, muted
from keld.page.table import DRAWN, TEXT, Cell, Column, bad, columns, cut, named, table
from keld.price import Lane
from keld.report import figure
from keld.report.alternative import Alternative
from keld.report.audited import Audited, AuditedGroup
from keld.report.curve import Curve
from keld.report.deadline import JobDeadlines, Kept, Missed
from keld.report.overview import Overview
from keld.spend import Report, Spend
from keld.turnaround import turnaround
from keld.view import instant, span, usd

_LINES = 15  # of a table of groups
_JOBS = 25  # of a table of jobs
_RUNS = 25  # of a table of job runs
_CURVES = len(SERIES)  # in one drawing


def page_of(overview: Overview) -> str:
    """The page of an overview."""
    top = [
        tag("h1", f"What LLM batches cost: {named(overview.namespace)}"),
        muted(f"{_span_of_days(overview)}; as of {instant(overview.as_of)}."),
        _summary(overview),
    ]
    sections = [
        Section("Paid by day", "days", _days(overview)),
        Section("Paid and standard price", "groups", _groups(overview)),
        Section("Deadlines", "deadlines", _deadlines(overview)),
        Section("Turnaround", "turnaround", _turnaround(overview.curves)),
        Section("Estimate and paid", "estimate", _estimates(overview)),
        Section("Paid twice, quarantined, unknown", "doubt", _doubt(overview)),
        Section("Open job runs", "open", _open(overview)),
        Section("The ten most expensive jobs", "jobs", _alternatives(overview.alternatives)),
        *([] if overview.audited is None else [Section("What could still wait", "audit", _audited(overview.audited))]),
        Section("How to read this", "notes", _notes()),
    ]
    return frame(f"Keld report: {overview.namespace}", top, sections)


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
    shown = [
        Figure("Paid", usd(total.paid_usd), f"{total.answered:,} answers in {total.job_runs:,} job runs"),
        Figure("Standard price", usd(total.standard_usd), "of the same tokens"),
        Figure("Saved", usd(total.saved_usd), _share(total.saved_usd, total.standard_usd) or "", total.saved_usd < 0),
        Figure("Deadlines kept", f"{kept:,} of {due:,}", "that are due", kept < due),
        Figure("In flight, at most", usd(total.in_flight_usd), "reserved, not paid"),
        Figure("Paid twice", usd(total.twice_usd), "part of what was paid", total.twice_usd > 0),
    ]
    if (audited := overview.audited) is not None:
        shown.append(Figure("Could still be saved", usd(audited.saving[1]), f"{audited.unit}, see the audit"))
    return figures(shown)


def _days(overview: Overview) -> list[Element]:
    days = overview.days
    if not days.starts:
        return [muted("No job runs were submitted.")]
    legend = tag(
        "ul",
        *(tag("li", patch(n), named(name)) for n, name in enumerate(days.paid_usd)),
        tag("li", "line above: standard price"),
        class_="legend",
    )
    head = [
        Column(name=days.unit, kind=TEXT),
        *(Column(name=named(name)) for name in days.paid_usd),
        Column(name="paid"),
        Column(name="standard"),
    ]
    rows = [
        [f"{start}", *map(_money, amounts), _money(sum(amounts, Decimal(0))), _money(standard)]
        for start, amounts, standard in zip(days.starts, zip(*days.paid_usd.values(), strict=True), days.standard_usd, strict=True)
        if standard or any(amounts)
    ] if days.paid_usd else []  # fmt: skip
    if not rows:
        return [muted("Nothing was paid.")]
    caption = f"By {days.unit} of submission and {_dimension(overview.by)}, in US dollars"
    return [
        tag("figure", tag("figcaption", f"{caption}."), legend, figure.columns(days)),
        tag("details", tag("summary", "The same as a table"), table(caption, head, rows)),
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
        found.append(muted(f"No job run has a {' or '.join(empty)}."))
    return found


def _money_table(report: Report) -> Element:
    head = [
        Column(name=_dimension(report.by), kind=TEXT),
        *columns("paid", "standard", "saved", "saved, %", "job runs", "answers"),
        Column(name="paid, and standard price as outline", kind=DRAWN),
    ]
    most = max((max(line.paid_usd, line.standard_usd) for line in report.lines), default=Decimal(0))

    def cells(line: Spend) -> list[Cell]:
        return [
            named(line.group), usd(line.paid_usd), usd(line.standard_usd), _saved(line), _share(line.saved_usd, line.standard_usd) or "-",
            f"{line.job_runs:,}", f"{line.answered:,}", bar(line.paid_usd, most, outline=line.standard_usd),
        ]  # fmt: skip

    total = ["total", *cells(report.total)[1:-1], ""]
    return table(f"Money by {_dimension(report.by)}", head, cut(report.lines, _LINES, cells, len(head)), total)


def _deadlines(overview: Overview) -> list[Element]:
    deadlines = overview.deadlines
    if not deadlines.jobs:
        return [muted("No job run has a deadline.")]
    reach = max((abs(second) for job in deadlines.jobs for second in job.margins_s), default=0.0) or 1.0
    head = [
        Column(name="job", kind=TEXT),
        *columns("kept", "after moving", "missed", "not due", "median margin"),
        Column(name=f"late | early, up to {span(reach)}", kind=DRAWN),
    ]

    def cells(job: JobDeadlines) -> list[Cell]:
        missed = job.counts.get(Kept.MISSED, 0) + job.counts.get(Kept.OVERDUE, 0)
        middle = sorted(job.margins_s)[len(job.margins_s) // 2] if job.margins_s else None
        counts = (job.counts.get(Kept.KEPT, 0), job.counts.get(Kept.MOVED, 0))
        return [
            named(job.job), *(_count(count) for count in counts), bad(_count(missed), missed), _count(job.counts.get(Kept.AHEAD, 0)),
            _margin(middle), figure.margins(job.margins_s, reach),
        ]  # fmt: skip

    found = [
        muted("One mark is one job run: right of the middle line it ended before its deadline, left of it after. After moving: kept because rows "
              "went on to a faster lane."),
        table("Deadlines by job", head, cut(deadlines.jobs, _JOBS, cells, len(head))),
    ]  # fmt: skip
    if deadlines.missed:
        head = [*columns("job", "partition", "due", kind=TEXT), *columns("late by"), *columns("what took the time", kind=TEXT)]

        def missed_cells(one: Missed) -> list[Cell]:
            late = span(one.late_s) + ("" if one.finished_at else ", open")
            return [named(one.job), named(one.partition or "-"), instant(one.deadline_at), late, one.reason]

        rows = cut(deadlines.missed, _RUNS, missed_cells, len(head))
        found += [tag("h3", "Missed"), table("Missed deadlines, the latest first", head, rows)]
    return found


def _turnaround(curves: Sequence[Curve]) -> list[Element]:
    if not curves:
        return [muted("Nothing was sent.")]
    found = [
        muted("From submission of a shard to its end. Planned is what a plan counts with: what was observed, with the prior, which is what is assumed "
              "before anything was observed."),
    ]  # fmt: skip
    for lane, of_lane in groupby(curves, key=lambda one: one.lane):
        found += _lane(lane, list(of_lane))
    return found


def _lane(lane: Lane, curves: Sequence[Curve]) -> list[Element]:
    shown, prior = curves[:_CURVES], turnaround(lane)
    observed = columns("completed", "other ends, or running", "observed: half")
    head = [
        Column(name="model", kind=TEXT),
        *observed,
        *columns("planned: half", "planned: nine in ten", "prior: half", "prior: nine in ten"),
    ]

    def cells(one: Curve) -> list[Cell]:
        planned = [span(of.quantile(share).total_seconds()) for of in (one.learned, prior) for share in (0.5, 0.9)]
        return [named(one.name), f"{len(one.completed_s):,}", _count(one.others), span(one.median_s), *planned]

    legend = tag(
        "ul",
        *(tag("li", figure.swatch(n), named(one.name)) for n, one in enumerate(shown)),
        tag("li", "dotted: the prior"),
        class_="legend",
    )
    return [
        tag("h3", f"Lane {lane}"),
        tag("figure", tag("figcaption", "Share that had completed, by time since submission."), legend, figure.curves(lane, shown)),
        table(f"Turnaround in the {lane} lane", head, cut(curves, _LINES, cells, len(head))),
    ]


def _estimates(overview: Overview) -> list[Element]:
    lines = sorted((line for line in overview.group("job").lines if line.estimated_usd), key=lambda line: -line.estimated_usd)
    if not lines:
        return [muted("Nothing that was estimated has ended.")]
    head = [
        Column(name="job", kind=TEXT),
        *columns("estimated", "paid", "difference"),
        Column(name="paid, and estimate as outline", kind=DRAWN),
    ]
    most = max(max(line.estimated_usd, line.estimate_paid_usd) for line in lines)

    def cells(line: Spend) -> list[Cell]:
        return [
            named(line.group), usd(line.estimated_usd), usd(line.estimate_paid_usd),
            "-" if line.estimate_error is None else f"{line.estimate_error:+.0%}", bar(line.estimate_paid_usd, most, outline=line.estimated_usd),
        ]  # fmt: skip

    note = "Of shards that completed without a lost row: what they were expected to cost when they were sent, and what they did cost."
    return [muted(note), table("Estimate and paid by job", head, cut(lines, _JOBS, cells, len(head)))]


def _doubt(overview: Overview) -> list[Element]:
    total = overview.total
    head = [Column(name="model", kind=TEXT), *columns("paid twice", "unknown rows", "unknown, at most")]
    lines = [line for line in overview.group("model").lines if line.twice_usd or line.unknown_rows]
    found = [
        tag("p", f"Paid twice: {usd(total.twice_usd) if total.twice_usd else 'nothing, as far as the ledger knows'}. Quarantined rows, which are not asked "
            f"again because they may be on the bill: {overview.quarantined:,}. Rows of which nothing more will be known: {total.unknown_rows:,}, "
            f"{usd(total.unknown_usd)} at most."),
    ]  # fmt: skip
    if lines:
        rows = cut(
            lines,
            _LINES,
            lambda line: [named(line.group), _money(line.twice_usd), _count(line.unknown_rows), _money(line.unknown_usd)],
            len(head),
        )
        found.append(table("Paid twice and unknown by model", head, rows, titled=False))
    if overview.outcomes:
        rows = [[named(outcome), f"{count:,}"] for outcome, count in overview.outcomes.items()]
        found.append(
            table(
                "Rows by outcome, of job runs that are over",
                [Column(name="outcome", kind=TEXT), Column(name="rows")],
                rows,
                titled=False,
            )
        )
    return found


def _open(overview: Overview) -> list[Element]:
    if not overview.open_runs:
        return [muted("No job run is open.")]
    head = [*columns("job", "partition", "state", "due", "moves on", kind=TEXT), *columns("rows", "paid", "still, at most", "ceiling")]
    rows = cut(
        overview.open_runs, _RUNS,
        lambda one: [
            named(one.job), named(one.partition or "-"), one.state.value, instant(one.deadline_at), instant(one.escalates_at), f"{one.rows:,}",
            usd(one.spent_usd), usd(one.reserved_usd), "-" if one.ceiling_usd is None else usd(one.ceiling_usd),
        ],
        len(head),
    )  # fmt: skip
    still = sum((one.reserved_usd for one in overview.open_runs), Decimal(0))
    note = f"What they may still cost, at most: {usd(still)}, which is reserved for what was sent. Rows that are asked again are added when they are sent."
    return [tag("p", note), table("Open job runs, by what they may still cost", head, rows)]


def _alternatives(found: Sequence[Alternative]) -> list[Element]:
    if not found:
        return [muted("Nothing was paid.")]
    head = [Column(name="job", kind=TEXT), Column(name="paid"), Column(name="mostly in", kind=TEXT), Column(name="next best", kind=TEXT),
            Column(name="it would cost"), Column(name="change"), Column(name="needs", kind=TEXT)]  # fmt: skip
    rows: list[list[Cell]] = [
        [
            named(one.job), usd(one.spend.paid_usd), named(one.way), named(one.other or "no other is acceptable, or its price is not known"),
            "-" if one.other_usd is None else usd(one.other_usd), "-" if one.change is None else f"{one.change:+.0%}", one.needs or "-",
        ]
        for one in found
    ]  # fmt: skip
    note = (
        "The same tokens at today's list prices of each model and lane that the job accepts. Another model counts and writes other tokens, so this is a "
        "hint: keld plan counts them."
    )
    return [muted(note), table("The ten most expensive jobs, each with its next best option", head, rows)]


def _audited(found: Audited) -> list[Element]:
    low, middle, high = (usd(amount) for amount in found.saving)
    cost = ", ".join(f"{usd(amount)} {verdict}" for verdict, amount in found.usd.items() if amount)
    head = [*columns("group", "model", "verdict", kind=TEXT), *columns("calls", f"cost {found.unit}", "saves")]

    def cells(one: AuditedGroup) -> list[Cell]:
        saves = "-" if one.saves_usd is None else bad(usd(one.saves_usd), one.saves_usd < 0)
        return [named(one.name), named(one.model), one.verdict, f"{one.calls:,}", usd(one.usd), saves]

    return [
        muted(f"Logs of other tools, {found.first or '-'} to {found.last or '-'}, judged by keld audit at the price lists of {found.priced_at}. "
              "What was moved to Keld since then is still in it."),
        tag("p", f"Cost {found.unit}: {cost or 'nothing'}. Moving what does not wait saves {middle} ({low} to {high}); "
            f"with all that is to be asked about, too, {usd(found.possible[1])}."),
        table("Groups of calls, the most expensive first", head, cut(found.groups, _LINES, cells, len(head))),
    ]  # fmt: skip


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


def _dimension(by: str) -> str:
    return named(by.removeprefix("tag:"))


def _money(amount: Decimal) -> str:
    return usd(amount) if amount else "-"


def _count(count: int) -> str:
    return f"{count:,}" if count else "-"


def _saved(line: Spend) -> Cell:
    return bad(usd(line.saved_usd), line.saved_usd < 0)


def _share(part: Decimal, whole: Decimal) -> str | None:
    return f"{part / whole:.0%}" if whole else None


def _margin(seconds: float | None) -> str:
    return "-" if seconds is None else span(seconds) if seconds >= 0 else f"{span(-seconds)} late"
