"""Bucket: the objects of the emulator's bucket stores, whatever face they are spoken to by.

The services' faces, and services that read or write a customer's bucket -> **`bucket`** -> files of the emulator's folder.
A bucket exists as soon as it is named.  An object appears whole or not at all; an overwritten or deleted one stays on disk until the emulator
stops, since a reply may still be reading it.

    store.objects.write("s3", "bucket", "in/rows.jsonl", b"...")
    store.objects.read("s3", "bucket", "in/rows.jsonl")
"""

import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from .clock import Clock

Check = Callable[["StoredObject | None"], None]
"""Called with what has the name now, while nobody else can change it; raises if the write must not be."""


def place_of(uri: str) -> tuple[str, str, str]:
    """(scheme, bucket, name) of an object's address."""
    scheme, _, rest = uri.partition("://")
    bucket, _, name = rest.partition("/")
    return scheme, bucket, name


class NoSuchObject(LookupError):
    """No object has this name."""


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One version of an object.

    Args:
        md5: of its bytes, in hex.
        etag: without quotes; the MD5, unless it was written in parts.
        generation: larger than that of every earlier version of any object.
        listed_from: unix seconds; before it the object can be read, but is not listed.
        metadata: the writer's own, without the prefix of its header.
    """

    name: str
    path: Path
    size_bytes: int
    md5: str
    etag: str
    generation: int
    modified_at: float
    listed_from: float
    media_type: str = "application/octet-stream"
    metadata: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        return f"<StoredObject {self.name} {self.size_bytes:,} bytes>"

    def read(self) -> bytes:
        return self.path.read_bytes()


class Buckets:
    """Every object, by the scheme of its cloud (`s3`, `gs`), its bucket and its name.

    Attributes:
        on_delete: called with the address of an object that was deleted.
    """

    def __init__(self, *, clock: Clock, folder: Path) -> None:
        self._clock, self._folder = clock, folder / "objects"
        self._lock = threading.RLock()
        self._objects: dict[tuple[str, str], dict[str, StoredObject]] = {}
        self._generation = 0
        self.on_delete: Callable[[str], None] | None = None

    def read(self, scheme: str, bucket: str, name: str) -> bytes:
        """The bytes of an object.

        Raises:
            NoSuchObject: there is none.
        """
        found = self.find(scheme, bucket, name)
        if found is None:
            raise NoSuchObject(f"{scheme}://{bucket}/{name}")
        return found.read()

    def write(self, scheme: str, bucket: str, name: str, data: bytes) -> StoredObject:
        """Put an object there, over what has its name."""
        path = self.new_path()
        path.write_bytes(data)
        return self.keep(scheme, bucket, name, path)

    def find(self, scheme: str, bucket: str, name: str) -> StoredObject | None:
        return self._objects.get((scheme, bucket), {}).get(name)

    def new_path(self) -> Path:
        """Where the bytes of a new object may be written."""
        self._folder.mkdir(exist_ok=True)
        return self._folder / secrets.token_hex(12)

    def keep(
        self,
        scheme: str,
        bucket: str,
        name: str,
        path: Path,
        *,
        check: Check | None = None,
        etag: str | None = None,
        media_type: str = "application/octet-stream",
        metadata: Mapping[str, str] | None = None,
        list_lag_s: float = 0.0,
    ) -> StoredObject:
        """Make the file at `path`, which is whole and is not written again, an object; `check` may forbid it."""
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        with self._lock:
            objects = self._objects.setdefault((scheme, bucket), {})
            if check is not None:
                check(objects.get(name))
            now = self._clock.time()
            self._generation = max(self._generation + 1, int(now * 1e6))
            made = StoredObject(
                name=name,
                path=path,
                size_bytes=path.stat().st_size,
                md5=md5,
                etag=etag or md5,
                generation=self._generation,
                modified_at=now,
                listed_from=now + list_lag_s,
                media_type=media_type,
                metadata=MappingProxyType(dict(metadata or {})),
            )
            objects[name] = made
        return made

    def delete(self, scheme: str, bucket: str, name: str, check: Check | None = None) -> bool:
        """True if there was an object of this name; `check` may forbid it."""
        with self._lock:
            objects = self._objects.get((scheme, bucket), {})
            if check is not None:
                check(objects.get(name))
            was_there = objects.pop(name, None) is not None
        if was_there and self.on_delete is not None:
            self.on_delete(f"{scheme}://{bucket}/{name}")
        return was_there

    def listed(self, scheme: str, bucket: str, prefix: str = "", after: str = "") -> list[StoredObject]:
        """The objects that a list shows, by the bytes of their names: those that begin with `prefix` and come behind `after`."""
        now = self._clock.time()
        with self._lock:
            found = [one for one in self._objects.get((scheme, bucket), {}).values() if one.name.startswith(prefix)]
        shown = [one for one in found if one.listed_from <= now and one.name.encode() > after.encode()]
        return sorted(shown, key=lambda one: one.name.encode())
