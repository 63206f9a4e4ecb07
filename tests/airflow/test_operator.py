"""The operator, on a worker without a database: what each visit of a task does, and what it leaves behind."""

from conftest import ROWS, Worker, job

from keld import Keld
from keld.emulator import Emulator

DAY = {"partition_key": "2026-11-19"}


def rows() -> list[dict[str, object]]:
    return ROWS


def test_a_task_sends_waits_without_a_slot_and_hands_over(worker: Worker, provider: Emulator, home: Keld) -> None:
    """The whole way of a partition: two visits, nothing remembered in between."""
    from keld_airflow import KeldBatchOperator

    task = KeldBatchOperator(task_id="label", job=job(), source=rows)
    sent = worker.run(task, **DAY)
    assert sent.state == "deferred", sent.error
    assert sent.trigger["found"] == "nothing"
    assert len(home.statuses()) == 1
    ended = worker.through(task, provider, **DAY)
    assert ended.state == "success", ended.error
    assert ended.manifest["counts"]["answered"] == len(ROWS) == len(provider.bill())
