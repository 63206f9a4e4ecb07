"""Kill: cancels the job run of a task that was killed, and not of one that only seems to be.

Airflow also calls `on_kill` on a trigger whose triggerer froze and lost it to another one, on a trigger whose task was cleared and has
attached to its job run again since, and on a worker that only shuts down.  A batch cancelled for such a reason is paid and thrown away.  So
two things are checked before: that the task instance has ended, and that this attachment to the job run is still the valid one in the ledger.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from keld import State
from keld_airflow.hook import KeldHook

if TYPE_CHECKING:
    from keld import Keld

OVER = frozenset(("failed", "success", "skipped", "removed", "upstream_failed"))
"""The states of a task instance that has ended."""

_TRIES = 20


def is_over(ti: Any) -> bool:
    """True if a task instance has ended in Airflow's database, or is not in it any more; asks Airflow's API, blocking.

    One that was removed from its Dag has not: it may have another name now, and begins under that one after its trigger was ended.  If nobody takes
    its job run over, `abandoned` cancels it.
    """
    of_run = states_of(ti.dag_id, ti.map_index, [ti.task_id], [ti.run_id]).get(ti.run_id, {})
    key = state_key(ti.task_id, ti.map_index)
    return key not in of_run or of_run[key] in OVER - {"removed"}


def states_of(dag_id: str, map_index: int, task_ids: Collection[str], run_ids: Collection[str]) -> dict[str, dict[str, str | None]]:
    """The state of each of these task instances by Dag run and `state_key`, as far as Airflow has them; asks its API, blocking."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # not needed while a Dag is parsed

    return RuntimeTaskInstance.get_task_states(dag_id=dag_id, task_ids=sorted(task_ids), run_ids=sorted(run_ids), map_index=map_index)


def state_key(task_id: str, map_index: int) -> str:
    """What Airflow's API calls a task instance in a Dag run."""
    return task_id if map_index < 0 else f"{task_id}_{map_index}"


def detach_and_cancel(keld_conn_id: str, job_run: str, holder: str, epoch: int) -> bool:
    """True if the job run was cancelled because no other task waits for it; blocks until the provider has been asked."""
    with KeldHook(keld_conn_id).open() as keld:
        if not keld.detach(job_run, holder, epoch):
            return False
        _cancel(keld, job_run)
        return True


def _cancel(keld: Keld, job_run: str) -> None:
    """Cancels the batches at the provider, as soon as no other worker holds the job run.

    If the provider is down, the next task of the job cancels them.
    """
    pause = threading.Event()
    for _ in range(_TRIES):
        [status] = keld.poll([job_run])
        if status.over or not any(batch.state is State.IN_PROGRESS for batch in status.batches):
            return
        pause.wait(0.5)
