"""Prompt: rows -> what each of them asks, as a fragment of JSON; the columns that a prompt needs.

On the road: `job` -> **`prompt`** -> `snapshot`.  Pure.
A prompt is escaped to JSON once, here, and kept as that fragment: `"..."` for one user message, `[...]` for a whole conversation.  A request body is
then constant bytes + fragment + constant bytes, so encoding is fast, and a retry of a row asks exactly the same.
Templates of plain fields are rendered by whole columns, without a Python object a row; the rows that need a closer look (nulls, rare characters) one by one.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import repeat
from string import Formatter
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from keld.errors import KeldError, SourceError, SourceUnavailable
from keld.escape import escaped, is_escapable, may_be_blank
from keld.job import Column, Job, PerRow, Prompt, template_columns
from keld.request import one_line
from keld.value import UNREADABLE, is_json, readable

_EMPTY = "the prompt is empty"  # some providers refuse it; others make something up, and bill it
_Part = tuple[str, str | None, str | None, str | None]  # of a template: a text, then a column's name, its format and its conversion
_NOTHING = pa.scalar(b"", type=pa.large_binary())


class Asked(msgspec.Struct, frozen=True, gc=False):
    """One row's prompt: its JSON fragment, or why the row cannot be asked."""

    fragment: bytes | None
    error: str | None = None


class Prompts(NamedTuple):
    """The prompts of N rows.

    Args:
        fragments: N x large_binary, JSON; null where the row cannot be asked.
        errors: N x string, why the row cannot be asked; null where it can.
    """

    fragments: pa.Array
    errors: pa.Array

    @classmethod
    def of(cls, asked: Sequence[Asked]) -> Self:
        """From buffers: a list of N objects takes Arrow three times as long."""
        found = [row.fragment or b"" for row in asked]
        bounds = np.zeros(len(found) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, found), dtype=np.int64, count=len(found)), out=bounds[1:])
        errors = [row.error for row in asked]
        valid = np.packbits(np.array([error is None for error in errors], dtype=np.bool_), bitorder="little")
        buffers = [pa.py_buffer(valid), pa.py_buffer(bounds), pa.py_buffer(b"".join(found))]
        return cls(pa.Array.from_buffers(pa.large_binary(), len(found), buffers), pa.array(errors, type=pa.string()))

    def with_some(self, where: NDArray[np.bool_], others: Prompts) -> Prompts:
        """These prompts, with M others, in order, in the M rows that `where` marks."""
        mask = pa.array(where)
        return Prompts(*(pc.replace_with_mask(own, mask, other) for own, other in zip(self, others, strict=True)))


Render = Callable[[pa.RecordBatch], Prompts]


def renderer(prompt: Prompt, missing: str | Mapping[str, str] | None = None) -> Render:
    """A function from a record batch of N rows to their prompts, in their order; the prompt's columns must exist (`check_columns`).

    Args:
        missing: the text that a template shows for a null, see `Job`.
    """
    if isinstance(prompt, str):
        return _template(list(Formatter().parse(prompt)), missing)
    if isinstance(prompt, Column):
        return _column(prompt)
    rows = _function(_over_batches(prompt.function) if isinstance(prompt, PerRow) else prompt)
    return lambda batch: Prompts.of(list(rows(batch)))


def _in_literal_braces(template: str) -> list[str]:
    """The names that a template sends in braces, as Jinja's users write a column."""
    literal = "".join(text + ("" if name is None else "\0") for text, name, _, _ in Formatter().parse(template))
    return [name.strip() for name in re.findall(r"{([^{}\0]+)}", literal)]


def check_columns(job: Job, schema: pa.Schema) -> None:
    """Passes if the key and the prompt's columns exist, and no column has a name of Keld's own.

    Raises:
        SourceError: names the column, the table's columns, and the field to correct.
    """
    have = list(schema.names)
    wanted = {job.key: "key"}
    if isinstance(job.prompt, str):
        wanted |= dict.fromkeys(template_columns(job.prompt), "prompt")
    elif isinstance(job.prompt, Column):
        wanted[job.prompt.name] = "prompt"
    for name, role in wanted.items():
        if name not in have:
            raise SourceError(
                f"{job.name}: {role} names the column {name!r}, which the table does not have (it has {', '.join(map(repr, have))}). "
                f"Nothing was sent. Correct {role}=, or the table.",
                job=job.name,
            )
    eaten = [name for name in _in_literal_braces(job.prompt) if name in have and name not in wanted] if isinstance(job.prompt, str) else []
    if eaten:  # every row would be paid for without it
        raise SourceError(
            f"{job.name}: prompt has {{{{{eaten[0]}}}}} in double braces, which are sent as braces, and the table has a column of this name. "
            f"Nothing was sent. Write {{{eaten[0]}}}; or, if the braces are meant, give prompt= as a function.",
            job=job.name,
        )
    taken = [name for name in have if name.startswith("keld_")]
    if taken:
        raise SourceError(
            f"{job.name}: the table has columns in Keld's own namespace: {', '.join(taken)}. Nothing was sent. Rename them.", job=job.name
        )
    if len(set(have)) != len(have):
        twice = sorted({name for name in have if have.count(name) > 1})
        raise SourceError(
            f"{job.name}: the table has columns of the same name: {', '.join(twice)}. Nothing was sent. Rename them.", job=job.name
        )


class _StandIn(str):
    """A text in the place of a null: it is no number and no date, so a format for these leaves it unchanged."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return str(self)

    def __repr__(self) -> str:
        return str(self)


def _stand_in(missing: str | Mapping[str, str] | None, name: str) -> _StandIn | None:
    text = missing.get(name) if isinstance(missing, Mapping) else missing
    return None if text is None else _StandIn(text)


def _filled(values: list[Any], stand_in: _StandIn | None) -> list[Any]:
    return values if stand_in is None else [stand_in if value is None else value for value in values]


def _template(parts: Sequence[_Part], missing: str | Mapping[str, str] | None) -> Render:
    stand_ins = {name: _stand_in(missing, name) for _, name, _, _ in parts if name is not None}
    says_something = any(text and not text.isspace() for text, *_ in parts)
    one_by_one = _row_by_row(parts, stand_ins, says_something)
    if any(form or conversion for _, name, form, conversion in parts if name is not None):
        return lambda batch: Prompts.of(list(one_by_one(batch)))

    def render(batch: pa.RecordBatch) -> Prompts:
        if not batch.num_rows:
            return Prompts.of([])
        insides = {name: _insides(batch.column(name), stand_in) for name, stand_in in stand_ins.items()}
        left = np.logical_or.reduce([left for _, left in insides.values()])
        if not says_something and not left.all():
            left |= np.logical_and.reduce([may_be_blank(_shown(batch.column(name), stand_in)) for name, stand_in in stand_ins.items()])
        if left.all():
            return Prompts.of(list(one_by_one(batch)))
        fragments = pc.binary_join_element_wise(*_pieces(parts, {name: inside for name, (inside, _) in insides.items()}), _NOTHING)
        whole = Prompts(fragments, pa.nulls(len(batch), pa.string()))
        return whole.with_some(left, Prompts.of(list(one_by_one(batch.filter(pa.array(left)))))) if left.any() else whole

    return render


def _insides(column: pa.Array, stand_in: _StandIn | None) -> tuple[pa.Array, NDArray[np.bool_]]:
    """As `escaped`, of a column of any type."""
    if is_escapable(column.type):
        return escaped(_shown(column, stand_in))
    values = map(_inside, _filled(readable(column), stand_in))
    found = pa.array([None if value is UNREADABLE else value for value in values], type=pa.large_binary())
    return found, found.is_null().to_numpy(zero_copy_only=False)


def _shown(column: pa.Array, stand_in: _StandIn | None) -> pa.Array:
    """A column in which a text stands for nulls, if `escaped` takes it."""
    if stand_in is None or not column.null_count or not is_escapable(column.type):
        return column
    return pc.fill_null(column.cast(pa.string()), pa.scalar(str(stand_in), type=pa.string()))


def _pieces(parts: Sequence[_Part], insides: Mapping[str, pa.Array]) -> Iterator[pa.Array | pa.Scalar]:
    """What a template's fragments are joined from: its own texts, and the columns between them."""
    said = b'"'
    for text, name, _, _ in parts:
        said += _inside(text)
        if name is not None:
            yield pa.scalar(said, type=pa.large_binary())
            yield insides[name]
            said = b""
    yield pa.scalar(said + b'"', type=pa.large_binary())


def _row_by_row(
    parts: Sequence[_Part], stand_ins: Mapping[str, _StandIn | None], says_something: bool
) -> Callable[[pa.RecordBatch], Iterator[Asked]]:
    names = [name for _, name, _, _ in parts if name is not None]
    plain = all(not form and not conversion for _, name, form, conversion in parts if name is not None)
    # Each value is escaped alone and put between literals that were escaped once: an escape depends on one character only.
    shape = b'"%b"' % b"".join(_inside(text).replace(b"%", b"%%") + b"%b" * (name is not None) for text, name, _, _ in parts)

    def render(batch: pa.RecordBatch) -> Iterator[Asked]:
        columns = {name: _filled(readable(batch.column(name)), stand_in) for name, stand_in in stand_ins.items()}
        empty: Iterable[bool] = (
            repeat(False) if says_something else [all(map(_is_blank, row)) for row in zip(*columns.values(), strict=True)]
        )
        if plain:
            columns = {name: list(map(_inside, values)) for name, values in columns.items()}
        for values, is_empty in zip(zip(*(columns[name] for name in names), strict=True), empty, strict=False):
            if None in values or UNREADABLE in values:
                yield Asked(None, _why_not(names, values))
            elif is_empty:
                yield Asked(None, _EMPTY)
            elif plain:
                yield Asked(shape % values)
            else:
                yield _formatted(parts, values)

    return render


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and (not value or value.isspace())


def _inside(value: Any) -> Any:
    """The bytes of a value's text within a JSON string; None and `UNREADABLE` as they are."""
    if value is None or value is UNREADABLE:
        return value
    try:
        return one_line(value if type(value) is str else str(value))[1:-1]
    except UnicodeEncodeError:
        return UNREADABLE


def _formatted(parts: Sequence[_Part], values: Sequence[Any]) -> Asked:
    """As `str.format`, but a field is exactly a column's name: for a column `a.b` no attribute is looked up."""
    form, rest = Formatter(), iter(values)
    try:
        return _ask(
            "".join(
                text if name is None else text + form.format_field(form.convert_field(next(rest), conversion), spec or "")
                for text, name, spec, conversion in parts
            )
        )
    except (ValueError, TypeError) as error:  # a format that does not fit this row's value: an error of this row only
        # The standard library's message for an unknown format code quotes no value; other messages may.
        why = str(error) if str(error).startswith(("Unknown format code", "unsupported format string")) else type(error).__name__
        return Asked(None, f"prompt template: {why}")


def _column(prompt: Column) -> Render:
    text = _template([("", prompt.name, "", None)], None)

    def rows(batch: pa.RecordBatch) -> Iterator[Asked]:
        column = batch.column(prompt.name)
        for value, is_list in zip(readable(column), _lists_in(column), strict=True):
            if value is None or value is UNREADABLE:
                yield Asked(None, _why_not([prompt.name], (value,)))
            elif prompt.json or is_list:
                yield _conversation_text(value)
            else:
                yield _ask(value)

    def render(batch: pa.RecordBatch) -> Prompts:
        is_text = pa.types.is_string(batch.column(prompt.name).type) and not prompt.json
        return text(batch) if is_text else Prompts.of(list(rows(batch)))

    return render


def _lists_in(column: pa.Array) -> list[bool]:
    """Which values of a column of JSON are arrays, that is whole conversations; others may be texts."""
    if not is_json(column.type):
        return [False] * len(column)
    return [text is not None and text.startswith("[") for text in column.storage.to_pylist()]


def _function(function: Callable[[pa.RecordBatch], Any]) -> Callable[[pa.RecordBatch], Iterator[Asked]]:
    def render(batch: pa.RecordBatch) -> Iterator[Asked]:
        try:
            made = function(batch)
            if isinstance(
                made, str | bytes | Mapping | AbstractSet
            ):  # its letters, its keys or its items in any order would be sent as prompts
                raise SourceError(
                    f"The prompt function returned one {type(made).__name__} for {batch.num_rows} rows. Nothing was sent. "
                    "It must return a list with one prompt (or None) for each row, in the rows' order."
                )
            prompts = list(made.to_pylist() if hasattr(made, "to_pylist") else made)
        except KeldError:
            raise
        except Exception as error:  # noqa: BLE001  the user's function may raise anything, and the message may quote a row
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"in {at.filename}, line {at.lineno}" if at.filename != __file__ else "since it returned no sequence of prompts"
            have = f" The table has the columns {', '.join(map(repr, batch.schema.names))}." if isinstance(error, KeyError) else ""
            raise SourceUnavailable(
                f"The prompt function failed: {type(error).__name__}, {where}. Nothing was sent.{have} "
                "Its own message is not shown, since it may quote a row."
            ) from None
        if len(prompts) != batch.num_rows:
            raise SourceError(
                f"The prompt function returned {len(prompts)} prompts for {batch.num_rows} rows. Nothing was sent. "
                "It must return one prompt (or None) for each row, in the rows' order."
            )
        for prompt in prompts:
            if isinstance(prompt, Asked):
                yield prompt
            elif _is_missing(prompt):
                yield Asked(None, "the prompt function returned None")
            elif _is_prompt(prompt):
                yield _ask(prompt)
            else:  # the function's fault, not a row's: as an outcome it would be a run that succeeds and has asked nothing
                raise SourceError(
                    f"The prompt function returned a {type(prompt).__name__}. Nothing was sent. "
                    "It must return text, a list of messages ({role, content}), or None, if the row is not to be asked."
                )

    return render


def _over_batches(function: Callable[[dict[str, Any]], Any]) -> Callable[[pa.RecordBatch], list[Any]]:
    """A function of one row as one of record batches: each column is converted once, and a row is a dict.

    A row with bytes that are not UTF-8 is not given to the function, which could only fail, or ask something wrong.
    """

    def prompts(batch: pa.RecordBatch) -> list[Any]:
        names = batch.schema.names
        rows = zip(*map(readable, batch.columns), strict=True)
        return [
            Asked(None, _why_not(names, values, UNREADABLE)) if UNREADABLE in values else function(dict(zip(names, values, strict=True)))
            for values in rows
        ]

    return prompts


def _is_prompt(prompt: Any) -> bool:
    """True if a value is text or a list, of any class that `_plain` knows."""
    return isinstance(prompt, str | bytes | bytearray | memoryview | list | tuple) or (
        hasattr(prompt, "tolist") and isinstance(prompt.tolist(), str | bytes | list)
    )


def _is_missing(prompt: Any) -> bool:
    """True if a prompt is None, or the missing value of pandas or numpy."""
    return prompt is None or type(prompt).__name__ in ("NAType", "NaTType") or (isinstance(prompt, float) and math.isnan(prompt))


def _ask(prompt: Any) -> Asked:
    try:
        plain = prompt if type(prompt) is str else _plain(prompt)
        if isinstance(plain, list):
            return _conversation(plain)
        if not isinstance(plain, str):
            return Asked(None, f"the prompt is a {type(prompt).__name__}, not text or a list of messages")
        if _is_blank(plain):
            return Asked(None, _EMPTY)
        return Asked(one_line(plain))
    except UnicodeEncodeError:
        return Asked(None, "the prompt holds a lone surrogate, which no JSON parser takes")
    except UnicodeDecodeError:
        return Asked(None, "the prompt is not valid UTF-8")
    except RecursionError:
        return Asked(None, "the prompt holds itself")


# What a model or a user wrote, whose nulls mean something: the arguments of a tool's call, and JSON Schemas.
_FREE = frozenset(("input", "arguments", "parameters", "input_schema", "schema"))


def _plain(value: Any, *, free: bool = False) -> Any:
    """A value in JSON's types: text of any class as text, the numbers and arrays of numpy as Python's, bytes as the UTF-8 text they hold.

    Keys without a value are left out, at any depth, since Arrow gives every struct every key and providers reject nulls they do not know;
    but not if it is `free`: written by a model or a user, whose nulls have a meaning.
    """
    match value:
        case str():
            return "".join((value, ""))  # a copy of the class `str` itself, which the encoder requires
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode()
        case Mapping():
            return {_plain(key): _plain(part, free=free or key in _FREE) for key, part in value.items() if free or part is not None}
        case list() | tuple():
            return [_plain(part, free=free) for part in value]
    return _plain(value.tolist(), free=free) if hasattr(value, "tolist") else value


def _conversation(messages: list[Any]) -> Asked:
    if not messages:
        return Asked(None, "the message list is empty")
    for message in messages:
        if not isinstance(message, dict) or not message.get("role") or not message.keys() & {"content", "tool_calls", "function_call"}:
            return Asked(None, "a message lacks its role or content")
    try:
        return Asked(one_line(messages))
    except TypeError:
        return Asked(None, "a message cannot be written as JSON")


def _conversation_text(text: Any) -> Asked:
    try:
        messages = msgspec.json.decode(text)
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError):
        return Asked(None, "the message list is not JSON")
    return _ask(messages) if isinstance(messages, list) else Asked(None, "the message list is not a JSON array")


def _why_not(names: Sequence[str], values: Sequence[Any], *but: Any) -> str:
    """Why a row cannot be asked: the first of its columns that is null or unreadable; or the first that is one of `but`."""
    name, value = next((n, v) for n, v in zip(names, values, strict=True) if any(v is one for one in but or (None, UNREADABLE)))
    return f"column {name} is null" if value is None else f"column {name} is not valid UTF-8"
