"""Sensor: waits for a job run that a `KeldBatchOperator(wait=False)` has sent, and collects its answers.

For Dags that send and collect in two tasks.  It gets the job run from the other task's XCom; the rest is as in the operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk import BaseSensorOperator

from keld import UnknownJobRun
from keld_airflow.hook import DEFAULT_CONN_ID
from keld_airflow.place import check_paths, split_place
from keld_airflow.setting import OnKill, cancels, check_completion_rate, check_switches, completion_rate_of, default_deferrable
from keld_airflow.task import Found, JobRunTask
from keld_airflow.value import is_open, share

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context, ObjectStoragePath

    from keld import Keld, Status


class KeldJobSensor(JobRunTask, BaseSensorOperator):
    """Waits for a job run.

    A sensor's own `poke_interval`, `mode` and `timeout` have no effect: the ledger says when to poll, and the limit is the
    job's deadline; Airflow itself applies `execution_timeout`.  With `soft_fail` or `never_fail` a failure skips the task.

    Args:
        job_run: the operator's XCom, `label.output`, or the id alone.
        sink: an `ObjectStoragePath` or a function for the enriched rows; give a path or URI to the operator instead.
        completion_rate, fail_on_partial, deferrable, on_kill: as of the operator.
        keld_conn_id: that of the operator.
    """

    template_fields: Sequence[str] = ("job_run", "sink", "completion_rate", "keld_conn_id")

    def __init__(
        self,
        *,
        job_run: Any,
        sink: ObjectStoragePath | Callable[..., Any] | None = None,
        completion_rate: float | str | None = None,
        fail_on_partial: bool | None = None,
        deferrable: bool | None = None,
        on_kill: OnKill = "cancel",
        keld_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_run = job_run
        self.sink, self.sink_function = split_place(sink, "sink")
        check_paths(self.task_id, None, self.sink)
        self.completion_rate = completion_rate_of(self.task_id, completion_rate, fail_on_partial)
        check_switches(self.task_id, deferrable=deferrable, fail_on_partial=fail_on_partial)
        self.deferrable = default_deferrable() if deferrable is None else deferrable
        self.cancels_when_killed, self.keld_conn_id = cancels(self.task_id, on_kill), keld_conn_id
        if not is_open(self.completion_rate):
            self.completion_rate = share(self.completion_rate)
            check_completion_rate(self.task_id, self.completion_rate)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """As Airflow's, each time that the sensor comes to a worker; then the share is read and checked.

        Raises:
            AirflowFailException: it is not valid.
        """
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        self.completion_rate = share(self.completion_rate)
        try:
            check_completion_rate(self.task_id, self.completion_rate)
        except ValueError as problem:
            raise AirflowFailException(str(problem)) from None

    def execute(self, context: Context) -> dict[str, Any]:
        return self._run_step(context, lambda keld: self._begin(keld, context))

    def _run_step(self, context: Context, find: Callable[[Keld], tuple[Status, Found]]) -> dict[str, Any]:
        try:
            return super()._run_step(context, find)
        except AirflowException as problem:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"{problem} Skipped, because soft_fail or never_fail is set.") from None
            raise

    def _begin(self, keld: Keld, context: Context) -> tuple[Status, Found]:
        """The job run as it was sent; only the operator compares it with the table as it is now."""
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
                f"{problem} Give the XCom of KeldBatchOperator(wait=False), with its keld_conn_id={self.keld_conn_id!r}: another "
                "connection may have another ledger."
            ) from None
