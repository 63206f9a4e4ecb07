"""Heartbeat: renews the leases that this worker holds while their long steps (an upload, a download) make progress.

Below `runner`.  A worker that is paused, or hangs in a step, loses its job run to another one.  One thread beats for all the job runs that a
runner holds, since a thread for each would cost as much as an `advance` that finds nothing due; it ends when there was nothing to renew for
the time between two beats.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from keld.ledger import Ledger
from keld.runner.context import RunContext, log


class Heartbeat:
    """The heartbeat of one runner."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime]) -> None:
        self._ledger, self._clock = ledger, clock
        self._lock = threading.Lock()  # held during a beat, so that no lease is renewed after its block
        self._held: dict[int, RunContext] = {}
        self._thread: threading.Thread | None = None

    @contextmanager
    def beating(self, context: RunContext) -> Iterator[None]:
        """Within the block, the context's lease is renewed as long as it makes progress."""
        with self._lock:
            self._held[id(context)] = context
            if self._thread is None or not self._thread.is_alive():  # it may have died with the process that this one was forked from
                self._thread = threading.Thread(target=self._beat_on, name="keld-leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(id(context), None)

    def _beat_on(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._ledger.leases.lease_for.total_seconds() / 3):
            with self._lock:
                if not self._held:
                    self._thread = None
                    return
                for key, context in list(self._held.items()):
                    if not self._beat(context):
                        del self._held[key]

    def _beat(self, context: RunContext) -> bool:
        """False if the lease is not renewed any more."""
        if time.monotonic() > context.alive_until:
            log.warning("lease.not_renewed run=%s its worker makes no progress", context.lease.run_id)
            return True  # it goes on with the next sign of progress, if it still holds the lease then
        try:
            self._ledger.leases.renew(context.lease, self._clock())
            context.renewed_at = time.monotonic()
        except Exception as error:  # noqa: BLE001  the step's next write finds the cause and reports it
            log.warning("lease.not_renewed run=%s %s", context.lease.run_id, type(error).__name__)
            return False
        return True
