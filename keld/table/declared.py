"""Declared: text as the type that its column is declared to have; a value that does not convert is reported with row and column."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from keld.errors import InvalidJob, SourceError
from keld.table.place import Place


def check_declared(place: Place, types: dict[str, pa.DataType]) -> None:
    """Passes if text can be of these types.

    Raises:
        InvalidJob: names the column.
    """
    for name, kind in types.items():
        if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
            raise InvalidJob(
                f"{place.uri}: types declares {name!r} {kind}, to which no text converts. Nothing was sent. Give a plain type."
            )


def declared(column: pa.Array, wanted: pa.Field, place: Place, named: Callable[[int], str]) -> pa.Array:
    """N texts as the type of `wanted`; an empty text is null, unless the type is text.

    Args:
        named: n -> the name of the n-th row (from 0) in the file.

    Raises:
        SourceError: one does not convert; names column and row, not the value.
    """
    if column.type == wanted.type:
        return column
    texts = pc.if_else(pc.equal(column, ""), None, column)
    try:
        return _cast(texts, wanted.type)
    except pa.ArrowInvalid:
        row = named(_first_odd(texts, wanted.type))
    except pa.ArrowNotImplementedError:
        raise InvalidJob(
            f"{place.uri}: no text converts to {wanted.type}, which types declares for {wanted.name!r}. Nothing was sent."
        ) from None
    raise SourceError(
        f"{place.uri}: {row}: column {wanted.name!r} is declared {wanted.type}, and the value is not one. "
        "Nothing was sent. Correct it, or declare another type in types=.",
        source=place.uri,
    )


def _cast(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    if pa.types.is_time(kind):  # Arrow has no cast for this type, but one for instants
        unit = pa.timestamp(kind.unit)
        return pc.binary_join_element_wise("1970-01-01 ", texts, "").cast(unit).cast(kind)
    return texts.cast(kind)


def _first_odd(texts: pa.Array, kind: pa.DataType) -> int:
    """The index of the first text that does not convert; there must be one."""
    low, high = 0, len(texts)
    while high - low > 1:
        middle = (low + high) // 2
        if _converts(texts.slice(low, middle - low), kind):
            low = middle
        else:
            high = middle
    return low


def _converts(texts: pa.Array, kind: pa.DataType) -> bool:
    try:
        _cast(texts, kind)
    except pa.ArrowInvalid:
        return False
    return True
