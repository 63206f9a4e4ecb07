"""Submit: a shard's rows -> its input file -> the intent -> the create, sent once.

A step of the runner.  The order around a create is the heart of Keld: the intent is committed, the call is made once, the outcome is
recorded.  Die anywhere in between and the next worker finds SUBMITTING, knows that it does not know, and looks (`search`) before it
does anything else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from keld import snapshot
from keld.answer import Outcome
from keld.enrich import complaints
from keld.errors import AccessRefused, CeilingTooLow, LeaseLost, ProviderUnreachable, StagingError
from keld.failpoint import failpoint
from keld.providers.base import Created, OutcomeUnknown, Provider, QueueFull, Refused, Submission
from keld.record import JobRun, Shard
from keld.request import Question, batch_key, repaired
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
        why = complaints(answers_of(visit, earlier), positions)
    for position, fragment in snapshot.fragments(visit.files.snapshot, positions):
        visit.pulse()
        yield position, repaired(fragment, why[position]) if position in why else fragment


def submit(visit: Visit, run: JobRun, shard: Shard) -> Shard:
    """Sends a staged shard, if it is its turn."""
    put_off = put_off_until(visit, run, shard)
    if put_off is not None:
        return visit.record(shard, Event.DEFERRED, not_before=put_off, error={"code": "waits_its_turn"})
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
    before = None if provider.capabilities.marks_batches else provider.newest()
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
        visit.ledger.renew(visit.lease, visit.now())  # else another worker has sent it meanwhile, and removed the file
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
            endpoint=_endpoint(visit.question()),
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
        case QueueFull(retry_after_s=retry_after_s):
            wait = timedelta(seconds=retry_after_s) if retry_after_s else queue_wait(visit, shard)
            return visit.record(
                shard, Event.DEFERRED, not_before=now + wait, error={"code": "rate_limited" if retry_after_s else "queue_full"}
            )
        case OutcomeUnknown(reason):
            return visit.record(shard, Event.OUTCOME_LOST, not_before=now + visit.settings.settle[0], facts={"reason": reason})
        case Refused(permanent=True) as refused:
            why = f"HTTP {refused.status} {refused.code} {refused.message}".strip()
            return visit.give_up(shard, Event.REJECTED, Outcome.REJECTED, why, error={"code": refused.code})
        case Refused() as refused:
            return _refused(visit, provider, shard, refused)
        case _:
            assert_never(outcome)


def _refused(visit: Visit, provider: Provider, shard: Shard, refused: Refused) -> Shard:
    """A no that the user or time can mend: the shard stays staged.

    Raises:
        AccessRefused, ProviderUnreachable: always; what was refused, in words.
    """
    # 404: the uploaded input is gone (expired, deleted); it is uploaded again.
    input_ref = None if refused.status == 404 else shard.input_ref
    visit.record(shard, Event.REFUSED, input_ref=input_ref, facts={"status": refused.status, "code": refused.code})
    words = [f"HTTP {refused.status}" if refused.status else "", refused.code, refused.message]
    said = f"{provider.name} at {provider.host} refused to create a batch: {' '.join(word for word in words if word)}"
    if refused.status in (401, 402, 403):
        raise AccessRefused(f"{said}. Nothing was created. Check the key, the project and the billing of {provider.name}, and run again.")
    raise ProviderUnreachable(f"{said}. Nothing was created; it is tried again later.")


def queue_wait(visit: Visit, shard: Shard) -> timedelta:
    """How long a shard waits that a full queue has turned away, as often as it was sent already."""
    doublings: int = min(max(shard.attempt - 1, 0), 5)
    return min(visit.settings.retry_queue_full * (1 << doublings), timedelta(minutes=30))


def _endpoint(question: Question) -> str:
    return "/v1/embeddings" if question.output["kind"] == "embedding" else question.endpoint
