"""What Dagster's own asset decorators take, taken by the same names and found where Dagster looks for it."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from keld import Job
from keld.emulator import Emulator
from keld_dagster import KeldResource, KeldTranslator, build_batch_assets, keld_assets, keld_definitions
from keld_dagster.translator import Part

DAYS = dg.DailyPartitionsDefinition("2026-11-01", end_date="2026-11-20")
DAY = "2026-11-03"
JOB = Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini")
RESULT, BATCH = dg.AssetKey(["support", "labels"]), dg.AssetKey(["support", "labels_batch"])
FRESH = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26))
EAGER = dg.AutomationCondition.eager()
hooked: list[str] = []


@dg.success_hook
def notify(context: dg.HookContext) -> None:
    hooked.append(context.op.name)


@dg.asset(partitions_def=DAYS)
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"id": range(3), "body": [f"ticket {n}" for n in range(3)]})


@dg.asset(partitions_def=DAYS)
def glossary() -> None: ...


ALL: dict[str, Any] = {
    "key_prefix": "support",
    "group_name": "cx",
    "description": "What it is about.",
    "owners": ["team:cx", "a@b.de"],
    "tags": {"pii": "yes"},
    "kinds": {"llm"},
    "metadata": {"partition_expr": "day"},
    "deps": [glossary, "elsewhere"],
    "code_version": "7",
    "freshness_policy": FRESH,
    "automation_condition": EAGER,
    "backfill_policy": dg.BackfillPolicy.single_run(),
    "retry_policy": dg.RetryPolicy(max_retries=3),
    "pool": "uploads",
    "hooks": {notify},
    "op_tags": {"dagster-k8s/config": {"container_config": {"resources": {}}}},
    "io_manager_key": "warehouse",
}


def by_function() -> dg.AssetsDefinition:
    def labels(row: dict[str, Any]) -> str:
        return f"Classify: {row['body']}"

    return keld_assets(source=tickets, key="id", models="openai:gpt-5-mini", **ALL)(labels)


class Written(dg.ConfigurableIOManager):
    directory: str

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        if isinstance(obj, pd.DataFrame):
            obj.to_parquet(f"{self.directory}/{'-'.join(context.asset_key.path)}")
            context.add_output_metadata({"expr": context.definition_metadata.get("partition_expr", "")})

    def load_input(self, context: dg.InputContext) -> Any:
        return pd.read_parquet(f"{self.directory}/{'-'.join(context.asset_key.path)}")


@pytest.mark.parametrize("labels", [build_batch_assets(JOB, source=tickets, **ALL), by_function()], ids=["template", "function"])
def test_every_option_of_an_asset_is_in_dagster_s_graph(labels: dg.AssetsDefinition) -> None:
    definitions = dg.Definitions.merge(
        dg.Definitions(assets=[tickets, glossary], resources={"warehouse": Written(directory=".")}),
        keld_definitions([labels], resource=KeldResource()),
    )
    graph = definitions.get_repository_def().asset_graph
    result, batch = graph.get(RESULT), graph.get(BATCH)
    for node in (result, batch):
        assert (node.group_name, node.owners, node.kinds) == ("cx", ["team:cx", "a@b.de"], {"llm"})
        assert node.tags["pii"] == "yes"
        assert {dg.AssetKey("tickets"), dg.AssetKey("glossary"), dg.AssetKey("elsewhere")} <= node.parent_keys
        assert (node.code_version or "").endswith("-7") and node.code_version == batch.code_version
        assert (node.automation_condition, node.backfill_policy, node.pools) == (EAGER, ALL["backfill_policy"], {"uploads"})
    assert (result.description, result.freshness_policy, result.metadata["partition_expr"]) == ("What it is about.", FRESH, "day")
    assert (batch.freshness_policy, "partition_expr" in batch.metadata) == (None, False)
    assert (labels.op.retry_policy, labels.op.tags["dagster-k8s/config"]) == (
        ALL["retry_policy"],
        '{"container_config": {"resources": {}}}',
    )


def test_io_manager_metadata_and_hooks_work_when_it_is_materialized(keld_emulator: Emulator, tmp_path: Path) -> None:
    labels = build_batch_assets(JOB, source=tickets, **ALL)
    resources = {
        "keld": KeldResource(home=str(tmp_path / "keld")),
        "io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "pickles")),
        "warehouse": Written(directory=str(tmp_path)),
    }
    hooked.clear()
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            done = dg.materialize([tickets, labels], partition_key=DAY, instance=instance, resources=resources)
    assert len(pd.read_parquet(tmp_path / "support-labels")) == 3
    [event] = [event for event in done.get_asset_materialization_events() if event.asset_key == RESULT]
    assert event.materialization.metadata["expr"].value == "day"
    assert event.materialization.tags["dagster/code_version"] == labels.specs_by_key[RESULT].code_version
    assert hooked == ["support__labels"] * 2


LABELS = build_batch_assets(JOB, source=tickets)


@pytest.mark.parametrize(
    ("declare", "complaint"),
    [
        (lambda: keld_definitions(LABELS), "takes a list of assets; this is one alone"),  # type: ignore[arg-type]
        (lambda: keld_definitions([LABELS], resource=KeldResource), "is the class KeldResource; give KeldResource"),  # type: ignore[arg-type]
        (lambda: keld_definitions([LABELS], resource={"home": "keld"}), "is a dict; give KeldResource"),  # type: ignore[arg-type]
        (lambda: build_batch_assets("labels", source=tickets), "takes a keld.Job; this is a str"),  # type: ignore[arg-type]
    ],
)
def test_what_a_newcomer_gives_first_is_refused_with_what_to_give(declare: Callable[[], object], complaint: str) -> None:
    """While definitions load, not in a run, and not with an attribute that something of Dagster's lacks."""
    with pytest.raises(ValueError, match=complaint):
        declare()


def test_whatever_a_module_has_beside_is_taken_along() -> None:
    """`dg.load_assets_from_modules` gives specs of external assets and observable sources in one list with the others."""

    @dg.observable_source_asset
    def feed() -> dg.DataVersion:
        return dg.DataVersion("1")

    defined = keld_definitions([LABELS, tickets, feed, dg.AssetSpec("landed")], resource=KeldResource())
    assert {"labels", "tickets", "feed", "landed"} <= {key.to_user_string() for key in defined.resolve_all_asset_keys()}


def test_translator_has_the_last_word(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Of the IO manager, the deadline's policy and the code version as well, which the op itself uses."""
    strict = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=4000))

    class Ours(KeldTranslator):
        def get_asset_spec(self, part: Part, default: dg.AssetSpec) -> dg.AssetSpec:
            spec = default.replace_attributes(code_version="ours", owners=["team:us"], description=part, kinds={"ours"}, group_name="us")
            return spec.with_io_manager_key("other").replace_attributes(freshness_policy=strict) if part == "result" else spec

    labels = build_batch_assets(JOB, source=tickets, translator=Ours(), **ALL)
    resources = {
        "keld": KeldResource(home=str(tmp_path / "keld")),
        "io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path / "pickles")),
        "other": Written(directory=str(tmp_path)),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        for _ in range(2):
            done = dg.materialize([tickets, labels], partition_key=DAY, instance=instance, resources=resources)
    assert len(pd.read_parquet(tmp_path / "support-labels")) == 3
    [batch, result] = [event.materialization for event in done.get_asset_materialization_events() if event.asset_key != tickets.key]
    assert batch.tags["dagster/code_version"] == result.tags["dagster/code_version"] == "ours"
    due = DAYS.time_window_for_partition_key(DAY).end + timedelta(days=4000)
    assert batch.metadata["keld/deadline"].value == due.timestamp()
    assert {(spec.group_name, *spec.owners, *spec.kinds) for spec in labels.specs} == {("us", "team:us", "ours")}
    assert {spec.description for spec in labels.specs} == {"batch", "result"}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda default: None, "returned a NoneType; it must return"),
        (lambda default: default.replace_attributes(key="one"), "both assets the key one"),
    ],
)
def test_translator_that_gives_no_two_assets_is_refused(returned: Any, message: str) -> None:
    """A forgotten return, and one key for both: Dagster's own words were of attributes and partitions."""

    class Ours(KeldTranslator):
        def get_asset_spec(self, part: Part, default: dg.AssetSpec) -> dg.AssetSpec:
            return returned(default)  # type: ignore[no-any-return]  # what a user's own may give

    with pytest.raises(ValueError, match=message):
        build_batch_assets(JOB, source=tickets, translator=Ours())
    with pytest.raises(ValueError, match=r"the class Ours; give an object, Ours\(\)"):
        build_batch_assets(JOB, source=tickets, translator=Ours)  # type: ignore[arg-type]  # the slip


def test_translator_that_gives_the_two_assets_other_partitions_is_refused() -> None:
    class Ours(KeldTranslator):
        def get_asset_spec(self, part: Part, default: dg.AssetSpec) -> dg.AssetSpec:
            return default if part == "batch" else default.replace_attributes(partitions_def=dg.WeeklyPartitionsDefinition("2026-11-01"))

    with pytest.raises(ValueError, match="other partitions; both assets are of one op"):
        build_batch_assets(JOB, source=tickets, translator=Ours())


@dg.multi_asset(outs={"one": dg.AssetOut(), "other": dg.AssetOut(key=["raw", "tickets"])}, partitions_def=DAYS)
def both():  # type: ignore[no-untyped-def]  # Dagster reads the annotation
    return 1, pd.DataFrame({"id": [1, 2], "body": ["late", "broken"]})


OTHER = dg.AssetKey(["raw", "tickets"])
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "spec": (both.get_asset_spec(OTHER), {}),
    "specs_by_key": (both.specs_by_key[OTHER], {}),
    "key": (OTHER, {"partitions_def": DAYS}),
    "dep": (dg.AssetDep(OTHER), {"partitions_def": DAYS}),
    "text": ("raw/tickets", {"partitions_def": DAYS}),
}


@pytest.mark.share(5)
@pytest.mark.parametrize("form", FORMS)
def test_one_asset_of_a_multi_asset_is_a_source(form: str, keld_emulator: Emulator, tmp_path: Path) -> None:
    source, given = FORMS[form]
    labels = build_batch_assets(JOB, source=source, **given)
    resources = {"keld": KeldResource(home=str(tmp_path)), "io_manager": dg.FilesystemIOManager(base_dir=str(tmp_path))}
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([both, labels], partition_key=DAY, instance=instance, resources=resources)
    assert done.success and labels.partitions_def == DAYS
    assert len(keld_emulator.bill()) == 2


def test_external_assets_are_sources_with_their_partitions() -> None:
    for source in (dg.AssetSpec("far", partitions_def=DAYS), dg.SourceAsset("far", partitions_def=DAYS)):
        labels = build_batch_assets(JOB, source=source)
        assert labels.partitions_def == DAYS
        dg.Definitions.validate_loadable(
            dg.Definitions.merge(dg.Definitions(assets=[source]), keld_definitions([labels], resource=KeldResource()))
        )


@pytest.mark.parametrize(
    ("source", "complaint"), [(dg.AssetOut(), "AssetOut, which is no asset by itself"), (dg.AssetIn("tickets"), "AssetIn, which is")]
)
def test_what_is_no_asset_by_itself_is_refused_in_words(source: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        build_batch_assets(JOB, source=source)
