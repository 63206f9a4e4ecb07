"""Report book: job runs of a made-up company, as the ledger would have them, for the tests of the report.

Some teams, jobs in three lanes at two providers, rescues, missed deadlines, rows that were paid twice, batches under way; drawn by a fixed seed.
"""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from msgspec import structs

from keld.job import RunTerms
from keld.ledger import CostLine, JobRun, Timing
from keld.price import Lane
from keld.report.book import Book
from keld.state import RunState, State
from tests.unit.test_status import NOW, RUN

MODELS = ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5", "openai:gpt-5")
HOUR = timedelta(hours=1)


def company(*, jobs: int = 12, days: int = 40, seed: int = 1, names: str = "job_{n:02}", as_of: datetime = NOW) -> Book:
    """`jobs` jobs, each run once a day for `days` days until `as_of`; the runs of the last day are open."""
    draw = random.Random(seed)
    runs: dict[str, JobRun] = {}
    cost_lines: list[CostLine] = []
    timings: list[Timing] = []
    for n in range(jobs):
        model, size = MODELS[n % 3], draw.randint(1, 400) * 500
        tags = {"team": ("support", "search", "risk", "growth", "data")[n % 5], "category": ("labels", "summaries")[n % 2]}
        for day in range(days):
            begun = as_of - timedelta(days=day, hours=2)
            run = _run(f"{n:016}{day:016}", names.format(n=n), begun, size, model, tags)
            lines, times = _parts(draw, run, model, open_=day == 0)
            ends = [time.collected_at for time in times]
            if None not in ends:
                last = max(end for end in ends if end is not None)
                run = structs.replace(run, state=RunState.FINISHED, finished_at=last, outcomes={"answered": size - 3, "invalid": 3})
            spent = sum((line.paid_usd for line in lines), Decimal(0))
            runs[run.id] = structs.replace(run, spent_usd=spent, reserved_usd=sum((line.reserved_usd for line in lines), Decimal(0)))
            cost_lines += lines
            timings += times
    return Book(namespace="default", as_of=as_of, since=None, until=None, runs=runs, cost_lines=tuple(cost_lines), timings=tuple(timings))


def _run(run_id: str, job: str, begun: datetime, size: int, model: str, tags: dict[str, str]) -> JobRun:
    return structs.replace(
        RUN, id=run_id, job=job, partition=f"{begun:%Y-%m-%d}", rows=size, created_at=begun, deadline_at=begun + 9 * HOUR, tags=tags,
        terms=RunTerms(models=(model, *(other for other in MODELS[:2] if other != model))), ceiling_usd=Decimal(400), escalates_at=begun + 8 * HOUR,
    )  # fmt: skip


def _parts(draw: random.Random, run: JobRun, name: str, *, open_: bool) -> tuple[list[CostLine], list[Timing]]:
    provider, _, model = name.partition(":")
    tokens = run.rows * draw.randint(200, 500)
    standard = Decimal(tokens) / 10**6
    hours = draw.lognormvariate(0.5, 0.9)
    line = CostLine(
        run_id=run.id, provider=provider, model=model, lane=Lane.BATCH, asked=run.rows, answered=run.rows - 3, input_tokens=tokens,
        cached_tokens=tokens // 3, output_tokens=tokens // 10,
    )  # fmt: skip
    sent = run.created_at + timedelta(minutes=5)
    time = Timing(
        run_id=run.id, provider=provider, host="h", model=model, lane=Lane.BATCH, state=State.COLLECTED, requests=run.rows, ended="completed",
        submitted_at=sent, ended_at=sent + hours * HOUR, collected_at=sent + hours * HOUR + timedelta(minutes=4),
    )  # fmt: skip
    if open_:
        waiting = replace(time, state=State.IN_PROGRESS, ended=None, ended_at=None, collected_at=None)
        return [replace(line, answered=0, input_tokens=0, cached_tokens=0, output_tokens=0, reserved_usd=standard * 2)], [waiting]
    paid = replace(
        line, paid_usd=standard / 2, standard_usd=standard, estimated_usd=standard * Decimal("0.48"), estimate_paid_usd=standard / 2
    )
    if draw.random() < 0.02:
        paid = replace(paid, paid_usd=standard, twice_usd=standard / 2)
    if hours < 8:
        return [paid], [time]
    late = sent + 8 * HOUR
    cut = replace(time, ended="cancelled", ended_at=late, collected_at=late)
    took = draw.randint(10, 150) * timedelta(minutes=1)
    rescue = replace(time, lane=Lane.STANDARD, submitted_at=late, ended_at=late + took, collected_at=late + took)
    rest = replace(paid, lane=Lane.STANDARD, paid_usd=standard / 4, standard_usd=standard / 4, unknown_rows=2, unknown_usd=Decimal("0.01"))
    return [replace(paid, standard_usd=standard * 3 / 4, paid_usd=standard * 3 / 8), rest], [cut, rescue]
