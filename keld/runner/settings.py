"""Settings: how long the runner waits, and how often it looks.

Below `context`.  Plain data, light: an environment has it before it needs a runner.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from keld.patience import Patience


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How long the runner waits, and how often it looks; each may be set per environment.

    Args:
        settle: the waits before each look for a create whose outcome is unknown.
        settle_unfenced: before one more look where no fence can keep a create from landing: longer than the SDK waits for a reply.
        resend_unfenced: what comes after the last look there.  True: the shard is sent again, and if the first create
            takes effect after all, the sweep cancels it (what it did until then is paid).  False: the shard is quarantined, and not sent again automatically.
        send_within: an intent older than this is not sent: its worker was paused.
        sweep_every: between two sweeps for creates that took effect after their last look, while there may be some.
        sweep_for: how long after its intent a create may take effect.
        overdue_after: past the provider's own window (24 h), after which a batch that has not ended is cancelled; its rows are asked again.
            At a provider without a window: past the deadline; without a deadline such a batch is never cancelled.
        abandon_after: after `overdue_after`, how long until a create that cannot be distinguished from others is quarantined.
        last_word_after: after the later of the deadline and the provider's window, when a shard without progress is quarantined (see `give_up`).
        cancel_within: after the user cancelled, how long until a shard whose batch the provider does not end is quarantined.
        call_within: the longest that a look, a cancel or a removal may take in total.
        reply_within: the longest that the reply to an upload or a create may take, once its body is sent.
        stalled_after, least_bytes: an upload or a download that moves fewer than `least_bytes` in `stalled_after` is stopped.
        silent_for: a worker whose step shows no progress for so long loses its job run to another worker.
        poll_least, poll_most: the waits between two looks at a batch: a tenth of its age, within these.
        retry_unreachable: until the next look after a provider could not be reached, or refused.
        retry_queue_full: until a shard that a full queue rejected is sent again; doubled each time, 30 minutes at most.
        rows_per_s: the assumed speed of the standard lane, until its realtime runs have shown theirs.
        list_from: so many open batches of an account, or more, are looked up by list pages, fewer one by one.
    """

    settle: tuple[timedelta, ...] = (timedelta(seconds=15), timedelta(seconds=60), timedelta(minutes=5), timedelta(minutes=5))
    settle_unfenced: timedelta = timedelta(minutes=15)
    resend_unfenced: bool = True
    send_within: timedelta = timedelta(seconds=30)
    sweep_every: timedelta = timedelta(minutes=10)
    sweep_for: timedelta = timedelta(hours=48)
    overdue_after: timedelta = timedelta(hours=24)
    abandon_after: timedelta = timedelta(hours=24)
    last_word_after: timedelta = timedelta(hours=24)
    cancel_within: timedelta = timedelta(minutes=30)
    call_within: timedelta = timedelta(seconds=60)
    reply_within: timedelta = timedelta(minutes=5)
    stalled_after: timedelta = timedelta(seconds=60)
    least_bytes: int = 64 << 10
    silent_for: timedelta = timedelta(minutes=5)
    poll_least: timedelta = timedelta(seconds=10)
    poll_most: timedelta = timedelta(seconds=60)
    retry_unreachable: timedelta = timedelta(seconds=20)
    retry_queue_full: timedelta = timedelta(seconds=60)
    rows_per_s: float = 4.0
    list_from: int = 4

    @property
    def patience(self) -> Patience:
        """How long one call may take."""
        return Patience(
            call_s=self.call_within.total_seconds(),
            reply_s=self.reply_within.total_seconds(),
            stall_s=self.stalled_after.total_seconds(),
            least_bytes=self.least_bytes,
        )
