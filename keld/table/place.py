"""Place: where a table is, and the name of a partition in its path.

Local files are read by Arrow's own reader, not through fsspec's Python layer.
"""

import os
import re
from contextlib import closing
from dataclasses import dataclass, replace
from glob import glob
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import pyarrow as pa

from keld.errors import KeldError, SourceError, SourceUnavailable
from keld.path import FORMATS, PACKINGS, filled_path, suffix_of

PathLike: TypeAlias = "str | os.PathLike[str]"  # a UPath, too, although a remote one is not an os.PathLike

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "abfs": "adlfs", "abfss": "adlfs", "az": "adlfs", "adl": "adlfs"}
_CREDENTIALS = re.compile(r"//[^/@]*@")
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}


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
            raise error(
                f"{self.uri}: the path needs a partition and none is given. Nothing was sent. Give partition=, or a path without {{partition}}."
            )
        return replace(self, path=filled_path(self.path, partition))

    def is_dir(self) -> bool:
        return os.path.isdir(self.path) if self.fs is None else bool(self.fs.isdir(self.path))

    def files(self) -> list["Place"]:
        """All files below a directory, sorted by path, without hidden ones (`.` or `_` first, as in Spark)."""
        if self.fs is None:
            found = [os.path.join(folder, name) for folder, _, names in os.walk(self.path) for name in names]
        else:
            found = self.fs.find(self.path)
        places = [replace(self, path=path) for path in sorted(found)]
        return [place for place in places if not any(part[:1] in "._" for part in self.parts_to(place))]

    def parts_to(self, file: "Place") -> list[str]:
        return [part for part in file.path[len(self.path) :].replace(os.sep, "/").split("/") if part]

    @property
    def name(self) -> str:
        return self.path.replace(os.sep, "/").rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> "Place":
        return replace(self, path=self.path.replace(os.sep, "/").rstrip("/").rpartition("/")[0] or ("/" if self.path[:1] == "/" else "."))

    def child(self, name: str) -> "Place":
        return replace(self, path=f"{self.path.rstrip('/')}/{name}")

    def exists(self) -> bool:
        return os.path.exists(self.path) if self.fs is None else bool(self.fs.exists(self.path))

    def names(self) -> list[str]:
        """The names in a directory; empty if it does not exist."""
        try:
            found = os.listdir(self.path) if self.fs is None else [str(path) for path in self.fs.ls(self.path, detail=False)]
        except OSError:  # it does not exist, is a file, or may not be listed
            return []
        return sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in found)

    def matches(self) -> list["Place"]:
        """The files that match a pattern, sorted by path, without hidden ones."""
        found = glob(self.path, recursive=True) if self.fs is None else [str(path) for path in self.fs.glob(self.path)]
        places = [replace(self, path=path) for path in sorted(found)]
        return [place for place in places if place.name[:1] not in "._"]

    def as_written(self) -> "Place":
        """The place that exists with or without quoting: for a name with a space some writers make `eu west`, others `eu%20west`."""
        if "%" not in self.path or self.exists():
            return self
        above = self.parent.as_written()
        alike = [name for name in above.names() if unquote(name) == unquote(self.name)]
        return above.child(alike[0]) if len(alike) == 1 else self

    def open(self) -> Any:
        """Its bytes, decompressed by its content, not its name; reads ahead for a text reader."""
        file = pa.OSFile(self.path, mode="r") if self.fs is None else pa.PythonFile(self.fs.open(self.path, "rb"), mode="r")
        first = file.read(4)
        file.seek(0)
        packed = next((kind for magic, kind in _PACKED.items() if first.startswith(magic)), None)
        return pa.CompressedInputStream(file, packed) if packed else file

    def head(self) -> bytes:
        """Its first 16 bytes, decompressed."""
        with closing(self.open()) as file:
            data: bytes = file.read(16)
            return data


def is_upath(source: Any) -> bool:
    return hasattr(source, "protocol") and hasattr(source, "fs") and hasattr(source, "path")


def place_of(source: Any, fault: type[KeldError] = SourceError) -> Place:
    """Where `source` is.  The partition is filled in later, so that unquoting a `file:` URI never changes the key."""
    if not is_upath(source):
        text = os.fspath(source)
        if text.startswith("file:"):
            return Place(url2pathname(urlsplit(text).path))
        if "://" not in text:
            return Place(os.path.expanduser(text))  # a shell does not expand `~` in quotes, and the braces of a template need quotes
        from upath import UPath  # imports fsspec, which a local path does not need

        try:
            source = UPath(text)
        except (ValueError, ImportError) as error:
            raise fault(
                f"{_CREDENTIALS.sub('//', text)}: a file system of this kind cannot be opened: {error}. Nothing was sent. Correct the URI."
            ) from None
    if source.protocol in ("", "file", "local"):
        return Place(source.path)
    try:
        source.fs.invalidate_cache()  # a cached listing from before the upstream wrote would hide its files
    except ImportError as missing:
        extra = _EXTRAS.get(source.protocol)
        advice = f" pip install 'keld[{extra}]'" if extra else ""
        raise fault(f"{source}: the file system cannot be opened: {missing}.{advice}") from missing
    except Exception as error:  # its first line: that of hdfs names a hundred places without a Java
        said = str(error).partition("\n")[0]
        raise fault(f"{source}: the file system cannot be opened: {said}. Check its package and access.") from error
    return Place(source.path, source.fs)


def is_pattern(place: Place) -> bool:
    """True if a path is a pattern: `part-*.parquet`, `**/*.csv`."""
    return any(mark in place.path for mark in "*?[") and not place.exists()


def form_of(path: str) -> str | None:
    """The format by the suffix; None without a suffix."""
    suffix = suffix_of(path)
    return None if suffix is None else FORMATS.get(suffix, suffix)


def delimiter_of(path: str) -> str:
    """The delimiter of CSV fields by the suffix: a tab in `.tsv` and `.tab`, else a comma."""
    name = _name(path)
    plain = next((name.removesuffix(packing) for packing in PACKINGS if name.endswith(packing)), name)
    return "\t" if plain.endswith((".tsv", ".tab")) else ","


def _name(path: str) -> str:
    return path.replace(os.sep, "/").rsplit("/", 1)[-1].lower()


def unreadable(place: Place, error: Exception) -> SourceError:
    if isinstance(error, FileNotFoundError) and is_pattern(place):
        return SourceError(
            f"{place.uri}: no file matches this pattern. Nothing was sent. Check it and the partition's key.", source=place.uri
        )
    if isinstance(error, FileNotFoundError):
        return SourceUnavailable(f"{place.uri}: no such file. Nothing was sent. Check the path and the partition's key.", source=place.uri)
    if isinstance(error, pa.ArrowNotImplementedError):  # it will not be otherwise at the next try
        return SourceError(
            f"{place.uri}: Arrow cannot read this file: {error}. Nothing was sent. Write it without that type.", source=place.uri
        )
    return SourceUnavailable(
        f"{place.uri}: cannot be read: {error}. Nothing was sent. Check access, and that the file is complete.", source=place.uri
    )
