"""Deadline: what a `DeadlineAlert` of Airflow counts from, where the thing that is due is a partition.

Airflow's own reference to the logical date rings for every past day of a backfill, and is silent for partitioned runs.  The alert is for
people; the deadline that a job run is held to is the job's own, in `keld`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.deadline import BaseDeadlineReference

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, eq=False)
class PartitionEnd(BaseDeadlineReference):
    """The end of a Dag run's partition, or of its data interval; none for backfills and for runs that stand for no time.

    Args:
        window: how long a partition is; Airflow knows only its beginning.
    """

    window: timedelta = timedelta(days=1)

    required_kwargs = frozenset(("dag_id", "run_id"))

    def serialize_reference(self) -> dict[str, Any]:
        return {"reference_type": self.reference_name, "window_s": self.window.total_seconds()}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> PartitionEnd:
        return cls(window=timedelta(seconds=reference_data.get("window_s", 86_400)))

    def _evaluate_with(self, *, session: Session, dag_id: str, run_id: str) -> datetime | None:
        """Airflow's scheduler asks, once, when the run is made."""
        from airflow.models.dagrun import DagRun  # the scheduler's; a task process must not touch it
        from sqlalchemy import select

        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if run is None or run.run_type == "backfill":
            return None
        starts_at: datetime | None = run.partition_date
        ends_at: datetime | None = run.data_interval_end
        return ends_at if starts_at is None else starts_at + self.window
