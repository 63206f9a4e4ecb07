"""Operator: a job over the partition of a Dag run, as one task.

One task, not one each to submit, wait and collect: what a retry, a clear or a next round does depends on the state of the job run, and
only the ledger knows it.  The terms are the fields of `keld.Job`, by the same names, in any version of it.  Airflow renders them before the
job is made of them: only what decides the answer is part of its identity, so a rendered tag, ceiling or deadline that changes buys nothing.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from airflow.providers.common.compat.sdk import AirflowFailException, determine_kwargs
from airflow.sdk import DAG, Context

from keld import Job, RunState, filled_path, wants_partition
from keld_airflow.hidden import SourceField, is_rows, is_text_of_rows, unwrap
from keld_airflow.hook import DEFAULT_CONN_ID
from keld_airflow.manifest import manifest
from keld_airflow.partition import no_partition, partition_of
from keld_airflow.place import check_paths, check_rows, has_file_system, name_of, split_place
from keld_airflow.setting import OnKill, cancels, check_switches, completion_rate_of, default_deferrable
from keld_airflow.task import Found
from keld_airflow.terms import TermsTask
from keld_airflow.value import TERMS, is_open, literal

if TYPE_CHECKING:
    import os

    from airflow.sdk import ObjectStoragePath, XComArg

    from keld import Keld, Status

    Source = str | os.PathLike[str] | ObjectStoragePath | XComArg | Callable[..., Any]

_Init = TypeVar("_Init", bound=Callable[..., None])
_ASSET_KEY_MOST = 250  # Airflow 3.3; a longer key fails only at the end, when the rows are paid for, and again in every retry
# Parameters of models: in a Dag's `params` they would never reach one.
_FOR_MODELS = frozenset(
    ("temperature", "top_p", "top_k", "seed", "stop", "reasoning", "reasoning_effort", "thinking", "verbosity", "tools")
)
# In a template whose names are all of these, each instance of a mapped task has the same value.
_OF_DAG_RUN = frozenset(("partition_key", "ds", "ds_nodash", "ts", "ts_nodash", "logical_date", "run_id", "dag_run", "params", "dag", "or"))
_NO_KEY = (list, tuple, set, frozenset, Mapping, bytes)
_EXPRESSION = re.compile(r"{[{%](.*?)[%}]}")
_FIRST_NAME = re.compile(r"(?<![\w.'\"])[A-Za-z_]\w*")
_OWN = (
    "source", "sink", "job", "model", "prompt_template_engine", "types", "encoding", "delimiter", "quote", "partition", "window",
    "completion_rate", "fail_on_partial", "wait", "deferrable", "on_kill", "keld_conn_id",
)  # fmt: skip
# The names that Airflow's other operators for models have for the same.
_ELSEWHERE = {
    "cancel_on_kill": "on_kill='cancel' or 'leave'", "conn_id": "keld_conn_id", "fail_on_partial_error": "fail_on_partial",
    "llm_conn_id": "keld_conn_id", "max_tokens": "max_output_tokens", "model_id": "model", "model_settings": "request_params",
    "requests": "source", "result_path": "sink", "system_prompt": "system", "timeout": "deadline",
}  # fmt: skip


def _takes_terms(init: _Init) -> _Init:
    """Puts the terms of a job into a signature, where Airflow's `default_args` and `partial` look for them."""
    signature = inspect.signature(init)
    *named, rest = signature.parameters.values()
    terms = [inspect.Parameter(term, inspect.Parameter.KEYWORD_ONLY, default=None) for term in TERMS]
    init.__signature__ = signature.replace(parameters=[*named, *terms, rest])  # type: ignore[attr-defined]  # `inspect` reads it; mypy does not know it
    return init


class KeldBatchOperator(TermsTask):
    """A job over the partition of this Dag run.

    Every argument but `job`, `output_type`, `prompt_template_engine`, `wait`, `deferrable` and `on_kill` is a template of Airflow's, and may be another task's
    output.  What is plain is checked while the Dag is parsed, the rest when it is rendered: then a slip fails the task at once, and nothing is sent.

    Args:
        source: the rows: a path or URI, an `ObjectStoragePath`, or a function that returns rows, an Arrow table or reader, or a
            frame; its arguments are filled from Airflow's context (`partition_key`, `ds`, ...).  Read only if something must be sent.
        sink: the enriched partition: a path or URI, an `ObjectStoragePath`, or a function that takes an Arrow reader.
        job: the declaration; or give its terms here, by their names in `keld.Job` (`params`, which Airflow uses itself, is
            `request_params`), with `model` for a single one of `models`.  `name` is then `<dag>.<task>`: give one before you rename either.
            Text is read where a term is a number, a list (`"a:b, c:d"`) or an object; `deadline` as `26h`, `PT26H` or an instant.
            `prompt` and `system` may be the name of a file (`prompts/triage.md`, `.txt`, `.jinja`) beside the Dag or in its `template_searchpath`, or a `Path`.
        prompt_template_engine: `format`: `{column}` in the prompt is a row's, and Jinja is not run over it; `jinja`: Jinja renders it once for the task
            before that, and what it puts in is no template of columns.  A file that ends in `.jinja` is always rendered.
        types, encoding, delimiter, quote: how a source of CSV or JSON Lines is read, as of `Keld.submit`: a column without a declared type,
            `types={"amount": "decimal(12,2)"}`, is text as it is in the file.
        partition: the key, if it is not the Dag run's own: for tasks mapped over regions, each of which needs its own.
        window: how long a partition is, if no cron expression says it: asset-triggered partitions.
        completion_rate: the least share of answered rows; below it the task fails, and downstream tasks do not run.  Default 0.99.
        fail_on_partial: in place of it: True: any row without an answer fails the task; False: none does.
        wait: False: the task ends when everything is sent; a `KeldJobSensor` collects the answers.
        deferrable: False: the task holds its slot until the end.  Default: Airflow's `[operators] default_deferrable` if the environment sets it, else True.
        on_kill: what becomes of the job run when the task is marked failed or successful: `cancel` at the provider, if no other task waits for it, or
            `leave` it, so that a later try finds its answers.
        keld_conn_id: the connection, of type `keld` or of a provider's own type; without one, the environment variables decide.

    Raises:
        InvalidJob: as `keld.Job`, while the Dag is parsed.
    """

    template_fields: Sequence[str] = ("source", "sink", *TermsTask.template_fields)
    source = SourceField()
    ui_color = "#e8e4f3"

    @_takes_terms
    def __init__(
        self,
        *,
        source: Source,
        sink: Source | None = None,
        job: Job | None = None,
        model: str | None = None,
        prompt_template_engine: Literal["format", "jinja"] = "format",
        types: Any = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
        partition: str | None = None,
        window: timedelta | None = None,
        completion_rate: float | str | None = None,
        fail_on_partial: bool | None = None,
        wait: bool = True,
        deferrable: bool | None = None,
        on_kill: OnKill = "cancel",
        keld_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        terms = {name: kwargs.pop(name, None) for name in TERMS}
        _check_names(kwargs)
        super().__init__(**kwargs)
        _check_partition(self.task_id, window, partition)
        if isinstance(terms["tags"], list | tuple | set):  # as a Dag has them, and often its default_args
            raise ValueError(
                f"{self.task_id}: tags is a {type(terms['tags']).__name__}. A Dag's own tags are an argument of the DAG, and not of its default_args; "
                "a job's are labels for the spend report, e.g. tags={'team': 'support'}."
            )
        check_switches(self.task_id, wait=wait, deferrable=deferrable, fail_on_partial=fail_on_partial)
        if getattr(self, "_BaseOperator__from_mapped", False) and is_rows(source):  # the task is mapped over rows that another task gave
            self.source, self.source_function = source, None
        else:
            check_rows(source)
            self.source, self.source_function = split_place(source, "source")
        self.source_name = name_of(source)
        self.sink, self.sink_function = split_place(sink, "sink")
        check_paths(self.task_id, self.source, self.sink)
        self.types, self.encoding, self.delimiter, self.quote = types, encoding, delimiter, quote
        self.partition, self.window = partition, window
        self._keyed = partition is not None  # another task's output may turn out to be None
        self.completion_rate = completion_rate_of(self.task_id, completion_rate, fail_on_partial)
        self.wait, self.deferrable = wait, default_deferrable() if deferrable is None else deferrable
        self.cancels_when_killed, self.keld_conn_id = cancels(self.task_id, on_kill), keld_conn_id
        self.prompt_template_engine = prompt_template_engine
        self._declare(job, model, terms)
        if not wait and (self.sink_function is not None or has_file_system(self.sink)):
            raise ValueError(
                f"{self.task_id}: with wait=False the sink is a path or URI, which any worker can write; give this one to the KeldJobSensor."
            )

    def execute(self, context: Context) -> dict[str, Any]:
        return self._run_step(context, lambda keld: self._begin(keld, context))

    def _begin(self, keld: Keld, context: Context) -> tuple[Status, Found]:
        """The job run of this partition, found or submitted, and how it was found."""
        partition = partition_of(context, key=self._key(context), window=self.window)
        self._check_partition(context, partition.key)
        if is_text_of_rows(unwrap(self.source)):  # a date in it, which only Python reads
            raise AirflowFailException(
                "source was rendered as the text of rows, which cannot be read. Nothing was sent. Give what the other task gave itself, source=rows() or "
                "rows.output; or set render_template_as_native_obj=True for the Dag."
            )
        _finish_cancelled(keld, self.job)
        before = keld.find(self.job.name, partition.key)
        status = keld.submit(
            self.job,
            unwrap(self.source) if self.source_function is None else partial(self._rows, context),
            partition=partition.key,
            sink=self.sink,
            ends_at=partition.ends_at,
            owner=f"airflow:{self.dag_id}.{self.task_id}",
            source_name=self.source_name,
            **self.reading.given(),
        )
        if before is None or before.over or before.id != status.id:
            return status, "nothing"
        return status, "cancelling" if before.state is RunState.CANCELLING else "open"

    def _check_partition(self, context: Context, key: str | None) -> None:
        """Passes if each path with a field for the partition gets one.

        Raises:
            AirflowFailException: the Dag run has no partition; a retry would not change that.
        """
        wanting = next((name for name in ("source", "sink") if wants_partition(getattr(self, name))), None)
        if key is None and wanting is not None:
            raise AirflowFailException(f"{wanting}={str(getattr(self, wanting))!r} wants a partition, and {no_partition(context)}")

    def _key(self, context: Context) -> str | None:
        """The `partition` that was given, as text: mapped values may be numbers or dates; None if none was given.

        Raises:
            AirflowFailException: it is empty, or the instances of a mapped task would all be the same job run.
        """
        mapped = context["dag"].get_task(self.task_id) if context["ti"].map_index not in (None, -1) else None
        alike = not self._keyed or _is_one(getattr(mapped, "partial_kwargs", {}).get("partition"))
        if mapped is not None and alike and not _maps_jobs(mapped):
            raise AirflowFailException(
                f"This task is mapped, and all its instances would be one job run of {self.job.name}. Nothing was sent. "
                'Give each a partition of its own: partition="eu|{{ partition_key }}" in expand, or "{{ task.op_kwargs.region }}|..."; or, if they '
                "ask different things, a name: name=\"labels.{{ task.models.split(':')[1] }}\"."
            )
        if not self._keyed:
            return None
        if isinstance(self.partition, _NO_KEY):  # another task gave it
            raise AirflowFailException(_many(self.task_id, self.partition))
        key = str(self.partition)
        if is_text_of_rows(key):  # another task gave it to a template
            raise AirflowFailException(_many(self.task_id, self.partition))
        if key == "None" or not key.strip():  # Jinja renders a missing value as "None"
            raise AirflowFailException(
                f"partition= was rendered as {key!r}: the value it names is missing, and all Dag runs without it would be one job run. "
                "Nothing was sent. Trigger the Dag with that value, or omit partition= for a table without partitions."
            )
        if self.outlets and len(key) > _ASSET_KEY_MOST:
            raise AirflowFailException(
                f"partition= has {len(key)} characters, and Airflow takes {_ASSET_KEY_MOST} in an asset's event. Nothing was sent. Shorten it."
            )
        return key

    def _rows(self, context: Context) -> Any:
        """The rows that the source function returns."""
        assert self.source_function is not None
        return self.source_function(**determine_kwargs(self.source_function, (), context))

    def _show_partition(self, key: str) -> None:
        self.partition = key
        for name in ("source", "sink"):
            if isinstance(place := getattr(self, name), str):
                setattr(self, name, filled_path(place, key))

    def _proceed(self, keld: Keld, context: Context, status: Status, found: Found) -> dict[str, Any]:
        if self.wait or status.outdated is not None:  # an outdated job run is finished before this one is sent
            return super()._proceed(keld, context, status, found)
        status = self._advance(keld, status.id)
        if not status.over:
            self._check(status)
        return manifest(status, status.sink)


def _check_names(given: Mapping[str, Any]) -> None:
    """Passes if every other argument is one of Airflow's operators, and the Dag's `params` hold no parameter of a model."""
    task_id = given.get("task_id")
    inits = [parent.__dict__["__init__"] for parent in KeldBatchOperator.__mro__ if "__init__" in parent.__dict__ and parent is not object]
    named = {name for init in inits for name in inspect.signature(init).parameters}
    unknown = next((name for name in given if not name.startswith("_") and name not in named), None)
    if unknown in _ELSEWHERE:
        raise TypeError(f"{task_id}: there is no argument {unknown}. Here it is {_ELSEWHERE[unknown]}.")
    if unknown in inspect.signature(DAG).parameters:
        raise TypeError(f"{task_id}: there is no argument {unknown}. It is an argument of the DAG.")
    if unknown is not None and (near := get_close_matches(unknown, [*TERMS, *_OWN], n=1)):
        raise TypeError(f"{task_id}: there is no argument {unknown}. Is {near[0]} meant?")
    of_dag = getattr(given.get("dag"), "params", None) or {}  # Airflow has put them among the task's
    asked = _FOR_MODELS.intersection(given.get("params") or {}).difference(of_dag)
    if asked:
        raise ValueError(
            f"{task_id}: params is Airflow's own; it would not send {', '.join(sorted(asked))} to a model. Give request_params, "
            "or, if they are for Jinja, params of the DAG."
        )


def _check_partition(task_id: str, window: Any, partition: Any) -> None:
    """Passes if these values are valid."""
    if window is not None and not isinstance(window, timedelta):
        raise ValueError(f"{task_id}: window={window!r} is not a timedelta.")
    if isinstance(partition, _NO_KEY):
        raise ValueError(_many(task_id, partition))


def _many(task_id: str, partition: Any) -> str:
    return (
        f"{task_id}: partition is a {type(literal(partition)).__name__}, and a task instance has one key. Nothing was sent. Map over them: "
        ".partial(...).expand(partition=[...])."
    )


def _is_one(template: Any) -> bool:
    """True if a text is the same in all instances of a mapped task: its templates name only what the Dag run has."""
    if not isinstance(template, str):
        return False
    named = {name for part in _EXPRESSION.findall(template) for name in _FIRST_NAME.findall(part)}
    return named <= _OF_DAG_RUN


def _maps_jobs(task: Any) -> bool:
    """True if each instance of a mapped task has a job or a name of its own, as far as known: it may be mapped over another task's output."""
    name = getattr(task, "partial_kwargs", {}).get("name")
    if is_open(name) and not _is_one(name):
        return True
    mapped = getattr(getattr(task, "expand_input", None), "value", None)
    if isinstance(mapped, Sequence):
        mapped = next(iter(mapped), None)
    return mapped is not None and (not isinstance(mapped, Mapping) or not {"job", "name"}.isdisjoint(mapped))


def _finish_cancelled(keld: Keld, job: Job) -> None:
    """Advances the job runs of killed tasks of this job: paid answers are fetched, and the ledger gets the cost."""
    for left in keld.statuses(job=job.name, open_only=True):
        if left.state is RunState.CANCELLING:
            keld.advance(left.id, budget_s=10)
