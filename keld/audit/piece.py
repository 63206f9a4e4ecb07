"""Piece: which format a file is of, and the calls of a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from keld.audit.chunk import Chunk, has, top
from keld.audit.format import FIELDS, Format
from keld.audit.formats import FORMATS
from keld.audit.reader import Read, paths_of, read
from keld.errors import SourceError
from keld.table.place import Place

ROWS = 20_000  # of a chunk: large enough for arrays to pay, small enough for any machine
BLOCK_BYTES = 4 << 20
_NAME_MOST = 40  # characters of a field that are shown: where a document is not of records, its keys may be anybody's text
_ALIKE = {name.lower(): name for form in FORMATS.values() for name in (*map(top, paths_of(form)), *chain.from_iterable(form.needs))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some calls of a file; `bytes_read` since the piece before."""

    form: Format
    found: Read
    bytes_read: int


@dataclass(frozen=True, slots=True)
class Passed:
    """In place of the calls of a file that is passed over: why."""

    why: str


def piece(chunk: Chunk, form: Format, bad: int, bytes_read: int) -> Piece:
    """The calls of a chunk; `bad` more rows were lost before it."""
    found = read(chunk, form)
    return Piece(form=form, found=Read(calls=found.calls, other=found.other, bad=found.bad + bad), bytes_read=bytes_read)


def known(document: Any, among: Iterable[Format] = FORMATS.values()) -> Format | None:
    """The format with the most fields that a document has, of those that it has all of; None: it is of no format that is known."""
    fitting = [(len(names), form) for form in among for names in form.needs if all(has(document, name) for name in names)]
    return max(fitting, key=lambda one: one[0])[1] if fitting else None


class NoLog(SourceError):
    """A file is of no format that is known."""


def refused(place: Place, names: Iterable[str]) -> NoLog:
    """The error for a file of no format that is known, with what it has and how to map it."""
    seen = sorted(name if len(name) <= _NAME_MOST else f"{name[:_NAME_MOST]}..." for name in names)
    kinds = ", ".join(form.name for form in FORMATS.values())
    return NoLog(
        f"{place.uri} is of none of the formats that are known ({kinds}). It has {', '.join(seen[:30]) or 'no fields'}"
        f"{', ...' if len(seen) > 30 else ''}. Name its format with --format NAME, or write a mapping, --format mapping.toml, with [names]: "
        f"at and model at least; then {', '.join(name for name in FIELDS if name not in ('at', 'model'))} where the file has them.",
        source=place.uri,
    )


def known_names(place: Place, there: Sequence[str], form: Format | None) -> tuple[list[str], Format]:
    """The columns of a table as its format names them, and the format; some databases change the case of a name.

    Raises:
        SourceError: it is of no format that is known.
    """
    if form is not None:
        return list(there), form
    alike = [_ALIKE.get(name.lower(), name) for name in there]
    for names in (list(there), alike if len(set(alike)) == len(alike) else list(there)):
        if (found := known(dict.fromkeys(names))) is not None:
            return names, found
    raise refused(place, there)
