"""Collect: the result files of a batch that has ended, or the journal of a stretch -> one answer a row, on our disk.

A step of the runner.  What was answered is paid, however the batch ended, and is never thrown away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keld import answer
from keld.answer import LOST, Missing, Outcome, Tally
from keld.errors import ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.price import Lane
from keld.providers.base import Provider, RemoteBatch
from keld.record import JobRun, Shard
from keld.request import Question
from keld.runner.visit import LAG, Visit, log, sent_of
from keld.staging import ShardFiles, disk_errors
from keld.state import Event

_RESULT_BYTES_MOST = 16 << 30  # of one file, whatever it holds


def collect(visit: Visit, run: JobRun, shard: Shard) -> Shard:
    """Judges every line of a shard's results, keeps one answer a row."""
    provider, files = visit.provider(shard), visit.files.shard(shard.id)
    batch = _batch(provider, shard) if shard.lane == Lane.BATCH else None
    sent, output, missing = sent_of(run, visit.files, shard), visit.output(), _missing(shard)
    with disk_errors(visit.files.dir, "What was answered is paid, and stays where it is."):
        results = [files.journal] if batch is None else _fetch(visit, provider, shard, batch, files)
        tally = answer.collect([path for path in results if path.exists()], provider.read, sent, output, files.answers, missing)
    failpoint("collect.done")
    nothing = not tally.outcomes.keys() - {Outcome.LOST}
    if batch is not None and batch.succeeded != 0 and nothing and not tally.foreign and not _is_late(visit, shard):
        raise ProviderUnreachable(
            f"{shard.provider} at {shard.host} gave results of {batch.id} in which none of its {shard.requests:,} rows is. They are fetched again later."
        )
    if batch is not None and not provider.capabilities.marks_batches and nothing and tally.foreign:
        why = f"the batch {shard.batch_id} that was adopted holds other rows"
        return visit.give_up(shard, Event.LOST_TRACK, Outcome.QUARANTINED, why, error={"code": "foreign_results"})
    return visit.record(shard, Event.COLLECTED, **_counts(tally), collected_at=visit.now(), facts=_findings(tally))


def _missing(shard: Shard) -> Missing:
    """What a row is that no result mentions."""
    match shard.ended if shard.lane != Lane.BATCH else None:
        case "cancelled":
            return Missing(Outcome.CANCELLED, "not asked before it was cancelled", retryable=True)
        case "failed":
            return Missing(Outcome.ERRORED, f"not asked: {(shard.error or {}).get('message')}", retryable=False)
        case _:
            return LOST


def _batch(provider: Provider, shard: Shard) -> RemoteBatch:
    batch = provider.get(shard.batch_id or "")
    if batch is None:
        raise ProviderUnreachable(
            f"{shard.provider} at {shard.host} does not find batch {shard.batch_id}, which has ended. Its results are fetched later."
        )
    return batch


def _fetch(visit: Visit, provider: Provider, shard: Shard, batch: RemoteBatch, files: ShardFiles) -> list[Path]:
    """All result files; none where the provider, after its time, still does not give them out: their rows are then lost."""
    late = _is_late(visit, shard)
    if batch.succeeded and not batch.result_refs and not late:
        raise ProviderUnreachable(
            f"{shard.provider} at {shard.host} says that batch {batch.id} has ended with {batch.succeeded:,} answers, but names no results yet. "
            "They are looked for again."
        )
    try:
        return provider.download(batch, files.result, most_bytes(visit.question(), shard))
    except ProviderRefused as refused:
        if refused.status not in (404, 410) or not late:
            raise
        log.warning("shard.results_gone shard=%s batch_id=%s", shard.id, batch.id)
        return []


def _is_late(visit: Visit, shard: Shard) -> bool:
    return visit.now() - (shard.ended_at or visit.now()) > LAG


def most_bytes(question: Question, shard: Shard) -> int:
    """More than the results of a shard can weigh: what a row's envelope, or its vector, takes, and every token with the log of its likely others."""
    return min(_RESULT_BYTES_MOST, (64 << 20) + shard.requests * ((256 << 10) + question.max_output_tokens * (4 << 10)))


def _counts(tally: Tally) -> dict[str, Any]:
    return {
        "answered": tally.answered,
        "retryable": tally.retryable,
        "cost_usd": tally.cost_usd,
        "standard_usd": tally.standard_usd,
        "input_tokens": tally.input_tokens,
        "uncached_usd": tally.uncached_usd,
        "cached_tokens": tally.cached_tokens,
        "cache_write_tokens": tally.cache_write_tokens,
        "output_tokens": tally.output_tokens,
        "outcomes": {str(outcome): count for outcome, count in tally.outcomes.items()},
    }


def _findings(tally: Tally) -> dict[str, object]:
    return {"duplicates": tally.duplicates, "foreign": tally.foreign, "unreadable": tally.unreadable}
