"""Frames of Arrow tables keep their types in every partition, whatever is in it."""

from datetime import datetime
from decimal import Decimal
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from keld import Job
from keld.emulator import Emulator
from keld_dagster import build_batch_assets
from keld_dagster.frame import FRAMES, Frame, as_frame, python_type
from keld_dagster.testing import materialize

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


class PolarsOnly(dg.IOManager):
    """Refuses in its own words what is no Polars frame, as that of dagster-polars does."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, ...], Any] = {}

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        assert isinstance(obj, pl.DataFrame), type(obj)
        self.kept[tuple(context.asset_key.path)] = obj

    def load_input(self, context: dg.InputContext) -> Any:
        if context.dagster_type.typing_type is not pl.DataFrame:
            raise RuntimeError("Could not resolve type router")
        return self.kept[tuple(context.asset_key.path)]


@dg.multi_asset(outs={"paid": dg.AssetOut(key_prefix="stage"), "open": dg.AssetOut(key_prefix="stage")})
def invoices() -> tuple[pl.DataFrame, pl.DataFrame]:
    frame = pl.DataFrame({"id": [1, 2], "body": ["a", "b"]})
    return frame, frame


def labelled(source: Any, **given: Any) -> dg.AssetsDefinition:
    return build_batch_assets(Job(name="labels", key="id", prompt="{body}", models="openai:gpt-5-mini"), source=source, **given)


@pytest.mark.share(3)
@pytest.mark.parametrize("source", ["stage/open", dg.AssetKey(["stage", "open"]), invoices.get_asset_spec(dg.AssetKey(["stage", "open"]))])
def test_source_is_loaded_as_its_annotation_says_though_only_its_key_or_spec_is_given(source: Any, keld_emulator: Emulator) -> None:
    """YAML has nothing but the key, and an IO manager that takes one kind of frame refuses every other."""
    done = materialize([invoices, labelled(source)], resources={"io_manager": PolarsOnly()}, emulator=keld_emulator)
    assert isinstance(done.asset_value("labels"), pl.DataFrame)
    assert len(keld_emulator.bill()) == 2


def test_source_that_cannot_be_loaded_names_the_frame_and_what_to_do(keld_emulator: Emulator) -> None:
    """What an IO manager says of a frame that it does not take names neither the source nor the frame."""
    with pytest.raises(RuntimeError) as refused:
        materialize([invoices, labelled("stage/open", frame="pandas")], resources={"io_manager": PolarsOnly()}, emulator=keld_emulator)
    assert "stage/open could not be loaded as pandas. Nothing was sent." in "".join(refused.value.__notes__)
    assert keld_emulator.bill() == []
