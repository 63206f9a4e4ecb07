"""Holder: the name under which a task instance waits for a job run in the ledger, the same for all its tries; and back.

Between `task`, which attaches by it, and `abandoned`, which asks Airflow for the task instance that it names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_CANCELS = "airflow:"
_LEAVES = "airflow-leave:"  # with on_kill="leave": it waits like the others, and nobody cancels for it


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInstance:
    """What Airflow knows a task instance by; `map_index` is -1 if the task is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int


def holder_of(ti: Any, *, cancels: bool) -> str:
    """The name of a task instance; `cancels`: its batches are cancelled when it is killed."""
    map_index = -1 if ti.map_index is None else ti.map_index
    return f"{_CANCELS if cancels else _LEAVES}{ti.dag_id}/{ti.run_id}/{ti.task_id}/{map_index}"


def instance_of(holder: str) -> TaskInstance | None:
    """The task instance of a name; None if it is none of Airflow's, or one that leaves its batches."""
    if not holder.startswith(_CANCELS):
        return None
    dag_id, _, rest = holder.removeprefix(_CANCELS).partition("/")
    run_id, task_id, map_index = rest.rsplit("/", 2)  # only the id of a Dag run may have a slash in it
    return TaskInstance(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=int(map_index))
