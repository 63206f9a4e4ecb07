"""View: plans, job runs and spend as tables for people.

Beside `cli`.  Shows ids, counts, states and money; there is no prompt or answer in anything that comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from keld.plan import Option, Plan
from keld.price import Bracket, Lane, Quote
from keld.runner import Finding, Verdict
from keld.spend import Spend
from keld.status import Batch, Status

_COLOURS = {"finished": "green", "cancelled": "yellow", "open": "cyan", "cancelling": "yellow", "writing": "cyan"}


def usd(amount: Decimal | None) -> str:
    """An amount for people: cents, or four significant digits below a dollar."""
    if amount is None:
        return "?"
    sign = "-" if amount < 0 else ""
    amount = abs(amount)
    return f"{sign}${amount:,.2f}" if amount >= 1 or not amount else f"{sign}${amount:.6f}".rstrip("0")


def span(seconds: float | None) -> str:
    """A span for people: `45 s`, `12 min`, `3 h 20 min`."""
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
    lines = [f"{plan.job}[{plan.partition or '-'}]: {plan.rows:,} rows, {plan.work.requests:,} to ask"]
    if plan.reused:
        lines.append(f"{plan.reused:,} rows are answered already")
    if plan.unaskable:
        lines.append(f"{plan.unaskable:,} rows cannot be asked (null or unreadable prompt)")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("model", "left"), ("lane", "left"), ("shards", "right"), ("in tokens", "right"), ("out tokens", "right"), ("expected", "right"),
        ("at worst", "right"), ("half back by", "left"), ("9 in 10 by", "left"), ("in time", "right"), ("", "left"),
    ):  # fmt: skip
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    for option in plan.options:
        table.add_row(*_option_cells(option, option is plan.chosen), style="" if option.obstacle is None else "dim")
    return Group(Text(", ".join(lines) + "."), Text(), table, Text(), *map(Text, _verdict(plan)))


def status_line(status: Status) -> str:
    """A job run in one plain line, for logs and terminals that are none."""
    batches = ", ".join(_batch_words(batch) for batch in status.batches) or "no batches"
    line = f"{_name(status)} {status.state.value}: {status.answered:,}/{status.rows:,} answered, {usd(status.cost_usd)}; {batches}"
    return line + (f"; {status.problem}" if status.problem else "")


def status_view(status: Status) -> RenderableType:
    """A job run and its batches."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("shard", "state", "batch", "model", "requests", "done", "cost"):
        table.add_column(name, justify="right" if name in ("shard", "requests", "done", "cost") else "left", no_wrap=name != "state")
    for batch in status.batches:
        state = batch.state.value + (f" ({batch.ended})" if batch.ended else "") + (f": {batch.error}" if batch.error else "")
        table.add_row(
            str(batch.shard), state, batch.batch_id or "-", f"{batch.provider}:{batch.model}", f"{batch.requests:,}",
            "-" if batch.done is None else f"{batch.done:,}", usd(batch.cost_usd) if batch.cost_usd is not None else "-",
        )  # fmt: skip
    parts: list[RenderableType] = [_headline(status), table]
    if status.problem:
        parts.append(Text(status.problem, style="red"))
    return Group(*parts)


def list_view(statuses: Sequence[Status]) -> Table:
    """Job runs, a line each."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("job", "partition", "state", "rows", "answered", "failed", "batches", "cost", "saved", "due", "turnaround"):
        table.add_column(
            name, justify="right" if name in ("rows", "answered", "failed", "batches", "cost", "saved", "turnaround") else "left"
        )
    for status in statuses:
        table.add_row(
            status.job, status.partition or "-", Text(status.state.value, style=_COLOURS.get(status.state.value, "")), f"{status.rows:,}",
            f"{status.answered:,}", f"{status.failed + status.quarantined:,}", str(len(status.batches)), usd(status.cost_usd), usd(status.saved_usd),
            instant(status.deadline_at), span(status.turnaround_s),
        )  # fmt: skip
    return table


def outcome_view(status: Status) -> RenderableType:
    """How a job run that is over ended."""
    lines = [f"{_name(status)} {status.state.value}: {status.answered:,} of {status.rows:,} rows answered."]
    other = {outcome: count for outcome, count in status.outcomes.items() if outcome != "answered"}
    if other:
        lines.append(
            "Not answered: " + ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(other.items())) + " (reasons in keld_error)."
        )
    if status.reused:
        lines.append(f"{status.reused:,} answers were reused from an earlier run, at no cost.")
    lines.append(
        f"Cost {usd(status.cost_usd)}, {usd(status.saved_usd)} less than the standard price of {usd(status.standard_usd)}; "
        f"{status.input_tokens:,} tokens in, {status.output_tokens:,} out; turnaround {span(status.turnaround_s)}."
    )
    if status.cached_tokens or status.cache_saved_usd:
        lines.append(f"{_cached(status).capitalize()}.")
    if status.estimate_error is not None:
        lines.append(f"The estimate was {_off(status)}.")
    if status.deadline_at is not None:
        lines.append(f"Due {instant(status.deadline_at)}: {'kept' if status.deadline_met else 'missed'}.")
    if status.output_uri:
        lines.append(f"Written to {status.output_uri}")
    return Group(*(Text(line, overflow="fold") for line in lines))


def spend_view(lines: Sequence[Spend], by: str) -> Table:
    """The spend report."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    total = {
        name: sum((getattr(line, name) for line in lines), Decimal(0))
        for name in ("paid_usd", "standard_usd", "saved_usd", "in_flight_usd")
    }
    rows = sum(line.rows for line in lines)
    columns = (
        (by, "total"), ("job runs", f"{sum(line.job_runs for line in lines):,}"), ("rows", f"{rows:,}"),
        ("answered", f"{sum(line.answered for line in lines):,}"), ("failed", f"{sum(line.failed for line in lines):,}"),
        ("paid", usd(total["paid_usd"])), ("standard", usd(total["standard_usd"])), ("saved", usd(total["saved_usd"])),
        ("in flight, at most", usd(total["in_flight_usd"])),
    )  # fmt: skip
    for n, (name, footer) in enumerate(columns):
        table.add_column(name, footer=footer, justify="right" if n else "left")
    for line in lines:
        table.add_row(
            line.group, f"{line.job_runs:,}", f"{line.rows:,}", f"{line.answered:,}", f"{line.failed:,}", usd(line.paid_usd), usd(line.standard_usd),
            usd(line.saved_usd), usd(line.in_flight_usd),
        )  # fmt: skip
    return table


def prices_view(quotes: Sequence[Quote]) -> RenderableType:
    """Rates in USD per million tokens, a line for each lane, and one more for each long-context rate."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    rates = ("input", "cached", "cache write 5 min", "1 h", "output")
    for name in ("model", "lane", "requests of", *rates, "source", "dated"):
        table.add_column(name, justify="right" if name in rates else "left")
    for quote in quotes:
        model = f"{quote.provider}:{quote.model}"
        if quote.rates is None:
            table.add_row(model, quote.lane.value, "", *("?" for _ in rates), "no rate known", "", style="dim")
            continue
        for bracket in quote.rates.brackets:
            long = f"> {bracket.above:,} tokens" if bracket.above else ""
            dated = "-" if quote.rates.dated is None else f"{quote.rates.dated}"
            table.add_row(model, quote.lane.value, long, *_rate_cells(bracket), quote.rates.source, dated)
    lines = ["USD per million tokens. Reasoning tokens are output. Dated: when Keld's own table read it, or since when the list has it."]
    if all(quote.lane is Lane.BATCH for quote in quotes):
        lines.append("The batch lane; name a model for its other lanes.")
    return Group(table, Text(), *(Text(line, overflow="fold") for line in lines))


def _rate_cells(bracket: Bracket) -> tuple[str, ...]:
    rates = (bracket.input, bracket.cached, bracket.cache_write, bracket.cache_write_1h, bracket.output)
    return tuple(f"{rate.normalize():f}" for rate in rates)


_DONE = {
    Verdict.ADOPT: "its shard has no batch: adopted, its answers are used",
    Verdict.CANCEL: "its shard was sent again: cancelled, what it cost is counted",
    Verdict.SETTLE: "its shard was sent again: what it cost is counted",
    Verdict.SEARCHED: "its shard is being looked for; its job run's next step finds it",
    Verdict.UNPROVEN: "may be ours; its results will tell when it has ended",
    Verdict.ANOTHERS: "another ledger's, or a lost one's: left alone",
}
_DUE = {
    Verdict.ADOPT: "its shard has no batch: would be adopted, its answers used",
    Verdict.CANCEL: "its shard was sent again: would be cancelled, what it cost counted",
    Verdict.SETTLE: "its shard was sent again: what it cost would be counted",
}


def findings_view(findings: Sequence[Finding], *, dry_run: bool) -> RenderableType:
    """What the providers have and the ledger does not, what is done about it, and what it costs."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    sure = sum((found.cost_usd or Decimal(0) for found in findings if found.verdict in _DUE and not found.cost_is_worst), Decimal(0))
    at_most = sum((found.cost_usd or Decimal(0) for found in findings if found.verdict in _DUE and found.cost_is_worst), Decimal(0))
    footers = {"cost": f"{usd(sure)} + at most {usd(at_most)}" if at_most else usd(sure)}
    for name in (
        "batch",
        "provider",
        "status",
        "created",
        "requests",
        "shard",
        "cost",
        "what is done" if not dry_run else "what would be done",
    ):
        table.add_column(name, footer=footers.get(name, ""), justify="right" if name in ("requests", "cost") else "left")
    for found in findings:
        words = _DUE[found.verdict] if dry_run and found.verdict in _DUE else _DONE[found.verdict]
        table.add_row(
            found.batch_id, found.provider, found.native, instant(found.created_at), "?" if found.requests is None else f"{found.requests:,}",
            f"{found.job}[{found.partition or '-'}] {found.shard}" if found.job else "-", _cost_words(found), words,
        )  # fmt: skip
    return table


def _cost_words(found: Finding) -> str:
    if found.cost_usd is None:
        return "?"
    return f"at most {usd(found.cost_usd)}" if found.cost_is_worst else usd(found.cost_usd)


def _option_cells(option: Option, chosen: bool) -> tuple[str, ...]:
    if chosen:
        note = "<- chosen"
    elif option.obstacle is not None:
        note = option.obstacle
    else:
        note = "" if option.lane is Lane.BATCH else "for comparison"
    return (
        f"{option.provider}:{option.model}",
        option.lane.value,
        f"{option.shards:,}" if option.shards else "-",
        f"{option.usage.input_tokens:,}",
        f"{option.usage.output_tokens:,}",
        usd(option.expected_usd),
        usd(option.worst_usd),
        f"{option.half_by:%m-%d %H:%M}",
        f"{option.most_by:%m-%d %H:%M}",
        "-" if option.chance is None else f"{option.chance:.0%}",
        note,
    )


def _verdict(plan: Plan) -> list[str]:
    if plan.chosen is None:
        return ["Nothing has to be asked; a run would only write the output.", "Nothing was sent."]
    chosen = plan.chosen
    lines = [
        f"Chosen: {chosen.provider}:{chosen.model} in the {chosen.lane.value} lane, {usd(chosen.expected_usd)} expected, {usd(chosen.worst_usd)} at worst."
    ]
    if plan.standard_usd is not None and chosen.expected_usd is not None and plan.standard_usd:
        lines[0] = lines[0][:-1] + f"; the standard lane would cost {usd(plan.standard_usd)}."
    lines.append(_basis(chosen))
    if chosen.cache.ttl is not None:
        share = chosen.usage.cached_tokens / max(chosen.usage.input_tokens, 1)
        lines.append(
            f"The shared beginning is marked for the prompt cache ({chosen.cache.ttl.value}); {share:.0%} of the input is expected from it."
        )
    if plan.ceiling_usd is not None:
        lines.append(f"Ceiling: {usd(plan.ceiling_usd)}.")
    basis = {"partition-end": "from the partition's end", "submitted-at": "from the submission", "absolute": "as given"}.get(
        plan.due_basis, ""
    )
    lines.append(f"Due: {instant(plan.due)} ({basis})." if plan.due else "Due: no deadline.")
    lines.append("Nothing was sent.")
    return lines


def _basis(option: Option) -> str:
    """What the expected tokens were reckoned by."""
    estimate = option.estimate
    how = f"{estimate.bytes_a_token:.1f} bytes a token of input" + (" (counted in these rows)" if estimate.counted else "")
    seen = f"learned from {estimate.rows:,} answered rows" if estimate.rows else "by rule of thumb, until answers say"
    return f"Estimate: {how}, {estimate.output_tokens_a_row:.0f} tokens of output a row, {seen}."


def _headline(status: Status) -> Text:
    text = Text(f"{_name(status)} ")
    text.append(status.state.value, style=_COLOURS.get(status.state.value, ""))
    cost = f"{usd(status.cost_usd)} paid" + (f", {usd(status.reserved_usd)} at most in flight" if status.reserved_usd else "")
    text.append(f"  {status.answered:,} of {status.rows:,} rows answered, {cost}")
    if status.estimate_error is not None:
        text.append(f", estimate {_off(status)}")
    if status.cached_tokens or status.cache_saved_usd:
        text.append(f", {_cached(status)}")
    if status.deadline_at is not None:
        text.append(f", due {instant(status.deadline_at)}")
    return text


def _cached(status: Status) -> str:
    """What the provider's prompt cache did, and what it was worth."""
    worth = (
        f"saved {usd(status.cache_saved_usd)}" if status.cache_saved_usd >= 0 else f"cost {usd(-status.cache_saved_usd)} more than it saved"
    )
    return f"{status.cache_hit_rate or 0:.0%} of the input from the prompt cache, which {worth}"


def _off(status: Status) -> str:
    return f"{usd(status.estimated_usd)} ({status.estimate_error:+.1f} %)"


def _batch_words(batch: Batch) -> str:
    count = f" {batch.done:,}/{batch.requests:,}" if batch.done is not None else f" {batch.requests:,}"
    return f"{batch.provider} {batch.state.value}{count}" + (f" ({batch.error})" if batch.error else "")


def _name(status: Status) -> str:
    return f"{status.job}[{status.partition}]" if status.partition else status.job
