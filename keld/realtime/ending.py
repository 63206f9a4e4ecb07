"""Ending: when a realtime run must end before every row has its line, and why.

Beside the road, below `loop`.  Pure: instants come in as seconds of any clock that does not go backwards.  The first reason is kept.
"""

from __future__ import annotations

from enum import StrEnum

from keld.errors import AccessRefused, KeldError, ProviderRefused, ProviderUnreachable
from keld.providers.base import Denied
from keld.providers.word import access_advice, reply_words
from keld.realtime.options import Options


class Stopped(StrEnum):
    """Why a run ended."""

    DONE = "done"  # every row has its line
    BY_CALLER = "by_caller"  # the caller asked it to stop
    ACCESS = "access"  # the key, the project or the billing is refused
    SAME_FAULT = "same_fault"  # too many consecutive rows met the same fault
    NO_CAPACITY = "no_capacity"  # requests were rejected for longer than `patience_s`, or some rows too often


class Ending:
    """Whether a run must end, and why.

    Args:
        whom: the provider and its host, for error messages.
        account: the provider's name, for error messages.
    """

    def __init__(self, whom: str, account: str, options: Options) -> None:
        self.stopped: Stopped | None = None
        self.problem: KeldError | None = None  # what a person has to correct
        self.retry_after_s: float | None = None
        self.unanswered: str | None = None  # why the latest request got no answer, if none was answered since
        self.broken: BaseException | None = (
            None  # raised at the end, when the answers of the requests in flight, which are paid, are on disk
        )
        self._whom, self._account, self._options = whom, account, options
        self._answers = 0
        self._rejected_at: float | None = None  # the first rejection since the last answer
        self._streak: tuple[str, int] = ("", 0)  # the latest fault, and the number of consecutive rows that met it

    def end(self, why: Stopped, problem: KeldError | None = None) -> None:
        """Ends the run: no more requests begin."""
        if self.stopped is None:
            self.stopped, self.problem = why, problem

    def break_off(self, broken: BaseException) -> None:
        """Ends the run: no more requests begin, and `broken` is raised at the end."""
        self.broken = self.broken or broken
        self.end(Stopped.BY_CALLER)

    def is_due(self, now: float, asked_to_stop: bool) -> bool:
        """True if the run ends: no more requests begin."""
        if asked_to_stop:
            self.end(Stopped.BY_CALLER)
        if self._rejected_at is not None and now - self._rejected_at > self._options.patience_s:
            self.end(Stopped.NO_CAPACITY)
        return self.stopped is not None

    def too_long(self, wait_s: float) -> None:
        """Ends the run: the provider's limits allow no request for `wait_s`, and none is in flight."""
        self.end(Stopped.NO_CAPACITY)
        self.retry_after_s = wait_s

    def on_settled(self, answered: bool, fault: str) -> None:
        """Counts a row that got its line: an answer, or a refusal of this row with the reason `fault`."""
        self._rejected_at = self.unanswered = None
        self._answers += answered
        # A row that was answered proves that not all rows meet the fault.
        count = self._count("" if answered else fault)
        if count and not self._answers:
            said = f"{self._same(count, fault)}None of these is paid. Check the model, the lane and the parameters."
            self.end(Stopped.SAME_FAULT, ProviderRefused(said))

    def on_lost(self, why: str) -> None:
        """Counts a request that got no reply that can be read, and may have been paid."""
        self.unanswered = why
        fault = "no readable reply, and may have been paid"
        if count := self._count(fault):
            said = f"{self._same(count, fault)}The latest: {why}. They are asked again later."
            self.end(Stopped.SAME_FAULT, ProviderUnreachable(said, account=self._account))

    def on_rejected(self, now: float, why: str) -> None:
        """Notes the time of a request that was not processed: a rate limit, an overload or no connection."""
        self.unanswered = why
        if self._rejected_at is None:
            self._rejected_at = now

    def on_denied(self, outcome: Denied) -> None:
        """Ends the run: the provider refuses the account."""
        self.end(
            Stopped.ACCESS,
            AccessRefused(
                outcome.why
                or f"{self._whom} refused a request with {reply_words(outcome.status, outcome.code)}; it is not paid, and no "
                f"more are sent. The answers until then are kept. {access_advice(outcome.code, self._account)}",
                account=self._account,
            ),
        )

    def _count(self, fault: str) -> int:
        """The number of consecutive rows that met this fault, if it is too large; else 0."""
        self._streak = (fault, self._streak[1] + 1 if fault == self._streak[0] else 1)
        count = self._streak[1]
        return count if fault and count >= self._options.same_fault else 0

    def _same(self, count: int, fault: str) -> str:
        return f"{self._whom}: {count:,} rows one after the other met {fault}. No more are sent. "
