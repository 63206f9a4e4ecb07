"""`dg launch`, as a user types it, beside a deployment: its run has no code location, and the deployment must not pay for its rows again."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.edges.dagster.code_location import ROWS_A_DAY
from tests.edges.dagster.conftest import LOCATION, Deployment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("dagster_dg_cli") is None, reason="`dg` is not installed"),
]

DAY = "2026-11-01"


def dg_launch(**environment: str) -> subprocess.CompletedProcess[str]:
    """In the instance of the deployment, whose home the environment names."""
    command = [
        str(Path(sys.executable).with_name("dg")), "launch", "-f", str(LOCATION), "-d", str(LOCATION.parent),
        "--assets", "tickets,labels_batch,labels", "--partition", DAY,
    ]  # fmt: skip
    root = str(Path(__file__).parents[3])
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": root} | environment, capture_output=True, text=True, check=False)


def test_dg_launch_without_a_namespace_is_refused_before_anything_is_sent(deployment: Deployment) -> None:
    """A run from the UI would pay for the same rows under the code location's name."""
    ended = dg_launch()
    assert ended.returncode != 0
    told = ended.stdout + ended.stderr
    assert "labels: this run was not launched through a code location (dg launch, dagster asset materialize, a script)." in told
    assert "Nothing was sent. Launch it from the UI, or set KELD_NAMESPACE" in told
    assert deployment.emulator.batches() == []


def test_what_dg_launch_sends_in_the_code_locations_namespace_its_sensor_collects(deployment: Deployment) -> None:
    ended = dg_launch(KELD_NAMESPACE="location")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (len(deployment.emulator.batches()), deployment.holds(), deployment.materialized("labels")) == (1, [], set())
    deployment.provider_ends()
    deployment.turn_until(lambda: deployment.materialized("labels") == {DAY})
    deployment.launch(DAY, "labels_batch", "labels")
    deployment.turn_until(lambda: not deployment.keld.statuses(open_only=True))
    assert len(deployment.emulator.bill()) == ROWS_A_DAY
