"""Task: what every task does with a job run: advance it on a worker, then defer, or finish and hand over.

Between `operator` and `sensor`, which choose the job run, and `trigger`, which waits for it.  A step on a worker is short: it sends or
collects what is due.  Everything that costs or writes happens here, on a worker; between two steps only the ledger keeps state.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred, determine_kwargs
from airflow.sdk import BaseOperator
from airflow.sdk.bases.operator import TRIGGER_FAIL_REPR, TriggerFailureReason
from jinja2 import TemplateError, UndefinedError
from jinja2.nativetypes import NativeEnvironment

from keld import AccessRefused, KeldError, RunState, UnknownJobRun, absolute_path
from keld_airflow.abandoned import cancel_abandoned
from keld_airflow.asset import emit_asset_events
from keld_airflow.holder import holder_of
from keld_airflow.hook import KeldHook
from keld_airflow.kill import detach_and_cancel, is_over
from keld_airflow.link import KeldBatchLink
from keld_airflow.manifest import manifest, waiting
from keld_airflow.partition import absent_in, add_partition, no_partition
from keld_airflow.text import NoValue, present
from keld_airflow.trigger import KeldTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context

    from keld import Keld, Status

# Never sooner: a task that resumes before the scheduler has recorded that it deferred is marked failed (Airflow 3.3).
_FIRST_LOOK = timedelta(seconds=10)
# Without a triggerer the scheduler ends the deferral, and a worker looks itself: this long after a trigger would have fired,
_GRACE = timedelta(minutes=1)
_LONGEST_WAIT = timedelta(hours=24)  # or, without a deadline, this long after the task deferred.
# Text in every Dag: Jinja's native types read 2026_11 as 202611 and 1.10 as 1.1, which would be another partition, paid for once more.  Numbers
# and objects are read from the text afterwards, as each term says.
_AS_TEXT = frozenset(
    (
        "name",
        "partition",
        "key",
        "output_prefix",
        "sink",
        "keld_conn_id",
        "tags",
        "missing",
        "request_params",
        "encoding",
        "delimiter",
        "quote",
    )
)
_OF_FUNCTION = frozenset(("op_args", "op_kwargs", "templates_dict"))  # of `@task.keld_batch`

# What a task found when it started: no open job run, an open one, or one that was being cancelled.
Found = Literal["nothing", "open", "cancelling"]


class JobRunTask(BaseOperator):
    """A task that waits for a job run without a slot; see `KeldBatchOperator` and `KeldJobSensor`."""

    keld_conn_id: str
    sink: Any
    sink_function: Callable[..., Any] | None
    completion_rate: float
    deferrable: bool
    cancels_when_killed: bool = True
    batch_page: str | None = None
    overwrite_rtif_after_execution = True  # Airflow shows the fields as they are after each step: `_show_partition`
    operator_extra_links = (KeldBatchLink(),)
    _attachment: tuple[Any, str, str, int] | None = None
    _partition_shown: str | None = None  # the key, as soon as the job run is known
    _logged_problem_kind: str | None = None  # of the problem in the last log message

    # -- what Airflow calls -----------------------------------------------------------------------------------

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """As Airflow's, also for a mapped task; a value that the Dag run does not have fails the task at once, without retries.

        Raises:
            AirflowFailException: `{{ partition_key }}`, or any other expression, would be rendered as "None", even in the name of a file.
        """
        if parent is self:
            add_partition(context)
            wanting = {field: getattr(self, field, None) for field in template_fields}
            absent = next(((field, name) for field, value in wanting.items() if (name := absent_in(value, context))), None)
            if absent is not None:
                raise AirflowFailException(f"{absent[0]} wants {{{{ {absent[1]} }}}}, and {no_partition(context)}")
        for name in template_fields:
            environment = context["dag"].get_template_env(force_sandboxed=True) if parent is self and name in _AS_TEXT else jinja_env
            # In the user's own function None is a value, in all that Keld reads it is a missing one.
            strict = parent is self and name not in _OF_FUNCTION
            self._render_field(parent, name, context, environment.overlay(finalize=present) if strict else environment, seen_oids)

    def _render_field(self, parent: Any, name: str, context: Context, jinja_env: Any, seen_oids: set[int]) -> None:
        try:
            super()._do_render_template_fields(parent, [name], context, jinja_env, seen_oids)
        except NoValue:
            raise AirflowFailException(
                f"{name} was rendered as 'None', or with 'None' in it: a value it names is missing. Nothing was sent. Give that value, or a default "
                f"as in {{{{ params.region or 'all' }}}}, or omit {name}."
            ) from None
        except UndefinedError as error:
            raise AirflowFailException(
                f"A field of this task uses a name without a value: {error.message}. Nothing was sent. The log above names the field; "
                "a Dag run may have no dates: {{ partition_key or ds }} works with a partition key or a date."
            ) from None
        except TemplateError as error:
            raise AirflowFailException(
                f"A field of this task is no template of Jinja: {error.message or type(error).__name__}. Nothing was sent. The log above names the field."
            ) from None

    def _render(self, template: Any, context: Context, dag: Any = None) -> Any:
        """As Airflow's, but by the environment of the template: Airflow's own asks only whether the Dag wants native objects."""
        return super()._render(template, context, dag) if isinstance(template.environment, NativeEnvironment) else template.render(context)

    def resume(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """The next step on a worker, after the trigger fired."""
        return self._run_step(context, lambda keld: (_sent(keld, event["job_run"]), event["found"]))

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """As Airflow's; a deferral that no trigger ended in time (there may be no triggerer) is no failure: a worker looks itself."""
        if next_method == TRIGGER_FAIL_REPR and (next_kwargs or {}).get("error") == TriggerFailureReason.TRIGGER_TIMEOUT:
            self.log.warning("No trigger has fired in time; is a triggerer running? Looking at the job run from here.")
            return self._run_step(context, lambda keld: self._begin(keld, context))
        if next_method == TRIGGER_FAIL_REPR:  # the trigger broke, which fails the task and not its batch
            with suppress(Exception), KeldHook(self.keld_conn_id).open() as keld:
                keld.leave(self._holder(context))
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Cancels at the provider if the task instance has ended and is to cancel then; if only the worker is shut down, the batch stays.

        In a thread: Airflow calls this in a signal handler, which may have interrupted a call that holds the lock needed here.
        """
        if self._attachment is not None and self.cancels_when_killed:
            asking = threading.Thread(target=self._detach, args=self._attachment, daemon=True)
            asking.start()
            asking.join(timeout=30)

    def _detach(self, ti: Any, job_run: str, holder: str, epoch: int) -> None:
        with suppress(Exception):
            if is_over(ti):
                detach_and_cancel(self.keld_conn_id, job_run, holder, epoch)

    # -- a step -----------------------------------------------------------------------------------------------

    def _begin(self, keld: Keld, context: Context) -> tuple[Status, Found]:
        """The job run of this task, found or submitted, and how it was found."""
        raise NotImplementedError

    def _run_step(self, context: Context, find: Callable[[Keld], tuple[Status, Found]]) -> dict[str, Any]:
        """Advances the job run until it waits or is over; an error of Keld is raised without its cause, whose text may quote a prompt."""
        try:
            with KeldHook(self.keld_conn_id).open() as keld, self._leaving(keld, context):
                status, found = find(keld)
                return self._proceed(keld, context, status, found)
        except KeldError as problem:
            said = self._naming_connection(str(problem)) if isinstance(problem, AccessRefused) else str(problem)
            raise (AirflowFailException if problem.permanent else AirflowException)(said) from None
        finally:
            if self._partition_shown:
                self._show_partition(self._partition_shown)

    @contextmanager
    def _leaving(self, keld: Keld, context: Context) -> Iterator[None]:
        """Gives the attachment up if the step fails: what was sent goes on, and a later try finds it; it is no abandoned one (see `abandoned`)."""
        try:
            yield
        except TaskDeferred:
            raise
        except BaseException:  # Airflow's timeout of a task is no Exception
            with suppress(KeldError):
                keld.leave(self._holder(context))
            raise

    def _show_partition(self, key: str) -> None:
        """Puts the partition's key into the fields that Airflow shows as *Rendered Templates*; called when they are not needed any more."""

    def _proceed(self, keld: Keld, context: Context, status: Status, found: Found) -> dict[str, Any]:
        epoch = self._attach(keld, context, status)
        self._cancel_abandoned(keld)
        status = self._advance(keld, status.id)
        self._show(keld, context, status)
        if not status.over:
            self._check(status)
            if self.deferrable:
                self._defer(context, keld, status, epoch, found)
            status = keld.finish(status.id, progress=self._log_problem)
        if found == "cancelling" or ((found == "open" or status.outdated is not None) and status.state is not RunState.CANCELLED):
            # Another task submitted it, and the table may have changed since; rows that are answered are not asked again.
            status, _ = self._begin(keld, context)
            return self._proceed(keld, context, status, "nothing")
        return self._hand_over(keld, context, status)

    def _attach(self, keld: Keld, context: Context, status: Status) -> int:
        """The epoch of a new attachment, one for each step: an earlier try or trigger of this task cannot cancel the job run any more."""
        holder = self._holder(context)
        epoch = keld.attach(status.id, holder)
        self._attachment = (context["ti"], status.id, holder, epoch)
        return epoch

    def _holder(self, context: Context) -> str:
        return holder_of(context["ti"], cancels=self.cancels_when_killed)

    def _cancel_abandoned(self, keld: Keld) -> None:
        """Cancels what other tasks have left at the provider; after the attachment, so that this task's own job run is none of it."""
        try:
            cancel_abandoned(keld)
        except Exception as error:  # noqa: BLE001  it is not what this task is for: another task or triggerer tries again
            self.log.warning("Batches of tasks that were killed were not looked for: %s", type(error).__name__)

    def _advance(self, keld: Keld, job_run: str) -> Status:
        """The status after advancing until there is nothing to do but wait, or there is a problem."""
        status = keld.advance_until_waiting(job_run)
        self.batch_page, self._partition_shown = status.page, status.partition
        self.log.info(status.summary)
        return status

    def _show(self, keld: Keld, context: Context, status: Status) -> None:
        """Shows the status to people in the UI while the task waits (*Task State Store*); Keld never reads it, so an error here is only logged."""
        store = context.get("task_state_store")
        if store is None:  # before Airflow 3.3; the log says the same
            return
        expected_at = keld.expected_ends([status]).get(status.id)
        try:
            store.set("keld", waiting(status, expected_at) | manifest(status, status.sink))  # what is first is seen without scrolling
        except Exception as error:  # noqa: BLE001  only people read it
            self.log.warning("Airflow's task state store was not written: %s", type(error).__name__)

    def _log_problem(self, status: Status) -> None:
        """Logs the problem each time it changes; for a task that has deferred, the trigger does so."""
        if status.problem is not None and status.problem_kind != self._logged_problem_kind:
            self.log.warning("Waiting continues. %s", self._naming_connection(status.problem))
        self._logged_problem_kind = status.problem_kind

    def _naming_connection(self, problem: str) -> str:
        return problem if self.keld_conn_id in problem else f"{problem} (Airflow connection {self.keld_conn_id})"

    def _check(self, status: Status) -> None:
        """Passes if the task should wait.

        Raises:
            AirflowFailException, AirflowException: the provider refuses the key, or nothing could be sent.
        """
        if status.problem is None:
            return
        if status.sent and not status.problem_permanent:
            self._log_problem(status)
            return
        advice = "What was sent is not sent again." if status.sent else "Nothing was sent."
        kind = AirflowFailException if status.problem_permanent else AirflowException
        raise kind(f"{self._naming_connection(status.problem)} {advice} Clear the task to continue.")

    def _defer(self, context: Context, keld: Keld, status: Status, epoch: int, found: Found) -> None:
        now = keld.clock()
        due = status.deadline_at if status.deadline_at is not None and status.deadline_at > now else None
        trigger = KeldTrigger(
            keld_conn_id=self.keld_conn_id,
            job_run=status.id,
            holder=self._holder(context),
            epoch=epoch,
            look_at=max(status.next_check_at or now, now + _FIRST_LOOK).isoformat(),
            wake_at=None if due is None else max(due, now + _FIRST_LOOK).isoformat(),
            found=found,
            cancels=self.cancels_when_killed,
        )
        self.defer(trigger=trigger, method_name="resume", timeout=_defer_timeout(status, now))

    # -- the end ----------------------------------------------------------------------------------------------

    def _hand_over(self, keld: Keld, context: Context, status: Status) -> dict[str, Any]:
        """The manifest of a job run that is over, after its output is written and its asset events are set.

        Raises:
            AirflowFailException: it was cancelled, or fewer rows are answered than required.
        """
        if status.state is RunState.CANCELLED:
            raise AirflowFailException(f"{status.summary} It was cancelled; what was answered before is kept. Clear the task to continue.")
        facts = manifest(status, self._deliver(keld, context, status))
        if status.completion_rate < self.completion_rate:
            raise AirflowFailException(
                f"{status.summary} {self.completion_rate:.1%} are required: {facts['outcomes']}. The rows are written, with reasons. "
                "Clear the task to ask the unanswered rows again, or lower completion_rate."
            )
        emit_asset_events(self.outlets, context, facts)
        return facts

    def _deliver(self, keld: Keld, context: Context, status: Status) -> str | None:
        """The URI of the output, written here if only this task can; None if a function took the rows."""
        if self.sink_function is not None:
            rows = keld.read(status.id)
            left = self.sink_function(rows, **determine_kwargs(self.sink_function, (rows,), context))
            if inspect.isawaitable(left) or inspect.isgenerator(left):
                if inspect.iscoroutine(left):
                    left.close()  # else Python warns of it somewhere else
                raise AirflowFailException(
                    f"The sink function gave a {type(left).__name__}, which nobody runs: it has written nothing. Give a plain function."
                )
            return None
        if self.sink is None or (isinstance(self.sink, str) and absolute_path(self.sink) == status.sink):
            return status.output_uri
        # An open file system's path, or another task of the same job run has set its own sink.
        return keld.write(status.id, self.sink)


def _sent(keld: Keld, job_run: str) -> Status:
    """The job run that a task has waited for.

    Raises:
        AirflowFailException: the ledger does not know it, so it is not the one in which it was sent: a retry would send it all again.
    """
    try:
        return keld.status(job_run)
    except UnknownJobRun as problem:
        raise AirflowFailException(
            f"{problem} But this task has sent it, so it is another ledger than then, or an older state of it. Nothing was sent now. Correct the connection or "
            "the configuration, or rebuild the ledger with `keld reconcile --from-staging`; then clear the task. Cleared without that, it sends all rows again."
        ) from None


def _defer_timeout(status: Status, now: datetime) -> timedelta:
    """How long the scheduler waits for a trigger; so the deadline is handled without a triggerer too, later by the grace."""
    if status.deadline_at is None or status.deadline_at <= now:
        return _LONGEST_WAIT
    if status.escalates_at is None:
        return status.deadline_at - now + _GRACE
    moves_at = (
        status.escalates_at if status.escalates_at > now else status.next_check_at or now
    )  # an escalation under way needs a look at every step
    return moves_at - now + _GRACE
