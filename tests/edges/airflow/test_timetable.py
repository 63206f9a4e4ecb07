"""Timetables: whatever starts a Dag run, with the instants that Airflow itself makes for it, a deadline some hours ahead can be reckoned with.

The runs are those that the serialised Dag's timetable gives the scheduler, the context is the real task runner's: both are full of pendulum's.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import signature
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from keld import Keld
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import ROWS, Worker, deserialised, job, serialised, since

MODELS = {"openai": "openai:gpt-5-mini", "anthropic": "anthropic:claude-haiku-4-5"}
DAY, AHEAD = timedelta(days=1), timedelta(hours=30)


def _timetables() -> dict[str, Any]:
    try:
        from airflow.sdk import (
            CronDataIntervalTimetable,
            CronPartitionTimetable,
            CronTriggerTimetable,
            DeltaDataIntervalTimetable,
            DeltaTriggerTimetable,
            MultipleCronTriggerTimetable,
        )
    except ImportError:  # Airflow 3.1
        from airflow.timetables.interval import CronDataIntervalTimetable, DeltaDataIntervalTimetable  # type: ignore[assignment]
        from airflow.timetables.trigger import (  # type: ignore[assignment]
            CronTriggerTimetable,
            DeltaTriggerTimetable,
            MultipleCronTriggerTimetable,
        )

        def CronPartitionTimetable(*_: Any, **__: Any) -> None: ...  # type: ignore[misc]

    return {
        "@daily": "@daily",
        "cron": "0 3 * * *",
        "delta": timedelta(hours=6),
        "CronDataInterval": CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
        "CronDataInterval in Paris": CronDataIntervalTimetable("0 0 * * *", timezone="Europe/Paris"),
        "CronTrigger": CronTriggerTimetable("0 3 * * *", timezone="Asia/Kolkata"),
        "CronTrigger with interval": CronTriggerTimetable("0 3 * * *", timezone="UTC", interval=DAY),
        "CronPartition": CronPartitionTimetable("0 0 * * *", timezone="UTC", run_offset=-1, key_format="%Y-%m-%d"),
        "CronPartition in Paris": CronPartitionTimetable("0 0 * * *", timezone="Europe/Paris", run_offset=-1, key_format="%Y-%m-%d"),
        "DeltaDataInterval": DeltaDataIntervalTimetable(DAY),
        "DeltaTrigger": DeltaTriggerTimetable(timedelta(hours=1)),
        "MultipleCronTrigger": MultipleCronTriggerTimetable("0 3 * * *", "0 15 * * *", timezone="UTC"),
    }


def _scheduled(dag: Any, _: datetime) -> tuple[dict[str, Any], datetime]:
    """The next run as the scheduler makes it, and the end of what it stands for."""
    [newest] = {"last_automated_run_info", "last_automated_dagrun"}.intersection(signature(dag.next_dagrun_info).parameters)
    info = dag.next_dagrun_info(**{newest: None})
    run = {"run_type": "scheduled", "run_after": info.run_after}
    if getattr(info, "partition_key", None) is not None:
        return run | {"partition_key": info.partition_key, "partition_date": info.partition_date}, info.run_after
    start, end = info.data_interval
    return run | {"logical_date": start, "data_interval_start": start, "data_interval_end": end}, end


def _by_hand(dag: Any, now: datetime) -> tuple[dict[str, Any], datetime]:
    """A run that somebody gave a date."""
    import pendulum

    start, end = dag.timetable.infer_manual_data_interval(run_after=pendulum.instance(now))
    return {"logical_date": now, "data_interval_start": start, "data_interval_end": end, "run_after": now}, end


def _without_date(_: Any, now: datetime) -> tuple[dict[str, Any], datetime]:
    return {"run_after": now}, now


def _by_asset(_: Any, now: datetime) -> tuple[dict[str, Any], datetime]:
    """A partition that another Dag has made; only `window` tells how long it is."""
    begins = (now - DAY).replace(minute=0, second=0, microsecond=0)
    return {"run_type": "asset_triggered", "run_after": now, "partition_key": "eu", "partition_date": begins}, begins + DAY


SCHEDULED = [
    "@daily", "cron", "delta", "CronDataInterval", "CronDataInterval in Paris", "CronTrigger", "CronTrigger with interval", "CronPartition",
    "CronPartition in Paris", "DeltaDataInterval", "DeltaTrigger", "MultipleCronTrigger",
]  # fmt: skip
# An Airflow before 3.3 does not tell a task when its partition begins: its end is what the key says, if it is a date.
BY_DATE = since("3.3")
LATER: dict[tuple[str | None, Any], Any] = {
    ("CronPartition", _scheduled): since("3.2"), ("CronPartition in Paris", _scheduled): BY_DATE, (None, _by_asset): BY_DATE,
}  # fmt: skip
RUNS = [
    pytest.param(name, started, marks=LATER.get((name, started), ()), id=f"{name} {started.__name__.strip('_')}")
    for name, started in (
        *((name, _scheduled) for name in SCHEDULED),
        ("@daily", _by_hand),
        ("CronDataInterval", _by_hand),
        (None, _by_hand),
        (None, _without_date),
        (None, _by_asset),
    )
]


def _dag_of(schedule: Any, task: Callable[[], Any]) -> tuple[Any, Any]:
    """A Dag with one task, and the same as the scheduler has it."""
    from airflow.sdk import DAG

    with DAG("tickets", schedule=schedule, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False) as dag:
        task()
    return dag, deserialised(serialised(dag))


@pytest.mark.share(4)
@pytest.mark.parametrize("provider_name", MODELS)
@pytest.mark.parametrize(("timetable", "started"), RUNS)
def test_a_deadline_counts_from_the_end_of_what_a_run_stands_for(
    worker: Worker,
    provider: Emulator,
    home: Keld,
    timetable: str | None,
    started: Callable[..., tuple[dict[str, Any], datetime]],
    provider_name: str,
) -> None:
    """The first live night of a Dag is the first time that its deadline lies ahead, and nobody is awake."""
    from keld_airflow import KeldBatchOperator

    asked = job(models=MODELS[provider_name], deadline=AHEAD)
    window = DAY if started is _by_asset else None
    schedule = None if timetable is None else _timetables()[timetable]
    dag, stored = _dag_of(schedule, lambda: KeldBatchOperator(task_id="label", job=asked, source=lambda: ROWS, window=window))
    run, ends_at = started(stored, datetime.now(UTC))
    sent = worker.until_sent(dag.get_task("label"), **run)
    status = home.status(sent.trigger["job_run"])
    assert (status.deadline_at, status.deadline_basis) == (ends_at + AHEAD, "partition-end")
    assert status.partition == run.get("partition_key", status.partition)
    assert len(provider.batches()) == 1


@pytest.mark.parametrize(
    ("day", "hours"), [(datetime(2026, 3, 28), 24), (datetime(2026, 3, 29), 23), (datetime(2026, 3, 30), 24), (datetime(2026, 10, 25), 25)]
)
def test_a_day_of_a_zone_with_summer_time_has_a_key_like_its_neighbours(day: datetime, hours: int) -> None:
    """The date that Airflow's `{{ ds }}` gives it, which is the date in UTC at its beginning, however many hours it has."""
    from keld_airflow import KeldBatchOperator
    from keld_airflow.partition import partition_of

    schedule = _timetables()["CronDataInterval in Paris"]
    dag, stored = _dag_of(schedule, lambda: KeldBatchOperator(task_id="label", job=job(), source=lambda: ROWS))
    asked_at = (day + timedelta(days=1)).replace(hour=12, tzinfo=ZoneInfo("Europe/Paris"))
    run, ends_at = _by_hand(stored, asked_at)
    found = partition_of({"dag": dag, "dag_run": None, **run})
    assert ends_at - run["data_interval_start"] == timedelta(hours=hours)
    assert found.key == f"{run['data_interval_start']:%Y-%m-%d}" == f"{day - timedelta(days=1):%Y-%m-%d}"


@since("3.3")
@pytest.mark.slow
@pytest.mark.parametrize("provider_name", MODELS)
def test_a_dag_can_be_tried_with_a_deadline_and_its_asset_is_followed_by_all(
    open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, provider_name: str
) -> None:
    """`dag.test()` goes through the whole wait, on Airflow's database; what follows a plain run there may go by partitions, or not."""
    from airflow.sdk import DAG, Asset, PartitionedAssetTimetable, task
    from airflow.utils.db import initdb

    from keld_airflow import KeldBatchOperator

    monkeypatch.setenv("KELD_HOME", str(tmp_path / "keld"))
    open_emulator(latency_s=1, frozen=False)
    asset = Asset(f"labels_{provider_name}", uri=f"file:///{provider_name}/labels")
    begins, schedules = {"start_date": datetime(2026, 1, 1, tzinfo=UTC), "catchup": False}, {"plain": [asset]}
    with DAG(f"tickets_{provider_name}", schedule="@daily", **begins) as dag:
        KeldBatchOperator(
            task_id="label", job=job(models=MODELS[provider_name], deadline=AHEAD), source=lambda: ROWS, outlets=[asset],
            sink=f"{tmp_path}/{{partition}}.parquet",
        )  # fmt: skip
    followers = []
    for name, schedule in (schedules | {"partitioned": PartitionedAssetTimetable(assets=asset)}).items():
        with DAG(f"{name}_{provider_name}", schedule=schedule, **begins) as follower:
            task(lambda: None, task_id="follow")()
        followers.append(follower)
    initdb()
    _store(dag, *followers)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    run = dag.test(logical_date=today)
    assert run.state == "success"
    assert (tmp_path / f"{today:%Y-%m-%d}.parquet").exists()
    assert _queued() >= {(f"plain_{provider_name}", None), (f"partitioned_{provider_name}", f"{today:%Y-%m-%d}")}
    assert _followed(f"plain_{provider_name}") == [[f"{today:%Y-%m-%d}", None]]
    yesterday = today - timedelta(days=1)
    assert dag.test(logical_date=yesterday).state == "success"
    days = [[f"{day:%Y-%m-%d}", None] for day in (today, yesterday)]
    assert _followed(f"plain_{provider_name}") == days, "a run for each day, which is given the events of no other"


def _store(*dags: Any) -> None:
    """Puts Dags into Airflow's database, as its Dag processor does."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.utils.session import create_session

    with create_session() as session:
        DagBundlesManager().sync_bundles_to_db(session=session)
    bag = DagBag("/dev/null")
    bag.dags = {dag.dag_id: dag for dag in dags}
    sync_bag_to_db(bag, "dags-folder", None)


def _queued() -> set[tuple[str, str | None]]:
    """(Dag, partition key) of the runs that asset events have asked for."""
    from airflow.models.asset import AssetDagRunQueue, AssetPartitionDagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        plain = session.scalars(select(AssetDagRunQueue.target_dag_id)).all()
        by_partition = session.execute(select(AssetPartitionDagRun.target_dag_id, AssetPartitionDagRun.partition_key)).all()
    return {(dag_id, None) for dag_id in plain} | {(dag_id, key) for dag_id, key in by_partition}


def _followed(dag_id: str) -> list[list[str | None]]:
    """The partition keys of the events that each run of a Dag was given, once Airflow's scheduler has started what is queued."""
    from airflow.jobs.job import Job as SchedulerJob
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models import DagModel, DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        scheduler = SchedulerJobRunner(job=SchedulerJob())
        scheduler._create_dag_runs_asset_triggered(dag_models=[session.get_one(DagModel, dag_id)], session=session)
        session.flush()
        runs = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.id)).all()
        return [[event.partition_key for event in sorted(run.consumed_asset_events, key=lambda event: event.id)] for run in runs]
