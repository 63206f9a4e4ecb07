"""View: plans, job runs and spend as tables for people.

Beside `cli`.  Shows ids, counts, states and money; nothing that comes here holds a prompt or an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from keld.outcome import Outcome
from keld.price import Bracket, Quote
from keld.providers.check import Check, CheckState
from keld.retention import Removal
from keld.runner.finding import Finding, Verdict
from keld.spend import Report, Spend
from keld.state import RunState
from keld.status import Batch, Status

if TYPE_CHECKING:
    from keld.plan import Option, Plan

_COLOURS = {
    RunState.OPEN: "cyan",
    RunState.CANCELLING: "yellow",
    RunState.WRITING: "cyan",
    RunState.FINISHED: "green",
    RunState.CANCELLED: "yellow",
}
_OBSTACLES = 3  # batches of which is said what holds them up, at most
_LEAST_WRAPPED = 24  # characters of a text column, before columns beside it are omitted
_REASONS = 5  # at most so many reasons why rows cannot be asked


def usd(amount: Decimal | None) -> str:
    """An amount for people: cents, or four significant digits below a dollar."""
    if amount is None:
        return "?"
    sign = "-" if amount < 0 else ""
    amount = abs(amount)
    return f"{sign}${amount:,.2f}" if amount >= 1 or not amount else f"{sign}${amount:.6f}".rstrip("0")


def counted(n: int, one: str, many: str) -> str:
    """`1 row`, `2 rows`, `3,000 rows`."""
    return f"{n:,} {one if n == 1 else many}"


def span(seconds: float | None) -> str:
    """A duration for people: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def instant(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def plan_view(plan: Plan) -> RenderableType:
    """What a run would do."""
    lines = [f"{plan.job}[{plan.partition or '-'}]: {counted(plan.rows, 'row', 'rows')}, {plan.work.requests:,} to ask"]
    if plan.reused:
        lines.append(f"{counted(plan.reused, 'row is', 'rows are')} answered already")
    if plan.identical:
        lines.append(f"{counted(plan.identical, 'row repeats another one and takes', 'rows repeat another one and take')} its answer")
    if plan.unaskable:
        reasons = "; ".join(f"{count:,}: {why}" for why, count in sorted(plan.skipped.items(), key=lambda item: -item[1])[:_REASONS])
        lines.append(f"{counted(plan.unaskable, 'row', 'rows')} cannot be asked ({reasons or 'null or unreadable prompt'})")
    table = _Fitted(
        names=(
            "model", "lane", "shards", "in tokens", "out tokens", "expected", "+ if late", "at worst", "half back by", "9 in 10 by", "in time", ""
        ),
        right=frozenset(("shards", "in tokens", "out tokens", "expected", "+ if late", "at worst", "in time")),
        wrapped=frozenset(("",)),
        rows=[_option_cells(option, plan) for option in plan.options],
        styles=["" if option.obstacle is None else "dim" for option in plan.options],
        dropped_first=("shards", "+ if late", "in tokens", "out tokens", "9 in 10 by", "half back by", "in time", "at worst"),
    )  # fmt: skip
    notes = [f"{name} is left out: {why}" for name, why in plan.left_out.items()]
    notes += [f"{name}: {note}." for name, note in plan.notes.items()]
    return Group(Text(", ".join(lines) + "."), *map(Text, plan.table_notes), Text(), table, Text(), *map(Text, [*notes, *_verdict(plan)]))


def status_line(status: Status) -> str:
    """A job run in one line of text, for logs and pipes."""
    batches = ", ".join(_batch_words(batch) for batch in status.batches) or "no batches"
    line = f"{name_of(status)} {status.state.value}: {status.answered:,}/{status.rows:,} answered, {usd(status.cost_usd)}; {batches}"
    return line + (f"; {_behind(status)}" if status.behind else "") + (f"; {status.obstacle}" if status.obstacle else "")


def status_view(status: Status) -> RenderableType:
    """A job run and its batches."""
    table = _Fitted(
        names=("shard", "state", "batch", "model", "requests", "done", "cost"),
        right=frozenset(("shard", "requests", "done", "cost")),
        wrapped=frozenset(("state",)),
        rows=[_batch_cells(batch) for batch in status.batches],
        dropped_first=("done", "model", "cost", "shard"),
    )
    parts: list[RenderableType] = [_headline(status), table]
    parts += [Text(said, style="red") for said in ([status.problem] if status.problem else _obstacles(status))]
    if status.unseen_since is not None:
        parts.append(Text(_unseen(status.unseen_since), style="yellow"))
    return Group(*parts)


def _unseen(since: datetime) -> str:
    return (
        f"A look was due at {instant(since)}, and nobody has looked since: no task, sensor or worker waits for it, or none runs. "
        "`keld watch --advance` goes on with it, `keld cancel` cancels its batches."
    )


def _obstacles(status: Status) -> list[str]:
    """What holds up the batches, each once: batches of one account mostly wait for the same."""
    said = dict.fromkeys(batch.obstacle for batch in status.batches if batch.obstacle)
    return [*said][:_OBSTACLES] + ([f"{len(said) - _OBSTACLES:,} more batches wait in the same way."] if len(said) > _OBSTACLES else [])


def list_view(statuses: Sequence[Status]) -> RenderableType:
    """Job runs, a line each."""
    return _Fitted(
        names=("job", "partition", "state", "rows", "answered", "failed", "batches", "cost", "saved", "due", "turnaround"),
        right=frozenset(("rows", "answered", "failed", "batches", "cost", "saved", "turnaround")),
        wrapped=frozenset(("job", "partition")),
        rows=[_status_cells(status) for status in statuses],
        dropped_first=("turnaround", "batches", "saved", "due", "failed", "rows"),
    )


def _status_cells(status: Status) -> tuple[str | Text, ...]:
    return (
        status.job, status.partition or "-", Text(status.state.value, style=_COLOURS[status.state]), f"{status.rows:,}",
        f"{status.answered:,}", f"{status.failed + status.quarantined:,}", str(len(status.batches)), usd(status.cost_usd), usd(status.saved_usd),
        instant(status.deadline_at), span(status.turnaround_s),
    )  # fmt: skip


def _batch_cells(batch: Batch) -> tuple[str | Text, ...]:
    state = batch.state.value + (f" ({batch.ended})" if batch.ended else "") + (f": {batch.error}" if batch.error else "")
    return (
        str(batch.shard), state, batch.batch_id or "-", f"{batch.provider}:{batch.model}", f"{batch.requests:,}",
        "-" if batch.done is None else f"{batch.done:,}", usd(batch.cost_usd) if batch.cost_usd is not None else "-",
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """A table without the columns for which the screen is too narrow: half a figure is worse than none, and `--json` has them all.

    Args:
        right: the columns of numbers.
        wrapped: the columns of text, which may go on in a second line.
        dropped_first: the columns that may be omitted, in this order.
        sums: what stands below each column, if anything does.
    """

    names: tuple[str, ...]
    right: frozenset[str]
    wrapped: frozenset[str]
    rows: Sequence[tuple[str | Text, ...]]
    styles: Sequence[str] = ()
    dropped_first: tuple[str, ...]
    sums: tuple[str, ...] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = dict(zip(self.names, self._widths(), strict=True))
        for name in self.dropped_first:
            if sum(shown.values()) > options.max_width:
                del shown[name]
        table = Table(box=None, pad_edge=False, header_style="bold", show_footer=bool(self.sums))
        below = dict(zip(self.names, self.sums, strict=True)) if self.sums else {}
        for name in shown:
            wraps = name in self.wrapped
            table.add_column(
                name,
                footer=below.get(name, ""),
                justify="right" if name in self.right else "left",
                no_wrap=not wraps,
                overflow="fold" if wraps else "ellipsis",
            )
        for n, row in enumerate(self.rows):
            cells = (cell for name, cell in zip(self.names, row, strict=True) if name in shown)
            table.add_row(*cells, style=self.styles[n] if self.styles else "")
        yield table

    def _widths(self) -> list[int]:
        """How wide each column is, with the space behind it; one that wraps needs no more than `_LEAST_WRAPPED`."""
        lines = (self.names, *self.rows, *([self.sums] if self.sums else []))
        widest = [max(map(cell_len, map(str, cells))) for cells in zip(*lines, strict=True)]
        return [2 + (min(width, _LEAST_WRAPPED) if name in self.wrapped else width) for name, width in zip(self.names, widest, strict=True)]


def outcome_view(status: Status) -> RenderableType:
    """How a job run that is over ended."""
    lines = [f"{name_of(status)} {status.state.value}: {status.answered:,} of {status.rows:,} rows answered."]
    lines += _unanswered(status)
    if status.reused:
        lines.append(f"{counted(status.reused, 'answer was', 'answers were')} reused from an earlier run, at no cost.")
    lines += _paid(status)
    if status.deadline_at is not None:
        lines.append(f"Due {instant(status.deadline_at)}: {'met' if status.deadline_met else 'missed'}.")
    if status.output_uri:
        lines.append(f"Written to {status.output_uri}")
    return Group(*(Text(line, overflow="fold") for line in lines))


def _unanswered(status: Status) -> list[str]:
    """The rows without an answer, and the quarantined batches, which may still run."""
    lines = []
    other = {outcome: count for outcome, count in status.outcomes.items() if outcome != Outcome.ANSWERED}
    if other:
        lines.append(
            "Not answered: " + ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(other.items())) + " (reasons in keld_error)."
        )
    if status.maybe_running:
        named = ", ".join(
            f"{batch.batch_id or 'one whose create got no reply'} ({batch.provider} at {batch.host})" for batch in status.maybe_running
        )
        lines.append(
            f"May still run at a provider, and cost {usd(status.reserved_usd)} at most: {named}. `keld reconcile` finds out what became of it."
        )
    return lines


def _paid(status: Status) -> list[str]:
    """The cost, compared with the standard price and the estimate."""
    less = "less" if status.saved_usd >= 0 else "more"
    lines = [
        f"Cost {usd(status.cost_usd)}, {usd(abs(status.saved_usd))} {less} than the standard price of {usd(status.standard_usd)}; "
        f"{status.input_tokens:,} tokens in, {status.output_tokens:,} out; turnaround {span(status.turnaround_s)}."
    ]
    if status.cached_tokens or status.cache_saved_usd:
        lines.append(f"{_cached(status).capitalize()}.")
    if status.estimate_error is not None:
        lines.append(f"That is {_estimate_error(status)}.")
    return lines


_SPEND_CELLS: dict[str, Callable[[Spend], str]] = {
    "job runs": lambda line: f"{line.job_runs:,}",
    "rows": lambda line: _count(line.rows),
    "failed": lambda line: _count(line.failed),
    "asked": lambda line: _count(line.asked),
    "answered": lambda line: _count(line.answered),
    "tokens in": lambda line: _count(line.input_tokens),
    "cached": lambda line: _count(line.cached_tokens),
    "tokens out": lambda line: _count(line.output_tokens),
    "paid": lambda line: usd(line.paid_usd),
    "standard": lambda line: usd(line.standard_usd),
    "saved": lambda line: usd(line.saved_usd),
    "vs estimate": lambda line: "-" if line.estimate_error is None else f"{line.estimate_error:+.1%}",
    "paid twice": lambda line: usd(line.twice_usd) if line.twice_usd else "-",
    "in flight, at most": lambda line: usd(line.in_flight_usd) if line.in_flight_usd else "-",
}


# Omitted in this order if the screen is too narrow: half a figure is worse than none, and `--json` has them all.
_DROPPED_FIRST = ("cached", "tokens in", "tokens out", "rows", "answered", "asked", "failed", "job runs", "standard")


def spend_view(report: Report, width: int) -> RenderableType:
    """The spend report, for a screen of `width` characters; a column without a value in any line is omitted."""
    shown = {name: cell for name, cell in _SPEND_CELLS.items() if any(cell(line) != "-" for line in report.lines)}
    columns = {name: [name, *map(cell, report.lines), cell(report.total)] for name, cell in shown.items()}
    needed = max(len(line.group) for line in report.lines) + sum(2 + max(map(len, cells)) for cells in columns.values())
    for name in _DROPPED_FIRST:
        if needed > width and name in columns:
            needed -= 2 + max(map(len, columns.pop(name)))
    table = Table(box=None, pad_edge=False, header_style="bold", footer_style="bold", show_footer=True, padding=(0, 2, 0, 0))
    table.add_column(report.by.removeprefix("tag:"), footer="total", overflow="fold")
    for name, cells in columns.items():
        table.add_column(name, footer=cells[-1], justify="right", no_wrap=True)
    for n, line in enumerate(report.lines, start=1):
        table.add_row(Text(line.group), *(cells[n] for cells in columns.values()))  # a Text: a name may look like markup
    return Group(table, Text(), *map(Text, _spend_words(report.total)))


def _count(n: int | None) -> str:
    return f"{n:,}" if n else "-"


def _spend_words(total: Spend) -> list[str]:
    """What the figures mean, and what is not known."""
    words = ["US dollars at the list prices of the day of submission: no discounts, no tax."]
    if total.twice_usd:
        words.append(
            f"Paid twice: {usd(total.twice_usd)}, for batches that were created late, after their rows had been sent again. It is part of what was paid."
        )
    else:
        words.append("Paid twice: nothing, as far as the ledger knows.")
    if total.in_flight_usd:
        words.append(f"In flight: {usd(total.in_flight_usd)} at most, not counted as paid.")
    if total.unknown_rows:
        words.append(
            f"Not known: what {total.unknown_rows:,} rows cost, because the provider lost them, did not reply or gave no token counts, or their batch was "
            f"not found again; {usd(total.unknown_usd)} at most, part of what is in flight."
        )
    return words


def prices_view(quotes: Sequence[Quote], *, all_models: bool) -> RenderableType:
    """Rates in USD per million tokens, a line for each lane, and one more for each long-context rate.

    Args:
        all_models: True if no model was named; then only the batch lane is in `quotes`.
    """
    rates = ("input", "cached", "cache write 5 min", "1 h", "output")
    rows: list[tuple[str, ...]] = []
    for quote in quotes:
        model = f"{quote.provider}:{quote.model}"
        if quote.rates is None:
            rows.append((model, quote.lane.value, "", *("?" for _ in rates), "no rate known", ""))
            continue
        for bracket in quote.rates.brackets:
            long = f"> {bracket.above:,} tokens" if bracket.above else ""
            dated = "-" if quote.rates.dated is None else f"{quote.rates.dated}"
            rows.append((model, quote.lane.value, long, *_rate_cells(bracket), quote.rates.source, dated))
    table = _Fitted(
        names=("model", "lane", "requests of", *rates, "source", "dated"),
        right=frozenset(rates),
        wrapped=frozenset(("source",)),
        rows=rows,
        dropped_first=("dated", "source", "1 h", "cache write 5 min", "cached"),
    )
    lines = [
        f"{quote.provider}:{quote.model} {quote.lane.value} is priced by two lists that differ, and the higher rates are used: {quote.rates.conflict}."
        for quote in quotes
        if quote.rates is not None and quote.rates.conflict is not None
    ]
    lines += [
        "USD per million tokens. Reasoning tokens are output. Dated: when Keld's own table was made from the source, or since when the list has the rate."
    ]
    if all_models:
        lines.append("Only the batch lane is shown; name a model to see its other lanes.")
    return Group(table, Text(), *(Text(line, overflow="fold") for line in lines))


def _rate_cells(bracket: Bracket) -> tuple[str, ...]:
    rates = (bracket.input, bracket.cached, bracket.cache_write, bracket.cache_write_1h, bracket.output)
    return tuple(f"{rate.normalize():f}" for rate in rates)


_DONE = {
    Verdict.ADOPT: "its shard has no batch: adopted, its answers are used",
    Verdict.CANCEL: "its shard was sent again: cancelled, what it cost is counted",
    Verdict.SETTLE: "its shard was sent again: what it cost is counted",
    Verdict.SEARCHED: "Keld is looking for its shard's batch; the job run's next step finds it",
    Verdict.UNPROVEN: "may be ours; its results will show it when it has ended",
    Verdict.RELEASE: "not ours, as its results show: what was reserved for it is given back",
    Verdict.ANOTHERS: "belongs to another ledger, or to a lost one: not changed",
}
_DUE = {
    Verdict.ADOPT: "its shard has no batch: would be adopted, its answers used",
    Verdict.CANCEL: "its shard was sent again: would be cancelled, what it cost counted",
    Verdict.SETTLE: "its shard was sent again: what it cost would be counted",
}


def check_view(check: Check) -> Text:
    """One finding of `keld doctor`, with what to do below it."""
    color = {CheckState.OK: "green", CheckState.NOTE: "yellow", CheckState.PROBLEM: "red"}[check.state]
    line = Text.assemble((f"{check.state.value:<8}", color), f" {check.subject}: {check.finding}")
    return line.append(f"\n{'':<8} {check.fix}", "bold") if check.fix else line


def findings_view(findings: Sequence[Finding], *, dry_run: bool) -> RenderableType:
    """The batches that the providers have and the ledger does not, what is done with them, and their cost."""
    sure = sum((found.cost_usd or Decimal(0) for found in findings if found.verdict in _DUE and not found.cost_is_worst), Decimal(0))
    at_most = sum((found.cost_usd or Decimal(0) for found in findings if found.verdict in _DUE and found.cost_is_worst), Decimal(0))
    done = "what is done" if not dry_run else "what would be done"
    return _Fitted(
        names=("batch", "provider", "status", "created", "requests", "shard", "cost", done),
        right=frozenset(("requests", "cost")),
        wrapped=frozenset(("shard", done)),
        rows=[_finding_cells(found, dry_run) for found in findings],
        dropped_first=("created", "requests", "provider", "status"),
        sums=("", "", "", "", "", "", f"{usd(sure)} + at most {usd(at_most)}" if at_most else usd(sure), ""),
    )


def _finding_cells(found: Finding, dry_run: bool) -> tuple[str, ...]:
    words = _DUE[found.verdict] if dry_run and found.verdict in _DUE else _DONE[found.verdict]
    return (
        found.batch_id, found.provider, found.native, instant(found.created_at), "?" if found.requests is None else f"{found.requests:,}",
        f"{found.job}[{found.partition or '-'}] {found.shard}" if found.job else "-", _cost_words(found), words,
    )  # fmt: skip


def removals_view(removals: Sequence[Removal], where: str, *, dry_run: bool) -> RenderableType:
    """What was removed, job by job, and the directories that stay because the ledger does not know them."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    left = [one for one in removals if one.leftover]
    known, foreign = [one for one in removals if one.known and not one.leftover], [one for one in removals if not one.known]
    table.add_column("job", footer="all")
    table.add_column("job runs", footer=f"{len(known):,}", justify="right")
    table.add_column("MB", footer=_megabytes(known), justify="right")
    for job in sorted({one.job or "" for one in known}):
        of_job = [one for one in known if one.job == job]
        table.add_row(job, f"{len(of_job):,}", _megabytes(of_job))
    parts: list[RenderableType] = []
    if known:
        parts.append(Text(f"{'Would be removed' if dry_run else 'Removed'} from {where}:", overflow="fold"))
        parts.append(table)
    else:
        parts.append(Text("Nothing is old enough to be removed."))
    if left:
        parts.append(Text(f"Half-written files of dead workers, of {len(left):,} job runs that stay: {_megabytes(left)} MB."))
    if foreign:
        parts.append(
            Text(
                f"Not removed: {len(foreign):,} directories, {_megabytes(foreign)} MB, that this ledger does not know. If it is the right ledger "
                "(KELD_LEDGER_URL), interrupted submissions left them, and they may be deleted."
            )
        )
    return Group(*parts)


def _megabytes(removals: Sequence[Removal]) -> str:
    return f"{sum(one.size_bytes for one in removals) / 1e6:,.1f}"


def _cost_words(found: Finding) -> str:
    if found.cost_usd is None:
        return "?"
    return f"at most {usd(found.cost_usd)}" if found.cost_is_worst else usd(found.cost_usd)


def _option_cells(option: Option, plan: Plan) -> tuple[str, ...]:
    return (
        f"{option.provider}:{option.model}",
        option.lane.value,
        f"{option.shards:,}" if option.shards else "-",
        f"{option.usage.input_tokens:,}",
        f"{option.usage.output_tokens:,}",
        usd(option.expected_usd),
        usd(option.risk_usd) if option.risk_usd else "-",
        usd(option.worst_usd),
        f"{option.half_by:%m-%d %H:%M}",
        f"{option.most_by:%m-%d %H:%M}",
        "-" if option.chance is None else f"{option.chance:.1%}",
        "<- chosen" if option is plan.chosen else plan.why_not(option),
    )


def _verdict(plan: Plan) -> list[str]:
    """The chosen option, its cost, and whether it meets the deadline."""
    chosen = plan.chosen
    if chosen is None:
        return ["Nothing has to be asked; a run would only write the output.", "Nothing was sent."]
    return [*_costs(plan, chosen), *_ceiling(plan), *_due(plan, chosen), "Nothing was sent."]


def _costs(plan: Plan, chosen: Option) -> list[str]:
    standard = f"; the standard lane would cost {usd(plan.standard_usd)}" if plan.standard_usd and chosen.expected_usd is not None else ""
    lines = [
        f"Chosen: {chosen.provider}:{chosen.model} in the {chosen.lane.value} lane, {usd(chosen.expected_usd)} expected, "
        f"{usd(chosen.worst_usd)} at worst{standard}.",
        _basis(chosen),
    ]
    return [*lines, plan.reason] if plan.reason else lines


def _ceiling(plan: Plan) -> list[str]:
    lines = [] if plan.ceiling_usd is None else [f"Ceiling: {usd(plan.ceiling_usd)}."]
    if plan.most_rows is not None:
        lines.append(
            f"The worst case of all rows together is above the ceiling, so they are sent in parts of {plan.most_rows:,}: "
            "what one part did not use is free for the next."
        )
    return lines


_DUE_BASIS = {"partition-end": "from the partition's end", "submitted-at": "from the submission", "absolute": "as given"}


def _due(plan: Plan, chosen: Option) -> list[str]:
    lines = [f"Due: {instant(plan.due)} ({_DUE_BASIS.get(plan.due_basis, '')})." if plan.due else "Due: no deadline."]
    if chosen.rescued_by is not None and chosen.chance is not None:
        lines.append(
            f"Rows that are not answered in time move to {chosen.rescued_by}, for {usd(chosen.risk_usd)} more on average: "
            f"the deadline is met {chosen.chance:.1%} of the time; the job asks for {plan.probability:.0%}."
        )
    elif chosen.chance is not None and chosen.chance < plan.probability:
        lines.append(f"No option meets the deadline {plan.probability:.0%} of the time; this one does {chosen.chance:.1%} of the time.")
    return lines


def _basis(option: Option) -> str:
    """The basis of the estimate of the expected tokens."""
    estimate = option.estimate
    how = f"{estimate.bytes_a_token:.1f} bytes a token of input" + _counting(option)
    seen = f"learned from {estimate.rows:,} answered rows" if estimate.rows else "by rule of thumb until there are answers"
    return f"Estimate: {how}, {estimate.output_tokens_a_row:.0f} tokens of output a row, {seen}."


def _counting(option: Option) -> str:
    """In which rows the tokens were counted, and how far the sum may be off if not in all."""
    estimate = option.estimate
    if not estimate.counted:
        return ""
    if estimate.counted_rows >= option.requests:
        return " (counted in these rows)"
    return (
        f" (counted in {estimate.counted_rows:,} of these rows, drawn at random: within {max(estimate.input_error, 0.0005):.1%}, at 95 %)"
    )


def _headline(status: Status) -> Text:
    text = Text(f"{name_of(status)} ")
    text.append(status.state.value, style=_COLOURS[status.state])
    cost = f"{usd(status.cost_usd)} paid" + (f", {usd(status.reserved_usd)} at most in flight" if status.reserved_usd else "")
    text.append(f"  {status.answered:,} of {status.rows:,} rows answered, {cost}")
    if status.behind:
        text.append(f", {_behind(status)}")
    if status.estimate_error is not None:
        text.append(f", {_estimate_error(status)}")
    if status.cached_tokens or status.cache_saved_usd:
        text.append(f", {_cached(status)}")
    if status.deadline_at is not None:
        text.append(f", due {instant(status.deadline_at)}")
    if status.escalates_at is not None and status.escalates_at > status.as_of:
        text.append(f", moves to a faster lane at {instant(status.escalates_at)} unless answered")
    return text


def _behind(status: Status) -> str:
    return f"{status.behind:,} rows follow when the one ahead is back"


def _cached(status: Status) -> str:
    """The effect of the provider's prompt cache, and what it saved."""
    worth = (
        f"saved {usd(status.cache_saved_usd)}" if status.cache_saved_usd >= 0 else f"cost {usd(-status.cache_saved_usd)} more than it saved"
    )
    return f"{status.cache_hit_rate or 0:.0%} of the input from the prompt cache, which {worth}"


def _estimate_error(status: Status) -> str:
    return f"{status.estimate_error:+.1%} against the estimate of {usd(status.estimated_usd)}"


def _batch_words(batch: Batch) -> str:
    count = f" {batch.done:,}/{batch.requests:,}" if batch.done is not None else f" {batch.requests:,}"
    return f"{batch.provider} {batch.state.value}{count}" + (f" ({batch.error})" if batch.error else "")


def name_of(status: Status) -> str:
    """`job[partition]`, or `job` alone if there is no partition."""
    return f"{status.job}[{status.partition}]" if status.partition else status.job
