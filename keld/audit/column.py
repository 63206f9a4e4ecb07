"""Column: values as a log has them -> arrays.  One kind of value a function; a value that cannot be read is as one that is not there.

The usual column is of one kind throughout, and is converted at once; the odd one value by value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from keld.audit import written
from keld.audit.record import NONE, UNKNOWN, Floats, Ints, Small, Text

Values: TypeAlias = "Sequence[Any] | pa.Array"  # a list, or a column of a table

_TIMES = (pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("ns"))
_PLAUSIBLE = (1_420_070_400_000_000, 4_102_444_800_000_000)  # 2015 to 2100: outside of it, it is another number, and would stretch the log
_MOST_NS = 9e18  # more nanoseconds since 1970 than fit
_CLIENT = "User-Agent:"  # LiteLLM puts the client's version among the tags: it names no work, and an update would be another group
_MOST = 1e15  # more is no count
_TRUE = frozenset(("true", "1", "yes", "t"))
_FALSE = frozenset(("false", "0", "no", "f"))
_FAILED = ("fail", "error", "status_code_error", "cancel", "time")
_EPOCH = ((1e17, 1e-3), (1e14, 1.0), (1e11, 1e3), (0.0, 1e6))  # a number above the first is of ns, us, ms, s: what makes it us


def instants(values: Values) -> Ints:
    """Microseconds since 1970 in UTC of ISO 8601 texts, timestamps, or numbers of any of the usual units; a text without a zone is of UTC.

    What is not between 2015 and 2100 is not there.
    """
    found = _instants(values)
    return np.where((found >= _PLAUSIBLE[0]) & (found < _PLAUSIBLE[1]), found, NONE)


def _instants(values: Values) -> Ints:
    array = _arrow(values)
    if array is None:
        return _each(values)
    if pa.types.is_string(array.type):
        array = _blank_to_null(array)
        with suppress(pa.ArrowInvalid):
            return _from_epoch(numbers(array.cast(pa.int64())))
        for kind in _TIMES:
            with suppress(pa.ArrowInvalid):
                return _micros(array.cast(kind))
        return _each(array.to_pylist())
    if pa.types.is_timestamp(array.type):
        return _micros(array)
    return _from_epoch(numbers(array))


def _each(values: Sequence[Any]) -> Ints:
    found = np.fromiter(map(_instant, values), dtype=np.int64, count=len(values))
    odd = [place for place in np.flatnonzero(found == NONE).tolist() if isinstance(values[place], str) and values[place].strip()]
    for place, at in zip(odd, written.instants([values[place] for place in odd]), strict=True):
        found[place] = NONE if at is None else _instant(at)
    return found


def _micros(array: pa.Array) -> Ints:
    whole = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64())
    found: Ints = pc.fill_null(whole, NONE).to_numpy(zero_copy_only=False)
    return found


def _from_epoch(seconds: Floats) -> Ints:
    found = np.full(len(seconds), NONE, dtype=np.int64)
    left = (seconds > 0) & (seconds < _MOST_NS)
    for above, factor in _EPOCH:
        these = left & (seconds > above)
        found[these] = np.rint(seconds[these] * factor).astype(np.int64)
        left &= ~these
    return found


def _instant(value: Any) -> int:
    if isinstance(value, datetime):
        at = value if value.tzinfo else value.replace(tzinfo=UTC)
        return round(at.timestamp() * 1e6)
    if isinstance(value, str) and not _is_number(value):
        with suppress(ValueError):
            return _instant(datetime.fromisoformat(value.strip().upper().removesuffix(" UTC")))
        return int(NONE)
    return int(_from_epoch(np.array([_number(value)]))[0])


def numbers(values: Values) -> Floats:
    """Numbers, or texts of them; NaN where there is none."""
    array = _arrow(values)
    if array is not None and pa.types.is_string(array.type):
        array = _blank_to_null(array)
    if array is not None:
        with suppress(pa.ArrowInvalid, pa.ArrowNotImplementedError):
            found: Floats = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return found
        values = array.to_pylist()
    return np.fromiter(written.numbers(values), dtype=np.float64, count=len(values))


def _is_number(value: Any) -> bool:
    return not np.isnan(_number(value))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def counts(values: Values) -> Ints:
    """Whole numbers of at least 0; 0 where there is none."""
    array = _arrow(values)
    if array is not None and pa.types.is_string(array.type) and pc.any(pc.match_substring_regex(array, r"^\d{1,3}[.,]\d{3}\b")).as_py():
        values = [written.ungrouped(text) if text and written.is_grouped(text) else text for text in array.to_pylist()]
    found = numbers(values)
    return np.where(np.isfinite(found) & (found > 0) & (found < _MOST), found, 0).astype(np.int64)


def flags(values: Values) -> Small:
    """1 yes, 0 no, `UNKNOWN`."""
    array = _arrow(values)
    if array is not None and pa.types.is_boolean(array.type):
        return pc.fill_null(array.cast(pa.int8()), UNKNOWN).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    return _by_word(values, _flag)


def _flag(value: Any) -> int:
    word = str(value).lower()
    return 1 if word in _TRUE else 0 if word in _FALSE else UNKNOWN


def failures(values: Values) -> Small:
    """1 where a status is one of a failure: an HTTP status of 400 or above, or a word such as `failure`."""
    return _by_word(values, _failure)


def _failure(value: Any) -> int:
    if _is_number(value):
        return int(_number(value) >= 400)
    return int(str(value).lower().startswith(_FAILED))


def _by_word(values: Values, of: Callable[[Any], int]) -> Small:
    """What `of` says of each value; it is asked once for each different one."""
    text = texts(values)
    return np.array([UNKNOWN if not word else of(word) for word in text.words], dtype=np.int8)[text.codes]


def texts(values: Values) -> Text:
    """Texts with each word once; lists are joined with commas, and what is not there is ""."""
    array = _arrow(values)
    if array is None or not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        array = pa.array([plain(value) for value in (values if array is None else array.to_pylist())], pa.string())
    encoded = pc.fill_null(array, "").dictionary_encode()
    return Text(codes=encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), words=encoded.dictionary.to_pylist())


def plain(value: Any) -> str:
    """The text of one value; of a list or a table of labels, sorted."""
    match value:
        case None:
            return ""
        case list() | tuple():
            return ",".join(sorted(str(one) for one in value if one is not None and not str(one).startswith(_CLIENT)))
        case dict():
            return ",".join(f"{name}:{value[name]}" for name in sorted(value) if isinstance(value[name], str | int))
        case _:
            return str(value)


def hashes(values: Values) -> Ints:
    """A number for each text, the same for the same text in this process; 0 where there is none."""
    if isinstance(values, list) and set(map(type, values)) <= {str, type(None)}:
        return np.fromiter((value.__hash__() if value else 0 for value in values), dtype=np.int64, count=len(values))
    text = texts(values)
    return np.array([hash(word) if word else 0 for word in text.words], dtype=np.int64)[text.codes]


def _arrow(values: Values) -> pa.Array | None:
    """The values as an array of one type; None if they are of several, or of none that has a column."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, pa.Array):
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        return values.cast(pa.string()) if pa.types.is_large_string(values.type) or pa.types.is_null(values.type) else values
    try:
        found = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None
    return None if pa.types.is_nested(found.type) else found.cast(pa.string()) if pa.types.is_null(found.type) else found


def _blank_to_null(array: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
