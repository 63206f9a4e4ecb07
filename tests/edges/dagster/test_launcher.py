"""A ledger that is a file, under run launchers and executors: what `dagster.yaml` says of them is known, loaded or not."""

import json
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.launcher.base import RunLauncher
from dagster._core.test_utils import instance_for_test
from dagster._serdes import ConfigurableClassData

from keld import Job, Keld
from keld.emulator import Emulator
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets
from keld_dagster.launcher import elsewhere, launcher_elsewhere

KUBERNETES = {"module": "dagster_k8s", "class": "K8sRunLauncher"}
HERE = __name__


class OnThisHost(DefaultRunLauncher):
    """A user's own, that starts processes as Dagster's does."""


class OnACluster(RunLauncher):  # type: ignore[type-arg]
    """A user's own, of which nothing is known."""


@dg.asset
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"id": [1], "body": ["late"]})


def submitted(home: Path, launcher: dict[str, str] | None = None) -> bool:
    """True if a run sent its batch."""
    job = Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini")
    resources = {
        "keld": KeldResource(home=str(home), namespace="location"),
        "io_manager": KeldParquetIOManager(base_dir=str(home / "tables")),
    }
    with instance_for_test(overrides={"run_launcher": launcher} if launcher else {}) as instance:
        dg.materialize([tickets, build_batch_assets(job, source=tickets)], instance=instance, resources=resources)
    with Keld(home=home, namespace="location") as keld:
        status = keld.find("labels")
    return status is not None and status.sent


def test_runs_in_containers_refuse_a_ledger_that_is_a_file(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Each container would have a ledger of its own, and pay for the same rows."""
    with pytest.raises(dg.Failure, match=r"K8sRunLauncher runs tasks on others.*Nothing was sent\. Give a Postgres: ledger_url"):
        submitted(tmp_path, KUBERNETES)
    assert keld_emulator.bill() == []


def test_runs_on_this_host_share_a_ledger_that_is_a_file(keld_emulator: Emulator, tmp_path: Path) -> None:
    assert submitted(tmp_path)


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("module", "name", "other"),
    [
        ("dagster._core.launcher", "DefaultRunLauncher", False),
        ("dagster._core.launcher.sync_in_memory_run_launcher", "SyncInMemoryRunLauncher", False),
        (HERE, "OnThisHost", False),
        (HERE, "OnACluster", True),
        ("acme.a_module_of_another_image", "OurRunLauncher", True),
        ("dagster_k8s", "K8sRunLauncher", True),
        ("dagster_k8s.launcher", "K8sRunLauncher", True),
        ("dagster_docker", "DockerRunLauncher", True),
        ("dagster_aws.ecs", "EcsRunLauncher", True),
        ("dagster_celery", "CeleryRunLauncher", True),
        ("dagster_celery_k8s", "CeleryK8sRunLauncher", True),
    ],
)
def test_a_launcher_is_of_other_hosts_unless_it_is_dagsters_own_or_inherits_from_it(module: str, name: str, other: bool) -> None:
    """The next launcher that somebody writes is not in any list of ours."""
    with instance_for_test(overrides={"run_launcher": {"module": module, "class": name}}) as instance:
        assert elsewhere(instance, None) == ([name] if other else [])


@pytest.mark.parametrize(
    ("agent", "found"), [("K8sUserCodeLauncher", "K8sUserCodeLauncher"), ("ProcessUserCodeLauncher", None), (None, "dagster_cloud")]
)
def test_an_agent_of_dagster_plus_is_known_by_what_it_starts(agent: str | None, found: str | None) -> None:
    """Its instance has a class of its own, and names no run launcher.  JSON is YAML."""
    config = {} if agent is None else {"user_code_launcher": {"module": "dagster_cloud.workspace", "class": agent}}
    plus = ConfigurableClassData("dagster_cloud.instance", "DagsterCloudAgentInstance", json.dumps(config))
    with instance_for_test() as instance:
        assert launcher_elsewhere(instance.get_ref()._replace(custom_instance_class_data=plus)) == found


def test_an_executor_that_starts_each_step_elsewhere_is_known_whatever_it_is_called() -> None:
    """With the local launcher, the run is here, and its steps are not."""
    integration = pytest.importorskip("dagster_k8s")  # not in the environments of other versions
    assert elsewhere(None, integration.k8s_job_executor.configured({"max_concurrent": 1}, name="few")) == ["the executor few"]
    for local in (dg.in_process_executor, dg.multiprocess_executor, dg.multi_or_in_process_executor):
        assert elsewhere(None, local) == []
