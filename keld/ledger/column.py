"""Column: how the values of the house are stored: money, instants, words of a closed enum, frozen records.

Below every other file of the ledger.  Money is stored as whole pico-dollars, instants as microseconds since 1970: both exact, both sortable,
both the same in SQLite and Postgres.

A look reads tens of thousands of rows, so there are two ways to read: SQLAlchemy's, value by value; and `raw` with `reader`, column by column.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SAME = 4_096  # so many values are not made again: of ten thousand rows, most have one of a few
_Kept = TypeVar("_Kept")
_Enum = TypeVar("_Enum", bound=StrEnum)


class Usd(sa.types.TypeDecorator[Decimal]):
    """US dollars, exact to the pico-dollar."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else int((Decimal(value) * 10**12).to_integral_value())

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[int | None], Decimal | None]:
        return _usd


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware point in time in UTC, exact to the microsecond."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return microseconds(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[int | None], datetime | None]:
        return _instant


class Packed(sa.types.TypeDecorator[_Kept]):
    """A value of some type of the house, stored as JSON: a key for each field; the stored form of a field must not change."""

    impl = sa.JSON
    cache_ok = True

    def __init__(self, kind: type[_Kept]) -> None:
        super().__init__()
        self.kind = kind
        decode = msgspec.json.Decoder(kind | None).decode
        self.from_text = lru_cache(_SAME)(lambda text: None if text is None else decode(text))  # the terms are those of the job

    def process_bind_param(self, value: _Kept | None, dialect: sa.Dialect) -> Any:
        return None if value is None else msgspec.to_builtins(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], _Kept | None]:
        if dialect.name == "postgresql":  # its driver gives what the JSON holds
            return lambda value: None if value is None else msgspec.convert(value, self.kind)
        return self.from_text

    def coerce_compared_value(self, op: sa.sql.operators.OperatorType | None, value: Any) -> Any:
        """A key is looked up as in any JSON column."""
        return self.impl_instance.coerce_compared_value(op, value)


class Word(sa.types.TypeDecorator[_Enum]):
    """A member of a closed enum, stored as its word."""

    impl = sa.String
    cache_ok = True

    def __init__(self, words: type[_Enum], length: int) -> None:
        super().__init__(length)
        self.words = words  # SQLAlchemy tells two of these types apart by it
        self.by_word: dict[str | None, _Enum | None] = {None: None, **{str(word): word for word in words}}

    def process_bind_param(self, value: _Enum | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else str(value)

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[str | None], _Enum | None]:
        return self.by_word.__getitem__


def raw(column: sa.Column[Any]) -> sa.Label[Any]:
    """The column as its driver gives it; JSON as text, also by a driver that would decode it."""
    stored: sa.ColumnElement[Any] = sa.cast(column, sa.Text) if _is_json(column) else column
    return sa.type_coerce(stored, sa.types.NULLTYPE).label(column.name)


def reader(column: sa.Column[Any]) -> Callable[[Any], Any] | None:
    """A function from a value of `raw` to the house's; None: they are the same."""
    match column.type:
        case Usd():
            return _usd
        case Instant():
            return _instant
        case Word() as word:
            return word.by_word.__getitem__
        case Packed() as packed:
            return packed.from_text
        case sa.JSON():
            return _from_json
        case sa.Boolean():
            return {None: None, 0: False, 1: True}.__getitem__  # SQLite gives numbers
        case _:
            return None


def microseconds(at: datetime | None) -> int | None:
    """What is stored of an instant."""
    return None if at is None else (at - _EPOCH) // _MICROSECOND


def _is_json(column: sa.Column[Any]) -> bool:
    return isinstance(column.type, sa.JSON | Packed)


def _from_json(text: str | None) -> Any:
    return None if text is None else msgspec.json.decode(text)


@lru_cache(_SAME)
def _usd(pico: int | None) -> Decimal | None:
    return None if pico is None else Decimal(pico) / 10**12


def _instant(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)
