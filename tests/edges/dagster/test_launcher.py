"""A ledger that is a file, under run launchers: what `dagster.yaml` says of them is known, loaded or not."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster._core.test_utils import instance_for_test

from keld import Job, Keld
from keld.emulator import Emulator
from keld_dagster import KeldParquetIOManager, KeldResource, build_batch_assets

LOCAL = {"module": "dagster._core.launcher", "class": "DefaultRunLauncher"}
KUBERNETES = {"module": "dagster_k8s", "class": "K8sRunLauncher"}


@dg.asset
def tickets() -> pd.DataFrame:
    return pd.DataFrame({"id": [1], "body": ["late"]})


def submitted(home: Path, launcher: dict[str, str]) -> bool:
    """True if a run sent its batch."""
    job = Job(name="labels", key="id", prompt="Classify: {body}", models="openai:gpt-5-mini")
    resources = {"keld": KeldResource(home=str(home)), "io_manager": KeldParquetIOManager(base_dir=str(home / "tables"))}
    with instance_for_test(overrides={"run_launcher": launcher}) as instance:
        dg.materialize([tickets, build_batch_assets(job, source=tickets)], instance=instance, resources=resources)
    with Keld(home=home) as keld:
        status = keld.find("labels")
    return status is not None and status.sent


def test_runs_in_containers_refuse_a_ledger_that_is_a_file(keld_emulator: Emulator, tmp_path: Path) -> None:
    """Each container would have a ledger of its own, and pay for the same rows.  The launcher's package is not installed here."""
    with pytest.raises(dg.Failure, match=r"K8sRunLauncher runs tasks on others.*Nothing was sent\. Give a Postgres: ledger_url"):
        submitted(tmp_path, KUBERNETES)
    assert keld_emulator.bill() == []


def test_runs_on_this_host_share_a_ledger_that_is_a_file(keld_emulator: Emulator, tmp_path: Path) -> None:
    assert submitted(tmp_path, LOCAL)
