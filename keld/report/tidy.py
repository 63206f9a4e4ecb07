"""Tidy: two tables for BI tools, as Parquet or CSV, with one schema: cost lines and job runs (docs/how-to/report.md).

Money is decimal128(38, 12), as exact as the ledger's pico-dollars.  Nothing is summed up or left out: a view by day is the reader's work.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa

from keld.ledger import CostLine, JobRun, Timing
from keld.report.book import Book
from keld.report.cell import cell
from keld.report.deadline import kept_of
from keld.spend import grouping
from keld.state import RunState

_USD = pa.decimal128(38, 12)
_INSTANT = pa.timestamp("us", tz="UTC")
_OF_RUN = {name: grouping(name) for name in ("team", "project", "category")}
_WHOSE: dict[str, pa.DataType] = {
    "job_run": pa.string(), "namespace": pa.string(), "job": pa.string(), "partition": pa.string(), "generation": pa.int64(),
    "day": pa.date32(), "team": pa.string(), "project": pa.string(), "category": pa.string(), "tags": pa.string(),
}  # fmt: skip
COST_LINE = pa.schema(_WHOSE | {
    "provider": pa.string(), "model": pa.string(), "lane": pa.string(), "asked": pa.int64(), "answered": pa.int64(), "input_tokens": pa.int64(),
    "cached_tokens": pa.int64(), "cache_write_tokens": pa.int64(), "output_tokens": pa.int64(), "paid_usd": _USD, "standard_usd": _USD,
    "saved_usd": _USD, "estimated_usd": _USD, "estimate_paid_usd": _USD, "twice_usd": _USD, "reserved_usd": _USD, "unknown_usd": _USD,
    "unknown_rows": pa.int64(),
})  # fmt: skip
JOB_RUN = pa.schema(_WHOSE | {
    "state": pa.string(), "created_at": _INSTANT, "finished_at": _INSTANT, "deadline_at": _INSTANT, "deadline": pa.string(), "margin_s": pa.float64(),
    "rows": pa.int64(), "reused": pa.int64(), "answered": pa.int64(), "failed": pa.int64(), "quarantined": pa.int64(), "rounds": pa.int64(),
    "expected_usd": _USD, "paid_usd": _USD, "standard_usd": _USD, "reserved_usd": _USD, "ceiling_usd": _USD,
})  # fmt: skip


def tables(book: Book, *, safe: bool = False) -> dict[str, pa.Table]:
    """The tables of a book, by name.

    Args:
        safe: texts are changed so that no spreadsheet runs them as formulas; for CSV.
    """
    timings: defaultdict[str, list[Timing]] = defaultdict(list)
    for timing in book.timings:
        timings[timing.run_id].append(timing)
    lines = (_whose(book.runs[line.run_id]) | _cost_line(line) for line in book.cost_lines)
    runs = (_job_run(run, timings[run.id], book) | _whose(run) for run in book.runs.values())
    return {"cost_line": _table(lines, COST_LINE, safe), "job_run": _table(runs, JOB_RUN, safe)}


def _whose(run: JobRun) -> dict[str, Any]:
    nothing = CostLine(run_id=run.id, provider="", model="", lane="")
    tags = {name: None if (group := of(run, nothing)) == "-" else group for name, of in _OF_RUN.items()}
    return tags | {
        "job_run": run.id,
        "namespace": run.namespace,
        "job": run.job,
        "partition": run.partition or None,
        "generation": run.generation,
        "day": run.created_at.date(),
        "tags": json.dumps(run.tags, sort_keys=True),
    }


def _cost_line(line: CostLine) -> dict[str, Any]:
    return {name: getattr(line, name) for name in COST_LINE.names if hasattr(line, name)} | {"saved_usd": line.standard_usd - line.paid_usd}


def _job_run(run: JobRun, timings: list[Timing], book: Book) -> dict[str, Any]:
    due = run.deadline_at if run.state not in (RunState.CANCELLED, RunState.CANCELLING) else None
    expected = run.plan.get("expected_usd")
    return {name: getattr(run, name) for name in JOB_RUN.names if hasattr(run, name)} | {
        "state": run.state.value,
        "deadline": None if due is None else kept_of(run, timings, book.as_of).value,
        "margin_s": None if due is None or run.finished_at is None else (due - run.finished_at).total_seconds(),
        "rounds": run.round + 1,
        "expected_usd": Decimal(expected) if expected not in (None, "None") else None,
        "paid_usd": run.spent_usd,
    }


def _table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, safe: bool) -> pa.Table:
    found = list(rows)
    columns = []
    for column in schema:
        values = [row[column.name] for row in found]
        if safe and column.type == pa.string():
            values = [None if value is None else cell(value) for value in values]
        columns.append(pa.array(values, type=column.type))
    return pa.Table.from_arrays(columns, schema=schema)
