"""Place: where a table lies, and the name of a partition in its path.

Local files go to Arrow's own reader, not through fsspec's Python layer.
"""

import hashlib
import os
from dataclasses import dataclass, replace
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import pyarrow as pa

from keld.errors import KeldError, SourceError, SourceUnavailable

PathLike: TypeAlias = "str | os.PathLike[str]"  # a UPath too, though a remote one is no os.PathLike
_SEGMENT = 150  # bytes of a key in a path; file systems end a name at 255
FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".ndjson": "jsonl",
    ".ndjson.gz": "jsonl",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A path; `fs` is its fsspec file system, or None for a local one."""

    path: str
    fs: Any = None

    @property
    def uri(self) -> str:
        return os.path.abspath(self.path) if self.fs is None else str(self.fs.unstrip_protocol(self.path))

    def filled(self, partition: str | None, error: type[KeldError]) -> "Place":
        if "{partition}" not in self.path:
            return self
        if partition is None:
            raise error(f"{self.uri}: the path asks for a partition and there is none. Give partition=, or a whole path.")
        return replace(self, path=self.path.replace("{partition}", segment(partition)))

    def is_dir(self) -> bool:
        return os.path.isdir(self.path) if self.fs is None else bool(self.fs.isdir(self.path))

    def files(self) -> list["Place"]:
        """All below a directory, sorted by path; hidden ones (`.` or `_` first, as Spark has it) left out."""
        if self.fs is None:
            found = [os.path.join(folder, name) for folder, _, names in os.walk(self.path) for name in names]
        else:
            found = self.fs.find(self.path)
        places = [replace(self, path=path) for path in sorted(found)]
        return [place for place in places if not any(part[:1] in "._" for part in self.parts_to(place))]

    def parts_to(self, file: "Place") -> list[str]:
        return [part for part in file.path[len(self.path) :].replace(os.sep, "/").split("/") if part]

    def open(self) -> Any:
        """Its bytes, unzipped; reads ahead as a text reader wants it."""
        file = pa.OSFile(self.path, mode="r") if self.fs is None else pa.PythonFile(self.fs.open(self.path, "rb"), mode="r")
        return pa.CompressedInputStream(file, "gzip") if self.path.endswith(".gz") else file


def is_upath(source: Any) -> bool:
    return hasattr(source, "protocol") and hasattr(source, "fs") and hasattr(source, "path")


def place_of(source: Any, fault: type[KeldError] = SourceError) -> Place:
    """Where `source` is.  The partition is filled in later: unquoting a `file:` URI must never touch the key."""
    if not is_upath(source):
        text = os.fspath(source)
        if text.startswith("file:"):
            return Place(url2pathname(urlsplit(text).path))
        if "://" not in text:
            return Place(text)
        from upath import UPath  # brings fsspec, which a local path does without

        source = UPath(text)
    if source.protocol in ("", "file", "local"):
        return Place(source.path)
    try:
        source.fs.invalidate_cache()  # a listing from before the upstream wrote would hide its files
    except Exception as error:
        raise fault(f"{source}: the file system does not open: {error}. Check its package and access.") from error
    return Place(source.path, source.fs)


def segment(key: str) -> str:
    """A key as one path segment, two keys never the same: percent-encoded, no leading dot, at most 150 bytes."""
    text = quote(key, safe="=@+, ", errors="surrogatepass").replace(" ", "%20")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) > _SEGMENT:  # `%-` follows no rule of percent-encoding, so that no other key can spell it
        return f"{text[:100]}%-{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:32]}"
    return text or "%-"


def form_of(path: str) -> str | None:
    """The format by the suffix; None without a suffix."""
    name = path.replace(os.sep, "/").rsplit("/", 1)[-1].lower()
    known = next((form for suffix, form in FORMATS.items() if name.endswith(suffix)), None)
    return known or (os.path.splitext(name.lstrip("."))[1] or None)


def unreadable(place: Place, error: Exception) -> SourceError:
    if isinstance(error, FileNotFoundError) and "*" in place.path:
        return SourceError(f"{place.uri}: no such file, and patterns are not expanded. Nothing was sent. Give the directory.")
    if isinstance(error, FileNotFoundError):
        return SourceUnavailable(f"{place.uri}: no such file. Nothing was sent. Check the path and the partition's key.")
    return SourceUnavailable(f"{place.uri}: cannot be read: {error}. Nothing was sent. Check access, and that it is whole.")
