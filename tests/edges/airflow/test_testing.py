"""`keld_airflow.testing`: how users test their Dags; and that it goes the same road as a real worker and triggerer."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import ROWS, job, since
from tests.support.documents import DOCS, ROOT, blocks

DAY = {"partition_key": "2026-11-19"}
A_DAY_S = 80_000.0  # a batch takes nearly all of the day that it may


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Emulator]:
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "keld"))
    with Emulator(frozen=True, latency_s=A_DAY_S) as emulator:
        for name, value in emulator.env().items():
            monkeypatch.setenv(name, value)
        yield emulator


def operator(**given: Any) -> Any:
    from airflow.sdk import DAG

    from keld_airflow import KeldBatchOperator

    with DAG("dag", schedule=None):
        return KeldBatchOperator(**{"task_id": "label", "job": job(), "source": lambda: ROWS, **given})


@pytest.mark.share(2)
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_task_comes_to_its_end_in_one_call(emulator: Emulator, tmp_path: Path, deferrable: bool) -> None:
    from keld_airflow.testing import run_task

    began = emulator.now()
    done = run_task(operator(sink=f"{tmp_path}/{{partition}}.parquet", deferrable=deferrable), emulator, **DAY)
    assert (done["state"], done["partition"], done["counts"]["answered"]) == ("finished", "2026-11-19", 5)
    assert pq.read_table(tmp_path / "2026-11-19.parquet").num_rows == len(emulator.bill()) == 5
    assert emulator.now() - began > timedelta(seconds=A_DAY_S)


def test_the_same_task_is_rendered_anew_for_another_day(emulator: Emulator, tmp_path: Path) -> None:
    """A test file reads its Dag once; the second test must not find the paths and terms of the first one in it."""
    from keld_airflow.testing import run_task

    task = operator(sink=f"{tmp_path}/{{partition}}.parquet", partition="{{ partition_key }}")
    done = [run_task(task, emulator, partition_key=day)["sink"] for day in ("2026-11-19", "2026-11-20")]
    assert done == [f"{tmp_path}/2026-11-19.parquet", f"{tmp_path}/2026-11-20.parquet"]
    assert (task.sink, task.partition) == (f"{tmp_path}/{{partition}}.parquet", "{{ partition_key }}")


def test_nothing_of_production_is_written_or_called(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Airflow's own settings lead to the team's ledger and provider: invented answers there would pass for paid ones, and real rows be bought."""
    from keld_airflow.testing import run_task

    ours = tmp_path / "ours"
    monkeypatch.setenv("AIRFLOW__KELD__HOME", str(ours))
    monkeypatch.setenv("AIRFLOW__KELD__LEDGER_URL", f"sqlite:///{ours}/ledger.db")
    monkeypatch.setenv("KELD_LEDGER_URL", f"sqlite:///{ours}/other.db")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv(
        "AIRFLOW_CONN_KELD_DEFAULT",
        json.dumps({"conn_type": "openai", "password": "sk-real", "host": "https://provider.invalid/v1", "extra": {"home": str(ours)}}),
    )
    done = run_task(operator(), emulator, **DAY)
    assert (done["counts"]["answered"], len(emulator.bill())) == (5, 5)
    assert not ours.exists()
    assert os.environ["KELD_LEDGER_URL"].endswith("other.db")


@pytest.mark.parametrize("variable", ["KELD_HOME", "AIRFLOW_HOME"])
def test_a_home_may_be_relative_in_a_test(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    """In production it is refused, since each process has its own working directory; a test is one process."""
    from keld_airflow.testing import run_task

    monkeypatch.delenv("KELD_HOME")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "of-the-test")
    assert run_task(operator(), emulator, **DAY)["counts"]["answered"] == 5


def test_without_a_home_each_emulator_has_a_ledger_of_its_own(emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Answers of the last test would be found again, and nothing be sent."""
    from keld_airflow.testing import run_task

    monkeypatch.delenv("KELD_HOME")
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    for _ in range(2):
        run_task(operator(), emulator, **DAY)
    assert len(emulator.bill()) == 5
    with Emulator(frozen=True) as another:
        for name, value in another.env().items():
            monkeypatch.setenv(name, value)
        run_task(operator(), another, **DAY)
        assert len(another.bill()) == 5
    assert not (tmp_path / "keld").exists()


def test_a_deadline_comes_when_it_is_due(emulator: Emulator) -> None:
    """The batch would take a day; the rows are moved to a faster lane in time, as in production."""
    from keld_airflow.testing import run_task

    done = run_task(operator(job=job(deadline=timedelta(hours=6))), emulator, logical_date=emulator.now())
    assert (done["counts"]["answered"], done["late"]) == (5, False)


def test_a_decorated_function_gets_what_the_dag_run_has(emulator: Emulator) -> None:
    from airflow.sdk import DAG

    from keld_airflow.decorator import keld_batch_task
    from keld_airflow.testing import run_task

    with DAG("dag", schedule=None) as dag:

        @keld_batch_task(job=job())
        def label(partition_key: str | None = None) -> Any:
            return [{"id": 1, "body": partition_key}]

        label()
    assert run_task(dag.get_task("label"), emulator, **DAY)["counts"]["answered"] == 1


def test_the_params_of_a_dag_are_those_of_a_run_that_gives_none_or_some(emulator: Emulator) -> None:
    """A form's defaults are a part of the Dag: a test that must repeat them does not test them."""
    from airflow.sdk import DAG, Param

    from keld_airflow.decorator import keld_batch_task
    from keld_airflow.testing import run_task

    with DAG("dag", schedule=None, params={"region": Param("eu", enum=["eu", "us"]), "rows": 2}):

        @keld_batch_task(job=job(), partition="{{ params.region }}|{{ dag_run.conf.get('by', 'hand') }}")
        def label(params: Any = None) -> Any:
            return ROWS[: params["rows"]]

        labelled = label()
    by_default, by_conf = run_task(labelled, emulator), run_task(labelled, emulator, conf={"region": "us", "rows": 3, "by": "api"})
    assert (by_default["partition"], by_default["rows"]) == ("eu|hand", 2)
    assert (by_conf["partition"], by_conf["rows"]) == ("us|api", 3)
    with pytest.raises(Exception, match="'mars' is not one of"):
        run_task(labelled, emulator, conf={"region": "mars"})


def test_a_mapped_task_without_an_instance_is_refused_in_words(emulator: Emulator) -> None:
    from airflow.sdk import DAG

    from keld_airflow import KeldBatchOperator
    from keld_airflow.testing import run_task

    with DAG("dag", schedule=None) as dag:
        KeldBatchOperator.partial(task_id="label", job=job(), source=lambda: ROWS).expand(partition=["eu", "us"])
    with pytest.raises(ValueError, match=r"label is mapped\. Name the instance to run"):
        run_task(dag.get_task("label"), emulator)


def test_a_task_that_sends_and_a_sensor_that_collects(emulator: Emulator) -> None:
    from airflow.sdk import DAG

    from keld_airflow import KeldJobSensor
    from keld_airflow.testing import run_task

    sent = run_task(operator(wait=False), emulator, **DAY)
    assert (sent["state"], emulator.bill()) == ("open", [])
    with DAG("dag", schedule=None):
        sensor = KeldJobSensor(task_id="collect", job_run=sent)
    assert run_task(sensor, emulator, **DAY)["counts"]["answered"] == 5


def test_an_instance_of_a_mapped_task_is_run_by_its_index(emulator: Emulator) -> None:
    from airflow.sdk import DAG

    from keld_airflow import KeldBatchOperator
    from keld_airflow.testing import run_task

    with DAG("dag", schedule=None) as dag:
        KeldBatchOperator.partial(task_id="label", job=job(), source=lambda: ROWS).expand(
            partition=["eu|{{ partition_key }}", "us|{{ partition_key }}"]
        )
    done = [run_task(dag.get_task("label"), emulator, map_index=index, **DAY)["partition"] for index in (0, 1)]
    assert done == ["eu|2026-11-19", "us|2026-11-19"]


def test_what_a_task_takes_from_another_is_given_by_its_id(emulator: Emulator) -> None:
    """A Dag that maps over the output of a task, or a sensor behind one, has no database to find it in."""
    from airflow.sdk import DAG, task

    from keld_airflow import KeldBatchOperator, KeldJobSensor
    from keld_airflow.testing import run_task

    with DAG("dag", schedule=None) as dag:

        @task
        def regions() -> list[str]:
            raise AssertionError("it is not run")

        KeldBatchOperator.partial(task_id="label", job=job(), source=lambda: ROWS).expand(partition=regions())
        sent = KeldBatchOperator(task_id="send", job=job(name="sent"), source=lambda: ROWS, wait=False)
        KeldJobSensor(task_id="collect", job_run=sent.output)
    mapped = run_task(dag.get_task("label"), emulator, map_index=1, outputs={"regions": ["eu", "us"]})
    assert mapped["partition"] == "us"
    manifest = run_task(dag.get_task("send"), emulator, logical_date=emulator.now())
    assert run_task(dag.get_task("collect"), emulator, outputs={"send": manifest})["counts"]["answered"] == 5
    with pytest.raises(LookupError, match=r"outputs=\{'send': "):
        run_task(dag.get_task("collect"), emulator)


def test_a_task_that_fails_says_why(emulator: Emulator) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from keld_airflow.testing import run_task

    with pytest.raises(AirflowFailException, match="wants a partition"):
        run_task(operator(sink="/tmp/{partition}.parquet"), emulator)


def test_after_the_block_time_is_real_again(emulator: Emulator) -> None:
    import keld
    from keld_airflow.hook import KeldHook
    from keld_airflow.testing import emulated_time

    with emulated_time(emulator), KeldHook().open() as opened:
        emulator.advance(timedelta(days=365))
        assert opened.clock() == emulator.now()
    assert keld.Keld.__name__ == "Keld"
    with KeldHook().open() as opened:
        assert opened.clock() - datetime.now(UTC) < timedelta(days=1)


GUIDE = DOCS / "how-to" / "airflow.md"


def run_recipe(place: Path, title: str) -> str:
    """What pytest says to a file of the guide, in a project with the guide's first Dag and an example."""
    page = blocks(GUIDE)
    [dag] = [block.text for block in page if "import DAG\n" in block.text or "import DAG," in block.text]
    [recipe] = [block.text for block in page if block.title == title]
    (place / "dags").mkdir()
    (place / "dags" / "ticket_labels.py").write_text(dag.replace("s3://lake", str(place)))
    (place / "dags" / "example_keld_daily.py").write_text((ROOT / "keld_airflow/example_dags/example_keld_daily.py").read_text())
    (place / "tickets").mkdir()
    pq.write_table(
        pa.Table.from_pylist([{"ticket_id": n, "body": f"ticket {n}"} for n in range(20)]), place / "tickets" / "2026-11-19.parquet"
    )
    (place / title).write_text(recipe)
    airflow = {"AIRFLOW_HOME": str(place / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(place / "dags")}
    environment = {**os.environ, **airflow, "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "TMPDIR": str(place)}
    if "dag.test" in recipe:
        subprocess.run(
            [Path(sys.executable).parent / "airflow", "db", "migrate"], cwd=place, env=environment, capture_output=True, check=True
        )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", title]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False).stdout


@pytest.mark.wide
@since("3.2")  # before, `DagBag` is in another module
def test_the_recipe_of_the_guide_labels_a_day(tmp_path: Path) -> None:
    told = run_recipe(tmp_path, "test_ticket_labels.py")
    assert re.search(r"^1 passed", told, re.MULTILINE), told
    assert pq.read_table(tmp_path / "ticket_labels" / "2026-11-19.parquet").num_rows == 20


@pytest.mark.slow
@since("3.2")
def test_the_recipe_of_the_guide_runs_a_whole_dag(tmp_path: Path) -> None:
    """Half a minute, nearly all of it for Airflow's database."""
    told = run_recipe(tmp_path, "test_whole_dag.py")
    assert re.search(r"^1 passed", told, re.MULTILINE), told
    assert pq.read_table(tmp_path / "keld_examples" / "ticket_labels" / "2026-11-19.parquet").num_rows == 4
