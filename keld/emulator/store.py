"""Store: the files and batches that the pretended services hold.

Contents are on disk in one temporary folder; here are only their records.  Batches are answered by one worker thread,
in the order of their creation: hashing a long body releases the interpreter lock, and a second busy thread would take it
each time (measured: 16,000 rows/s with two, twice that with one).
"""

import asyncio
import secrets
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from .batch import Batch
from .bill import RealtimeBill, Slip
from .bucket import Buckets
from .clock import Clock
from .dialect import Dialect
from .engine import Engine
from .envelope import Envelope
from .fault import CREATE_FAULTS, LIFE_FAULTS, LINE_FAULTS, RESULT_FAULTS, ROW_FAULTS, Faults
from .life import Pace
from .rule import Event

_PATIENCE_S = 0.25
_FATES = {"life": LIFE_FAULTS, "rows": ROW_FAULTS, "results": RESULT_FAULTS, "lines": LINE_FAULTS}


@dataclass(kw_only=True, eq=False)
class StoredFile:
    """An upload or a result file of one service; `owner` is the service's kind."""

    id: str
    owner: str
    filename: str
    purpose: str
    path: Path
    size_bytes: int
    created_at: float
    expires_at: float | None = None
    ordinal: int = 0

    def __repr__(self) -> str:
        return f"<StoredFile {self.id} {self.filename} {self.size_bytes:,} bytes>"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the pretended services behave when no fault is planned."""

    pace: Pace = field(default_factory=Pace)
    list_lag_s: float = 0.0
    realtime_latency_s: float = 0.0
    enqueued_token_limit: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    engine: Engine | None = None


class Store:
    """All state of the server."""

    def __init__(self, *, clock: Clock, faults: Faults, settings: Settings, folder: Path) -> None:
        self.clock, self.faults, self.settings, self.folder = clock, faults, settings, folder
        self.lock = threading.RLock()
        self.realtime_bill = RealtimeBill(folder / "realtime.bill.jsonl")
        self.objects = Buckets(clock=clock, folder=folder)
        self.objects.on_delete = self._object_deleted
        self._files: dict[str, StoredFile] = {}
        self._batches: dict[str, Batch] = {}
        self._created: Counter[str] = Counter()
        self._ordinal = 0
        self._workers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="keld-emulator-worker")

    def close(self) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)
        self.realtime_bill.close()

    # --- files --------------------------------------------------------------------------------------------------------

    def receive_file(self, source: BinaryIO, *, owner: str, filename: str, purpose: str, expires_after_s: float | None) -> StoredFile:
        """Keep an upload."""
        path = self.folder / f"{secrets.token_hex(8)}.upload"
        with path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return self.add_file(path, owner=owner, filename=filename, purpose=purpose, expires_after_s=expires_after_s)

    def add_file(
        self, path: Path, *, owner: str, filename: str, purpose: str, expires_after_s: float | None = None, at: float | None = None
    ) -> StoredFile:
        """Give a file on disk an id and a name."""
        created_at = self.clock.time() if at is None else at
        file = StoredFile(
            id=f"file-{secrets.token_hex(11)}",
            owner=owner,
            filename=filename,
            purpose=purpose,
            path=path,
            size_bytes=path.stat().st_size,
            created_at=created_at,
            expires_at=None if expires_after_s is None else created_at + expires_after_s,
        )
        with self.lock:
            self._ordinal += 1
            file.ordinal = self._ordinal
            self._files[file.id] = file
        return file

    def file(self, file_id: str, owner: str) -> StoredFile | None:
        file = self._files.get(file_id)
        return file if file is not None and file.owner == owner and self._is_living(file) else None

    def files(self, owner: str) -> list[StoredFile]:
        """Newest first."""
        with self.lock:
            living = [file for file in self._files.values() if file.owner == owner and self._is_living(file)]
        return sorted(living, key=lambda file: (file.created_at, file.ordinal), reverse=True)

    def _is_living(self, file: StoredFile) -> bool:
        return file.expires_at is None or self.clock.time() < file.expires_at

    def delete_file(self, file: StoredFile) -> None:
        """Delete a file; a batch that has not read it yet will fail, and a late create of one will never happen."""
        now = self.clock.time()
        with self.lock:
            del self._files[file.id]
            readers = [batch for batch in self._batches.values() if batch.input_file_id == file.id]
        for batch in readers:
            batch.deleted = batch.deleted or now < batch.created_at
            batch.input_lost = batch.input_lost or now < batch.started_at
        # A worker may be about to open it; then it stays on disk until the emulator stops.
        if all(batch.work.done() for batch in readers):
            file.path.unlink(missing_ok=True)

    def _object_deleted(self, uri: str) -> None:
        """A batch that has not read the object yet will fail."""
        now = self.clock.time()
        with self.lock:
            readers = [batch for batch in self._batches.values() if batch.input_uri == uri]
        for batch in readers:
            batch.input_lost = batch.input_lost or now < batch.started_at

    # --- batches ------------------------------------------------------------------------------------------------------

    def next_ordinal(self, provider: str) -> int:
        """The ordinal the provider's next batch will have, from 1."""
        with self.lock:
            return 1 + self._created[provider]

    def new_batch(self, batch_id: str, provider: str, *, envelope: Envelope, dialect: Dialect, path: str, model: str | None) -> Batch:
        """A new batch, its faults chosen, not yet registered.

        Args:
            provider: the kind of its service.
            path: of the call that creates it.
        """
        now, ordinal = self.clock.time(), self.next_ordinal(provider)
        event = Event(provider=provider, path=path, model=model, batch=ordinal, lane="batch")
        created = {rule.do: rule for rule in self.faults.take("create", CREATE_FAULTS, event, batch_id)}
        landing, hidden, lagging = created.get("late_landing"), created.get("hidden"), created.get("list_lag")
        return Batch(
            id=batch_id,
            ordinal=ordinal,
            provider=provider,
            created_at=now + (float(landing.get("after_s", 60)) if landing else 0.0),
            pace=self.settings.pace,
            folder=self.folder,
            envelope=envelope,
            dialect=dialect,
            rules=[rule for point, among in _FATES.items() for rule in self.faults.take(point, among, event, batch_id)],
            model=model,
            get_from=now + float(hidden.get("for_s", 10)) if hidden else 0.0,
            list_from=now + (float(lagging.get("for_s", 10)) if lagging else self.settings.list_lag_s),
            twice="twice" in created,
            late_status=int(landing.get("status", 0)) if landing else None,
        )

    def add_batch(self, batch: Batch, prepare: Callable[[Batch], None]) -> None:
        """Register a batch and have `prepare` (validate, then answer) run by a worker."""
        with self.lock:
            self._batches[batch.id] = batch
            self._created[batch.provider] += 1
        self._workers.submit(self._run, batch, prepare)

    @staticmethod
    def _run(batch: Batch, prepare: Callable[[Batch], None]) -> None:
        try:
            prepare(batch)
        except BaseException as error:
            # The next look at the batch raises the exception; else the batch would never move.
            batch.work.set_exception(error)
            raise
        batch.work.set_result(None)

    def batch(self, batch_id: str, provider: str) -> Batch | None:
        """A batch that GET can see."""
        batch = self._batches.get(batch_id)
        now = self.clock.time()
        if batch is None or batch.provider != provider or batch.deleted or now < max(batch.created_at, batch.get_from):
            return None
        return batch

    def batches(self, provider: str | None = None) -> list[Batch]:
        """Those that exist by now, newest first."""
        now = self.clock.time()
        with self.lock:
            landed = [batch for batch in self._batches.values() if not batch.deleted and batch.created_at <= now]
        wanted = [batch for batch in landed if provider is None or batch.provider == provider]
        return sorted(wanted, key=lambda batch: (batch.created_at, batch.ordinal), reverse=True)

    def listed(self, provider: str) -> list[Batch]:
        """Those that a list shows, newest first."""
        now = self.clock.time()
        return [batch for batch in self.batches(provider) if batch.list_from <= now]

    async def catch_up(self, batches: Iterable[Batch], patience_s: float | None = _PATIENCE_S) -> None:
        """Wait a little for the worker if the clock is ahead of it, so that a small batch follows the clock."""
        now = self.clock.time()
        late = [asyncio.wrap_future(batch.work) for batch in batches if batch.is_due(now)]
        if late:
            await asyncio.wait(late, timeout=patience_s)

    def wait(self) -> None:
        """Return when every batch has been answered as far as the clock has come."""
        now = self.clock.time()
        for batch in self.batches():
            if batch.is_due(now):
                batch.work.result()

    def slips(self) -> list[Slip]:
        """What is paid until now."""
        self.wait()
        now = self.clock.time()
        oldest_first = reversed(self.batches())
        return [*(batch.slip(now) for batch in oldest_first if batch.bill_path.exists()), self.realtime_bill.slip()]
