"""Frames of Arrow tables keep their types in every partition, whatever is in it."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from keld_dagster.frame import FRAMES, Frame, as_frame, python_type

SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("body", pa.string()), ("day", pa.timestamp("us")), ("stars", pa.int64()), ("sold", pa.bool_()),
        ("amount", pa.decimal128(12, 2)), ("since", pa.date32()), ("tags", pa.list_(pa.string())), ("note", pa.string()), ("rate", pa.float64()),
    ]
)  # fmt: skip
BIG = 2**53 + 1  # which no float is


def rows(day: str) -> pa.Table:
    """Two tickets a day, one of which cannot be asked.  On the first day hardly anything is known of them, and the amounts are small."""
    at = datetime.fromisoformat(day)
    scarce: dict[str, Any] = {"body": "a", "amount": Decimal("99.50"), "tags": []}
    full: dict[str, Any] = {
        "body": "b",
        "stars": BIG,
        "sold": True,
        "amount": Decimal("1250.00"),
        "since": at.date(),
        "tags": ["x"],
        "note": "n",
        "rate": 1.5,
    }
    known = scarce if day == "2026-11-01" else full
    return pa.Table.from_pylist(
        [{"id": f"{day}-1", "day": at, **known}, {"id": f"{day}-2", "day": at, "amount": known["amount"]}], schema=SCHEMA
    )


def reader(day: str) -> pa.RecordBatchReader:
    return rows(day).to_reader()


@pytest.mark.parametrize("frame", ["pandas", "pandas[pyarrow]"])
def test_a_pandas_frame_says_the_same_types_whatever_is_in_it(frame: Frame) -> None:
    scarce, full = (as_frame(reader(day), frame) for day in ("2026-11-01", "2026-11-02"))
    assert list(scarce.dtypes) == list(full.dtypes)
    assert pa.Table.from_pandas(full, preserve_index=False).to_pylist() == rows("2026-11-02").to_pylist()
    schemas = [pa.Table.from_pandas(made, preserve_index=False).schema.remove_metadata() for made in (scarce, full)]
    assert schemas[0] == schemas[1]


def test_floats_times_and_texts_stay_as_pandas_has_them_unless_all_are_to_be_arrows() -> None:
    made = as_frame(reader("2026-11-02"), "pandas")
    assert (made["rate"].dtype, made["day"].dtype) == ("float64", "datetime64[us]")
    assert all(isinstance(kind, pd.ArrowDtype) for kind in as_frame(reader("2026-11-02"), "pandas[pyarrow]").dtypes)
    assert not any(isinstance(kind, pd.ArrowDtype) for kind in as_frame(reader("2026-11-02"), "pandas[numpy]").dtypes)


def test_every_frame_can_be_loaded_as_what_it_is() -> None:
    for frame in FRAMES:
        if frame != "reader":
            assert isinstance(as_frame(reader("2026-11-02"), frame), python_type(frame))
