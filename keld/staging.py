"""Staging: the files of a job run, and how they are written so that a crash leaves the last good state.

Beside the road, below `runner`.  Names come from ids that Keld made (hex, a-z0-9), never from a partition key, a custom_id or a
provider's file name, so no text from outside can become a path.  Every file appears complete: temporary name, fsync, rename, fsync
of the directory; its digest goes to the ledger afterwards.  Staging holds prompts and answers: keep it as private as the table.

    <root>/<job run id>/question.json        what all rows share
                        snapshot.parquet     the rows as they were asked, each with its prompt
                        reused-*.parquet     answers that earlier job runs paid for
                        ledger.jsonl         what the ledger says about it (see `witness`)
                        twins.npy            which rows take the answer of another one with the same prompt
                        unsent.parquet       outcomes of rows that are too large for any batch
                        stopped.parquet      outcomes of rows that were not asked because the probe was refused
                        <shard id>/positions.npy, input.jsonl or journal.jsonl, refusal.txt, result-0.jsonl ..., answers.parquet

Where `KELD_STAGING` names a bucket, the root is a private folder of this process, and the same files are objects as well (`stored`): a path is fetched
as it is asked for, and a file that was written is handed to `keep` before the step is recorded.  Without a bucket `keep` does nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from keld.background import Background
from keld.errors import StagingError, UnsupportedSystem
from keld.failpoint import failpoint
from keld.stored import Segments, Store, Stored, StoredName

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ID = re.compile(r"[a-z0-9]{10,32}")


@dataclass(frozen=True, slots=True)
class ShardFiles:
    """Where one shard's files are."""

    dir: Path
    stored: Stored | None = None

    @property
    def positions(self) -> Path:
        return self._at("positions.npy")

    @property
    def input(self) -> Path:
        return self.dir / "input.jsonl"

    @property
    def answers(self) -> Path:
        return self._at("answers.parquet")

    @property
    def journal(self) -> Path | Segments:
        """The journal of a fast lane: a file, or numbered objects."""
        return self.dir / "journal.jsonl" if self.stored is None else self.stored.segments(self.dir.name)

    @property
    def refusal(self) -> Path:
        """The provider's message when it refused this shard's file."""
        return self._at("refusal.txt")

    def result(self, n: int) -> Path:
        return self._at(f"result-{n}.jsonl")

    @property
    def results(self) -> list[Path]:
        """The result files that there are."""
        if self.stored is not None:
            for name in self.stored.matching(f"{self.dir.name}/result-*.jsonl"):
                self.stored.fetch(name)
        return sorted(self.dir.glob("result-*.jsonl"))

    def drop_read(self) -> None:
        """Removes the results and the journal here, when every answer in them is in the answers file."""
        for path in [*self.dir.glob("result-*.jsonl"), *self.dir.glob("journal.*")]:
            path.unlink(missing_ok=True)

    def _at(self, name: str) -> Path:
        if self.stored is not None:
            self.stored.fetch(f"{self.dir.name}/{name}")
        return self.dir / name


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Where one job run's files are."""

    dir: Path
    stored: Stored | None = None

    @property
    def question(self) -> Path:
        return self._at("question.json")

    @property
    def snapshot(self) -> Path:
        return self._at("snapshot.parquet")

    @property
    def reused(self) -> list[Path]:
        if self.stored is not None:
            return [self._at(name) for name in self.stored.matching("reused-*.parquet")]
        return sorted(self.dir.glob("reused-*.parquet"))

    def reused_from(self, source: int) -> Path:
        return self._at(f"reused-{source:03d}.parquet")

    @property
    def record(self) -> Path:
        return self.dir / "ledger.jsonl"

    @property
    def duplicates(self) -> Path:
        return self._at("twins.npy")

    @property
    def stopped(self) -> Path:
        return self._at("stopped.parquet")

    @property
    def unsent(self) -> Path:
        return self._at("unsent.parquet")

    def leftovers(self, before: datetime) -> list[Path]:
        """Temporary files and directories not modified since an instant: they are hidden, and no valid file is."""
        found = (path for path in [*self.dir.glob(".*"), *self.dir.glob("*/.*")] if not path.parent.name.startswith("."))
        return sorted(path for path in found if path.stat().st_mtime < before.timestamp())

    def shard(self, shard_id: str) -> ShardFiles:
        return ShardFiles(_inside(self.dir, shard_id), self.stored)

    def keep(self, *paths: Path) -> None:
        """Puts files that were just written where every worker can read them, as soon as `naming` names them; those that do not exist are left out.

        Raises:
            StagingError: the bucket cannot be written; nothing of the step was recorded.
        """
        if self.stored is not None:
            for path in paths:
                if path.exists():
                    self.stored.keep(path)

    @contextlib.contextmanager
    def naming(self) -> Iterator[Mapping[str, StoredName]]:
        """What was kept since the last commit, for the ledger to name in the block; nothing where files are shared as they are."""
        if self.stored is None:
            yield {}
            return
        with self.stored.naming() as kept:
            yield kept

    def forget_local(self) -> None:
        """Removes local copies of a job run that is over."""
        if self.stored is not None:
            self.stored.store.forget(self.dir.name)

    def _at(self, name: str) -> Path:
        if self.stored is not None:
            self.stored.fetch(name)
        return self.dir / name


@dataclass(frozen=True, slots=True)
class Staging:
    """The root under which every job run has its directory.

    Args:
        store: the bucket that has the files, so that the root is only this process's; None: the root is shared by all workers.

    Raises:
        UnsupportedSystem: on Windows.
    """

    root: Path
    store: Store | None = None

    def __post_init__(self) -> None:
        check_system(os.name)

    @property
    def shown(self) -> str:
        """Where it is, for people."""
        return str(self.root) if self.store is None else self.store.bucket.uri

    def run(self, run_id: str) -> RunFiles:
        folder = _inside(self.root, run_id)
        if self.store is None:
            return RunFiles(folder)
        with disk_errors(folder, "Nothing was sent."):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return RunFiles(folder, self.store.run(run_id))

    def run_ids(self) -> list[str]:
        """The ids of the job runs that have a directory here."""
        return sorted(path.name for path in self.root.glob("*") if _ID.fullmatch(path.name) and path.is_dir())

    def make(self, run_id: str) -> RunFiles:
        """The directory of a new job run, empty.

        Raises:
            StagingError: it cannot be made.
        """
        files = self.run(run_id)
        with disk_errors(files.dir, "Nothing was sent."):
            files.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        return files

    def drop(self, run_id: str) -> None:
        """Removes a job run's files, if they are there."""
        if self.store is not None:
            self.store.drop(run_id)
        shutil.rmtree(_inside(self.root, run_id), ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is complete and durable, and not yet at its place."""

    path: Path
    temporary: Path
    sha256: str

    def land(self, failpoint_name: str) -> str:
        """The sha256 of the file, which is at `path` afterwards."""
        try:
            failpoint(f"{failpoint_name}.rename")
            self.temporary.replace(self.path)
        except BaseException:
            self.drop()
            raise
        fsync_dir(self.path.parent)
        failpoint(f"{failpoint_name}.done")
        return self.sha256

    def drop(self) -> None:
        """Removes it, if it is there."""
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)


def draft(path: Path, chunks: Iterable[bytes | memoryview], failpoint_name: str | None = None) -> Draft:
    """A draft of the file at `path`; after an error nothing of it is left.

    Args:
        chunks: of some megabytes: each is hashed and written while the next one is made.
        failpoint_name: None in a thread beside the one that acts, so that what happens at a failpoint happens there.

    Raises:
        OSError: disk full, no rights.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    digest = hashlib.sha256()
    try:
        if failpoint_name is not None:
            failpoint(f"{failpoint_name}.write")
        with made.open("wb") as file:
            with Background(file.write) as written, Background(digest.update) as hashed:
                for chunk in chunks:
                    written.put(chunk)
                    hashed.put(chunk)
            file.flush()
            if failpoint_name is not None:
                failpoint(f"{failpoint_name}.fsync")
            os.fsync(file.fileno())
    except BaseException:
        with contextlib.suppress(OSError):
            made.unlink(missing_ok=True)
        raise
    return Draft(path, made, digest.hexdigest())


def write_file(path: Path, chunks: Iterable[bytes | memoryview], failpoint_name: str) -> str:
    """The sha256 of `chunks`, which are at `path` afterwards, complete and durable; after an error the old file is unchanged.

    Args:
        chunks: as `draft` takes them.

    Raises:
        OSError: disk full, no rights.
    """
    return draft(path, chunks, failpoint_name).land(failpoint_name)


def write_positions(path: Path, positions: NDArray[np.int64]) -> None:
    """Writes the positions of the rows that a shard asks, ascending."""
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, positions)
    write_file(path, [buffer.getvalue()], "staging.positions")


def read_positions(path: Path) -> NDArray[np.int64]:
    """The positions of the rows that a shard asks, ascending.

    Raises:
        StagingError: the file is gone or broken.
    """
    import numpy as np

    try:
        positions: NDArray[np.int64] = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise StagingError(
            f"{path} cannot be read ({error}), so it is not known which rows this shard asks. Nothing more was sent. "
            "Restore the staging directory; batches under way are safe in the ledger."
        ) from None
    return positions


def sha256_of(path: Path) -> str | None:
    """The digest of a file; None if there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def check_system(name: str) -> None:
    """Passes if Keld can run on an operating system, by Python's name for its kind (`os.name`).

    Raises:
        UnsupportedSystem: it cannot.
    """
    # A directory cannot be made durable on Windows, and the check whether a process is dead (`os.kill(pid, 0)`) kills it there.
    if name != "posix":
        raise UnsupportedSystem("Keld runs on Linux and macOS. Nothing was sent. On Windows, run it in WSL.")


def fsync_dir(path: str | Path) -> None:
    """Makes what was just created, renamed or removed in this directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path, consequence: str) -> Iterator[None]:
    """Turns an `OSError` of staging into a `StagingError` that says whether anything was sent."""
    try:
        yield
    except OSError as error:
        raise StagingError(
            f"Staging at {path}: {error.strerror or error}. {consequence} What was written before is complete. "
            "Free space on the disk or set KELD_HOME to another one, and run the same command again."
        ) from error


def _inside(root: Path, name: str) -> Path:
    if not _ID.fullmatch(name):
        raise StagingError(f"{name!r} is not an id that Keld made; it is not used as a path.")
    return root / name
