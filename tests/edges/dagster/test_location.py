"""A code location of several modules, each with its own Keld assets: what each module says must fit beside what the others say."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.test_utils import create_run_for_test

from keld import Job, Keld, KeldError
from keld.emulator import Emulator
from keld_dagster import KeldAccount, KeldResource, build_batch_assets, build_keld_sensor, keld_definitions
from keld_dagster.pending import PendingPartitions

DAYS = dg.DailyPartitionsDefinition("2026-11-01")
EARLIER = dg.DailyPartitionsDefinition("2026-10-01")


def job(name: str) -> Job:
    return Job(name=name, key="id", prompt="Classify: {body}", models="openai:gpt-5-mini")


def assets(name: str, partitions_def: dg.PartitionsDefinition[Any] | None = None, **given: Any) -> dg.AssetsDefinition:
    return build_batch_assets(job(name), source=f"{name}/{{partition}}.csv", partitions_def=partitions_def, **given)


def loaded(*modules: dg.Definitions) -> dg.RepositoryDefinition:
    merged = dg.Definitions.merge(*modules)
    dg.Definitions.validate_loadable(merged)
    return merged.get_repository_def()


def test_assets_of_any_partitions_and_any_number_of_modules_share_one_sensor() -> None:
    """Dagster refuses two sensors of one name, two resources under one key, and one job over two kinds of partitions."""
    one = keld_definitions([assets("a", DAYS), assets("b", EARLIER), assets("c")], resource=KeldResource(home="here"))
    two = keld_definitions([assets("d", dg.StaticPartitionsDefinition(["eu"]))], resource=KeldResource(home="here"))
    repository = loaded(one, two)
    assert [sensor.name for sensor in repository.sensor_defs] == ["keld_sensor"]
    assert repository.has_job("keld_provider_wait")


@pytest.mark.parametrize("accounts", [{}, {"eu": KeldAccount(kind="openai", base_url="https://eu.example/v1")}])
def test_definitions_that_are_built_again_in_one_process_still_share_one_resource(accounts: dict[str, Any]) -> None:
    """A module is imported once a process, but a component is built anew each time: in every run's process twice."""
    module = keld_definitions([assets("a")], resource=KeldResource(home="again", accounts=accounts))
    for _ in range(2):
        loaded(module, keld_definitions([assets("b")], resource=KeldResource(home="again", accounts=accounts)))


def test_modules_with_their_own_sensors_and_resources_keep_them() -> None:
    """Two ledgers in one code location: the key of the resource tells them apart, and each has its sensor."""
    ours = keld_definitions([assets("a", resource_key="keld_eu")], resource=KeldResource(home="eu"))
    theirs = [assets("b", DAYS), assets("c", DAYS)]
    own = [build_keld_sensor([one], minimum_interval_seconds=5) for one in theirs]
    merged = [keld_definitions([one], resource=KeldResource(home="us"), sensor=sensor) for one, sensor in zip(theirs, own, strict=True)]
    repository = loaded(ours, *merged)
    assert [sensor.name for sensor in repository.sensor_defs] == ["keld_sensor_b", "keld_sensor_c", "keld_sensor_keld_eu"]
    assert set(repository.get_top_level_resources()) >= {"keld", "keld_eu"}


@pytest.mark.parametrize(("one", "other"), [("a", "b"), (dg.EnvVar("HOME"), "HOME"), (dg.EnvVar("HOME"), dg.EnvVar("TMPDIR"))])
def test_resources_that_differ_are_never_taken_for_one(one: str, other: str) -> None:
    """A module that finds its job runs in another one's ledger would buy them anew."""
    modules = [
        keld_definitions([assets(name)], resource=KeldResource(home=home)) for name, home in zip(("a", "b"), (one, other), strict=True)
    ]
    with pytest.raises(dg.DagsterInvariantViolationError, match="different resources with same key 'keld'"):
        dg.Definitions.merge(*modules)


def test_resource_key_of_the_assets_is_the_one_their_resource_gets() -> None:
    with pytest.raises(ValueError, match=r"resource_key='other'"):
        keld_definitions([assets("a")], resource_key="other")


def test_sensor_brings_in_every_module_s_assets_but_those_that_have_a_sensor_of_their_own(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Each partition is asked for with its own kind of key, once, and followers ride along."""
    resource = KeldResource(home=str(tmp_path))
    daily, plain, theirs = assets("daily", DAYS), assets("plain"), assets("theirs", DAYS)
    theirs_alone = build_keld_sensor([theirs])

    @dg.asset(deps=["daily"], partitions_def=DAYS)
    def report() -> None: ...

    modules = [keld_definitions([daily], resource=resource), keld_definitions([plain]), keld_definitions([theirs], sensor=theirs_alone)]
    repository = loaded(dg.Definitions(assets=[report]), *modules)

    def tick(sensor: str) -> list[tuple[str | None, list[str]]]:
        with dg.build_sensor_context(instance, repository_def=repository, resources={"keld": resource}) as context:
            requests = repository.get_sensor_def(sensor).evaluate_tick(context).run_requests or []
        return [(request.partition_key, [key.to_user_string() for key in request.asset_selection or ()]) for request in requests]

    with dg.DagsterInstance.ephemeral() as instance, Keld(home=tmp_path, clock=keld_emulator.now) as keld:
        for name, day in (("daily", "2026-11-02"), ("plain", None), ("theirs", "2026-11-03")):
            status = keld.advance(keld.submit(job(name), [{"id": 1, "body": "late"}], partition=day).id)
            followers = (dg.AssetKey("report"), dg.AssetKey("gone")) if name == "daily" else ()
            wait = PendingPartitions(id=name, asset=dg.AssetKey(name), job_runs={day or "": status.id}, followers=followers)
            create_run_for_test(instance, job_name="keld_provider_wait", status=dg.DagsterRunStatus.NOT_STARTED, tags=wait.to_tags())
        assert tick("keld_sensor") == [("2026-11-02", ["daily", "report"]), (None, ["plain"])]
        assert tick("keld_sensor_theirs") == [("2026-11-03", ["theirs"])]


@dg.asset(partitions_def=DAYS)
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"id": range(3), "body": "text"})


@dg.asset
def table() -> pd.DataFrame:
    return pd.DataFrame({"id": range(3), "body": "text"})


@dg.multi_asset(specs=[dg.AssetSpec("one"), dg.AssetSpec("two")])
def both():  # type: ignore[no-untyped-def]  # Dagster reads the annotation
    ...


PARIS = dg.DailyPartitionsDefinition("2026-11-01", timezone="Europe/Paris")


@pytest.mark.parametrize(
    ("source", "partitions_def", "complaint"),
    [
        (table, DAYS, "the whole table would be sent for each"),
        (tickets, dg.WeeklyPartitionsDefinition("2026-11-01"), "the same key is not the same rows"),
        (tickets, PARIS, "Give partitions_def= the source's definition, its time zone included"),
        (dg.AssetSpec("far", partitions_def=DAYS), dg.StaticPartitionsDefinition(["eu"]), "the same key is not the same rows"),
        (both, None, r"makes 2 assets \(one, two\).*Give its spec"),
        (7, None, "is a int"),
        ("labels", None, "the result would be labels, which is its source"),
    ],
)
def test_source_whose_partitions_mean_other_rows_is_refused_when_it_is_declared(source: Any, partitions_def: Any, complaint: str) -> None:
    """What an IO manager gives for a key that its asset does not have may be the whole table, and all of it is paid."""
    with pytest.raises(ValueError, match=complaint):
        build_batch_assets(job("labels"), source=source, partitions_def=partitions_def)


def test_how_a_text_file_is_read_can_be_said_of_a_path_and_reaches_what_is_asked(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Text that stands in a file is what the model is asked; what an IO manager reads is not ours to say."""
    (tmp_path / "letters.csv").write_bytes("id;body\n1;für\n".encode("cp1252"))
    path = str(tmp_path / "letters.csv")
    letters = build_batch_assets(job("letters"), source=path, encoding="cp1252", delimiter=";", types={"id": "int64"})
    resources = {"keld": KeldResource(home=str(tmp_path / "keld")), "io_manager": dg.mem_io_manager}
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([letters], instance=instance, resources=resources)
        done = dg.materialize([letters], instance=instance, resources=resources)
    assert done.output_for_node("letters", "letters")[["id", "body"]].values.tolist() == [[1, "für"]]
    with pytest.raises(KeldError, match="encoding='klingon'"):
        build_batch_assets(job("letters"), source=path, encoding="klingon")
    with pytest.raises(ValueError, match="which its IO manager reads"):
        build_batch_assets(job("labels"), source=tickets, types={"id": "int64"})


def test_a_list_of_paths_is_a_source_and_is_read_as_is_said(keld_emulator: Emulator, tmp_path: Path) -> None:
    for name, body in {"a": "für", "b": "über"}.items():
        (tmp_path / f"{name}.csv").write_bytes(f"id;body\n1{name};{body}\n".encode("cp1252"))
    paths = [tmp_path / "a.csv", str(tmp_path / "b.csv")]
    letters = build_batch_assets(job("letters"), source=paths, encoding="cp1252", delimiter=";", types={"id": "text"})
    resources = {"keld": KeldResource(home=str(tmp_path / "keld")), "io_manager": dg.mem_io_manager}
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([letters], instance=instance, resources=resources)
        done = dg.materialize([letters], instance=instance, resources=resources)
    assert done.output_for_node("letters", "letters")[["id", "body"]].values.tolist() == [["1a", "für"], ["1b", "über"]]


def test_specs_and_other_spans_of_the_same_days_are_sources() -> None:
    given = build_batch_assets(job("labels"), source=dg.AssetSpec("far", partitions_def=DAYS))
    assert given.partitions_def == DAYS
    assert build_batch_assets(job("more"), source=tickets, partitions_def=EARLIER).partitions_def == EARLIER
    assert build_batch_assets(job("own"), source=tickets, name="a/b", key_prefix="ai").keys == {
        dg.AssetKey(["ai", "a", "b"]),
        dg.AssetKey(["ai", "a", "b_batch"]),
    }


@pytest.mark.parametrize(
    ("upstream", "partitions_def", "key", "complaint"),
    [
        (tickets, None, None, "the whole table would be sent. Give partitions_def="),
        (table, DAYS, "2026-11-02", "the whole table would be sent for each"),
        (tickets, EARLIER, "2026-10-02", "has no partition '2026-10-02'"),
    ],
)
def test_source_given_by_its_key_is_checked_before_anything_is_loaded(
    keld_emulator: Emulator, tmp_path: Path, upstream: dg.AssetsDefinition, partitions_def: Any, key: str | None, complaint: str
) -> None:
    """Of a key nothing is known while the module is read; a retry would not help either."""
    labels = build_batch_assets(job("labels"), source=upstream.key, partitions_def=partitions_def)
    resources = {"keld": KeldResource(home=str(tmp_path)), "io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path))}
    selection = [labels] if upstream.partitions_def is not None else None
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(dg.Failure, match=complaint) as failed:
        dg.materialize([upstream, labels], selection=selection, partition_key=key, resources=resources, instance=instance)
    assert failed.value.allow_retries is False
    assert keld_emulator.requests() == []


def test_source_given_by_its_key_that_does_not_fit_keeps_a_code_location_from_loading() -> None:
    """Dagster knows both definitions by then."""
    weekly = build_batch_assets(job("labels"), source="tickets", partitions_def=dg.WeeklyPartitionsDefinition("2026-11-01"))
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="Invalid partition mapping from labels"):
        loaded(dg.Definitions(assets=[tickets]), keld_definitions([weekly], resource=KeldResource()))
