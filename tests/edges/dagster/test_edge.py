"""The small parts: deadline, source, wait, IO manager, resource."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from keld import Job
from keld_dagster import KeldParquetIOManager, KeldResource
from keld_dagster.deadline import partition_end, with_deadline
from keld_dagster.pending import PendingPartitions
from keld_dagster.source import source_of

JOB = Job(name="labels", key="id", prompt="{body}", models="openai:gpt-5-mini")
NOW = datetime(2026, 11, 6, 1, tzinfo=UTC)
PARIS = dg.DailyPartitionsDefinition("2026-11-01", timezone="Europe/Paris")
BOTH = dg.MultiPartitionsDefinition({"day": dg.DailyPartitionsDefinition("2026-11-01"), "region": dg.StaticPartitionsDefinition(["eu"])})


@pytest.mark.parametrize(
    ("definition", "key", "end"),
    [
        (PARIS, "2026-11-05", "2026-11-06T00:00:00+01:00"),
        (BOTH, "2026-11-05|eu", "2026-11-06T00:00:00+00:00"),
        (dg.StaticPartitionsDefinition(["eu"]), "eu", None),
        (None, None, None),
    ],
)
def test_partition_end_is_the_end_of_its_time_window(definition: Any, key: str | None, end: str | None) -> None:
    assert partition_end(definition, key) == (None if end is None else datetime.fromisoformat(end))


def test_deadline_comes_from_the_policy_unless_the_job_has_its_own() -> None:
    window = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26))
    cron = dg.FreshnessPolicy.cron(deadline_cron="0 6 * * *", lower_bound_delta=timedelta(hours=6), timezone="Europe/Paris")
    end = partition_end(PARIS, "2026-11-05")
    six_in_paris = datetime.fromisoformat("2026-11-06T06:00:00+01:00")
    own = Job(name="labels", key="id", prompt="{body}", models="openai:gpt-5-mini", deadline=timedelta(hours=1))
    assert with_deadline(JOB, window, end, NOW).deadline == timedelta(hours=26)
    assert with_deadline(JOB, cron, end, NOW).deadline == six_in_paris
    assert with_deadline(JOB, cron, end, NOW + timedelta(days=30)).deadline is None
    assert with_deadline(own, cron, end, NOW) is own


@pytest.mark.parametrize(
    ("cron", "due"),
    [("0 9 * * *", "2026-11-02T09:00:00+00:00"), ("*/7 * * * *", "2026-11-01T09:07:00+00:00"), ("0 0 31 * *", "2026-12-31T00:00:00+00:00")],
)
def test_deadline_of_a_cron_policy_is_the_first_tick_after_the_partitions_end(cron: str, due: str) -> None:
    """Not a tick at the end itself; and not none, where the next tick is further away than the months are long."""
    policy = dg.FreshnessPolicy.cron(deadline_cron=cron, lower_bound_delta=timedelta(minutes=1))
    nine = datetime(2026, 11, 1, 9, tzinfo=UTC)
    assert with_deadline(JOB, policy, nine, nine).deadline == datetime.fromisoformat(due)


@pytest.mark.parametrize("text", ["s3://bucket/{partition}.parquet", "/data/tickets.csv", "tickets.parquet", "data/{partition}"])
def test_text_that_cannot_be_an_asset_key_is_a_path(text: str) -> None:
    assert (source_of(text).path, source_of(text).key) == (text, None)


def test_text_that_can_be_an_asset_key_is_one() -> None:
    assert source_of("support/tickets").key == dg.AssetKey(["support", "tickets"])


def test_wait_survives_its_tags() -> None:
    wait = PendingPartitions(
        id="run",
        asset=dg.AssetKey(["a", "b"]),
        job_runs={"2026-11-05": "one", "2026-11-06": "two"},
        followers=(dg.AssetKey("report"),),
        place={"dagster/backfill": "xyz", "dagster/asset_partition_range_start": "2026-11-05"},
    )
    assert PendingPartitions.from_tags(wait.to_tags() | {"dagster/code_location": "here"}) == wait


def test_a_wait_for_any_number_of_partitions_has_no_tag_that_postgres_cannot_index() -> None:
    """Dagster's index of tags there takes no row above 2,704 bytes, key included: https://github.com/dagster-io/dagster/issues/7875."""
    wait = PendingPartitions(
        id="run",
        asset=dg.AssetKey("labels"),
        job_runs={f"Küche / {n:04d}": f"{n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for n in range(3_000)},
        followers=tuple(dg.AssetKey(["warehouse", f"mart_of_customer_{n:03d}"]) for n in range(400)),
    )
    assert max(len((name + value).encode()) for name, value in wait.to_tags().items()) < 2_500
    assert PendingPartitions.from_tags(wait.to_tags()) == wait


TABLE = pa.table({"id": [1, 2, 3], "body": ["a", "b", "c"]})


@pytest.mark.share(2)
@pytest.mark.parametrize("value", [TABLE, TABLE.to_reader(), TABLE.to_pandas(), pl.DataFrame({"id": [1, 2, 3], "body": ["a", "b", "c"]})])
@pytest.mark.parametrize("wanted", [pa.Table, ds.Dataset, pd.DataFrame, pl.DataFrame])
def test_parquet_io_manager_takes_any_table_and_gives_what_is_asked(value: Any, wanted: type[Any], tmp_path: Path) -> None:
    manager = KeldParquetIOManager(base_dir=str(tmp_path)).create_io_manager(dg.build_init_resource_context())
    rows = value if not isinstance(value, pa.RecordBatchReader) else TABLE.to_reader()
    manager.handle_output(dg.build_output_context(asset_key="t", partition_key="p"), rows)
    manager_input = dg.build_input_context(asset_key="t", partition_key="p", dagster_type=dg.PythonObjectDagsterType(wanted))
    found = manager.load_from_path(manager_input, next(_files(tmp_path)))
    assert isinstance(found, wanted)
    assert len(found if not isinstance(found, ds.Dataset) else found.to_table()) == 3


def _files(root: Path) -> Any:
    from upath import UPath

    return (UPath(path) for path in root.rglob("*.parquet"))


def test_parquet_that_cannot_be_written_whole_leaves_what_was_there(tmp_path: Path) -> None:
    manager = KeldParquetIOManager(base_dir=str(tmp_path)).create_io_manager(dg.build_init_resource_context())
    context = dg.build_output_context(asset_key="t", partition_key="p")
    manager.handle_output(context, TABLE)
    there = list(tmp_path.rglob("*.parquet"))

    def broken() -> Any:
        yield TABLE.to_batches()[0]
        raise OSError("the reader died")

    with pytest.raises(OSError, match="the reader died"):
        manager.handle_output(context, pa.RecordBatchReader.from_batches(TABLE.schema, broken()))
    assert there == [path for path in tmp_path.rglob("*") if path.is_file()]


def test_resource_lies_where_every_process_of_dagster_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory differs between daemon, code server and run worker; two ledgers would pay twice."""
    monkeypatch.delenv("KELD_HOME", raising=False)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert KeldResource().get().home == tmp_path / "keld"
    assert "secret" not in repr(KeldResource(ledger_url="postgresql://keld:secret@host/ledger"))
