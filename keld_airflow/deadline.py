"""Deadline: the instant from which a `DeadlineAlert` of Airflow counts, when a partition is due.

Airflow's own reference, the logical date, alerts for every past day of a backfill, and never for partitioned runs.  The alert is for
people; the deadline that Keld acts on is the job's own, in `keld`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

try:
    from airflow.sdk.definitions.deadline import BaseDeadlineReference
except ImportError:
    raise ImportError(
        "PartitionEnd needs Airflow 3.2 or later: this one counts a DeadlineAlert only from its own instants, such as "
        "DeadlineReference.DAGRUN_LOGICAL_DATE. The deadline of the job itself is kept all the same."
    ) from None

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@dataclass(frozen=True, eq=False)
class PartitionEnd(BaseDeadlineReference):
    """The end of a Dag run's partition, or of its data interval; none for backfills and for runs without a date.

    Args:
        window: how long a partition is; Airflow knows only its start.
    """

    window: timedelta = timedelta(days=1)

    required_kwargs = frozenset(("dag_id", "run_id"))

    def serialize_reference(self) -> dict[str, Any]:
        return {"reference_type": self.reference_name, "window_s": self.window.total_seconds()}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> PartitionEnd:
        return cls(window=timedelta(seconds=reference_data.get("window_s", 86_400)))

    def _evaluate_with(self, *, session: Session, dag_id: str, run_id: str) -> datetime | None:
        """The instant, or None; Airflow's scheduler calls this once, when it creates the run."""
        from airflow.models.dagrun import DagRun  # the scheduler's own; a task process must not import it
        from sqlalchemy import select

        run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        if run is None or run.run_type == "backfill":
            return None
        starts_at: datetime | None = run.partition_date
        ends_at: datetime | None = run.data_interval_end
        return ends_at if starts_at is None else starts_at + self.window
