"""Terms: the terms of a job as fields of a task, which Airflow renders before the job is made of them.

What is plain is checked while the Dag is parsed: mistakes are found when it is deployed.  A term that is a template of Jinja or another task's output
is known only on the worker; until then a placeholder stands for it, so that the others are still checked.  A job that was rendered and is not valid
fails the task for good, before anything is sent: a retry would render it the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Context

from keld import InvalidJob, Job, KeldError, Reading
from keld_airflow.partition import absent_in, add_partition, no_partition
from keld_airflow.setting import check_completion_rate
from keld_airflow.task import JobRunTask
from keld_airflow.text import ENGINES, JINJA, Text, TextField, check_no_file, is_unread, text_of
from keld_airflow.value import TERMS, check_known, check_rendered, check_templates, is_open, job_of, share, typed

_TEXTS = ("prompt", "system")
_READING = ("types", "encoding", "delimiter", "quote")
_TYPED = ("request_params", "accept")  # objects whose values are numbers, which Jinja leaves as text
# What Airflow can render, or show: no function, no class, no expression of Arrow's.
_PLAIN = (str, int, float, Decimal, timedelta, datetime, Mapping, list, tuple, set, Text)
# A name of Airflow's context in double braces, which `str.format` prints as single braces.
_NAMES = {*Context.__annotations__, "partition_key", "partition_date"}  # the last two are of Airflow 3.2
_JINJA_NAME = re.compile(rf"{{{{-?\s*({'|'.join(sorted(_NAMES))})\b[^{{}}]*}}}}")


class TermsTask(JobRunTask):
    """A task that declares a job: see `KeldBatchOperator`."""

    # `name` and `partition` last: they may use the others, as `{{ task.models }}`.
    template_fields: Sequence[str] = (
        *(term for term in TERMS if term not in ("name", "output_type")), *_READING, "completion_rate", "keld_conn_id", "name", "partition",
    )  # fmt: skip
    template_fields_renderers: ClassVar[dict[str, str]] = {"request_params": "json", "tags": "json", "prices": "json"}
    prompt = TextField()
    system = TextField()

    prompt_template_engine: str
    partition: Any
    window: timedelta | None
    types: Any
    encoding: str | None
    delimiter: str | None
    quote: str | None
    reading: Reading
    _given_job: Job | None
    _job: Job | None = None

    @property
    def job(self) -> Job:
        """The job; known when its last term is.

        Raises:
            InvalidJob: Airflow has not rendered the terms yet.
        """
        if self._job is None:
            raise InvalidJob(f"{self.task_id}: the job has terms that are known only when Airflow has rendered them.")
        return self._job

    # -- while the Dag is parsed ------------------------------------------------------------------------------

    def _declare(self, job: Job | None, model: Any, terms: dict[str, Any]) -> None:
        """Sets the terms, None for one that was not given, and checks those that are known.

        Raises:
            InvalidJob, ValueError: one is not valid.
            AirflowFailException: likewise, on a worker that makes one of the instances of a mapped task.
        """
        if self.prompt_template_engine not in ENGINES:
            raise ValueError(f"{self.task_id}: prompt_template_engine={self.prompt_template_engine!r} is not one of {', '.join(ENGINES)}.")
        if model is not None and terms["models"] is not None:
            raise ValueError(f"{self.task_id}: model and models are both given, here or in default_args. Give one or the other.")
        terms = terms if model is None else {**terms, "models": model}
        mapped = getattr(self, "_BaseOperator__from_mapped", False)
        with _for_good() if mapped else nullcontext():
            self._given_job = _checked(self.task_id, job, {name: value for name, value in terms.items() if value is not None})
            for name, value in terms.items():
                setattr(self, name, self._text(name, value) if name in _TEXTS else value)
            if not mapped:  # what another task gave is no template, and is checked when it is known which that is
                for name in self.template_fields:
                    check_templates(getattr(self, name, None), f"{self.task_id}: {name}")
            self._settle()
        self.template_fields = tuple(name for name in type(self).template_fields if name not in TERMS or _is_shown(getattr(self, name)))

    def prepare_template(self) -> None:
        """Called by Airflow when the Dag is complete: a task that was put into its Dag late can read its files now."""
        self._read_files()

    def _read_files(self) -> None:
        unread = [name for name in _TEXTS if is_unread(getattr(self, name))]
        for name in unread:
            setattr(self, name, self._text(name, getattr(self, name).text))
        if unread and self.get_dag() is not None:
            self._settle()

    def _text(self, name: str, given: Any) -> Any:
        jinja = name == "system" or self.prompt_template_engine == JINJA
        return text_of(given, f"{self.task_id}: {name}", dag=self.get_dag(), jinja=jinja, columns=name == "prompt")

    def _settle(self, *, rendered: bool = False) -> None:
        """Makes the job if every term is known, else checks those that are.

        Args:
            rendered: every term is known; braces that are left in one are its own.

        Raises:
            InvalidJob, ValueError: one is not valid.
        """
        if rendered or not is_open(self.completion_rate):
            self.completion_rate = share(self.completion_rate)
            check_completion_rate(self.task_id, self.completion_rate)
        if rendered or not any(is_open(getattr(self, name)) for name in _READING):
            self.reading = Reading(**{name: getattr(self, name) for name in _READING})
        terms = {TERMS[name]: value for name in TERMS if (value := getattr(self, name)) is not None}
        if self._given_job is not None:
            self._job = self._given_job
            _check_jinja(self.task_id, "prompt", self._job.prompt)
            _check_jinja(self.task_id, "system", self._job.system)
            check_no_file(self._job.system)
            return
        if isinstance(self.prompt, Text) and not self.prompt.jinja:
            _check_jinja(self.task_id, "prompt", self.prompt.text)
        known = rendered or not any(is_open(value) or is_unread(value) for value in terms.values())
        try:
            self._job = job_of(self._named(terms)) if known else None
            if not known:
                check_known(self._named(terms))
        except KeldError as problem:
            if "name" not in terms and str(problem).startswith("name="):
                raise type(problem)(f"{problem} It is made of the names of Dag and task: give another by name=, and keep it.") from None
            raise

    def _named(self, terms: dict[str, Any]) -> dict[str, Any]:
        dag = self.get_dag()
        return {"name": self.task_id if dag is None else f"{dag.dag_id}.{self.task_id}"} | terms

    # -- on a worker ------------------------------------------------------------------------------------------

    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], context: Context, jinja_env: Any, seen_oids: set[int]
    ) -> None:
        """As Airflow's; then the job is made of what was rendered.

        Raises:
            AirflowFailException: it is not valid.
        """
        if parent is not self:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
            return
        add_partition(context)  # Airflow 3.2 has the key in the Dag run alone
        with _for_good():
            self._read_files()
        shown = [
            name for name in template_fields if name in self.template_fields
        ]  # Airflow gives all for a mapped task, and would call a function
        declared = {name: getattr(self, name) for name in shown}
        for name in _TEXTS:
            text = declared.get(name)
            if isinstance(text, Text) and id(text.text) in seen_oids:  # another task gave it to be mapped over: it is no template
                setattr(self, name, Text(text.text))
            elif isinstance(text, Text) and text.jinja and (absent := absent_in(text.text, context)):
                raise AirflowFailException(f"{name} wants {{{{ {absent} }}}}, and {no_partition(context)}")
        with _for_good():
            super()._do_render_template_fields(parent, shown, context, jinja_env, seen_oids)
            for name in shown:
                if is_open(declared[name]) and name not in ("source", "sink", "partition"):
                    check_rendered(getattr(self, name), name)
            for name in _TYPED:
                if name in declared:
                    setattr(self, name, typed(declared[name], getattr(self, name)))
            self._settle(rendered=True)


def _checked(task_id: str, job: Job | None, given: Mapping[str, Any]) -> Job | None:
    """The job that was given as a whole; None: its terms were given.

    Raises:
        ValueError: it is no job, or it and terms are given, or too few of these.
    """
    if job is None:
        missing = [name for name in ("key", "prompt", "models") if name not in given]
        if missing:
            raise ValueError(f"{task_id}: {', '.join(missing)} missing. Give job=Job(...), or the terms of one.")
        if isinstance(given.get("output_type"), str) or hasattr(given.get("output_type"), "iter_references"):
            raise ValueError(f"{task_id}: output_type is no template: the columns of the table are known while the Dag is parsed.")
        return None
    if not isinstance(job, Job):
        raise ValueError(f"{task_id}: job is a {type(job).__name__}. Give a keld.Job, or its terms.")
    if given:
        raise ValueError(
            f"{task_id}: {', '.join(given)} are given together with job=, which has them already. Give one or the other; for a job that differs, "
            f"dataclasses.replace(job, {', '.join(f'{TERMS[name]}=...' for name in given)})."
        )
    return job


def _is_shown(value: Any) -> bool:
    return isinstance(value, _PLAIN) or hasattr(value, "iter_references")


@contextmanager
def _for_good() -> Iterator[None]:
    """Fails the task without retries for a term that is not valid: it would be rendered the same."""
    try:
        yield
    except AirflowFailException:
        raise
    except (KeldError, ValueError) as problem:
        told = str(problem)
        raise AirflowFailException(told if "Nothing was sent" in told else f"{told} Nothing was sent.") from None


def _check_jinja(task_id: str, name: str, text: Any) -> None:
    """Passes if a text that is not rendered has no Jinja expression: every row would be sent and paid with the braces in it."""
    found = _JINJA_NAME.search(text) if isinstance(text, str) else None
    if found is not None:
        raise ValueError(
            f"{task_id}: {name} holds {found[0]}, and Jinja is not run over prompts. Give it as a column of the source, e.g. {{{found[1]}}}, "
            f"or give {name}= to the operator itself, with prompt_template_engine='jinja'."
        )
