"""Landing: a file while it is written; it appears complete or not at all."""

import hashlib
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from keld.errors import KeldError
from keld.process import is_dead_mark, mark
from keld.staging import fsync_dir
from keld.table.place import Place

# Object stores on which an fsspec file appears in one step when it is closed; on others a temporary file is renamed.
_WHOLE_ON_CLOSE = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"))

_LEFT = re.compile(r"\.keld-([0-9a-f]{12}-[0-9]+)-[0-9a-f]{16}\.tmp").fullmatch


class Landing:
    """A file that Arrow writes to: it counts and hashes the bytes, and appears complete or not at all."""

    closed = False  # Arrow asks

    def __init__(self, place: Place, fault: Callable[[Place, Exception], KeldError]) -> None:
        self._place, self._fault = place, fault
        self._file: Any = None
        self._hash, self._size = hashlib.sha256(), 0
        self._temporary = self._temporary_path()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _temporary_path(self) -> str:
        """A hidden name beside the target: a rename is atomic only within a file system, and readers skip hidden files."""
        fs = self._place.fs
        if fs is not None and _WHOLE_ON_CLOSE.intersection([fs.protocol] if isinstance(fs.protocol, str) else fs.protocol):
            return self._place.path
        folder, slash, _ = self._place.path.rpartition("/")
        return f"{folder}{slash}.keld-{mark()}-{secrets.token_hex(8)}.tmp"

    def __enter__(self) -> "Landing":
        try:
            if self._place.fs is None:
                _make_dirs(os.path.dirname(self._temporary) or ".")
                _remove_left(os.path.dirname(self._temporary) or ".")
                self._file = open(self._temporary, "xb", buffering=1 << 20)
            else:
                self._file = self._place.fs.open(self._temporary, "wb")
        except Exception as error:  # every fsspec file system has its own
            raise self._fault(self._place, error) from error
        return self

    def write(self, data: Any) -> int:
        if self._file is None:  # already abandoned; a Parquet writer still writes its footer when it is garbage collected
            return len(data)
        self._hash.update(data)
        self._size += len(data)
        try:
            self._file.write(data)
        except Exception as error:
            raise self._fault(self._place, error) from error
        return len(data)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Does nothing: the file is flushed once, at its end."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._give_up()
            return
        try:
            self._land()
        except Exception as failure:
            self._give_up()
            raise self._fault(self._place, failure) from failure

    def _land(self) -> None:
        if self._place.fs is None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self._place.path)
            fsync_dir(os.path.dirname(self._place.path) or ".")
            return
        self._file.close()
        if self._temporary != self._place.path:
            self._place.fs.mv(self._temporary, self._place.path)

    def _give_up(self) -> None:
        file, self._file = self._file, None
        # The user must see the first error; cleaning up may fail for the same reason.
        with suppress(Exception):
            if self._temporary == self._place.path:
                file.discard()
                file.closed = True  # fsspec's finaliser would upload the incomplete file
                return
            with suppress(Exception):
                file.close()
            os.unlink(self._temporary) if self._place.fs is None else self._place.fs.rm(self._temporary)


def _make_dirs(path: str) -> None:
    """As `os.makedirs`, but the new directories survive a power cut."""
    if not os.path.isdir(path):
        parent = os.path.dirname(path.rstrip("/")) or "."
        _make_dirs(parent)
        with suppress(FileExistsError):
            os.mkdir(path)
        fsync_dir(parent)


def _remove_left(folder: str) -> None:
    """Removes incomplete files of writers that are proven dead; errors are ignored, since they do not concern this file."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _LEFT(entry.name)
            if found and is_dead_mark(found[1]):
                with suppress(OSError):
                    os.unlink(entry.path)
