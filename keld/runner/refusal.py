"""Refusal: the refusal of a create, kept until a look has shown that no batch was made.

A step of the runner, between `submit` and `find_lost`.  A proxy that retries may have made a batch with its first try and then had its second
refused; the text of a refusal does not prove who wrote it, since it can be copied.  So a refusal of a create that was sent counts only after
the provider's list was read: once, if it has the provider's own format; as often as for a lost reply, if it has not.
"""

from __future__ import annotations

from datetime import timedelta
from typing import assert_never

import msgspec

from keld.errors import AccessRefused, KeldError, ProviderUnreachable
from keld.ledger import RefusalReason, Shard, ShardError
from keld.outcome import Outcome
from keld.providers.base import QueueFull, Refused
from keld.providers.provider import Provider
from keld.providers.word import access_advice, reply_words
from keld.runner.context import RunContext
from keld.runner.queue import queue_wait
from keld.staging import disk_errors, write_file
from keld.state import Event


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal, as the shard keeps it in its `error`; the provider's free text is kept in the shard's files only."""

    code: str
    refused: RefusalReason
    own: bool  # in the provider's own format
    status: int | None = None
    wait_s: float | None = None

    @classmethod
    def of(cls, outcome: Refused | QueueFull) -> Refusal:
        if isinstance(outcome, QueueFull):
            code = "rate_limited" if outcome.retry_after_s else "queue_full"
            return cls(code=code, refused=RefusalReason.QUEUE, own=outcome.own, status=429, wait_s=outcome.retry_after_s)
        why = (
            RefusalReason.ACCESS
            if outcome.access
            else RefusalReason.FILE
            if outcome.permanent
            else RefusalReason.INPUT
            if outcome.status == 404
            else RefusalReason.ELSEWHERE
        )
        return cls(code=outcome.code, refused=why, own=outcome.own, status=outcome.status)

    @classmethod
    def kept_by(cls, shard: Shard) -> Refusal | None:
        """The refusal of a shard's create; None: there was no reply at all."""
        error = shard.error
        if error is None or error.refused is None:
            return None
        return cls(code=error.code, refused=error.refused, own=bool(error.own), status=error.status, wait_s=error.wait_s)

    def as_error(self, provider: Provider) -> KeldError | None:
        """The error to show to people at once; None for usual back-pressure, or if the rows' outcomes say it."""
        said = f"{provider.name} at {provider.host} refused to create a batch: {reply_words(self.status, self.code)}"
        look = "Before it is sent again, the list of batches is read, in case the batch was created all the same."
        if not self.own:
            return ProviderUnreachable(
                f"{said}, in a format that is not {provider.name}'s own: a proxy's or a gateway's. {look}",
                account=provider.name,
                status=self.status,
            )
        match self.refused:
            case RefusalReason.ACCESS:
                return AccessRefused(
                    f"{said}. {look} {access_advice(self.code, provider.name)} Then run again.",
                    account=provider.name,
                    status=self.status,
                )
            case RefusalReason.INPUT | RefusalReason.ELSEWHERE:
                return ProviderUnreachable(f"{said}. {look}", account=provider.name, status=self.status)
            case RefusalReason.QUEUE | RefusalReason.FILE:
                return None
            case _:
                assert_never(self.refused)


def keep(context: RunContext, shard: Shard, outcome: Refused | QueueFull) -> tuple[Shard, Refusal]:
    """The shard, now to be looked for, and the refusal of its create."""
    refusal = Refusal.of(outcome)
    if isinstance(outcome, Refused) and outcome.message:
        with disk_errors(context.files.dir, "The create was refused, and is looked for."):
            path = context.files.shard(shard.id).refusal
            write_file(path, [outcome.message.encode()], "staging.refusal")
        context.files.keep(path)
    not_before = context.now() + context.settings.settle[0]
    facts: dict[str, object] = {"status": refusal.status, "code": refusal.code, "own": refusal.own}
    return context.record(
        shard, Event.REFUSED, not_before=not_before, error=ShardError(**msgspec.structs.asdict(refusal)), facts=facts
    ), refusal


def take_effect(context: RunContext, shard: Shard, refusal: Refusal) -> Shard:
    """The shard after a refusal took effect, since no batch of its create was found."""
    match refusal.refused:
        case RefusalReason.FILE:
            why = " ".join(filter(None, (reply_words(refusal.status, refusal.code), _words(context, shard))))
            return context.give_up(shard, Event.REJECTED, Outcome.REJECTED, why, error=ShardError(code=refusal.code))
        case RefusalReason.QUEUE:
            wait = timedelta(seconds=refusal.wait_s) if refusal.wait_s else queue_wait(context, shard)
            return context.record(
                shard,
                Event.DEFERRED,
                not_before=context.now() + wait,
                error=ShardError(code=refusal.code),
                input_ref=_input_ref(shard, refusal),
            )
        case RefusalReason.ACCESS | RefusalReason.INPUT | RefusalReason.ELSEWHERE:
            return context.record(shard, Event.ABSENT, not_before=None, error=None, input_ref=_input_ref(shard, refusal))
        case _:
            assert_never(refusal.refused)


def _input_ref(shard: Shard, refusal: Refusal) -> str | None:
    """The id of the upload, if it still exists: neither gone, nor deleted as a fence."""
    return shard.input_ref if refusal.own and refusal.refused is not RefusalReason.INPUT else None


def _words(context: RunContext, shard: Shard) -> str:
    try:
        return context.files.shard(shard.id).refusal.read_text()
    except OSError:
        return ""
