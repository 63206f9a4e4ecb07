"""Partition mappings: which rows of the source are a partition's, and that Dagster's own graph shows the same."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from keld import Job, Keld
from keld.emulator import Emulator
from keld_dagster import KeldResource, KeldTranslator, build_batch_assets, keld_definitions
from keld_dagster.mapping import upstream_keys
from keld_dagster.translator import Part

HOURS = dg.HourlyPartitionsDefinition("2026-11-01-00:00")
DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-20")
WEEKS = dg.WeeklyPartitionsDefinition("2026-11-01", end_date="2026-11-22")
REGIONS = dg.StaticPartitionsDefinition(["us", "eu"])
BOTH = dg.MultiPartitionsDefinition({"day": DAYS, "region": REGIONS})
COUNTRIES = dg.StaticPartitionsDefinition(["fr", "de", "at", "ca"])
PARIS = "Europe/Paris"
DAY = "2026-11-03"
YESTERDAY = dg.TimeWindowPartitionMapping(start_offset=-1)


def job(name: str = "labels") -> Job:
    return Job(name=name, key="id", prompt="Classify: {body}", models="openai:gpt-5-mini")


class Rows(dg.ConfigurableIOManager):
    """A table with one row a partition; what is written to it is dropped."""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None: ...

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        key = context.partition_key if context.has_partition_key else "whole"
        return pd.DataFrame({"id": [key], "body": [f"row of {key}"]})


def upstream(partitions_def: Any, name: str = "rows") -> dg.AssetsDefinition:
    @dg.asset(name=name, partitions_def=partitions_def)
    def rows() -> None: ...

    return rows


def loaded(
    source: dg.AssetsDefinition,
    labels: dg.AssetsDefinition,
    key: str | None,
    there: list[str] | None,
    home: Path,
    instance: dg.DagsterInstance,
) -> list[str]:
    """The ids of the rows of one partition of the result, when it is collected."""
    for one in [None] if there is None else there:
        instance.report_runless_asset_event(dg.AssetMaterialization(source.key, partition=one))
    resources = {"keld": KeldResource(home=str(home)), "io_manager": Rows()}
    given = {"selection": [labels], "partition_key": key, "instance": instance, "resources": resources}
    dg.materialize([source, labels], **given)
    ids: list[str] = dg.materialize([source, labels], **given).output_for_node("labels", "labels")["id"].tolist()
    return ids


def parents(source: dg.AssetsDefinition, labels: dg.AssetsDefinition, asset: str, key: str | None) -> set[str]:
    """The partitions of the source on which Dagster's graph shows that a partition of ours depends."""
    definitions = dg.Definitions.merge(dg.Definitions(assets=[source]), keld_definitions([labels], resource=KeldResource()))
    graph = definitions.get_repository_def().asset_graph
    shown = graph.get_parents_partitions(dg.AssetKey(asset), key)
    return {parent.partition_key or "whole" for parent in shown.parent_partitions if parent.asset_key == source.key}


CASES: list[tuple[str, Any, Any, dg.PartitionMapping, str | None, list[str]]] = [
    ("an hour", HOURS, DAYS, dg.TimeWindowPartitionMapping(), DAY, [f"{DAY}-{hour:02}:00" for hour in range(24)]),
    ("a day of a week", DAYS, WEEKS, dg.TimeWindowPartitionMapping(), "2026-11-08", [f"2026-11-{day:02}" for day in range(8, 15)]),
    ("the day before", DAYS, DAYS, YESTERDAY, DAY, ["2026-11-02", DAY]),
    ("every one", COUNTRIES, DAYS, dg.AllPartitionMapping(), DAY, ["fr", "de", "at", "ca"]),
    ("a whole table", None, DAYS, dg.AllPartitionMapping(), DAY, ["whole"]),
    ("every one, once", COUNTRIES, None, dg.AllPartitionMapping(), None, ["fr", "de", "at", "ca"]),
    ("the last", DAYS, None, dg.LastPartitionMapping(), None, ["2026-11-19"]),
    ("some", DAYS, DAYS, dg.SpecificPartitionsPartitionMapping(["2026-11-05", "2026-11-01"]), DAY, ["2026-11-01", "2026-11-05"]),
    ("every region", BOTH, DAYS, dg.MultiToSingleDimensionPartitionMapping("day"), DAY, [f"{DAY}|eu", f"{DAY}|us"]),
    ("a day for each region", DAYS, BOTH, dg.MultiToSingleDimensionPartitionMapping("day"), f"{DAY}|eu", [DAY]),
    ("countries", COUNTRIES, REGIONS, dg.StaticPartitionMapping({"fr": "eu", "de": "eu", "at": "eu", "ca": "us"}), "eu", ["fr", "de", "at"]),
    (
        "the region's day before",
        BOTH,
        BOTH,
        dg.MultiPartitionMapping(
            {
                "day": dg.DimensionPartitionMapping("day", YESTERDAY),
                "region": dg.DimensionPartitionMapping("region", dg.IdentityPartitionMapping()),
            }
        ),
        f"{DAY}|eu",
        ["2026-11-02|eu", f"{DAY}|eu"],
    ),
]  # fmt: skip


def cases(*names: str) -> Any:
    chosen = [case for case in CASES if case[0] in names or not names]
    return pytest.mark.parametrize(
        ("theirs", "ours", "mapping", "key", "rows"), [case[1:] for case in chosen], ids=[case[0] for case in chosen]
    )


@cases()
def test_rows_of_a_partition_are_those_that_dagster_shows(theirs: Any, ours: Any, mapping: Any, key: str | None, rows: list[str]) -> None:
    """In an order that is the same each time: a mapping may give its partitions as a set, and the rows' order decides what is asked again."""
    source = upstream(theirs)
    labels = build_batch_assets(job(), source=source, partitions_def=ours, partition_mapping=mapping)
    assert parents(source, labels, "labels", key) == parents(source, labels, "labels_batch", key) == set(rows)
    if theirs is not None:
        with dg.DagsterInstance.ephemeral() as instance:
            assert upstream_keys(mapping, theirs, ours, key, instance) == (rows, [])


@pytest.mark.share(5)
@cases("a day of a week", "a whole table", "every one, once", "a day for each region", "countries")
def test_rows_of_the_mapped_partitions_are_loaded_in_order_and_bought_once(
    keld_emulator: Emulator, tmp_path: Path, theirs: Any, ours: Any, mapping: Any, key: str | None, rows: list[str]
) -> None:
    source = upstream(theirs)
    labels = build_batch_assets(job(), source=source, partitions_def=ours, partition_mapping=mapping)
    with dg.DagsterInstance.ephemeral() as instance:
        assert loaded(source, labels, key, None if theirs is None else rows, tmp_path, instance) == rows
    assert len(keld_emulator.bill()) == len(rows)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-10-26", 24)])
def test_day_with_a_change_of_the_clock_has_all_its_hours(day: str, hours: int) -> None:
    hourly, daily = (
        dg.HourlyPartitionsDefinition("2026-03-01-00:00", timezone=PARIS),
        dg.DailyPartitionsDefinition("2026-03-01", timezone=PARIS),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        keys, nonexistent = upstream_keys(dg.TimeWindowPartitionMapping(), hourly, daily, day, instance)
    assert (len({*keys}), nonexistent) == (hours, [])


def test_partitions_of_the_source_that_are_not_there_are_named_and_nothing_is_sent(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Of an hour that failed, a database's IO manager gives no rows and no error: the day would be asked without it."""
    source = upstream(HOURS)
    labels = build_batch_assets(job(), source=source, partitions_def=DAYS, partition_mapping=dg.TimeWindowPartitionMapping())
    with dg.DagsterInstance.ephemeral() as instance:
        there = [f"{DAY}-{hour:02}:00" for hour in range(24) if hour not in (3, 7)]
        missing = f"2 of the 24 partitions of the source rows that hold its rows are not materialized: '{DAY}-03:00', '{DAY}-07:00'. Mat"
        with pytest.raises(dg.Failure, match=missing) as refused:
            loaded(source, labels, DAY, there, tmp_path, instance)
        assert "Nothing was sent" in str(refused.value.description)
        assert keld_emulator.requests() == []
        assert len(loaded(source, labels, DAY, [f"{DAY}-03:00", f"{DAY}-07:00"], tmp_path, instance)) == 24


def test_partitions_that_the_source_never_had_are_refused_unless_the_mapping_does_without_them(
    keld_emulator: Emulator, tmp_path: Path
) -> None:
    source = upstream(dg.DailyPartitionsDefinition("2026-11-10", end_date="2026-11-20"))
    with dg.DagsterInstance.ephemeral() as instance:
        strict = build_batch_assets(job(), source=source, partitions_def=WEEKS, partition_mapping=dg.TimeWindowPartitionMapping())
        with pytest.raises(dg.Failure, match=r"needs 2 partitions that the source rows does not have: '2026-11-08', '2026-11-09'"):
            loaded(source, strict, "2026-11-08", ["2026-11-10"], tmp_path, instance)
        lenient = dg.TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True)
        labels = build_batch_assets(job(), source=source, partitions_def=WEEKS, partition_mapping=lenient)
        rows = [f"2026-11-{day}" for day in range(10, 15)]
        assert loaded(source, labels, "2026-11-08", rows, tmp_path, instance) == rows


def test_row_that_two_partitions_of_the_source_have_is_refused(keld_emulator: Emulator, tmp_path: Path) -> None:
    """A key is a row's identity in its partition, wherever its rows come from."""

    class Same(Rows):
        def load_input(self, context: dg.InputContext) -> pd.DataFrame:
            return pd.DataFrame({"id": [1], "body": [context.partition_key]})

    source = upstream(DAYS)
    labels = build_batch_assets(job(), source=source, partitions_def=DAYS, partition_mapping=YESTERDAY)
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(Exception, match=r"rows 0 and 1 .* have the same value") as refused:
        for day in (DAY, "2026-11-02"):
            instance.report_runless_asset_event(dg.AssetMaterialization("rows", partition=day))
        resources = {"keld": KeldResource(home=str(tmp_path)), "io_manager": Same()}
        dg.materialize([source, labels], selection=[labels], partition_key=DAY, instance=instance, resources=resources)
    assert "Nothing was sent" in str(refused.value)
    assert keld_emulator.requests() == []


@pytest.mark.parametrize(
    ("theirs", "ours", "mapping", "complaint"),
    [
        (HOURS, dg.DailyPartitionsDefinition("2026-11-01", timezone=PARIS), dg.TimeWindowPartitionMapping(), "TimeWindowPartitionMapping does not fit"),
        (COUNTRIES, DAYS, dg.TimeWindowPartitionMapping(), "TimeWindowPartitionMapping does not fit"),
        (DAYS, REGIONS, dg.StaticPartitionMapping({"fr": "eu"}), "StaticPartitionMapping does not fit"),
        (None, DAYS, dg.LastPartitionMapping(), "has no partitions, so LastPartitionMapping has nothing to choose from"),
        (HOURS, DAYS, None, r"not the same rows. .* say .* partition_mapping=dg.TimeWindowPartitionMapping\(\)"),
        (BOTH, DAYS, None, r"not the same rows. .* say .* partition_mapping=dg.MultiToSingleDimensionPartitionMapping"),
        (DAYS, None, YESTERDAY, r"has no partitions, so TimeWindowPartitionMapping\(-1, 0\) cannot say which"),
        (None, DAYS, None, r"the whole table would be sent for each.*partition_mapping=dg.AllPartitionMapping\(\)"),
    ],
)  # fmt: skip
def test_mapping_that_does_not_fit_is_refused_when_it_is_declared(theirs: Any, ours: Any, mapping: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_batch_assets(job(), source=upstream(theirs), partitions_def=ours, partition_mapping=mapping)


@pytest.mark.wide
def test_mapping_may_come_with_the_source_or_from_the_translator_and_is_what_is_loaded(keld_emulator: Emulator, tmp_path: Path) -> None:
    shifted = dg.AssetDep("rows", partition_mapping=YESTERDAY)

    class Shifted(KeldTranslator):
        def get_asset_spec(self, part: Part, default: dg.AssetSpec) -> dg.AssetSpec:
            return default.replace_attributes(deps=[shifted])

    source = upstream(DAYS)
    given = {
        "source": build_batch_assets(job("with_source"), source=shifted, name="labels", partitions_def=DAYS),
        "translator": build_batch_assets(job("translated"), source=source, name="labels", translator=Shifted()),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        for name, labels in given.items():
            assert loaded(source, labels, DAY, ["2026-11-02", DAY], tmp_path / name, instance) == ["2026-11-02", DAY]


def test_translator_cannot_show_other_rows_than_are_sent() -> None:
    class OneShifted(KeldTranslator):
        def get_asset_spec(self, part: Part, default: dg.AssetSpec) -> dg.AssetSpec:
            return default if part == "batch" else default.replace_attributes(deps=[dg.AssetDep("rows", partition_mapping=YESTERDAY)])

    with pytest.raises(ValueError, match="another partition mapping; what is sent is what is collected"):
        build_batch_assets(job(), source=upstream(DAYS), translator=OneShifted())
    with pytest.raises(ValueError, match="partition_mapping= is for a source that is an asset"):
        build_batch_assets(job(), source="s3://lake/{partition}.parquet", partitions_def=DAYS, partition_mapping=YESTERDAY)
    with pytest.raises(ValueError, match="name two partition mappings"):
        build_batch_assets(job(), source=dg.AssetDep("rows", partition_mapping=YESTERDAY), partition_mapping=dg.AllPartitionMapping())


def test_mapping_that_changes_is_another_source(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Yesterday's rows were not sent: what is out must not pass for the partition that is declared now."""
    source = upstream(DAYS)
    resources = {"keld": KeldResource(home=str(tmp_path)), "io_manager": Rows()}
    with dg.DagsterInstance.ephemeral() as instance, Keld(home=tmp_path) as keld:
        for day in ("2026-11-02", DAY):
            instance.report_runless_asset_event(dg.AssetMaterialization("rows", partition=day))
        for mapping in (None, YESTERDAY):
            labels = build_batch_assets(job(), source=source, partitions_def=DAYS, partition_mapping=mapping)
            dg.materialize([source, labels], selection=[labels], partition_key=DAY, instance=instance, resources=resources)
        assert [(status.rows, status.outdated) for status in keld.statuses()] == [(2, None), (1, "the source")]
    assert len(keld_emulator.bill()) == 2
