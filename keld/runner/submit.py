"""Submit: a shard's rows -> its input file -> the intent -> the create, which is sent once.

A step of the runner.  The order of a create is the most important rule of Keld: the intent is committed, the call is made once, the outcome is
recorded.  If a worker dies in between, the next one finds SUBMITTING, does not know whether the create was sent, and looks for it
(`find_lost`) before anything else.  A create that was refused is looked for, too, whatever the reply was (`refusal`).  Only where the provider
itself holds that a create with the same key makes no second batch (`Traits.replays`), one without a reply is sent again at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, assert_never

from keld import snapshot
from keld.enrich import apart, complaints
from keld.errors import CeilingTooLow, LeaseLost, ProviderUnreachable, StagingError
from keld.failpoint import failpoint
from keld.ledger import JobRun, Shard, ShardError, ShardFault
from keld.price import Lane
from keld.providers.base import Created, OutcomeUnknown, QueueFull, Refused, RemoteBatch, Submission
from keld.providers.provider import Provider
from keld.request import batch_key, repaired
from keld.runner.context import RunContext, answers_of, log
from keld.runner.overlap import Step
from keld.runner.queue import deferred_until
from keld.runner.refusal import keep
from keld.staging import Draft, disk_errors, draft, read_positions, sha256_of, write_file
from keld.state import Event
from keld.stored import identity

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_NAME = "staging.input"  # of the failpoints of an input file
_WRITING = Step[tuple[Draft, Callable[[], int | None]]](at_once=1)  # one takes a processor, and the disk space of a shard
_REPLAYS = 2  # of a create without a reply, where that makes no second batch


class Input(NamedTuple):
    """A shard's input file, to be written.

    Args:
        pieces: of the file, made as they are taken.
        lines: how many lines the pieces had, when they have been taken; None where each row is a line.
    """

    path: Path
    pieces: Iterable[bytes | memoryview]
    lines: Callable[[], int | None]


def stage(context: RunContext, shard: Shard) -> Shard:
    """The shard, staged: its input file was written from the snapshot, now, or while the shard before it was sent."""
    begun = context.overlap.take(_WRITING, shard.id)
    with disk_errors(context.files.dir, "This shard was not sent."):
        if begun is None:
            path, pieces, lines = _input(context, shard)
            digest = write_file(path, pieces, _NAME)
        else:
            written, lines = begun.result()
            path, digest = written.path, written.land(_NAME)
    context.environment.staged[shard.id] = identity(path)
    return context.record(shard, Event.STAGED, sha256=digest, host=context.provider(shard).host, lines=lines())


def begin_to_stage(context: RunContext, shard: Shard) -> None:
    """Begins to write the input file of a shard that is staged next."""

    def written() -> tuple[Draft, Callable[[], int | None]]:
        path, pieces, lines = _input(context, shard)
        return draft(path, pieces), lines

    context.overlap.begin(_WRITING, shard.id, written, lambda begun: begun[0].drop())


def _input(context: RunContext, shard: Shard) -> Input:
    provider, positions = context.provider(shard), read_positions(context.files.shard(shard.id).positions)
    encoder, path = context.encoder(shard), context.files.shard(shard.id).input
    most, packs = provider.pack_of(encoder, Lane.BATCH), count()
    if most.rows == 1:
        return Input(path, encoder.file(_blocks(context, shard, positions)), lambda: None)
    alone = apart(earlier_answers(context, shard), positions, context.ledger.run(shard.run_id).terms.max_attempts)
    numbered = zip(encoder.lines(fragments(context, shard, positions), most, alone), packs, strict=False)
    # No number was drawn for a line that did not come.
    return Input(path, encoder.envelope.around(line for line, _ in numbered), lambda: next(packs))


def earlier_answers(context: RunContext, shard: Shard) -> list[Path]:
    """The answers files of the rounds before the shard's."""
    return (
        answers_of(context.files, [other for other in context.ledger.shards(shard.run_id) if other.round < shard.round])
        if shard.round
        else []
    )


def fragments(context: RunContext, shard: Shard, positions: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """(position, prompt fragment) of the rows at `positions`, in order; with the fault of their last answer, if a model is to correct it."""
    for here, asked in _blocks(context, shard, positions):
        yield from zip(here.tolist(), asked.to_pylist(), strict=True)


def _blocks(context: RunContext, shard: Shard, positions: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
    # The vector of a text with a complaint after it would be that of another text.
    why = {} if context.output().kind == "embedding" else complaints(earlier_answers(context, shard), positions)
    taken = context.files.snapshot

    def blocks() -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
        for here, asked in snapshot.fragment_blocks(taken, positions):
            context.pulse()
            yield here, _repaired(here, asked, why) if why else asked

    return blocks()


def _repaired(positions: NDArray[np.int64], fragments: pa.Array, why: Mapping[int, str]) -> pa.Array:
    """The fragments, with the fault of their last answer where there is one."""
    import pyarrow as pa

    pairs = zip(positions.tolist(), fragments.to_pylist(), strict=True)
    return pa.array([repaired(fragment, why[n]) if n in why else fragment for n, fragment in pairs], type=fragments.type)


def submit(context: RunContext, run: JobRun, shard: Shard) -> Shard:
    """The staged shard after it was sent, or deferred because others in the queue come first."""
    not_before = deferred_until(context, run, shard)
    if not_before is not None:
        return context.record(shard, Event.DEFERRED, not_before=not_before, error=ShardError(code=ShardFault.WAITS_ITS_TURN))
    return send(context, shard)


def submit_again(context: RunContext, run: JobRun, shard: Shard) -> Shard:
    """The deferred shard after it was sent, or deferred again because others in the queue come first."""
    not_before = deferred_until(context, run, shard)
    if not_before is not None:
        return context.record(shard, Event.DEFERRED, not_before=not_before)
    return send(context, context.record(shard, Event.RETRY_DUE))


def send(context: RunContext, shard: Shard) -> Shard:
    """The staged shard after it was sent, or dropped because it does not fit under the ceiling."""
    if context.is_behind_over_ceiling(shard):
        return context.over_ceiling(shard)
    provider = context.provider(shard)
    path = context.files.shard(shard.id).input
    # What is uploaded is what is sent: `Shard.lines` counts its requests, and another version of Keld may pack the rows in other requests.
    if shard.input_ref is None and (shard.host != provider.host or not _is_as_staged(context, shard, path)):
        shard = stage(context, shard)  # another provider's host, another machine, a cleaned disk: the snapshot gives the same bytes again
    shard = _uploaded(context, provider, shard, path)
    before = None if provider.traits.marks_batches else provider.newest()
    intended = time.monotonic(), context.now()
    try:
        shard = context.ledger.record_intent(context.lease, shard, context.now(), before)
    except CeilingTooLow as problem:
        log.warning("shard.over_ceiling shard=%s %s", shard.id, problem)
        return context.over_ceiling(shard)
    return _create(context, provider, shard, path, intended)


def _is_as_staged(context: RunContext, shard: Shard, path: Path) -> bool:
    """True if the input file is the one that was staged; what this process has written is not read again."""
    return context.environment.staged.get(shard.id) == identity(path) or sha256_of(path) == shard.sha256


def _uploaded(context: RunContext, provider: Provider, shard: Shard, path: Path) -> Shard:
    if shard.input_ref is not None:
        return shard
    failpoint("upload.send")
    try:
        input_ref = provider.upload(path, shard.id)
    except FileNotFoundError:
        context.ledger.leases.renew(context.lease, context.now())  # else another worker has sent it meanwhile, and removed the file
        raise StagingError(
            f"{path} has been removed since it was written. Nothing of this shard was sent; the file is written again."
        ) from None
    context.environment.staged.pop(shard.id, None)
    failpoint("upload.received")
    return shard if input_ref is None else context.record(shard, Event.UPLOADED, input_ref=input_ref)


def _create(context: RunContext, provider: Provider, shard: Shard, path: Path, intended: tuple[float, datetime]) -> Shard:
    """The shard after the one call that costs money: it is made once, and only shortly after the intent."""
    failpoint("create.send")
    _check_not_paused(context, shard, intended)
    outcome = provider.create(submission_of(context, shard, path))
    failpoint("create.received")
    for _ in range(_REPLAYS):
        if isinstance(outcome, OutcomeUnknown) and (batch := replay(context, provider, shard)) is not None:
            outcome = Created(batch)
    match outcome:
        case Created(batch):
            became = context.record(shard, Event.CREATED, batch_id=batch.id, submitted_at=context.now(), done=None)
            path.unlink(missing_ok=True)  # the snapshot can make it again
            return became
        case OutcomeUnknown(reason):
            return lost(context, shard, reason)
        case Refused(sent=False, message=why):
            context.record(shard, Event.UNSENT, facts={"reason": why})
            raise ProviderUnreachable(
                f"{provider.name} at {provider.host} could not be reached for the create of a batch: {why}. Nothing was sent; the create is tried again later.",
                account=provider.name,
            )
        case Refused() | QueueFull():
            shard, refusal = keep(context, shard, outcome)
            if (problem := refusal.as_error(provider)) is not None:
                raise problem
            return shard
        case _:
            assert_never(outcome)


def lost(context: RunContext, shard: Shard, reason: str) -> Shard:
    """The shard whose create may have succeeded: to be looked for soon."""
    error = ShardError(code=ShardFault.REPLY_LOST, message=reason)
    return context.record(
        shard, Event.OUTCOME_LOST, not_before=context.now() + context.settings.settle[0], error=error, facts={"reason": reason}
    )


def _check_not_paused(context: RunContext, shard: Shard, since: tuple[float, datetime]) -> None:
    """Passes if this worker was not paused since an instant, by both of its clocks, at which it held the lease.

    Raises:
        LeaseLost: it was: another worker may have looked, found nothing and sent it again by now.
    """
    # By both clocks: the monotonic one does not count the hours a machine was suspended, the other one can be turned back.
    stood_still = max(timedelta(seconds=time.monotonic() - since[0]), context.now() - since[1])
    if stood_still > context.settings.send_within:
        raise LeaseLost(f"Shard {shard.id}: this worker was paused after its intent, so it does not send. It has sent nothing.")


def submission_of(context: RunContext, shard: Shard, path: Path) -> Submission:
    """The create of a shard's latest attempt: with the same key each time that it is sent."""
    return Submission(
        key=batch_key(shard.id, shard.attempt),
        path=path,
        input_ref=shard.input_ref,
        model=shard.model,
        endpoint=context.encoder(shard).path,
        requests=shard.sent_lines,
    )


def replay(context: RunContext, provider: Provider, shard: Shard) -> RemoteBatch | None:
    """The batch of a create without a reply, after the same create was sent again; None: no batch was returned, which proves nothing.

    Nothing is sent if the provider keeps no keys, or no longer (`Traits.replays`): it would make a second batch.

    Raises:
        LeaseLost: another worker may have sent the next attempt by now, which has another key.
    """
    window, path = provider.traits.replays, context.files.shard(shard.id).input
    if window is None or not timedelta(0) <= context.now() - (shard.intent_at or context.now()) <= window:
        return None  # before the intent: a clock was set back, and it is not known how old the key is
    if shard.input_ref is None and not path.exists():
        return None  # the input is sent with the create, and is not on this machine
    renewed = time.monotonic(), context.now()
    context.ledger.leases.renew(context.lease, context.now())
    failpoint("create.replay.send")
    _check_not_paused(context, shard, renewed)
    outcome = provider.create(submission_of(context, shard, path))
    failpoint("create.replay.received")
    log.info("shard.replayed shard=%s outcome=%s", shard.id, type(outcome).__name__)
    return outcome.batch if isinstance(outcome, Created) else None
