"""Metadata: a job and a job run's status -> the metadata that people see on an asset.

Counts, money, time, ids, links, and on the definition the user's own prompt template; never a row or an answer, and no prompt that a function
makes: Dagster never deletes metadata and shows it to everyone.  Dagster plots whatever is a number, so only what a person wants as a curve is
one; what hardly changes from partition to partition (a ceiling, counts of failures) is text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import dagster as dg

from keld import Batch, Column, Job, Keld, Outcome, Status

_QUOTED = 10_000  # characters: each process of Dagster loads the definitions of every asset, and each change of them is kept
_INLINE = 950  # characters: Dagster shows shorter Markdown in its place, and longer behind a click


# -- the definition ---------------------------------------------------------------------------------------------------


def job_metadata(job: Job) -> dict[str, Any]:
    """What the definition's page says of a job: its question and its terms, as they are declared."""
    found: dict[str, Any] = {"keld/prompt": _prompt(job), "keld/acceptable_models": ", ".join(job.acceptable)}
    if job.system is not None:
        found["keld/system"] = _quoted(job.system)
    found["keld/ceiling"] = "none" if job.ceiling is None else f"{money(job.ceiling)} a partition"
    found["keld/deadline_rule"] = _deadline_rule(job)
    return found


def _prompt(job: Job) -> dg.MetadataValue[Any]:
    if isinstance(job.prompt, str):
        return _quoted(job.prompt)
    if isinstance(job.prompt, Column):
        return dg.MetadataValue.text(f"the column {job.prompt.name}")
    return dg.MetadataValue.text("made by a function")


def _quoted(text: str) -> dg.MetadataValue[Any]:
    """A text as it is, or its beginning: a block of code that the text itself cannot end."""
    if len(text) > _QUOTED:
        text = f"{text[:_QUOTED]}\n... and {len(text) - _QUOTED:,} more characters"
    fence = "```"
    while fence in text:
        fence += "`"
    return dg.MetadataValue.md(f"{fence}text\n{text}\n{fence}")


def _deadline_rule(job: Job) -> str:
    match job.due_by:
        case None:
            return "none of the job's own; a freshness policy gives one"
        case datetime() as at:
            return clock(at)
        case length:
            return f"{span(length)} after the partition's end; for an old partition, after its submission"


# -- the batch --------------------------------------------------------------------------------------------------------


def batch_metadata(keld: Keld, status: Status) -> dict[str, Any]:
    """The metadata of a batch asset: what was sent, its expected cost, its deadline."""
    facts: dict[str, Any] = {
        **waiting_metadata(status, expected_ends(keld, [status])),
        "keld/rows": status.rows,
        "keld/requests": status.requests,
        "keld/reused": f"{status.reused:,} rows were answered and paid earlier" if status.reused else None,
        "keld/expected_cost_usd": _number(status.expected_usd),
        "keld/ceiling": None if status.ceiling_usd is None else money(status.ceiling_usd),
        **_deadline(status),
        "keld/model": status.model,
        "keld/lane": status.lane,
        "keld/outdated": status.outdated,
        "keld/job_run": status.id,
    }
    return _known(facts)


Ends = Mapping[str, tuple[datetime, datetime]]
"""By job run, when its batches will have ended, as likely as not, and with nine chances in ten."""


def expected_ends(keld: Keld, statuses: Sequence[Status]) -> Ends:
    """`Ends` of those that have batches at a provider; a few queries for any number."""
    half, most = (keld.expected_ends(statuses, share=share) for share in (0.5, 0.9))
    return {job_run: (half[job_run], most[job_run]) for job_run in half}


def waiting_metadata(status: Status, ends: Ends) -> dict[str, Any]:
    """How far a job run is: the same keys at each moment, since Dagster shows the latest value of each."""
    rows = f"{status.settled:,} of {status.rows:,} rows done"
    return {
        "keld/state": status.stage,
        "keld/progress": rows + (f" ({status.settled / status.rows:.0%})" if status.rows else ""),
        "keld/obstacle": "-" if status.over else status.obstacle or "-",
        "keld/batches": dg.MetadataValue.md(_batches(status)),
        "keld/expected_end": "-" if status.over else _expected_end(status, ends),
        "keld/escalates_at": "-" if status.over else _escalation(status),
        "keld/cost_so_far": _cost_so_far(status),
    }


def _cost_so_far(status: Status) -> str:
    """Providers tell what a row cost with its result: beside rows that are done, a bare $0.00 would say that they were free."""
    told = money(status.cost_usd) + ("" if status.ceiling_usd is None else f" of {money(status.ceiling_usd)} at most")
    uncounted = sum(batch.done or 0 for batch in status.batches if batch.is_open)
    return told + (f"; {uncounted:,} rows that are done count when they are collected" if uncounted else "")


def _expected_end(status: Status, ends: Ends) -> str:
    if status.id not in ends:
        return "soon: nothing is at the provider any more" if status.ready else "not known yet"
    half, most = ends[status.id]
    return f"probably by {clock(half)}, 9 in 10 such batches by {clock(most)}"


def _escalation(status: Status) -> str:
    if status.escalates_at is not None:
        return f"{clock(status.escalates_at)}: what is not answered by then moves to a faster lane"
    return "never: there is no deadline" if status.deadline_at is None else "not known yet"


def _batches(status: Status) -> str:
    """The batches as a list, those that are not through first; with a link where the provider has a page for it."""
    if not status.batches:
        return "none: every row was answered earlier"
    lines: list[str] = []
    for n, batch in enumerate(sorted(status.batches, key=lambda batch: (not batch.is_open, -batch.round))):
        line = f"- {_batch(batch)}"
        rest = len(status.batches) - n
        if sum(map(len, lines)) + len(line) > _INLINE - 100:
            return "\n".join([*lines, f"- and {rest:,} more: `keld status {status.id}`"])
        lines.append(line)
    return "\n".join(lines)


def _batch(batch: Batch) -> str:
    name = batch.batch_id or f"shard {batch.shard}"
    shown = f"[{name}]({batch.page})" if batch.page else f"`{name}`"
    done = f", {batch.done:,} of {batch.requests:,} done" if batch.done is not None else f", {batch.requests:,} requests"
    state = batch.ended if batch.ended is not None else batch.state.value.replace("_", " ")
    return f"{shown} at {batch.provider}, {batch.model} ({batch.lane}): {state}{done}"


# -- the result -------------------------------------------------------------------------------------------------------


def result_metadata(status: Status) -> dict[str, Any]:
    """The metadata of a result asset: rows, cost, time, models."""
    turnaround = status.turnaround_s
    facts: dict[str, Any] = {
        "dagster/partition_row_count" if status.partition else "dagster/row_count": status.rows,
        "keld/answered": f"{status.answered:,} of {status.rows:,} rows"
        + (f", {status.reused:,} of them paid earlier" if status.reused else ""),
        "keld/answered_share": round(status.completion_rate, 4),
        "keld/failed": _failures(status),
        "keld/cost": _cost(status),
        "keld/cost_usd": _number(status.cost_usd),
        "keld/saved_usd": _number(status.saved_usd),
        "keld/deadline_met": status.deadline_met,
        **_deadline(status),
        "keld/turnaround_minutes": None if turnaround is None else round(turnaround / 60, 1),
        "keld/input_tokens": status.input_tokens,
        "keld/cached_tokens": status.cached_tokens or None,
        "keld/output_tokens": status.output_tokens,
        "keld/models": _models(status),
        "keld/batches": dg.MetadataValue.md(_batches(status)),
        "keld/outdated": status.outdated,
        "keld/job_run": status.id,
    }
    return _known(facts)


def _cost(status: Status) -> str:
    less = "less" if status.saved_usd >= 0 else "more"
    share = f" ({abs(status.saved_usd) / status.standard_usd:.0%})" if status.standard_usd else ""
    ceiling = "" if status.ceiling_usd is None else f"; the ceiling is {money(status.ceiling_usd)}"
    return f"{money(status.cost_usd)}, {money(abs(status.saved_usd))}{share} {less} than the standard price{ceiling}"


def _failures(status: Status) -> dg.MetadataValue[Any] | None:
    """The rows without an answer, by outcome, as a table; None if there are none."""
    return _table(
        {"outcome": outcome, "rows": count, "share": f"{count / max(status.rows, 1):.2%}"}
        for outcome, count in sorted(status.outcomes.items(), key=lambda one: -one[1])
        if outcome != Outcome.ANSWERED and count
    )


def _models(status: Status) -> dg.MetadataValue[Any] | None:
    """Which models were asked how much, as a table."""
    asked = Counter[tuple[str, str]]()
    for batch in status.batches:
        asked[f"{batch.provider}:{batch.model}", batch.lane] += batch.requests
    return _table(
        {"model": model, "lane": lane, "requests": count, "share": f"{count / max(asked.total(), 1):.0%}"}
        for (model, lane), count in asked.most_common()
    )


# -- as people read it ------------------------------------------------------------------------------------------------


def money(amount: Decimal) -> str:
    """An amount in US dollars: cents, below a dollar hundredths of a cent, below a cent millionths."""
    if not amount or amount >= 1:
        return f"${amount:,.2f}"
    dollars, _, rest = f"{amount:.{4 if amount >= Decimal('0.01') else 6}f}".partition(".")
    return f"${dollars}.{rest.rstrip('0'):0<2}"


def clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M %Z}"


def span(length: timedelta) -> str:
    """A span of a declaration: `9 h`, `1 h 30 min`."""
    hours, minutes = divmod(round(length.total_seconds() / 60), 60)
    return " ".join(([f"{hours:,} h"] if hours else []) + ([f"{minutes} min"] if minutes or not hours else []))


def _deadline(status: Status) -> dict[str, Any]:
    if status.deadline_at is None:
        return {}
    return {"keld/deadline": dg.MetadataValue.timestamp(status.deadline_at), "keld/deadline_basis": status.deadline_basis}


def _number(amount: Decimal | None) -> float | None:
    """A float, because only numbers are plotted; rounded, because Dagster prints every digit of it."""
    return None if amount is None else round(float(amount), 6)


def _table(rows: Any) -> dg.MetadataValue[Any] | None:
    records = [dg.TableRecord(row) for row in rows]
    return dg.MetadataValue.table(records) if records else None


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if value is not None}
