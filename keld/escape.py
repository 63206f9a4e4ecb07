"""Escape: a column of values -> for each row the inside of a JSON string, whole columns at once.

Beside `prompt`.  Arrow replaces a character in all rows of a block without Python's lock and without an object a row.  The bytes are exactly those of
`one_line`, which the fingerprints of paid answers were taken of: so only escapes of two characters are made here, and rows with anything rarer are left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LARGEST = 256 << 20  # bytes of a block that is escaped at once: far below the two gigabytes of an array
_FIRST_VISIBLE, _LAST_ASCII = 0x20, 0x7F
_LINE_END_OF_TWO, _LINE_END_OF_THREE = 0xC2, 0xE2  # how U+0085, and U+2028 and U+2029, begin in UTF-8
_SHORT = {"\\": r"\\", '"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}  # the backslash first, since the others bring some
_CODES = np.array([*map(ord, _SHORT)], dtype=np.uint8)
_ZERO = pa.scalar(0, type=pa.int32())


def is_escapable(kind: pa.DataType) -> bool:
    """True if `escaped` takes a column of this type: one whose values a template shows as Arrow writes them."""
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind))


def escaped(column: pa.Array) -> tuple[pa.Array, NDArray[np.bool_]]:
    """The insides of N JSON strings, as large_binary, and which rows are left, and have any value there: null, not UTF-8, or with a rare character.

    Args:
        column: N x string, or whole numbers.
    """
    left = column.is_null().to_numpy(zero_copy_only=False)
    if pa.types.is_integer(column.type):
        return column.cast(pa.string()).cast(pa.large_binary()), left
    if column.nbytes > _LARGEST or not _is_utf8(column):
        return pa.nulls(len(column), pa.large_binary()), np.ones(len(column), dtype=np.bool_)
    bounds, data = _content(column)
    low = np.flatnonzero(data < _FIRST_VISIBLE)
    controls = data[low]
    rare = np.concatenate([low[~np.isin(controls, _CODES)], _line_ends(data)])
    left[np.searchsorted(bounds, rare, side="right") - 1] = True
    for char, text in _SHORT.items():
        if np.any((controls if ord(char) < _FIRST_VISIBLE else data) == ord(char)):
            column = pc.replace_substring(column, pattern=char, replacement=text)
    return column.cast(pa.large_binary()), left


def may_be_blank(column: pa.Array) -> NDArray[np.bool_]:
    """Which of N values may be texts of spaces alone, if `escaped` left none of them: to be looked at singly, since Arrow and Python have other spaces."""
    if not pa.types.is_string(column.type):
        return np.full(len(column), not pa.types.is_integer(column.type))
    shown = pc.fill_null(pc.binary_length(pc.utf8_trim_whitespace(column)), _ZERO)
    found: NDArray[np.bool_] = shown.to_numpy() == 0
    return found


def _is_utf8(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _content(column: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Where each of N rows begins, and the last one ends, in the bytes of all of them."""
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, dtype=np.int32, count=len(column) + 1, offset=4 * column.offset)
    if data is None:
        return bounds - bounds[0], np.empty(0, dtype=np.uint8)
    return bounds - bounds[0], np.frombuffer(data, dtype=np.uint8)[bounds[0] : bounds[-1]]


def _line_ends(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where Unicode's line ends begin in valid UTF-8."""
    if not len(data) or data.max() <= _LAST_ASCII:
        return np.empty(0, dtype=np.int64)
    two, three = np.flatnonzero(data == _LINE_END_OF_TWO), np.flatnonzero(data == _LINE_END_OF_THREE)
    return np.concatenate([two[data[two + 1] == 0x85], three[(data[three + 1] == 0x80) & ((data[three + 2] & 0xFE) == 0xA8)]])
