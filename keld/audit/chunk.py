"""Chunk: some rows of a log, as columns by name, whether they were lines of JSON, a table, or taken from larger documents.

A name is a path: `metadata/usage/input` is a field of a field.  Where an export has JSON in a text, the path goes on inside of it.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from keld.audit.column import Values

_SEPARATOR = "/"


class Chunk(Protocol):
    """N rows."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> Values | None:
        """The values of a field; None if no row can have it."""


class Rows:
    """Rows that are dicts."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> Values | None:
        return [row.get(name) for row in self._rows]


class Columns:
    """Rows that are lists of the values of `names`."""

    def __init__(self, rows: Sequence[Sequence[Any]], names: Sequence[str]) -> None:
        self._rows = len(rows)
        self._columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}

    def __len__(self) -> int:
        return self._rows

    def column(self, name: str) -> Values | None:
        return self._columns.get(name)


class Lines:
    """Rows that were decoded into a struct, which has only the fields that are looked for (`layout`)."""

    def __init__(self, rows: Sequence[Any], layout: Layout) -> None:
        self._rows, self._fields = rows, layout.fields

    def __len__(self) -> int:
        return len(self._rows)

    def column(self, name: str) -> Values | None:
        field = self._fields.get(name)
        return None if field is None else [getattr(row, field) for row in self._rows]


class Batch:
    """Rows of a table."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch
        self._names = {name: position for position, name in enumerate(batch.schema.names)}

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def column(self, name: str) -> Values | None:
        position = self._names.get(name)
        return None if position is None else self._batch.column(position)


class Layout:
    """A struct of the fields that are looked for: what else a line holds is passed over, never kept."""

    def __init__(self, names: Sequence[str]) -> None:
        self.fields = {name: f"f{position}" for position, name in enumerate(dict.fromkeys(names))}
        self.kind = msgspec.defstruct(
            "Line",
            [(field, Any, None) for field in self.fields.values()],
            rename={field: name for name, field in self.fields.items()},
            gc=False,
        )


def top(path: str) -> str:
    """The field of the row in which a path begins."""
    return path.partition(_SEPARATOR)[0]


def values_at(chunk: Chunk, paths: Sequence[str]) -> Values | None:
    """Of each row what stands at the first of the paths where anything stands; None if nothing stands there in any row."""
    found: list[Any] | None = None
    for path in paths:
        column = _at(chunk, path)
        if column is None or _is_empty(column):
            continue
        if len(paths) == 1:
            return column
        column = column.to_pylist() if isinstance(column, pa.Array) else list(column)
        found = column if found is None else [now if now not in (None, "") else then for now, then in zip(found, column, strict=True)]
        if not found.count(None) and not found.count(""):
            break
    return found


def _is_empty(column: Values) -> bool:
    if isinstance(column, pa.Array):
        return bool(column.null_count == len(column))
    return column.count(None) == len(column) if isinstance(column, list) else False


def _at(chunk: Chunk, path: str) -> Values | None:
    whole = chunk.column(path)
    if _SEPARATOR not in path or (whole is not None and not _is_empty(whole)):
        return whole
    name, _, rest = path.partition(_SEPARATOR)
    column = chunk.column(name)
    if column is None:
        return None
    steps = rest.split(_SEPARATOR)
    return [_inside(value, steps) for value in (column.to_pylist() if isinstance(column, pa.Array) else column)]


def _inside(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        value = opened(value)
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def opened(value: Any) -> Any:
    """The document in a text that holds JSON; else the value itself."""
    if not isinstance(value, str) or value[:1] not in ("{", "[", '"'):
        return value
    try:
        found = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value if value[:1] == '"' else _unquoted(value)
    return opened(found) if isinstance(found, str) else found  # a text in a text, as some write it twice


def _unquoted(value: str) -> Any:
    """Some exports double the quotes of a cell twice (Helicone's CSV, Nov 2026), and pandas writes a dict as Python does."""
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(value.replace('""', '"'))
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return literal_eval(value)
    return None


def where(chunk: Chunk, path: str, wanted: frozenset[str]) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """True for the rows with one of `wanted` at a path, whatever its case, or with nothing there; None if no row has anything there."""
    column = values_at(chunk, (path,))
    if column is None:
        return None
    values = column.to_pylist() if isinstance(column, pa.Array) else column
    return np.fromiter((value in (None, "") or str(value).lower() in wanted for value in values), dtype=np.bool_, count=len(values))


def has(document: Any, path: str) -> bool:
    """True if a document has a field at a path, also if it is null."""
    if isinstance(document, dict) and path in document:
        return True
    name, _, rest = path.partition(_SEPARATOR)
    if isinstance(document, list):
        return name.isdigit() and int(name) < len(document) and (not rest or has(document[int(name)], rest))
    return isinstance(document, dict) and name in document and bool(rest) and has(opened(document[name]), rest)
