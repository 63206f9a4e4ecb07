"""Reading: how a text file is to be read: the types of its columns, its encoding, its delimiter and quote.

Beside the road, below `table`.  Pure, and quick to import: orchestrators make one while they read declarations, so that a mistake is found
there.  Nothing is guessed: a column of a CSV file is text, as it is written, unless its type is declared here.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from keld.errors import InvalidJob

if TYPE_CHECKING:
    import pyarrow as pa

_ESCAPED = {"\\t": "\t", "tab": "\t"}  # as a shell passes them
_DECIMAL = re.compile(r"(?:decimal|numeric)\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)")
_TIMESTAMP = re.compile(r"timestamp\[\s*(s|ms|us|ns)\s*(?:,\s*(?:tz=)?\s*([^\]\s]+)\s*)?\]")
# The names of SQL and Python; `float` has 64 bits as there, not 32 as in Arrow.
_NAMES = {
    "text": "string", "str": "string", "varchar": "string", "int": "int64", "integer": "int64", "bigint": "int64", "smallint": "int16",
    "float": "float64", "double": "float64", "real": "float32", "boolean": "bool", "date": "date32", "time": "time64[us]",
    "datetime": "timestamp[us]", "timestamp": "timestamp[us]", "timestamptz": "timestamp[us, UTC]",
}  # fmt: skip
# Valid by their names alone; a type that is not here is looked up in pyarrow.
_PLAIN = frozenset((
    "string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "date32", "time64[us]",
    "timestamp[s]", "timestamp[ms]", "timestamp[us]", "timestamp[ns]", "timestamp[us, UTC]", "timestamp[us, tz=UTC]",
))  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How CSV, JSON Lines and the names of Hive directories are read, if not by the defaults.

    Args:
        types: column -> type, as a name (`"decimal(12,2)"`, `"int64"`, `"bool"`, `"date"`, `"timestamp[us, tz=UTC]"`) or a pyarrow type; or
            a `pyarrow.Schema`.  A column that is not named is text in CSV, and what JSON says in JSON Lines.
        encoding: a name that Python knows; default UTF-8, or UTF-16 if the file begins with its byte order mark.
        delimiter: of CSV, one ASCII character; default a comma, in `.tsv` files a tab.
        quote: of CSV, one ASCII character; default `"`; `""`: there are no quotes.

    Raises:
        InvalidJob: a value is not valid; names it.
    """

    types: Any = None
    encoding: str | None = None
    delimiter: str | None = None
    quote: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "delimiter", _ESCAPED.get(self.delimiter or "", self.delimiter))
        _check_encoding(self.encoding)
        if self.delimiter is not None and not _is_character(self.delimiter):
            raise InvalidJob(
                f"delimiter={self.delimiter!r}: give one ASCII character, e.g. delimiter=';', or '\\t' for a tab.", field="delimiter"
            )
        if self.quote and not _is_character(self.quote):
            raise InvalidJob(f"quote={self.quote!r}: give one ASCII character, or an empty text where nothing is quoted.", field="quote")
        if self.quote and self.quote == self.delimiter:
            raise InvalidJob(f"quote and delimiter are both {self.quote!r}. Give two different characters.", field="quote")
        if self.types is not None and not _are_plain(self.types):
            self.column_types()

    def given(self) -> dict[str, Any]:
        """The values given by the user, as arguments of `Keld.plan`, `submit` and `run`."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name) is not None}

    def check_used(self, what: str, *, takes: Collection[str] = ()) -> None:
        """Passes if no option of text files is given that has no effect on `what`; those in `takes` have an effect.

        `types` is not checked here: if a table has types of its own, they are compared with the declared ones.

        Raises:
            InvalidJob: one is given; names it.
        """
        unused = [name for name in ("encoding", "delimiter", "quote") if getattr(self, name) is not None and name not in takes]
        if unused:
            raise InvalidJob(
                f"{' and '.join(f'{name}={getattr(self, name)!r}' for name in unused)} would have no effect on {what}. Nothing was sent. "
                "Remove it, or correct the source."
            )

    def column_types(self) -> dict[str, pa.DataType]:
        """The declared types by column."""
        import pyarrow as pa

        if self.types is None:
            return {}
        if isinstance(self.types, pa.Schema):
            return {column.name: column.type for column in self.types}
        if not isinstance(self.types, Mapping):
            raise InvalidJob(
                f"types is a {type(self.types).__name__}. Give a dict, e.g. types={{'amount': 'decimal(12,2)'}}, or a pyarrow.Schema.",
                field="types",
            )
        return {str(name): _type_of(str(name), given) for name, given in self.types.items()}


def _is_character(text: object) -> bool:
    return isinstance(text, str) and len(text) == 1 and text.isascii() and text not in "\r\n\0"


def _check_encoding(name: str | None) -> None:
    if name is None:
        return
    try:
        codecs.lookup(name)
        "".encode(name)  # Python also finds codecs such as `rot13`, which are not text encodings
    except (LookupError, TypeError):
        raise InvalidJob(
            f"encoding={name!r} is not the name of an encoding that Python knows. Give e.g. 'cp1252', 'latin-1' or 'utf-16'.",
            field="encoding",
        ) from None


def _are_plain(types: Any) -> bool:
    """True if all types are valid by their names alone; pyarrow takes half a second to load, in every process that reads a Dag file."""
    return isinstance(types, Mapping) and all(isinstance(given, str) and _is_plain(given.strip()) for given in types.values())


def _is_plain(name: str) -> bool:
    decimal = _DECIMAL.fullmatch(name.lower())
    return 1 <= int(decimal[1]) <= 38 if decimal else _NAMES.get(name.lower(), name) in _PLAIN


def _type_of(column: str, given: Any) -> pa.DataType:
    import pyarrow as pa

    if isinstance(given, pa.DataType):
        return given
    text = str(given).strip()
    text = _NAMES.get(text.lower(), text)
    try:
        if found := _DECIMAL.fullmatch(text.lower()):
            return pa.decimal128(int(found[1]), int(found[2] or 0))
        if found := _TIMESTAMP.fullmatch(text):
            return pa.timestamp(found[1], tz=found[2])
        return pa.type_for_alias(text)
    except (ValueError, KeyError, TypeError):
        raise InvalidJob(
            f"types: {column!r} is declared {given!r}, which is not a type. "
            "Give e.g. 'text', 'int64', 'decimal(12,2)', 'bool', 'date', 'timestamp', or a pyarrow type."
        ) from None


USUAL = Reading()
