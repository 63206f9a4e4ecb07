"""Stored: the files of a job run as objects of a bucket, for workers that share no disk.

Below `staging`, which has none of this where `KELD_STAGING` is not set: then a file is a file.  With a bucket, every worker has a folder of its own,
private to its process, that may vanish at any moment; everything in it can be made or fetched again.

The ledger's commit is the rename.  A file is written in the folder as ever, then uploaded under a name that no other writer has
(`keep`), and the transaction that records the step names that object and its digest, under the lease (`naming`).  What the ledger does not
name does not exist: a worker that lost its lease, or died before the commit, leaves an object that nobody reads, until `keld gc` removes it.

    <bucket>/<job run id>/question.json.<nonce>, snapshot.parquet.<nonce>, reused-*, twins.npy, unsent.parquet, stopped.parquet
                          <shard id>/positions.npy.<nonce>, answers.parquet.<nonce>, refusal.txt.<nonce>, result-0.jsonl.<nonce>
                          <shard id>/j/00000001, ...   the journal of a fast lane (see `Segments`)
                          w/...                        what the ledger says about it, and out/ beside the job runs (see `ledger/witness_object`)

A shard's `input.jsonl` is not stored, since the snapshot gives the same bytes again; nor are results that were read at once, since the provider
has them.  A file is fetched when its path is first asked for; a look at a provider needs none, and fetches none.
"""

import hashlib
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from keld import process
from keld.errors import StagingError
from keld.failpoint import failpoint
from keld.objects import AccessDenied, Bucket, NoSuchObject, ObjectError, ObjectInfo, WrongRegion

_SMALL_BYTES = 4 << 20  # goes up in one request
_CHUNK_BYTES = 1 << 20
SILENT_S = 120.0  # of one request: as long as `objects` may try
_SCRATCH = "keld-scratch-"
RECORDS, MARKS = "w", "out"


class StoredName(msgspec.Struct, frozen=True, kw_only=True):
    """The object that a file of a job run is, as the ledger names it."""

    object: str
    sha256: str
    size_bytes: int


Names = Callable[[str], Mapping[str, StoredName]]
"""A job run's id -> the object that each of its files is, by the file's name."""


class Store:
    """The bucket of an environment, and the local folder of this process.

    Args:
        names: what the ledger names.
        beat: told before each request how many seconds it may be silent.
        scratch: the directory in which the local folder is made; None: the system's for temporary files.
    """

    def __init__(self, bucket: Bucket, names: Names, beat: Callable[[float], None], scratch: Path | None = None) -> None:
        self.bucket, self.names, self.beat = bucket, names, beat
        parent = scratch or Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        _remove_dead(parent)
        # Prompts and answers are in it: it is readable by this user only, and removed when the process ends well, or by the next one.
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{process.mark()}-", dir=parent)
        self._local: dict[str, _Local] = {}
        self._lock = threading.Lock()

    @property
    def root(self) -> Path:
        """The local folder, which may have been removed meanwhile."""
        return Path(self._folder.name)

    def run(self, run_id: str) -> "Stored":
        """The files of one job run, as seen under one lease."""
        with self._lock:
            local = self._local.setdefault(run_id, _Local())
        return Stored(self, run_id, self.root / run_id, local)

    def close(self) -> None:
        """Removes the local folder."""
        self._folder.cleanup()

    def objects(self) -> Iterator[tuple[str, str, ObjectInfo]]:
        """(job run id, name below it, object) of everything that is in the bucket."""
        with bucket_errors("Nothing was removed."):
            for name, info in self.bucket.entries():
                run_id, _, rest = name.partition("/")
                if run_id != MARKS:
                    yield run_id, rest, info

    def drop(self, run_id: str) -> None:
        """Removes a job run's objects, and its local files."""
        self.forget(run_id)
        with bucket_errors("Nothing was removed."):
            names = list(self.bucket.names(run_id))
        self.remove(names)

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects, by their names in the bucket."""
        with bucket_errors("Some of the objects are left; they are removed the next time."):
            for name in names:
                failpoint("object.delete")
                self.beat(SILENT_S)
                self.bucket.delete(name)

    def forget(self, run_id: str) -> None:
        """Removes a job run's local files, which can be fetched again."""
        shutil.rmtree(self.root / run_id, ignore_errors=True)
        with self._lock:
            self._local.pop(run_id, None)


@dataclass
class _Local:
    """Which object each local file is, as long as the file is untouched since."""

    files: dict[str, tuple[str, tuple[int, int, int]]] = field(default_factory=dict)

    def has(self, name: str, of: str, path: Path) -> bool:
        return self.files.get(name) == (of, identity(path))

    def note(self, name: str, of: str, path: Path) -> None:
        self.files[name] = (of, identity(path))


class Stored:
    """One job run's files: objects of the bucket, copied to a local folder when they are first needed.

    Names are relative to the job run, as `question.json` or `<shard id>/answers.parquet`.
    """

    def __init__(self, store: Store, run_id: str, folder: Path, local: _Local) -> None:
        self.store, self._run_id, self.folder, self._local = store, run_id, folder, local
        self._named: dict[str, StoredName] | None = None  # read at the first need
        self._kept: dict[str, StoredName] = {}  # uploaded, and not named yet
        self._seen: set[str] = set()

    def __repr__(self) -> str:
        return f"<Stored {self.store.bucket.uri}/{self._run_id}>"

    @property
    def _names(self) -> dict[str, StoredName]:
        if self._named is None:
            self._named = dict(self.store.names(self._run_id))
        return self._named

    def fetch(self, name: str) -> None:
        """Afterwards the local file is what the ledger names; if it names nothing, there is none, unless it was made under this lease.

        Raises:
            StagingError: it cannot be fetched, or is not what the ledger says.
        """
        path, named = self.folder / name, self._names.get(name)
        if name in self._seen and (named is None or path.exists()):
            return
        self._seen.add(name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if named is None:
            path.unlink(missing_ok=True)  # a leftover of a step that was never recorded
        elif not self._local.has(name, named.object, path):
            self._download(name, named, path)

    def matching(self, pattern: str) -> list[str]:
        """The names of the files that there are, by a pattern as of a shell."""
        return sorted(name for name in {**self._names, **self._kept} if fnmatchcase(name, pattern))

    def keep(self, path: Path) -> None:
        """Uploads a file that was just written; the next step that is recorded names it."""
        name = path.relative_to(self.folder).as_posix()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size, target = path.stat().st_size, f"{self._run_id}/{name}.{secrets.token_hex(8)}"
        failpoint("object.put.send")
        with bucket_errors("Nothing of this step was recorded, and it is done again."):
            if size <= _SMALL_BYTES:
                self.store.beat(SILENT_S)
                self.store.bucket.put(target, path.read_bytes())
            else:
                self.store.bucket.upload(target, self._chunks(path))
        failpoint("object.put.received")
        self._seen.add(name)
        self._local.note(name, target, path)
        self._kept[name] = StoredName(object=target, sha256=digest, size_bytes=size)

    @contextmanager
    def naming(self) -> Iterator[Mapping[str, StoredName]]:
        """The objects that were uploaded since the last commit, for the transaction in the block to name."""
        kept = dict(self._kept)
        yield kept
        if kept:
            self._names.update(kept)
            self._kept.clear()

    def segments(self, shard_id: str) -> "Segments":
        """The journal of a shard."""
        return Segments(self.store, f"{self._run_id}/{shard_id}/j", self.folder / shard_id / "journal.jsonl")

    def _download(self, name: str, named: StoredName, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        digest = hashlib.sha256()
        try:
            failpoint("object.get.send")
            with bucket_errors("Nothing was sent."), self.store.bucket.open(named.object) as piece, temporary.open("wb") as file:
                self.store.beat(SILENT_S)
                for chunk in piece.chunks:
                    digest.update(chunk)
                    file.write(chunk)
                    self.store.beat(SILENT_S)
            if digest.hexdigest() != named.sha256:
                raise StagingError(
                    f"{self.store.bucket.address(named.object)} is not what the ledger says it is ({named.size_bytes:,} bytes). "
                    "Nothing was sent. Restore the object, or submit the job run again."
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        failpoint("object.get.received")
        self._local.note(name, named.object, path)

    def _chunks(self, path: Path) -> Iterator[bytes]:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                self.store.beat(SILENT_S)
                yield chunk


class Segments:
    """A journal as numbered objects, each created once: whoever creates a number is the only writer until then.

    They stay until `keld gc` removes the job run: were they removed when it is over, the next number of a worker that was paused before would
    be free, and nothing would tell it that another one has taken over.

    Args:
        prefix: of their names.
        local: where the answers are put together to be read.
    """

    def __init__(self, store: Store, prefix: str, local: Path) -> None:
        self._store, self._prefix, self.local = store, prefix, local

    def __str__(self) -> str:
        return self._store.bucket.address(self._prefix)

    def create(self, n: int, data: bytes) -> bool:
        """True if segment `n` has these bytes now, durably; False: it has others."""
        with bucket_errors("What was answered before is kept."):
            return self._store.bucket.create(self._name(n), data)

    def read(self, n: int) -> bytes | None:
        """Segment `n`; None: there is none."""
        with bucket_errors("What was answered is kept."):
            try:
                return self._store.bucket.read(self._name(n))
            except NoSuchObject:
                return None

    def all(self) -> Iterator[bytes]:
        """Every segment, in order.  Each is asked for by its number: a list may lag behind."""
        n = 1
        while (data := self.read(n)) is not None:
            self._store.beat(SILENT_S)
            yield data
            n += 1

    def _name(self, n: int) -> str:
        return f"{self._prefix}/{n:08d}"


@contextmanager
def bucket_errors(consequence: str) -> Iterator[None]:
    """Turns an error of the bucket into a `StagingError` that says whether anything was sent."""
    try:
        yield
    except ObjectError as error:
        match error:
            case AccessDenied():
                do = "Give this worker's identity the right to read, write, list and delete there, and run the same command again."
            case WrongRegion():
                do = "Set AWS_REGION to the region of the bucket, and run the same command again."
            case _:
                do = "Run the same command again."
        raise StagingError(f"Staging at {error}. {consequence} {do}") from None


def is_unnamed(name: str) -> bool:
    """True for objects that the ledger does not name and that count all the same: segments of a journal, and records of the ledger itself.

    Args:
        name: below the job run's.
    """
    return fnmatchcase(name, "*/j/*") or name.startswith(f"{RECORDS}/")


def identity(path: Path) -> tuple[int, int, int]:
    """Of a file, the same as long as nothing is written to it or put in its place; zeros if there is none."""
    with suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return 0, 0, 0


def _remove_dead(parent: Path) -> None:
    """Removes the folders of processes of this machine that were killed."""
    for path in parent.glob(f"{_SCRATCH}*"):
        if process.is_dead_mark(path.name.removeprefix(_SCRATCH).rpartition("-")[0]):
            shutil.rmtree(path, ignore_errors=True)
