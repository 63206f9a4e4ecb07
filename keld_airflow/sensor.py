"""Sensor: waits for a job run that a `KeldBatchOperator(wait=False)` has sent, and brings its answers in.

For Dags that insist on sending and collecting as two tasks.  It is told the job run by the other's XCom; the way is the operator's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from keld import Keld, Status, UnknownJobRun
from keld_airflow.hook import DEFAULT_CONN_ID
from keld_airflow.place import split_place
from keld_airflow.task import Found, JobRunTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context, ObjectStoragePath


class KeldJobSensor(JobRunTask, BaseSensorOperator):
    """Waits for a job run.

    A sensor's own `poke_interval`, `mode` and `timeout` say nothing here: the ledger knows when to look, and how long it may take is the
    job's deadline; `execution_timeout` is kept by Airflow itself.  With `soft_fail` or `never_fail` a failure skips it.

    Args:
        job_run: what the operator left behind, `label.output`, or the id alone.
        sink: an `ObjectStoragePath` or a function for the enriched rows; a path or URI is given to the operator.
        completion_rate: the least share of answered rows; below it the task fails.
        deferrable: False: the task holds its slot until the end.
        keld_conn_id: that of the operator.
    """

    template_fields: Sequence[str] = ("job_run", "sink", "keld_conn_id")

    def __init__(
        self,
        *,
        job_run: Any,
        sink: ObjectStoragePath | Callable[..., Any] | None = None,
        completion_rate: float = 0.99,
        deferrable: bool = True,
        keld_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_run = job_run
        self.sink, self.sink_function = split_place(sink, "sink")
        self.completion_rate, self.deferrable, self.keld_conn_id = completion_rate, deferrable, keld_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        return self._run_step(context, lambda keld: self._begin(keld, context))

    def _run_step(self, context: Context, find: Callable[[Keld], tuple[Status, Found]]) -> dict[str, Any]:
        try:
            return super()._run_step(context, find)
        except AirflowException as problem:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"{problem} Skipped, as soft_fail or never_fail wants it.") from None
            raise

    def _begin(self, keld: Keld, context: Context) -> tuple[Status, Found]:
        """The job run as it was sent: what the table says since is the operator's business."""
        left = self.job_run.get("job_run") if isinstance(self.job_run, Mapping) else self.job_run
        if not isinstance(left, str) or left in ("", "None"):
            raise AirflowFailException(
                f"job_run is a {type(self.job_run).__name__} that names no job run; was the task that sends skipped, or is it mapped? "
                "Give label.output of a KeldBatchOperator(wait=False), or map this sensor over it: .partial(...).expand(job_run=label.output)."
            )
        try:
            return keld.status(left), "nothing"
        except UnknownJobRun as problem:
            raise AirflowFailException(
                f"{problem} Give what KeldBatchOperator(wait=False) left behind, with its keld_conn_id={self.keld_conn_id!r}: another "
                "connection may have another ledger."
            ) from None
