"""Host: what all services with batches have in common: create with its faults, find, look, cancel.

A service's routes -> **`host`** -> `store`.  The service itself names a batch and shows it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from .batch import Batch
from .error import error_of
from .life import Phase, Status
from .store import Store
from .wire import Drop


@dataclass(frozen=True, kw_only=True)
class Host:
    """The batches of one service.

    Args:
        kind: the service's.
        publish: names the result files of a batch that has ended, once; None: they need no names.
    """

    store: Store
    kind: str
    publish: Callable[[Batch, Phase], None] | None = None

    def create(self, make: Callable[[], Batch], prepare: Callable[[Batch], None], show: Callable[[Batch], dict[str, Any]]) -> Response:
        """The response to a create: the new batch, unless a fault says that it lands late; a fault may also make it twice.

        Args:
            make: a batch that is not registered yet.
            prepare: validates and answers a batch; run by the worker.
            show: a new batch as its service shows it.

        Raises:
            ApiError: it lands late, and an error status is answered meanwhile.
        """
        batch = make()
        # Before the worker starts: a create is always answered with the first status.
        shown = show(batch)
        self.store.add_batch(batch, prepare)
        if batch.twice:
            self.store.add_batch(make(), prepare)
        match batch.late_status:
            case None:
                return JSONResponse(shown)
            case 0:
                return Drop()
            case status:
                raise error_of(status)

    def find(self, batch_id: str) -> Batch | None:
        """A batch that can be read now."""
        return self.store.batch(batch_id, self.kind)

    def listed(self) -> list[Batch]:
        """Those that a list shows, newest first."""
        return self.store.listed(self.kind)

    async def look(self, batch: Batch) -> Phase:
        """The state of a batch now; one that has ended has its result files afterwards."""
        phase = batch.phase(self.now())
        if phase.ended and not batch.sealed:
            await run_in_threadpool(batch.seal, phase, self._publish(batch))
        return phase

    async def cancel(self, batch: Batch) -> Status | None:
        """Cancel a batch; returns the status if it had ended already, else None."""
        await self.store.catch_up([batch], patience_s=None)
        now = self.now()
        phase = batch.phase(now)
        if phase.ended:
            return phase.status
        if batch.cancel_at is None:
            batch.cancel_at = now
        return None

    def now(self) -> float:
        return self.store.clock.time()

    def _publish(self, batch: Batch) -> Callable[[Phase], None] | None:
        publish = self.publish
        return None if publish is None else lambda phase: publish(batch, phase)
