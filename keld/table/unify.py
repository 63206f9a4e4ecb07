"""Unify: one schema for the files of a directory, if no value changes by it.

A list of allowed pairs: Arrow's own permissive rules turn 64-bit integers into doubles, and text into bytes.
"""

import pyarrow as pa

from keld.value import json_type

_SIGNED = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_UNSIGNED = [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
_FLOATS = [pa.float16(), pa.float32(), pa.float64()]
_UNITS = ["s", "ms", "us", "ns"]


def unified(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds every value of both plain types; None if there is none."""
    types = pa.types
    if one == other or types.is_null(other):
        return one
    if types.is_null(one):
        return other
    for family in (_SIGNED, _UNSIGNED, _FLOATS):
        if one in family and other in family:
            return max(one, other, key=family.index)
    if one in _UNSIGNED and other in _SIGNED:
        return other if other.bit_width > one.bit_width else None
    if one in _SIGNED and other in _UNSIGNED:
        return unified(other, one)
    if types.is_decimal(one) and types.is_decimal(other):
        scale = max(one.scale, other.scale)
        digits = scale + max(one.precision - one.scale, other.precision - other.scale)
        return pa.decimal128(digits, scale) if digits <= 38 else None
    if types.is_timestamp(one) and types.is_timestamp(other) and one.tz == other.tz:
        return pa.timestamp(max(one.unit, other.unit, key=_UNITS.index), one.tz)
    return _by_parts(one, other)


def _by_parts(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if isinstance(one, pa.ListType | pa.FixedSizeListType) and isinstance(other, pa.ListType | pa.FixedSizeListType):
        part = unified(one.value_type, other.value_type)
        return None if part is None else pa.list_(part)
    if isinstance(one, pa.StructType) and isinstance(other, pa.StructType):
        kinds = {part.name: part.type for part in one}
        for part in other:
            found = unified(kinds.get(part.name, pa.null()), part.type)
            if found is None:
                return None
            kinds[part.name] = found
        return pa.struct(list(kinds.items()))
    return None


def unified_text(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """As `unified`, for files whose values can all be kept as JSON, as they are written."""
    exact = pa.types.is_null(one) or pa.types.is_null(other) or pa.types.is_floating(one) == pa.types.is_floating(other)
    found = unified(one, other) if exact else None
    return json_type() if found is None else found
