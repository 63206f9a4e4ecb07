"""IO managers of others take our frames, partition after partition: nothing fails after its rows were paid."""

import logging
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

pytest.importorskip("dagster_deltalake_pandas", reason="an environment of `make versions` without Dagster's packages of IO managers")
import deltalake
import duckdb
from dagster_deltalake import LocalConfig, WriteMode
from dagster_deltalake_pandas import DeltaLakePandasIOManager
from dagster_duckdb_pandas import DuckDBPandasIOManager
from pydantic import BaseModel

from keld import Job
from keld.emulator import Emulator
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets
from keld_dagster.duckdb import KeldDuckDBIOManager
from keld_dagster.frame import Frame
from keld_dagster.testing import materialize
from tests.edges.dagster.test_frame import BIG, rows

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-15")


@dg.asset(partitions_def=DAYS, io_manager_key="parquet")
def tickets(context: dg.AssetExecutionContext) -> pa.Table:
    return rows(context.partition_key)


class Score(BaseModel):
    points: int
    sure: bool
    words: list[str]


def managers(folder: Path) -> dict[str, Any]:
    return {
        "duckdb": DuckDBPandasIOManager(database=str(folder / "tables.db"), schema="public"),
        "duckdb, streamed": KeldDuckDBIOManager(database=str(folder / "tables.db"), schema="public"),
        # Appending: with deltalake 1.6 its way to overwrite one partition overwrites the whole table, whatever is written (Nov 2026).
        "delta": DeltaLakePandasIOManager(
            root_uri=str(folder / "delta"), storage_options=LocalConfig(), schema="public", mode=WriteMode.append
        ),
    }


def table(name: str, folder: Path) -> pa.Table:
    if name.startswith("duckdb"):
        with duckdb.connect(str(folder / "tables.db"), read_only=True) as found:
            made: pa.Table = found.sql("select * from public.labels order by id").to_arrow_table()
            return made
    return deltalake.DeltaTable(folder / "delta" / "public" / "labels").to_pyarrow_table().sort_by("id")


@pytest.mark.share(2)
@pytest.mark.parametrize(("name", "frame"), [("duckdb", "pandas"), ("duckdb, streamed", "reader"), ("delta", "pandas")])
def test_two_partitions_go_through_the_io_managers_of_others(name: str, frame: Frame, keld_emulator: Emulator, tmp_path: Path) -> None:
    """Made as pandas makes frames, the first partition's table would take no decimal of the second, after its rows were paid."""
    job = Job(name="labels", key="id", prompt="{body}", output_type=Score, models="openai:gpt-5-mini")
    assets = build_batch_assets(job, source=tickets, frame=frame, metadata={"partition_expr": "day"})
    resources = {
        "keld": KeldResource(home=str(tmp_path / "keld")),
        "parquet": KeldParquetIOManager(base_dir=str(tmp_path / "tables")),
        "io_manager": managers(tmp_path)[name],
    }
    with dg.DagsterInstance.ephemeral() as instance:
        for day in ("2026-11-01", "2026-11-02"):
            for _ in range(2):  # the second run finds the provider done
                assert dg.materialize([tickets, assets], partition_key=day, instance=instance, resources=resources).success
    found = table(name, tmp_path)
    assert (found.num_rows, len(keld_emulator.bill())) == (4, 2)
    assert found["stars"].to_pylist() == [None, None, BIG, None]
    assert found["amount"].to_pylist() == [Decimal("99.50")] * 2 + [Decimal("1250.00")] * 2
    assert found["note"].to_pylist() == [None, None, "n", None]
    assert [value is None for value in found["points"].to_pylist()] == [False, True, False, True]
    assert sum(cost for cost in found["keld_cost_usd"].to_pylist() if cost is not None) > 0
    types = {field.name: field.type for field in found.schema}
    assert (types["amount"], types["stars"], types["sold"], types["points"]) == (pa.decimal128(12, 2), pa.int64(), pa.bool_(), pa.int64())
    assert types["keld_cost_usd"] == pa.decimal128(18, 12)


@pytest.mark.share(3)
@pytest.mark.parametrize("name", ["duckdb", "duckdb, streamed", "delta"])
@pytest.mark.parametrize("selection", [None, ["labels_batch"]])
def test_a_table_whose_partitions_cannot_be_told_apart_is_refused_before_anything_is_sent(
    name: str, selection: list[str] | None, keld_emulator: Emulator, tmp_path: Path
) -> None:
    """Its IO manager would refuse the rows when they are paid for."""
    job = Job(name="labels", key="id", prompt="{body}", output_type=Score, models="openai:gpt-5-mini")
    assets = build_batch_assets(job, source="tickets/{partition}.csv", partitions_def=DAYS, io_manager_key="warehouse")
    resources = {"keld": KeldResource(home=str(tmp_path / "keld")), "warehouse": managers(tmp_path)[name]}
    with pytest.raises(dg.Failure, match=r"labels: its IO manager warehouse .* Nothing was sent\. Give metadata=\{\"partition_expr\""):
        dg.materialize([assets], partition_key="2026-11-01", selection=selection, resources=resources)
    assert keld_emulator.bill() == []


@pytest.mark.share(2)
@pytest.mark.skipif(dg.__version__.startswith("1.12."), reason="Dagster 1.12.0 loads a table by days in a step only, see docs/limits.md")
@pytest.mark.parametrize(("expression", "rows"), [("day", 0), ("CAST(day AS TIMESTAMP)", 2)])
def test_a_day_as_text_is_found_in_a_database_by_its_cast_and_an_empty_partition_is_warned_of(
    expression: str, rows: int, keld_emulator: Emulator, tmp_path: Path
) -> None:
    """Dagster compares the column with an instant; of a text it finds no row, and what follows would be green and empty."""

    @dg.asset(partitions_def=DAYS, metadata={"partition_expr": expression})
    def orders(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.DataFrame({"id": ["a", "b"], "body": ["x", "y"], "day": context.partition_key})

    job = Job(name="labels", key="id", prompt="{body}", output_type=Score, models="openai:gpt-5-mini")
    labels = build_batch_assets(job, source=orders, metadata={"partition_expr": expression})
    with dg.DagsterInstance.ephemeral() as instance:
        done = materialize(
            [orders, labels],
            partition_key="2026-11-01",
            resources={"io_manager": managers(tmp_path)["duckdb"]},
            emulator=keld_emulator,
            instance=instance,
        )
        log = [entry.user_message for run in done.runs for entry in instance.all_logs(run.run_id) if entry.level == logging.WARNING]
    assert [status.rows for status in done.job_runs] == [rows]
    assert any("labels[2026-11-01]: the source has no rows for it" in message for message in log) == (rows == 0)


@pytest.mark.share(2)
@pytest.mark.parametrize("frame", ["pandas", "reader"])
def test_a_first_partition_without_rows_makes_its_table_with_the_types_of_the_later_ones(
    frame: Frame, keld_emulator: Emulator, tmp_path: Path
) -> None:
    """Dagster's own handler of frames writes none, and what is downstream of an empty day would fail for want of a table."""

    @dg.asset(partitions_def=DAYS, io_manager_key="parquet")
    def orders(context: dg.AssetExecutionContext) -> pd.DataFrame:
        found = pd.DataFrame({"id": ["a", "b"], "body": ["x", "y"], "day": pd.to_datetime([context.partition_key] * 2)})
        return found[:0] if context.partition_key == "2026-11-01" else found

    @dg.asset(partitions_def=DAYS, io_manager_key="parquet")
    def report(labels: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"rows": [len(labels)]})

    job = Job(name="labels", key="id", prompt="{body}", output_type=Score, models="openai:gpt-5-mini")
    labels = build_batch_assets(job, source=orders, frame=frame, metadata={"partition_expr": "day"})
    resources = {
        "parquet": KeldParquetIOManager(base_dir=str(tmp_path / "tables")),
        "io_manager": KeldDuckDBIOManager(database=str(tmp_path / "tables.db"), schema="public"),
    }
    types = []
    with dg.DagsterInstance.ephemeral() as instance:
        for day, count in (("2026-11-01", 0), ("2026-11-02", 2)):
            done = materialize([orders, labels, report], partition_key=day, resources=resources, instance=instance, emulator=keld_emulator)
            assert list(done.asset_value("report")["rows"]) == [count]
            types.append({field.name: field.type for field in table("duckdb", tmp_path).schema})
    assert types[0] == types[1]
    assert (types[0]["points"], types[0]["keld_cost_usd"]) == (pa.int64(), pa.decimal128(18, 12))
    assert len(keld_emulator.bill()) == 2


@pytest.mark.parametrize("frame", ["pandas", "reader"])
def test_a_column_without_a_value_in_the_first_partition_takes_the_text_of_a_later_one(
    frame: Frame, keld_emulator: Emulator, tmp_path: Path
) -> None:
    """Nobody left a note on the first day: Arrow has no type for the column, and what DuckDB gives it refuses each note of a later day, paid for."""

    @dg.asset(partitions_def=DAYS, io_manager_key="parquet")
    def orders(context: dg.AssetExecutionContext) -> pd.DataFrame:
        note = None if context.partition_key == "2026-11-01" else "call back"
        return pd.DataFrame({"id": ["a"], "body": ["x"], "note": [note], "day": pd.to_datetime([context.partition_key])})

    job = Job(name="labels", key="id", prompt="{body}", output_type=Score, models="openai:gpt-5-mini")
    labels = build_batch_assets(job, source=orders, frame=frame, metadata={"partition_expr": "day"})
    resources = {
        "parquet": KeldParquetIOManager(base_dir=str(tmp_path / "tables")),
        "io_manager": KeldDuckDBIOManager(database=str(tmp_path / "tables.db"), schema="public"),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        for day in ("2026-11-01", "2026-11-02"):
            assert materialize([orders, labels], partition_key=day, resources=resources, instance=instance, emulator=keld_emulator).success
    assert sorted(table("duckdb", tmp_path)["note"].to_pylist(), key=str) == [None, "call back"]
