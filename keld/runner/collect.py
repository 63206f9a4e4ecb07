"""Collect: the result files of a batch that has ended, or the journal of a realtime run -> one answer a row, on our disk.

A step of the runner.  Answers are paid for, however the batch ended, and are never thrown away.  To fetch is free, to ask is not.  So a
row is asked again only if the provider reports, in a way that can be trusted, that it has no answer to it:

- A missing file, or one without any readable line of this shard (text, nothing, an error with status 200, another shard's rows, a decompression
  bomb), is a fault of the file.  It is fetched again with growing pauses until the shard is given up (`give_up`); then its rows are quarantined,
  and not asked again automatically.  They are asked again only if the provider reports that it answered none, by counts that add up or by a final
  state without a file: this is how a batch looks that expired, was cancelled, or failed in every row.
- A host that gives no answers back of a batch that was cancelled or expired (`Traits.keeps_on_cancel`, `keeps_on_expiry`) names no results then.
  Its rows are asked again, and the worst case of those that it may have answered stays reserved.
- Rows that are in no result, of a batch that was cancelled or whose time was over, were not reached if all that the provider counts as done are
  there: some hosts name no others.  They are not paid.
- A file with some of the shard's lines is not complete while it lacks others: it may still be growing, or be a mixture of two.  Rows count as lost
  only if every row that the provider counts as done has its line; or if the file, fetched again completely, has the same size as before, at least
  ten minutes after the batch ended.  Sizes are compared, not digests: some hosts write their rows in another order each time.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, assert_never

from keld import answer
from keld.answer import LOST, Missing, Tally
from keld.errors import AccessRefused, KeldError, ProviderRefused, ProviderUnreachable
from keld.failpoint import failpoint
from keld.gpu_time import Split
from keld.ledger import JobRun, Shard, ShardError, ShardFault
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.base import BatchState, RemoteBatch
from keld.providers.provider import Provider
from keld.realtime import answers_in
from keld.reply import Reply
from keld.request import Question
from keld.runner.context import LAG, RunContext, log, sent_of
from keld.runner.give_up import give_up_time
from keld.runner.overlap import Step
from keld.staging import ShardFiles, disk_errors
from keld.state import Event

_RESULT_BYTES_MOST = 16 << 30  # of one file, whatever is in it
# Before a file is fetched again that could be read, but had the wrong content.
_PAUSE, _PAUSE_MOST = timedelta(minutes=1), timedelta(hours=1)
_UNREACHABLE_MOST = timedelta(minutes=10)  # before it is fetched again when it could not be fetched


class Fetched(NamedTuple):
    """What was fetched of a batch that has ended.

    Args:
        before: the sizes of an earlier fetch that was not accepted.
        results: those with the answers first; none if the provider names none.
        lost: if the provider gives no answers back, the outcome of all rows, and how many of them may be paid.
    """

    before: list[int]
    batch: RemoteBatch
    results: list[Path]
    lost: tuple[Missing, int] | None


_FETCHING = Step[Fetched](at_once=3)
_NEVER_WHOLE = Missing(
    Outcome.LOST, "in no result file, and the file changed each time it was fetched; not asked again, since it may be paid", retryable=False
)


def collect(context: RunContext, run: JobRun, shard: Shard) -> Shard:
    """The shard after its results were fetched and one answer a row was written; or with the time at which they are fetched again."""
    if shard.lane != Lane.BATCH:
        return _collected(context, shard, _tally(context, run, shard, [answers_in(context.files.shard(shard.id).journal)], _missing(shard)))
    files, begun = context.files.shard(shard.id), context.overlap.take(_FETCHING, shard.id)
    try:
        before, batch, results, lost = _fetched(context, shard) if begun is None else begun.result()
    except (AccessRefused, ProviderUnreachable, ProviderRefused) as problem:
        return _again(context, shard, problem, context.settings.retry_unreachable, _UNREACHABLE_MOST)
    if lost is not None:
        return _collected_without_answers(context, run, shard, *lost)
    tally = _tally(context, run, shard, results, LOST)
    unmentioned = tally.outcomes[Outcome.LOST]
    if unmentioned == shard.requests and not _answered_none(context, shard, batch, results):
        fault = (
            f"{shard.provider} at {shard.host} gave results of {batch.id} that have none of its {shard.requests:,} rows. The rows may be paid for, so they "
            "are not asked again; the results are fetched again."
        )
        return _again(context, shard, ProviderUnreachable(fault), _PAUSE, _PAUSE_MOST)
    if 0 < unmentioned < shard.requests and not _is_whole(context, shard, batch, tally, before, _sizes(files)):
        last = give_up_time(context, run, shard)
        if last is None or context.now() < last:
            fault = (
                f"{shard.provider} at {shard.host} gave results of {batch.id} that lack {unmentioned:,} of its {shard.requests:,} rows. "
                "They are fetched again before anything is asked again."
            )
            return _again(context, shard, ProviderUnreachable(fault), _PAUSE, LAG)
        tally = _tally(context, run, shard, results, _NEVER_WHOLE)
    elif unmentioned and (missing := unreached(shard, batch, tally)) is not None:
        tally = _tally(context, run, shard, results, missing)
    return _collected(context, shard, tally)


def begin_to_fetch(context: RunContext, shard: Shard) -> None:
    """Begins to fetch the results of a shard that is collected soon."""
    context.overlap.begin(_FETCHING, shard.id, lambda: _fetched(context, shard))


def _fetched(context: RunContext, shard: Shard) -> Fetched:
    """The results of a batch that has ended, on our disk.

    Raises:
        AccessRefused, ProviderUnreachable, ProviderRefused: they cannot be fetched now.
    """
    files, provider = context.files.shard(shard.id), context.provider(shard)
    before = _sizes(files)
    batch = _batch(provider, shard)
    if (lost := _lost_answers(provider, shard, batch)) is not None:
        return Fetched(before, batch, [], lost)
    with disk_errors(context.files.dir, "What was answered is paid, and stays where it is."):
        results = _fetch(context, shard, batch, files, again=bool(before))
        _remove_others(files, results)
    return Fetched(before, batch, results, None)


def _tally(context: RunContext, run: JobRun, shard: Shard, results: list[Path], missing: Missing) -> Tally:
    reader, answers = context.reader(shard), context.files.shard(shard.id).answers
    read_block = reader.results if shard.lane == Lane.BATCH else reader.journal

    def read(block: bytes) -> list[Reply]:
        context.pulse()
        return read_block(block)

    sent, found = sent_of(context.environment, run, context.files, shard), [path for path in results if path.exists()]
    with disk_errors(context.files.dir, "What was answered is paid, and stays where it is."):
        if sent.rates.gpu_hour_usd is not None:
            usd = context.ledger.stretches.paid_usd(context.lease, shard, context.now())
            sent = replace(sent, split=Split(usd, answer.weight_of_results(found, read, sent)))
        return answer.judge_results(
            found,
            read,
            sent,
            context.output(),
            answers,
            missing,
        )


def _collected(context: RunContext, shard: Shard, tally: Tally, **changes: Any) -> Shard:
    context.files.keep(context.files.shard(shard.id).answers)
    failpoint("collect.done")
    if tally.unmetered and shard.worst_usd:
        changes = {"error": _of_unmetered(shard, tally), **changes}
    return context.record(shard, Event.COLLECTED, **_counts(tally), collected_at=context.now(), facts=_findings(tally), **changes)


def _of_unmetered(shard: Shard, tally: Tally) -> ShardError:
    """The fault of answers without a count of tokens: what they cost is not known, and stays reserved at its worst."""
    without = 0 if shard.error is None else shard.error.rows
    return ShardError(
        code=ShardFault.UNMETERED,
        message=f"{tally.unmetered:,} answers came without their token counts: what they cost is not known",
        rows=max(without, tally.outcomes[Outcome.LOST]) + tally.unmetered,
    )


def _lost_answers(provider: Provider, shard: Shard, batch: RemoteBatch) -> tuple[Missing, int] | None:
    """The outcome of all rows, and how many of them may be paid, if the batch ended so that its host gives no answers back; else None."""
    expired = batch.state is BatchState.EXPIRED
    keeps = provider.traits.keeps_on_expiry if expired else batch.state is not BatchState.CANCELLED or provider.traits.keeps_on_cancel
    if keeps or batch.result_refs:
        return None
    how, outcome = ("expired", Outcome.EXPIRED) if expired else ("was cancelled", Outcome.CANCELLED)
    why = f"the batch {how}, and its provider gives no answers of it back"
    return Missing(outcome, why, retryable=True), shard.requests if (rows := shard.rows_of(batch.succeeded)) is None else min(
        rows, shard.requests
    )


def _collected_without_answers(context: RunContext, run: JobRun, shard: Shard, missing: Missing, rows: int) -> Shard:
    tally = _tally(context, run, shard, [], missing)
    error = ShardError(code=ShardFault.ANSWERS_LOST, message=f"{missing.why}; {rows:,} rows may be paid", rows=rows) if rows else None
    return _collected(context, shard, tally, error=error)


def unreached(shard: Shard, batch: RemoteBatch, tally: Tally) -> Missing | None:
    """The outcome of the rows that a batch did not reach before it ended, where its results do not name them; None: they may have been reached.

    All rows that the provider counts as done are in the results, so the others are not paid.  A host that names rows which it did not reach names
    all of them: then a row without a line is one that was answered, and its line cannot be read.
    """
    if tally.outcomes[Outcome.CANCELLED] or tally.outcomes[Outcome.EXPIRED]:
        return None
    if batch.requests != shard.sent_lines or batch.done != tally.lines or not tally.outcomes[Outcome.LOST]:
        return None
    match batch.state:
        case BatchState.CANCELLED:
            return Missing(Outcome.CANCELLED, "the batch was cancelled first", retryable=True)
        case BatchState.EXPIRED | BatchState.COMPLETED:
            return Missing(Outcome.EXPIRED, "the time of the batch was over first", retryable=True)
        case BatchState.FAILED | BatchState.IN_PROGRESS | BatchState.CANCELLING:
            return None
        case _:
            assert_never(batch.state)


def _again(context: RunContext, shard: Shard, problem: KeldError, pause: timedelta, most: timedelta) -> Shard:
    """The shard, whose results are fetched again after a pause that grows each time."""
    context.problem = problem
    context.stuck[shard.id] = str(problem)
    context.files.keep(*context.files.shard(shard.id).results)  # their sizes are compared with those of the next fetch
    wait = min(pause * (1 << min(shard.looks, 16)), most)
    log.warning("shard.not_collected shard=%s batch_id=%s problem=%s", shard.id, shard.batch_id, type(problem).__name__)
    return context.record(
        shard, Event.LOOKED, looks=shard.looks + 1, not_before=context.now() + wait, facts={"why": type(problem).__name__}
    )


def _answered_none(context: RunContext, shard: Shard, batch: RemoteBatch, results: list[Path]) -> bool:
    """True if the provider reports, in a way that can be trusted, that it answered none of the rows."""
    if any(path.stat().st_size for path in results if path.exists()):
        return False  # errors of the shard's rows would have their ids: this is something else
    if batch.succeeded == 0 and batch.requests == shard.sent_lines:
        return batch.state is not BatchState.COMPLETED or batch.done == shard.sent_lines
    no_end_of_work = batch.state in (BatchState.CANCELLED, BatchState.EXPIRED, BatchState.FAILED) and not batch.result_refs
    return no_end_of_work and (batch.succeeded == 0 or (batch.succeeded is None and _is_late(context, shard)))


def _is_whole(context: RunContext, shard: Shard, batch: RemoteBatch, tally: Tally, before: list[int], sizes: list[int]) -> bool:
    """True if a row that is missing from the results will not appear in them later."""
    if batch.requests == shard.sent_lines and batch.done == tally.lines:
        return True
    return bool(before) and before == sizes and _is_late(context, shard)


def _sizes(files: ShardFiles) -> list[int]:
    """The sizes of the result files that exist, in bytes."""
    return [path.stat().st_size for path in files.results]


def _remove_others(files: ShardFiles, results: list[Path]) -> None:
    """Removes the result files of an earlier fetch that the provider no longer names."""
    for path in set(files.results) - set(results):
        path.unlink(missing_ok=True)


def _missing(shard: Shard) -> Missing:
    """The outcome of a row that no result mentions."""
    match shard.ended if shard.lane != Lane.BATCH else None:
        case "cancelled":
            return Missing(Outcome.CANCELLED, "not asked before it was cancelled", retryable=True)
        case "failed":
            return Missing(Outcome.ERRORED, f"not asked: {None if shard.error is None else shard.error.message}", retryable=False)
        case _:
            return LOST


def _batch(provider: Provider, shard: Shard) -> RemoteBatch:
    batch = provider.get(shard.require_batch_id())
    if batch is None:
        raise ProviderUnreachable(
            f"{shard.provider} at {shard.host} does not find batch {shard.batch_id}, which has ended. Its results are fetched later.",
            account=shard.provider,
        )
    return batch


def _fetch(context: RunContext, shard: Shard, batch: RemoteBatch, files: ShardFiles, *, again: bool) -> list[Path]:
    """All result files, those with the answers first; none if the provider names none."""
    if batch.succeeded and not batch.result_refs and not _is_late(context, shard):
        raise ProviderUnreachable(
            f"{shard.provider} at {shard.host} says that batch {batch.id} has ended with {batch.succeeded:,} answers, but names no results yet. "
            "They are looked up again later.",
            account=shard.provider,
        )
    return context.provider(shard).download(batch, files.result, most_bytes(context.question(), shard), again=again)


def _is_late(context: RunContext, shard: Shard) -> bool:
    return context.now() - (shard.ended_at or context.now()) > LAG


def most_bytes(question: Question, shard: Shard) -> int:
    """An upper limit of the size of a shard's results, in bytes: each row's envelope or vector, and each token with its log probabilities.

    Some hosts repeat each request beside its answer, and may write its text with escapes: the input counts three times.
    """
    answers = shard.requests * ((256 << 10) + question.max_output_tokens * (4 << 10))
    return min(_RESULT_BYTES_MOST, (64 << 20) + answers + 3 * shard.size_bytes)


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
    return {"duplicates": tally.duplicates, "foreign": tally.foreign, "unreadable": tally.unreadable, "unmetered": tally.unmetered}
