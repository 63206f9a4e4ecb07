"""Kill: what a killed task lets go of, and what only looks like a kill.

Airflow says "killed" to a trigger whose triggerer froze and lost it to another, to one whose task was cleared and has found its job
run again by then, and to a worker that is merely shut down.  A batch that is cancelled for such a reason is paid and thrown away.  So two
things are asked before: the task instance, whether it is over, and the ledger, whether this attachment to the job run still stands.
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
    """Whether Airflow's database has a task instance as ended, or not at all any more; asks its API, blocking."""
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance  # no need of it while a Dag is read

    states = RuntimeTaskInstance.get_task_states(dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index)
    of_run = states.get(ti.run_id, {})
    key = ti.task_id if ti.map_index < 0 else f"{ti.task_id}_{ti.map_index}"
    return key not in of_run or of_run[key] in _OVER


def let_go(keld_conn_id: str, job_run: str, holder: str, epoch: int) -> bool:
    """Whether the job run is cancelled now: it is if nobody else waits for it; blocks while it is being asked of the provider."""
    with KeldHook(keld_conn_id).open() as keld:
        if not keld.detach(job_run, holder, epoch):
            return False
        _cancel(keld, job_run)
        return True


def _cancel(keld: Keld, job_run: str) -> None:
    """Asks the cancel of the provider, as soon as whoever looks at the job run just now is through.

    What that does not reach, since the provider is down, the next task of the job does.
    """
    pause = threading.Event()
    for _ in range(_TRIES):
        [status] = keld.poll([job_run])
        if status.over or not any(batch.state is State.IN_PROGRESS for batch in status.batches):
            return
        pause.wait(0.5)
