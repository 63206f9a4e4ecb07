"""Submit: a shard's rows -> its input file -> the intent -> the create, sent once.

A step of the runner.  The order around a create is the heart of Keld: the intent is committed, the call is made once, the outcome is
recorded.  Die anywhere in between and the next worker finds SUBMITTING, knows that it does not know, and looks (`search`) before it
does anything else.  What was sent and not accepted is looked for, too, whatever the reply said (`refusal`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from keld import snapshot
from keld.enrich import complaints
from keld.errors import CeilingTooLow, LeaseLost, ProviderUnreachable, StagingError
from keld.failpoint import failpoint
from keld.ledger import JobRun, Shard, ShardError, ShardFault
from keld.providers.base import Created, OutcomeUnknown, QueueFull, Refused, Submission
from keld.providers.provider import Provider
from keld.request import batch_key, repaired
from keld.runner.refusal import keep
from keld.runner.turn import put_off_until
from keld.runner.visit import Visit, answers_of, log
from keld.staging import disk_errors, read_positions, sha256_of, write_file
from keld.state import Event

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def stage(visit: Visit, shard: Shard) -> Shard:
    """Writes the shard's input file from the snapshot."""
    provider = visit.provider(shard)
    positions = read_positions(visit.files.shard(shard.id).positions)
    encoder = visit.encoder(shard)
    lines = (encoder.line(position, fragment) for position, fragment in fragments(visit, shard, positions))
    with disk_errors(visit.files.dir, "This shard was not sent."):
        digest = write_file(visit.files.shard(shard.id).input, encoder.file(lines), "staging.input")
    return visit.record(shard, Event.STAGED, sha256=digest, host=provider.host)


def fragments(visit: Visit, shard: Shard, positions: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
    """(position, prompt fragment) of the rows at `positions`, in order; with what was wrong with their last answer, if anything was."""
    why: dict[int, str] = {}
    if shard.round:
        earlier = [other for other in visit.ledger.shards(shard.run_id) if other.round < shard.round]
        why = complaints(answers_of(visit.files, earlier), positions)
    for position, fragment in snapshot.fragments(visit.files.snapshot, positions):
        visit.pulse()
        yield position, repaired(fragment, why[position]) if position in why else fragment


def submit(visit: Visit, run: JobRun, shard: Shard) -> Shard:
    """Sends a staged shard, if it is its turn."""
    put_off = put_off_until(visit, run, shard)
    if put_off is not None:
        return visit.record(shard, Event.DEFERRED, not_before=put_off, error=ShardError(code=ShardFault.WAITS_ITS_TURN))
    return send(visit, shard)


def submit_again(visit: Visit, run: JobRun, shard: Shard) -> Shard:
    """Sends a deferred shard, if it is its turn now."""
    put_off = put_off_until(visit, run, shard)
    if put_off is not None:
        return visit.record(shard, Event.DEFERRED, not_before=put_off)
    return send(visit, visit.record(shard, Event.RETRY_DUE))


def send(visit: Visit, shard: Shard) -> Shard:
    """Sends a staged shard, if it fits under the ceiling."""
    if visit.must_stay_behind(shard):
        return visit.over_ceiling(shard)
    provider = visit.provider(shard)
    path = visit.files.shard(shard.id).input
    if shard.host != provider.host or sha256_of(path) != shard.sha256:
        shard = stage(visit, shard)  # another provider's host, another machine, a cleaned disk: the snapshot gives the same bytes again
    shard = _uploaded(visit, provider, shard, path)
    before = None if provider.traits.marks_batches else provider.newest()
    intended = time.monotonic(), visit.now()
    try:
        shard = visit.ledger.record_intent(visit.lease, shard, visit.now(), before)
    except CeilingTooLow as problem:
        log.warning("shard.over_ceiling shard=%s %s", shard.id, problem)
        return visit.over_ceiling(shard)
    return _create(visit, provider, shard, path, intended)


def _uploaded(visit: Visit, provider: Provider, shard: Shard, path: Path) -> Shard:
    if shard.input_ref is not None:
        return shard
    failpoint("upload.send")
    try:
        input_ref = provider.upload(path, shard.id)
    except FileNotFoundError:
        visit.ledger.leases.renew(visit.lease, visit.now())  # else another worker has sent it meanwhile, and removed the file
        raise StagingError(f"{path} is gone since it was written. Nothing of this shard was sent; it is written anew.") from None
    failpoint("upload.received")
    return shard if input_ref is None else visit.record(shard, Event.UPLOADED, input_ref=input_ref)


def _create(visit: Visit, provider: Provider, shard: Shard, path: Path, intended: tuple[float, datetime]) -> Shard:
    """The one dangerous call: once, and only while the intent is fresh."""
    failpoint("create.send")
    # By both clocks: the monotonic one does not count the hours a machine was suspended, the other one can be turned back.
    stood_still = max(timedelta(seconds=time.monotonic() - intended[0]), visit.now() - intended[1])
    if stood_still > visit.settings.send_within:
        # Frozen since the intent: others may have looked, found nothing and sent it again by now.
        raise LeaseLost(f"Shard {shard.id}: this worker stood still after its intent, so it does not send. Nothing was sent by it.")
    outcome = provider.create(
        Submission(
            key=batch_key(shard.id, shard.attempt),
            path=path,
            input_ref=shard.input_ref,
            model=shard.model,
            endpoint=visit.encoder(shard).path,
            requests=shard.requests,
        )
    )
    failpoint("create.received")
    now = visit.now()
    match outcome:
        case Created(batch):
            became = visit.record(shard, Event.CREATED, batch_id=batch.id, submitted_at=now, done=None)
            path.unlink(missing_ok=True)  # the snapshot can make it again
            return became
        case OutcomeUnknown(reason):
            return visit.record(shard, Event.OUTCOME_LOST, not_before=now + visit.settings.settle[0], facts={"reason": reason})
        case Refused(sent=False, message=why):
            visit.record(shard, Event.UNSENT, facts={"reason": why})
            raise ProviderUnreachable(
                f"{provider.name} at {provider.host} could not be reached for the create of a batch: {why}. Nothing was sent; it is tried again later.",
                account=provider.name,
            )
        case Refused() | QueueFull():
            shard, refusal = keep(visit, shard, outcome)
            if (problem := refusal.told(provider)) is not None:
                raise problem
            return shard
        case _:
            assert_never(outcome)
