"""Notice: what a person should hear of a job run, passed once each to a hook of the user's.

Beside the road, above `status`.  A notice is found by comparing a job run's status with what its events say was told: it survives any crash, and
two workers tell it once (`ledger.notice`).  The hook runs in a thread of its own: one that fails or hangs stops no job run.  A notice has
counts, money, ids and names; never a prompt, an answer or a key, and the text of a hook's error is not logged, since it may quote a secret URL.
"""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from importlib import import_module
from typing import Any

from keld.errors import InvalidJob
from keld.ledger import Ledger
from keld.outcome import Outcome
from keld.status import Status

log = logging.getLogger("keld")

_PATIENCE_S = 10.0  # how long a verb waits for a hook: a command line ends after it
_BACK = timedelta(days=7)  # how long after its end a job run's news are told, where nobody looked meanwhile
_EVERY_S = 60.0  # between two looks for such job runs


class NoticeKind(StrEnum):
    """What has happened; each is told once for a job run."""

    FINISHED = "finished"  # or cancelled: every row has its outcome
    LATE = "late"  # its deadline has passed, and rows are open, or were
    QUARANTINED = "quarantined"  # rows are not asked again, since that might pay twice; a person decides
    OVER_CEILING = "over_ceiling"  # it is over, and rows were not asked, for want of money
    PAID_TWICE = "paid_twice"  # a batch was paid whose answers are not used


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One piece of news of a job run.

    Args:
        id: the same each time it is told; a hook that must not act twice keeps it.
        status: of the job run, when it was found.
        paid_twice_usd: what was paid for batches whose answers are not used.
    """

    id: str
    kind: NoticeKind
    status: Status
    paid_twice_usd: Decimal = Decimal(0)

    @property
    def text(self) -> str:
        """One line for people, as a chat or the subject of a mail takes it."""
        return f"Keld: {self._words}. {self.status.summary}"

    @property
    def _words(self) -> str:
        match self.kind:
            case NoticeKind.FINISHED:
                return self.status.state.value
            case NoticeKind.LATE:
                return f"late, it was due {self.status.deadline_at:%Y-%m-%d %H:%M} UTC"
            case NoticeKind.QUARANTINED:
                rows = max(self.status.quarantined, sum(batch.requests for batch in self.status.maybe_running))
                return f"{rows:,} rows are quarantined, which may be paid already; run `keld reconcile`"
            case NoticeKind.OVER_CEILING:
                return f"{self.status.outcomes.get(Outcome.OVER_CEILING, 0):,} rows were not asked, since the ceiling was reached"
            case NoticeKind.PAID_TWICE:
                return f"${self.paid_twice_usd:.4f} were paid for answers that are not used"


Hook = Callable[[Notice], Any]


def notices_of(status: Status, paid_twice_usd: Decimal = Decimal(0)) -> list[Notice]:
    """All news of a job run up to now, told or not."""
    holds = {
        NoticeKind.LATE: status.late,
        NoticeKind.QUARANTINED: bool(status.quarantined or status.maybe_running),
        NoticeKind.OVER_CEILING: status.over and status.outcomes.get(Outcome.OVER_CEILING, 0) > 0,
        NoticeKind.PAID_TWICE: paid_twice_usd > 0,
        NoticeKind.FINISHED: status.over,  # the last: after it, people look no further
    }
    twice = paid_twice_usd
    return [Notice(id=f"{status.id}:{kind}", kind=kind, status=status, paid_twice_usd=twice) for kind, true in holds.items() if true]


def hook_named(name: str) -> Hook:
    """The function that `KELD_ON_EVENT` names, imported when it is first called: its module may make an environment of its own.

    Raises:
        InvalidJob: it is not `module:function`.
    """
    module, _, function = name.partition(":")
    if not module or not function.isidentifier():
        raise InvalidJob(f"KELD_ON_EVENT is {name!r}; it names a function as `module:function`. Nothing was sent.", field="on_event")

    def hook(notice: Notice) -> Any:
        return getattr(import_module(module), function)(notice)

    return hook


def _tell(hook: Hook, notice: Notice) -> None:
    """Calls a hook to its end: one that is an `async def` has done nothing yet when it returns."""
    begun = hook(notice)
    if inspect.iscoroutine(begun):
        import asyncio  # rarely needed, and heavy

        asyncio.run(begun)  # this thread is the notices' own, without a loop


class Notifier:
    """Passes the news of job runs to a hook.

    Args:
        statuses: the statuses of job runs, by ids.
        prefix: of what the ledger notes as told; each of several hooks has its own.
    """

    def __init__(
        self,
        hook: Hook,
        ledger: Callable[[], Ledger],
        namespace: str,
        clock: Callable[[], datetime],
        statuses: Callable[[list[str]], list[Status]],
        *,
        prefix: str = "",
    ) -> None:
        self._hook, self._ledger, self._namespace, self._clock, self._statuses = hook, ledger, namespace, clock, statuses
        self._prefix = prefix
        self._told: dict[str, set[str]] = {}  # what the ledger says of each watched job run; never forgotten there
        self._looked_at: float | None = None
        self._calling: threading.Thread | None = None

    def tell(self, statuses: Sequence[Status]) -> None:
        """Passes on what is new in these statuses, and in job runs that ended while nobody looked; waits ten seconds at most, and raises nothing."""
        if self._calling is not None and self._calling.is_alive():
            return  # the hook hangs; what is new now is told by a later look, or by another process
        try:
            due = list(self._due(statuses))
        except Exception as error:  # noqa: BLE001  # see the module's header
            log.warning("notice.failed problem=%s", type(error).__name__)
            return
        if due:
            self._calling = threading.Thread(target=self._call, args=(due,), name="keld-notices", daemon=True)
            self._calling.start()
            self._calling.join(_PATIENCE_S)

    def _due(self, statuses: Sequence[Status]) -> Iterator[Notice]:
        """The notices that were not told, as far as the ledger says."""
        notices = self._ledger().notices
        found = {status.id: status for status in statuses}
        if unknown := [status for status in statuses if status.id not in self._told]:
            self._told |= notices.told([status.id for status in unknown])
            for status in unknown:
                if status.id not in self._told and not status.over:  # else its end was told, or seen, before there was a hook
                    notices.watch(status.id, self._clock())
                    self._told[status.id] = set()
        if missed := [run_id for run_id in self._missed() if run_id not in found]:
            self._told |= notices.told(missed)
            found |= {status.id: status for status in self._statuses(missed)}
        watched = [run_id for run_id in found if run_id in self._told]
        twice = notices.paid_twice(watched)
        for run_id in watched:
            for notice in notices_of(found[run_id], twice.get(run_id, Decimal(0))):
                if self._prefix + notice.kind not in self._told[run_id]:
                    yield notice

    def _missed(self) -> list[str]:
        """The job runs that ended, or cost something, in the last days and are watched; asked once a minute."""
        now = time.monotonic()
        if self._looked_at is not None and now - self._looked_at < _EVERY_S:
            return []
        self._looked_at = now
        return self._ledger().notices.watched(self._namespace, self._clock() - _BACK)

    def _call(self, due: Sequence[Notice]) -> None:
        """Calls the hook for each notice that no other worker has told or is about to."""
        notices = self._ledger().notices
        for notice in due:
            run_id, news = notice.status.id, self._prefix + notice.kind
            try:
                if notices.claim(run_id, news, self._clock()):
                    _tell(self._hook, notice)
                    notices.confirm(run_id, news, self._clock())
            except Exception as error:  # noqa: BLE001  # see the module's header
                log.warning("notice.failed run=%s news=%s problem=%s", run_id, news, type(error).__name__)
            else:
                self._told |= notices.told([run_id])  # by this worker, by another one, or given up: it is not claimed again at each look
