"""Request: row + prompt -> what is asked; the only maker and reader of custom_id, and the fingerprint of what is asked.

On the road: `job` -> **`request`** -> `snapshot`, `shard`.  Pure.
A prompt is escaped to JSON once, here, and kept as that fragment: `"..."` for one user message, `[...]` for a whole
conversation.  A request body is then constant bytes + fragment + constant bytes, so encoding is fast
(docs/notes/measurements.md: escaping only the row's strings is 4.5 times as fast as a json.dumps loop) and a retry of a row asks exactly the same.
"""

from __future__ import annotations

import hashlib
import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from itertools import repeat
from string import Formatter
from typing import TYPE_CHECKING, Any

import msgspec

from keld.errors import KeldError, SourceError, SourceUnavailable
from keld.job import Column, Job, PerRow, Prompt, template_columns
from keld.value import UNREADABLE, is_json, readable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_PACK = re.compile(r"([0-9]{8,15})x([0-9]{1,6})").fullmatch
_EMPTY = "the prompt is empty"  # some providers refuse it; others make something up, and bill it
_MARK = re.compile(r"([a-z0-9]{10})(?:-[0-9]{1,15}|[0-9]{8,15})(?:x[0-9]{1,6})?").fullmatch  # a batch's key, or a custom_id, plain or not
_encode = msgspec.json.Encoder().encode
_NEXT_LINE, _LINE, _PARAGRAPH = "\x85", "\u2028", "\u2029"
_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in (_NEXT_LINE, _LINE, _PARAGRAPH))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The part of a request that all rows of a job run share; kept in staging (it holds the system prompt), never in the ledger."""

    system: str | None
    output: dict[str, Any]  # `OutputSchema.to_json()`
    params: dict[str, Any] = field(default_factory=dict)
    max_output_tokens: int = 1024
    endpoint: str = "/v1/chat/completions"

    @property
    def asked_output(self) -> dict[str, Any]:
        """`output` without what only decides how an answer is read: its hints, and the names of its columns."""
        return {name: part for name, part in self.output.items() if name != "hints"} | {"prefix": ""}

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(data: bytes) -> Question:
        return msgspec.json.decode(data, type=Question)


class Asked(msgspec.Struct, frozen=True, gc=False):
    """One row's prompt: its JSON fragment, or why the row cannot be asked."""

    fragment: bytes | None
    error: str | None = None


def fingerprint(question: Question, models: Sequence[str]) -> str:
    """A hash of everything but the row that decides an answer: models, system, schema, params; not how an answer is read."""
    return hashlib.sha256(replace(question, output=question.asked_output).to_json() + _encode(list(models))).hexdigest()


def one_line(value: Any) -> bytes:
    """`value` as JSON that is one line to every reader: JSON may hold Unicode's line ends unescaped, and some readers split lines there."""
    encoded = _encode(value)
    if encoded.isascii():
        return encoded
    text = value if type(value) is str else encoded.decode()
    if _NEXT_LINE in text or _LINE in text or _PARAGRAPH in text:  # found as a character 30 times as fast as its bytes
        for end, escaped in _LINE_ENDS:
            encoded = encoded.replace(end, escaped)
    return encoded


def marks_of(fields: Iterable[str]) -> Callable[[bytes], bool]:
    """A function that is True if a prompt fragment, or the JSON of `params`, sets one of these fields."""
    names = "|".join(map(re.escape, sorted(fields)))
    find = re.compile(
        rf'"(?:{names})":[^n]'.encode()
    ).search  # a field's name with a value after it; inside a text its quotes would be escaped
    return lambda asked: find(asked) is not None


def row_fingerprint(fragment: bytes) -> bytes:
    """16 bytes that identify a prompt: half of a sha256, which processors compute in hardware."""
    return hashlib.sha256(fragment).digest()[:16]


_REPAIR = "Your last answer to this was not accepted: {}. Answer once more, and exactly in the form that is asked for."
REPAIR_BYTES = 1_000  # the most that it adds to a fragment


def repaired(fragment: bytes, complaint: str) -> bytes:
    """A prompt fragment that also says why its last answer was not accepted."""
    text = _REPAIR.format(complaint.encode()[:300].decode("utf-8", "ignore"))
    if fragment.startswith(b"["):
        return fragment[:-1] + b"," + _encode({"role": "user", "content": text}) + b"]"
    return fragment[:-1] + _encode("\n\n" + text)[1:]


def custom_id(nonce: str, position: int, *, plain: bool = False, rows: int = 1) -> str:
    """`<10 of a-z0-9>-<position, at least 8 digits>`: within `[A-Za-z0-9_-]{1,64}`, which nearly every provider takes.

    Args:
        plain: without the hyphen.
        rows: of one request: that at `position` and those that follow it in the shard; for more than one, `x<rows>` is added.
    """
    return f"{nonce}{'' if plain else '-'}{position:08d}{'' if rows == 1 else f'x{rows}'}"


def position_of(custom_id: str, nonce: str) -> int | None:
    """The row position in a custom_id of this attempt, plain or not; None for an id that this attempt did not make."""
    if not custom_id.startswith(nonce):
        return None
    position = custom_id[len(nonce) :].removeprefix("-")
    return int(position) if 8 <= len(position) <= 15 and position.isdecimal() and position.isascii() else None


def positions_of(custom_ids: Sequence[str], nonce: str) -> NDArray[np.int64]:
    """`position_of` of each, and -1 where that is None; all at once if each has a hyphen and eight digits, as nearly all have."""
    import numpy as np

    prefix, together = f"{nonce}-".encode(), "".join(custom_ids).encode("ascii", "replace")
    width = len(prefix) + 8
    if {*map(len, custom_ids)} == {width} and len(together) == width * len(custom_ids):
        letters = np.frombuffer(together, dtype=np.uint8).reshape(-1, width)
        digits = letters[:, len(prefix) :] - ord("0")  # of bytes: what is below 0 is far above 9
        if (letters[:, : len(prefix)] == np.frombuffer(prefix, dtype=np.uint8)).all() and digits.max() <= 9:
            return digits @ 10 ** np.arange(7, -1, -1, dtype=np.int64)
    found = [position_of(custom_id, nonce) for custom_id in custom_ids]
    return np.array([-1 if position is None else position for position in found], dtype=np.int64)


def pack_of(custom_id: str, nonce: str) -> tuple[int, int] | None:
    """(the first row's position, the number of rows) of a request of many rows of this attempt; None for any other id."""
    found = _PACK(custom_id[len(nonce) :].removeprefix("-")) if custom_id.startswith(nonce) else None
    return (int(found[1]), int(found[2])) if found else None


def batch_key(nonce: str, attempt: int) -> str:
    """The mark of one create, in the batch's metadata if the provider has such: the shard and the attempt."""
    return f"{nonce}-{attempt}"


def shard_named(mark: str | None) -> str | None:
    """The nonce in a batch's mark or in a custom_id; None if Keld cannot have made it."""
    found = _MARK(mark or "")
    return found[1] if found else None


def renderer(prompt: Prompt, missing: str | Mapping[str, str] | None = None) -> Callable[[pa.RecordBatch], Iterator[Asked]]:
    """A function from a record batch of N rows to N `Asked`, in their order; the prompt's columns must exist (`check_columns`).

    Args:
        missing: the text that a template shows for a null, see `Job`.
    """
    if isinstance(prompt, str):
        return _template(prompt, missing)
    if isinstance(prompt, Column):
        return _column(prompt)
    return _function(_over_batches(prompt.function) if isinstance(prompt, PerRow) else prompt)


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


def _template(template: str, missing: str | Mapping[str, str] | None) -> Callable[[pa.RecordBatch], Iterator[Asked]]:
    parts = list(Formatter().parse(template))
    names = [name for _, name, _, _ in parts if name is not None]
    plain = all(not spec and not conversion for _, name, spec, conversion in parts if name is not None)
    stand_ins = {name: _stand_in(missing, name) for name in names}
    # Each value is escaped alone and put between literals that were escaped once: an escape depends on one character only.
    shape = b'"%b"' % b"".join(_inside(text).replace(b"%", b"%%") + b"%b" * (name is not None) for text, name, _, _ in parts)

    says_something = any(text and not text.isspace() for text, *_ in parts)

    def render(batch: pa.RecordBatch) -> Iterator[Asked]:
        columns = {name: _filled(readable(batch.column(name)), stand_ins[name]) for name in stand_ins}
        blank: Iterable[bool] = (
            repeat(False) if says_something else [all(map(_is_blank, row)) for row in zip(*columns.values(), strict=True)]
        )
        if plain:
            columns = {name: list(map(_inside, values)) for name, values in columns.items()}
        if plain and says_something and not any(None in values or UNREADABLE in values for values in columns.values()):
            yield from map(Asked, map(shape.__mod__, zip(*(columns[name] for name in names), strict=True)))
            return
        for values, empty in zip(zip(*(columns[name] for name in names), strict=True), blank, strict=False):
            if None in values or UNREADABLE in values:
                yield Asked(None, _why_not(names, values))
            elif empty:
                yield Asked(None, _EMPTY)
            elif plain:
                yield Asked(shape % values)
            else:
                yield _formatted(parts, values)

    return render


def _is_blank(value: Any) -> bool:
    return type(value) is str and (not value or value.isspace())


def _inside(value: Any) -> Any:
    """The bytes of a value's text within a JSON string; None and `UNREADABLE` as they are."""
    if value is None or value is UNREADABLE:
        return value
    try:
        return one_line(value if type(value) is str else str(value))[1:-1]
    except UnicodeEncodeError:
        return UNREADABLE


def _formatted(parts: Sequence[tuple[str, str | None, str | None, str | None]], values: Sequence[Any]) -> Asked:
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


def _column(prompt: Column) -> Callable[[pa.RecordBatch], Iterator[Asked]]:
    def render(batch: pa.RecordBatch) -> Iterator[Asked]:
        column = batch.column(prompt.name)
        lists = _lists_in(column)
        for value, is_list in zip(readable(column), lists, strict=True):
            if value is None or value is UNREADABLE:
                yield Asked(None, _why_not([prompt.name], (value,)))
            elif prompt.json or is_list:
                yield _conversation_text(value)
            else:
                yield _ask(value)

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
