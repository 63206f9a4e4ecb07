"""Path: the placeholders in a source's or sink's path: `{partition}`, and nothing else; its suffix; and the key as a part of a path.

Called first by `environment`, and by the orchestrators, which read a path long before its partition is known.  A placeholder that is never
filled would stay in the file's name, the same for every partition.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any
from urllib.parse import quote

from keld.errors import InvalidJob, SinkRefused

PARTITION = "{partition}"
PACKINGS = (".gz", ".zst", ".bz2")  # of text; the compression of a file is known from its first bytes
_TEXTS = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_WRITTEN = {".parquet": "parquet", ".pq": "parquet"} | _TEXTS
FORMATS = _WRITTEN | {suffix + packing: form for suffix, form in _TEXTS.items() for packing in PACKINGS}
_SEGMENT_MOST = 150  # bytes of a key in a path; file systems end a name at 255
# A name in braces, as in `str.format`; `{a,b}` is not one, and double braces are left for other template engines.
_FIELD = re.compile(r"(?<!\{)\{\s*[A-Za-z_][^{},/]*\}(?!\})")


def check_path(place: Any, name: str) -> None:
    """Passes if a path has no placeholder but `{partition}`; what is no path passes, too.

    Args:
        place: what a caller gave as source or sink.
        name: which of them it is, for the error.

    Raises:
        InvalidJob: it is empty, or has another field.
    """
    for text in texts_of(place):
        if not text.strip():  # mostly from a variable that is not set; as a path it would be the working directory
            raise InvalidJob(f"{name}={text!r} is empty. Nothing was sent. Give a path.")
        if not is_utf8(text):
            raise InvalidJob(
                f"{name}={text!a} is no UTF-8, and cannot be stored. Nothing was sent. Rename the file or directory.", field=name
            )
        unknown = next((field for field in _FIELD.findall(text) if field != PARTITION), None)
        if unknown is not None:
            raise InvalidJob(
                f"{name}={text!r} has a field {unknown}, which Keld does not fill. Nothing was sent. The only field is {PARTITION}, the partition's key."
            )


def check_sink_path(place: Any, name: str) -> None:
    """Passes if a sink's path is one by `check_path`, and Keld can write its suffix; both are known before the partition is.

    Args:
        place: what a caller gave as sink; what is no path passes.
        name: as of `check_path`.

    Raises:
        InvalidJob: as `check_path`.
        SinkRefused: there is no writer for the suffix.
    """
    check_path(place, name)
    for text in texts_of(place):
        check_writer(text, f"{name}={text!r}")


def check_writer(template: str, shown: str) -> None:
    """Passes if a sink is a directory, or a file with a suffix that Keld can write.

    Args:
        template: its path or URI; the end of a key like "2026.11" is not a suffix.
        shown: how the error names it.

    Raises:
        SinkRefused: there is no writer for it.
    """
    path = template.replace(PARTITION, "key")
    suffix = None if path.endswith("/") else suffix_of(path)
    if suffix is not None and suffix not in _WRITTEN:
        raise SinkRefused(
            f"{shown}: no writer for this suffix. Nothing was sent or written. "
            "End it in .parquet, .csv, .tsv or .jsonl, uncompressed, or in / for a directory.",
            sink=template,
        )


def suffix_of(path: str) -> str | None:
    """The suffix of a file's name, in lower case, with that of a compression before it: `.csv.gz`; None without a suffix."""
    name = path.replace(os.sep, "/").rsplit("/", 1)[-1].lower()
    known = next((suffix for suffix in FORMATS if name.endswith(suffix)), None)
    return known or os.path.splitext(name.lstrip("."))[1] or None


def filled_path(path: str, partition: str) -> str:
    """The path of one partition, as it is read or written."""
    return path.replace(PARTITION, segment(partition))


def segment(key: str) -> str:
    """A key as one path segment, two keys never the same: percent-encoded, no leading dot, at most 150 bytes."""
    text = quote(key, safe="=@+, ", errors="surrogatepass").replace(" ", "%20")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) > _SEGMENT_MOST:  # `%-` is not valid percent-encoding, so no other key can give it
        return f"{text[:100]}%-{hashlib.sha256(key.encode(errors='surrogatepass')).hexdigest()[:32]}"
    return text or "%-"


def absolute_path(text: str) -> str:
    """The path as any worker finds it: `~` and the working directory resolved, a closing slash kept; a URI stays as it is."""
    if "://" in text:
        return text
    return os.path.abspath(os.path.expanduser(text)) + ("/" if text.endswith("/") else "")


def wants_partition(place: Any) -> bool:
    """True if the path has a place for the partition's key."""
    return any(PARTITION in text for text in texts_of(place))


def is_utf8(text: str) -> bool:
    """False if a text has a lone surrogate: of a path it stands for bytes of another encoding, and nothing can store it."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def texts_of(place: Any) -> list[str]:
    """The paths or URIs of a source or sink: of a path, a UPath or similar, or a list of them; empty if it is no path."""
    if isinstance(place, list | tuple) and place and _is_path(place[0]):
        return [str(part) for part in place]
    return [str(place)] if _is_path(place) else []


def _is_path(place: Any) -> bool:
    return isinstance(place, str | os.PathLike) or hasattr(place, "protocol")
