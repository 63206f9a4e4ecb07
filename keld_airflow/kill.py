"""Kill: cancels the job run of a task that was killed, and not of one that only seems to be.

Airflow also calls `on_kill` on a trigger whose triggerer froze and lost it to another one, on a trigger whose task was cleared and has
attached to its job run again since, and on a worker that only shuts down.  A batch cancelled for such a reason is paid and thrown away.  So
two things are checked before: that the task instance has ended, and that this attachment to the job run is still the valid one in the ledger.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from keld import State
from keld_airflow.hook import KeldHook

if TYPE_CHECKING:
    from keld import Keld

_OVER = frozenset(("failed", "success", "skipped", "removed", "upstream_failed"))
_TRIES = 20


def is_over(ti: Any) -> bool:
    """True if a task instance has ended in Airflow's database, or is not in it any more; asks Airflow's API, blocking."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # not needed while a Dag is parsed

    states = RuntimeTaskInstance.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index)
    of_run = states.get(ti.run_id, {})
    key = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    return key not in of_run or of_run[key] in _OVER


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
