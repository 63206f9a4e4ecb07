"""The Dags in `keld_airflow.example_dags`: Airflow reads them without an error, and they do what their comments say."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import keld_airflow
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import since

pytestmark = since("3.2")  # of which the daily example has the deadline alert

EXAMPLES = Path(keld_airflow.__file__).parent / "example_dags"


@pytest.fixture(scope="module")
def dags() -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(EXAMPLES)
    assert bag.import_errors == {}
    return bag.dags


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Emulator]:
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "keld"))
    with Emulator(frozen=True, latency_s=3600) as emulator:
        for name, value in emulator.env().items():
            monkeypatch.setenv(name, value)
        yield emulator


def test_each_example_is_a_dag_of_its_own_name_that_begins_paused(dags: dict[str, Any]) -> None:
    """Copied into a folder of Dags, or loaded with Airflow's own examples, they must not send anything by themselves."""
    assert set(dags) == {path.stem for path in EXAMPLES.glob("example_*.py")}
    assert all(dag.is_paused_upon_creation for dag in dags.values())
    assert set(dags) == {line.split()[0] for line in (EXAMPLES / "__init__.py").read_text().splitlines() if line.startswith("    example_")}


def test_the_daily_example_is_done_before_its_deadline(
    dags: dict[str, Any], emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from keld_airflow.testing import run_task

    task = dags["example_keld_daily"].get_task("label")
    monkeypatch.setattr(task, "sink", f"{tmp_path}/{{partition}}.parquet")
    day = emulator.now().replace(hour=0, minute=0, second=0, microsecond=0)
    done = run_task(task, emulator, logical_date=day)
    assert (done["counts"]["answered"], done["late"], done["ceiling_usd"]) == (4, False, "2")
    assert (tmp_path / f"{day:%Y-%m-%d}.parquet").exists()


def test_the_regions_are_partitions_of_one_job(dags: dict[str, Any], emulator: Emulator) -> None:
    from keld_airflow.testing import run_task

    task = dags["example_keld_regions"].get_task("sentiment")
    done = [run_task(task, emulator, map_index=index) for index in range(3)]
    assert [one["partition"] for one in done] == ["eu", "us", "apac"]
    assert {one["job"] for one in done} == {"review_sentiments"}
    assert len(emulator.bill()) == 9


def test_the_function_of_the_taskflow_example_gives_the_rows(dags: dict[str, Any], emulator: Emulator) -> None:
    from keld_airflow.testing import run_task

    assert run_task(dags["example_keld_taskflow"].get_task("summarise"), emulator)["counts"]["answered"] == 3


def test_the_sensor_of_an_example_collects_what_the_other_task_has_sent(dags: dict[str, Any], emulator: Emulator) -> None:
    from keld_airflow.testing import run_task

    dag = dags["example_keld_collect"]
    sent = run_task(dag.get_task("send"), emulator)
    assert run_task(dag.get_task("collect"), emulator, outputs={"send": sent})["counts"]["answered"] == 3
