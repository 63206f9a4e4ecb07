"""Job: what a user declares, the same in every orchestrator.

First on the road: **`job`** -> `snapshot` -> `plan` -> ...  Pure: no clock, disk, network or database.  A declaration is checked
when it is made, so that a mistake is found at import time, not during a run; what depends on the table (columns, keys)
is checked when the table is read, by `snapshot`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from string import Formatter
from typing import TYPE_CHECKING, Any, Required, TypedDict

import msgspec

from keld.errors import DeadlinePassed, InvalidJob, SchemaError
from keld.instant import instant_or_span, span, utc

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
_MODEL = re.compile(r"[A-Za-z0-9_-]+:\S+")
_REUSE = ("partition", "namespace", "never")
AUTO = "auto"
_LANES = (AUTO, "batch", "flex", "standard")
_MAPPINGS = {  # an example of each
    "params": "{'temperature': 0}",
    "prices": "{'openai:my-model': {'input': 0.1, 'output': 0.4}}",
    "tags": "{'team': 'support'}",
}
_CACHE = (AUTO, "never")
_PROBES = ("batch", "standard")
Probe = bool | str | None
"""`Job.probe`."""
_CEILING_MOST = 9_000_000  # the ledger counts pico-dollars in 64 bits


@dataclass(frozen=True, slots=True)
class Column:
    """A prompt that the table already holds: `Column("prompt")`.

    A string column is the user's message; a column of lists of {role, content} structs is the whole conversation.  With
    `json=True` a string column holds that conversation as JSON text.
    """

    name: str
    json: bool = False


@dataclass(frozen=True, slots=True)
class PerRow:
    """A prompt that a function makes of one row: `PerRow(lambda row: f"Classify: {row['body']}")`.

    The row is a dict with every column of the table, its values as a template would show them.  The function returns the user's message, a list
    of {role, content}, or None for a row that is not to be asked.  A function over record batches is faster where tables are wide.
    """

    function: Callable[[dict[str, Any]], str | list[dict[str, Any]] | None]


@dataclass(frozen=True, slots=True)
class Embedding:
    """An output type: one vector of `dimensions` float32 a row."""

    dimensions: int

    def __post_init__(self) -> None:
        if type(self.dimensions) is not int or not 1 <= self.dimensions <= 65536:
            raise SchemaError(f"Embedding(dimensions={self.dimensions!r}): give a whole number from 1 to 65536. Nothing was sent.")


PromptFunction = Callable[["pa.RecordBatch"], "pa.Array | Sequence[str | list[dict[str, Any]] | None]"]
Prompt = str | Column | PerRow | PromptFunction


@dataclass(frozen=True, kw_only=True)
class Job:
    """A question asked of every row of a partition, and the terms: deadline, ceiling price, acceptable models.

    Args:
        name: letters, digits, `_.-`; with the partition key it is the identity of a job run.
        key: the column that identifies a row; unique and never null within a partition.
        prompt: a `str.format` template over columns, a `Column`, or a function from an Arrow record batch (N rows) to N prompts
            (strings, or lists of {role, content}), or `PerRow` of a function of one row; a null prompt means the row is not asked.
        missing: the text that a template shows where a column is null: one text (`""`, `"unknown"`), or one for each of some columns
            (`{"phone": "none"}`); None: a row with a null is not asked, and the plan counts these rows.
        output_type: a Pydantic model or a JSON Schema (typed columns), `str` (one text column), or `Embedding(dimensions=...)`.
        models: the acceptable models, `"provider:model"`; Keld takes the cheapest that meets the terms.
        system: the instruction shared by all rows.
        deadline: a span after the partition's end, an aware instant, either as text (`9h`, `1d 6h`, `PT9H`, `2026-11-20T09:00Z`), or None.
        probability: the wanted probability of keeping the deadline; Keld may risk the rest for a lower cost.
        lane: `auto` (the cheapest that meets the terms), or always `batch`, `flex` or `standard`.
        ceiling_usd: the most one partition may cost, retries included; None is no ceiling.
        max_output_tokens: per row; the worst case under a ceiling is computed with it, too.
        max_attempts: how often one row may be asked when the provider expired, lost or failed it.
        params: extra fields of every request's body, e.g. `{"temperature": 0}`; none that Keld sets itself, such as the model.
        prices: USD per million tokens for models that are in no price list: `{"openai:my-model": {"input": 0.1, "output": 0.4}}`.
        endpoint: for OpenAI-shaped providers `/v1/chat/completions` (default) or `/v1/responses`, at a server of your own also `/v1/messages`;
            embeddings have their own.
        reuse: `partition`: what an earlier run of the partition paid for is not asked again, and rows with the same prompt are asked once;
            `namespace`: the same for what any job of the namespace paid for that asks the same question; `never`: every row is asked by itself.
        accept: which answers of all models but the last are accepted: an Arrow expression over the answer's columns
            (`pc.field("confidence") >= 0.8`), or the minimum of each column (`{"confidence": 0.8}`).  Other rows, and those whose answer is
            refused or invalid, are asked of the next of `models` while time and ceiling allow it; else they keep the answer they have.
        probe: whether one row is asked before the others of a batch.  None: if it is expected to save money, since the others then find what they
            share in the provider's prompt cache; it goes as a batch of one.  True: always, so that a wrong parameter costs one request; as a batch
            of one if the deadline leaves time for two batches, else in the standard lane.  `batch` or `standard`: always, in that lane.  False: never.
        hedge: if a batch that was cancelled for the deadline does not end in time, ask its rows elsewhere although it still runs; rows that
            it has answered by then are paid twice, and counted as paid twice.
        cache: `auto`: the shared beginning of all prompts is marked for the provider's prompt cache if that is expected to save money; `never`: it is not.
        priority: a column of numbers; if not all rows can be afforded in time, those with the largest number are asked first.
        max_shard_rows, max_shard_bytes: limits of a shard, below the provider's own.
        output_prefix: put before the names of the answer's columns, if they would clash with the table's; another one buys nothing.
        tags: free labels for the spend report (team, category, ...).

    Raises:
        InvalidJob: names the field and the fix.
    """

    name: str
    key: str
    prompt: Prompt = field(repr=False)
    models: Sequence[str] | str
    missing: str | Mapping[str, str] | None = field(default=None, repr=False)
    output_type: Any = str
    system: str | None = field(default=None, repr=False)
    deadline: timedelta | datetime | str | None = None
    probability: float = 0.99
    lane: str = AUTO
    ceiling_usd: Decimal | int | float | str | None = None
    max_output_tokens: int = 1024
    max_attempts: int = 3
    params: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    endpoint: str = "/v1/chat/completions"
    reuse: str = "partition"
    accept: Any = None
    probe: bool | str | None = None  # the first type counts for text: see keld_airflow.value
    hedge: bool = False
    cache: str = AUTO
    priority: str | None = None
    max_shard_rows: int | None = None
    max_shard_bytes: int | None = None
    output_prefix: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InvalidJob(
                f"name={self.name!r}: a job's name starts with a letter and holds letters, digits, '_', '.', '-', up to 128.", field="name"
            )
        if not isinstance(self.key, str) or not self.key:
            is_what = "is empty" if not self.key else f"is a {type(self.key).__name__}"
            raise InvalidJob(
                f"{self.name}: key {is_what}. Name the column that identifies a row, e.g. key='ticket_id'.", job=self.name, field="key"
            )
        object.__setattr__(self, "models", _models(self.name, self.models))
        object.__setattr__(self, "ceiling_usd", _ceiling(self.name, self.ceiling_usd))
        _check_prompt(self.name, self.prompt)
        if self.system is not None:
            _check_text(self.name, "system", self.system)
        _check_missing(self)
        _check_output_type(self.name, self.output_type)
        object.__setattr__(self, "deadline", _deadline(self.name, self.deadline))
        _check_probability(self.name, self.probability)
        _check_numbers(self)
        _check_mappings(self)
        if self.priority is not None and not isinstance(self.priority, str):
            raise InvalidJob(
                f"{self.name}: priority is a {type(self.priority).__name__}. Name a column of numbers, e.g. priority='value'.",
                job=self.name,
                field="priority",
            )
        _check_text(self.name, "endpoint", self.endpoint)
        _check_text(self.name, "output_prefix", self.output_prefix)
        if self.reuse not in _REUSE:
            raise InvalidJob(f"{self.name}: reuse={self.reuse!r} is not one of {', '.join(_REUSE)}.", job=self.name, field="reuse")
        if self.accept is not None and len(self.acceptable) < 2:
            raise InvalidJob(
                f"{self.name}: accept= asks the next model where an answer is not accepted, and models names only one. Add a stronger model after it.",
                job=self.name,
                field="accept",
            )
        if self.cache not in _CACHE:
            raise InvalidJob(f"{self.name}: cache={self.cache!r} is not one of {', '.join(_CACHE)}.", job=self.name, field="cache")
        if self.lane not in _LANES:
            raise InvalidJob(f"{self.name}: lane={self.lane!r} is not one of {', '.join(_LANES)}.", job=self.name, field="lane")

    @property
    def ceiling(self) -> Decimal | None:
        """`ceiling_usd` as it was normalised: exact decimal USD."""
        return self.ceiling_usd if isinstance(self.ceiling_usd, Decimal) else None

    @property
    def due_by(self) -> timedelta | datetime | None:
        """`deadline` as it was normalised: a span, an aware instant, or None."""
        return None if isinstance(self.deadline, str) else self.deadline

    @property
    def acceptable(self) -> tuple[str, ...]:
        """`models` as it was normalised: at least one `provider:model`, each once, in the user's order."""
        return tuple(self.models)

    @property
    def prompt_columns(self) -> tuple[str, ...] | None:
        """The columns that the prompt is made of; None if a function makes it, which may read any."""
        match self.prompt:
            case str():
                return tuple(template_columns(self.prompt))
            case Column():
                return (self.prompt.name,)
            case _:
                return None


class JobTerms(TypedDict, total=False):
    """The keywords of `Job` but `name`, `prompt` and `tags`, for functions that make a job of their own keywords; see `Job` for what each means."""

    key: Required[str]
    models: Required[Sequence[str] | str]
    missing: str | Mapping[str, str] | None
    output_type: Any
    system: str | None
    deadline: timedelta | datetime | str | None
    probability: float
    lane: str
    ceiling_usd: Decimal | int | float | str | None
    max_output_tokens: int
    max_attempts: int
    params: Mapping[str, Any]
    prices: Mapping[str, Mapping[str, Any]]
    endpoint: str
    reuse: str
    accept: Any
    probe: Probe
    hedge: bool
    cache: str
    priority: str | None
    max_shard_rows: int | None
    max_shard_bytes: int | None
    output_prefix: str


class RunTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The terms of a job that its job run keeps, for any worker that continues it.

    The ledger holds them as JSON, a key for each field; a field that is missing there has the job's own default.

    Args:
        models: `provider:model`, those that could be asked when the job run was opened, in the user's order.
        cache: as `Job.cache`; `own`: the prompts hold cache marks set by the user.
        accept: which answers are accepted, in the text form of `cascade`; None: every answer.
        probe: one row was planned ahead of the others, which wait for it.
        prices: USD per million tokens as decimal text, by `provider:model`, then by kind of token.
    """

    models: tuple[str, ...]
    max_attempts: int = Job.max_attempts
    max_shard_rows: int | None = None
    max_shard_bytes: int | None = None
    lane: str = Job.lane
    cache: str = Job.cache
    probability: float = Job.probability
    priority: str | None = None
    accept: str | None = None
    probe: bool = False
    hedge: bool = False
    prices: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)

    @property
    def any_lane(self) -> bool:
        """True if Keld chooses the lane, and may change it."""
        return self.lane == AUTO


def due(job: Job, partition_end: datetime | None, now: datetime) -> tuple[datetime | None, str]:
    """(the instant a job run is due, its basis: `absolute`, `partition-end`, `submitted-at` or `none`).

    A span counts from the partition's end.  If that instant has passed already (a backfill), it counts from `now`, the
    submission: an old partition must not pay a higher price to be fast.

    Raises:
        DeadlinePassed: an absolute deadline that is not after `now`.
        InvalidJob: a span that no calendar holds.
    """
    match job.due_by:
        case None:
            return None, "none"
        case datetime() as at:
            if at <= now:
                raise DeadlinePassed(
                    f"{job.name}: deadline={at:%Y-%m-%d %H:%M %Z} has passed (it is {now:%Y-%m-%d %H:%M} UTC). Nothing was sent. "
                    "Give a later instant, or a timedelta, which counts from the partition's end.",
                    job=job.name,
                    deadline_at=at.astimezone(UTC),
                )
            return at, "absolute"
        case timedelta() as length:
            try:
                if partition_end is not None and partition_end + length > now:
                    return partition_end + length, "partition-end"
                return now + length, "submitted-at"
            except OverflowError:
                raise InvalidJob(
                    f"{job.name}: deadline={length} is beyond the year 9999. Nothing was sent. None means no deadline.",
                    job=job.name,
                    field="deadline",
                ) from None


def partition_end(partition: str | None) -> datetime | None:
    """The end of a partition whose key is a UTC month, day or hour (`2026-11`, `2026-11-19`, `2026-11-19-08:00`), else None."""
    if partition is None:
        return None
    try:
        if re.fullmatch(r"\d{4}-\d{2}", partition):
            first = datetime.strptime(partition, "%Y-%m")
            return datetime(first.year + first.month // 12, first.month % 12 + 1, 1, tzinfo=UTC)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", partition):
            day = date.fromisoformat(partition)
            return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
        return datetime.strptime(partition, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC) + timedelta(hours=1)
    except (ValueError, OverflowError):
        return None


def template_columns(template: str) -> list[str]:
    """The columns a template names, each once, in order."""
    names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    return list(dict.fromkeys(names))


def _models(job: str, models: Sequence[str] | str) -> tuple[str, ...]:
    if not isinstance(models, str | Sequence):
        raise InvalidJob(
            f"{job}: models is a {type(models).__name__}; give a list in the order of your preference, e.g. ['openai:gpt-5-mini'].",
            job=job,
            field="models",
        )
    given = (models,) if isinstance(models, str) else tuple(models)
    if not given:
        raise InvalidJob(f"{job}: models is empty. Name at least one, e.g. models=['openai:gpt-5-mini'].", job=job, field="models")
    for model in given:
        if not isinstance(model, str) or not _MODEL.fullmatch(model):
            raise InvalidJob(
                f"{job}: models has {model!r}; the form is 'provider:model', e.g. 'anthropic:claude-haiku-4-5'.", job=job, field="models"
            )
    return tuple(dict.fromkeys(given))


def _ceiling(job: str, ceiling: Decimal | float | str | None) -> Decimal | None:
    if ceiling is None:
        return None
    try:
        usd = Decimal(str(ceiling))
    except InvalidOperation:
        raise InvalidJob(f"{job}: ceiling_usd={ceiling!r} is not a number of US dollars.", job=job, field="ceiling_usd") from None
    if not usd.is_finite() or usd <= 0:
        raise InvalidJob(f"{job}: ceiling_usd={ceiling!r} must be above zero; None means no ceiling.", job=job, field="ceiling_usd")
    if usd > _CEILING_MOST:
        raise InvalidJob(
            f"{job}: ceiling_usd={ceiling!r} is more than Keld can count to ({_CEILING_MOST:,}). Give less, or None for no ceiling.",
            job=job,
            field="ceiling_usd",
        )
    return usd


def _check_text(job: str, name: str, text: str) -> None:
    if not isinstance(text, str):
        raise InvalidJob(f"{job}: {name} is a {type(text).__name__}, not text.", job=job, field=name)
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidJob(
            f"{job}: {name} holds a lone surrogate, half of a character that no JSON parser takes. Write the whole character.",
            job=job,
            field=name,
        )


def _check_prompt(job: str, prompt: Prompt) -> None:
    if isinstance(prompt, str):
        _check_text(job, "prompt", prompt)
        try:
            names = template_columns(prompt)
        except ValueError as error:
            raise InvalidJob(
                f"{job}: prompt is not a str.format template ({error}). Write {{{{ and }}}} for literal braces.", job=job, field="prompt"
            ) from None
        if not names:
            doubled = " Two braces are a literal one; a column has single braces." if "{{" in prompt else ""  # as Jinja has them
            raise InvalidJob(
                f"{job}: prompt names no column, so every row would be asked the same.{doubled} Use e.g. prompt='Classify: {{body}}'.",
                job=job,
                field="prompt",
            )
        for name in names:
            if name.strip()[:1] in ("'", '"'):
                raise InvalidJob(
                    f"{job}: prompt has a field {{{name.strip()}}}. If that is JSON, write {{{{ and }}}} for its braces.",
                    job=job,
                    field="prompt",
                )
            if not name or name.isdigit():  # by position; a column's name may begin with a digit
                raise InvalidJob(f"{job}: prompt has a field {{{name}}}; fields are column names, e.g. {{body}}.", job=job, field="prompt")
        for _, field_name, spec, conversion in Formatter().parse(prompt):
            if "{" in (spec or "") or conversion not in (None, "r", "s", "a"):
                raise InvalidJob(
                    f"{job}: prompt formats {{{field_name}}} in a way that str.format does not support for columns. Use e.g. {{body}} or {{price:.2f}}.",
                    job=job,
                    field="prompt",
                )
    elif isinstance(prompt, Column):
        return
    elif not callable(prompt.function if isinstance(prompt, PerRow) else prompt):
        raise InvalidJob(
            f"{job}: prompt is a {type(prompt).__name__}; give a template, a Column, or a function (over record batches; or PerRow of one over a row).",
            job=job,
            field="prompt",
        )
    else:
        _check_function(job, prompt)


def _check_function(job: str, prompt: PerRow | PromptFunction) -> None:
    function = prompt.function if isinstance(prompt, PerRow) else prompt
    yields = inspect.isgeneratorfunction(function) and isinstance(prompt, PerRow)  # over a batch it may yield the prompts
    if yields or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise InvalidJob(
            f"{job}: the prompt function {'yields' if yields else 'is asynchronous'}; give one that returns what is asked.",
            job=job,
            field="prompt",
        )


def _check_output_type(job: str, output_type: Any) -> None:
    """Passes unless a JSON Schema holds a Python type: `{"category": str}` looks like one.

    All else is checked where its columns are made, which loads what a file that is only parsed does not need.
    """
    found = _python_type(output_type) if isinstance(output_type, Mapping) else None
    if found is not None:
        raise InvalidJob(
            f"{job}: output_type holds a Python type, {found.__name__}, which JSON Schema has not. Give a Pydantic model class, or a schema such as "
            "{'type': 'object', 'properties': {'category': {'type': 'string'}}}.",
            job=job,
            field="output_type",
        )


def _python_type(part: Any) -> type | None:
    """The first class that stands in a JSON document; None if there is none."""
    if isinstance(part, type):
        return part
    parts = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
    return next((found for one in parts if (found := _python_type(one)) is not None), None)


def _deadline(job: str, deadline: timedelta | datetime | str | None) -> timedelta | datetime | None:
    try:
        if isinstance(deadline, str):
            deadline = instant_or_span(deadline, f"{job}: deadline")
        if isinstance(deadline, datetime):
            return utc(deadline, f"{job}: deadline")
    except InvalidJob as problem:
        raise InvalidJob(str(problem), job=job, field="deadline") from None
    if deadline is None:
        return None
    if not isinstance(deadline, timedelta):
        raise InvalidJob(
            f"{job}: deadline={deadline!r} is neither a span, such as timedelta(hours=9) or '9h', nor an instant, an aware datetime.",
            job=job,
            field="deadline",
        )
    if span(deadline) <= timedelta(0):
        raise InvalidJob(
            f"{job}: deadline={deadline} must be a span above zero; it counts from the partition's end.", job=job, field="deadline"
        )
    return span(deadline)


def _check_numbers(job: Job) -> None:
    for name in ("max_output_tokens", "max_attempts", "max_shard_rows", "max_shard_bytes"):
        value = getattr(job, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidJob(f"{job.name}: {name}={value!r} must be a whole number of at least 1.", job=job.name, field=name)
    if not isinstance(job.hedge, bool):  # any text, "off" too, would count as True
        raise InvalidJob(f"{job.name}: hedge={job.hedge!r} must be True or False.", job=job.name, field="hedge")
    if not (job.probe is None or isinstance(job.probe, bool) or job.probe in _PROBES):
        raise InvalidJob(
            f"{job.name}: probe={job.probe!r} must be None, True, False, or one of {', '.join(_PROBES)}.", job=job.name, field="probe"
        )


def _check_mappings(job: Job) -> None:
    def refused(field: str, what: str) -> InvalidJob:
        return InvalidJob(f"{job.name}: {what}, e.g. {field}={_MAPPINGS[field]}.", job=job.name, field=field)

    for name in _MAPPINGS:
        value = getattr(job, name)
        if not isinstance(value, Mapping):
            raise refused(name, f"{name} is a {type(value).__name__}, not a mapping of names to values")
        for key in value:
            if not isinstance(key, str):
                raise refused(name, f"{name} has the name {key!r}, which is not text")
    for label, text in job.tags.items():
        if not isinstance(text, str):  # 7 and "7" would be two groups of the spend report
            raise refused("tags", f"the tag {label!r} is a {type(text).__name__}, not text")
    for model, rates in job.prices.items():
        if not isinstance(rates, Mapping):
            raise refused("prices", f"the rates of {model!r} are a {type(rates).__name__}, not a mapping")
    try:
        msgspec.json.encode(dict(job.params), order="deterministic")
    except (TypeError, ValueError, RecursionError):
        raise refused("params", "params has a value that JSON cannot hold; give what the request's body shall have") from None


def _check_missing(job: Job) -> None:
    missing = job.missing
    if missing is None:
        return
    if not isinstance(job.prompt, str):
        raise InvalidJob(
            f"{job.name}: missing= is for the columns of a template, and prompt is not a template. Remove missing=, or fill the nulls in the prompts.",
            job=job.name,
            field="missing",
        )
    texts = list(missing.values()) if isinstance(missing, Mapping) else [missing]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidJob(
            f"{job.name}: missing= is a text, or a mapping of columns to texts, e.g. missing='' or missing={{'phone': 'none'}}.",
            job=job.name,
            field="missing",
        )
    unknown = [name for name in missing if name not in template_columns(job.prompt)] if isinstance(missing, Mapping) else []
    if unknown:
        raise InvalidJob(
            f"{job.name}: missing= names {', '.join(map(repr, unknown))}, which the prompt does not name. Correct missing=, or the prompt.",
            job=job.name,
            field="missing",
        )


def _check_probability(job: str, probability: object) -> None:
    if isinstance(probability, bool) or not isinstance(probability, int | float) or not 0 < probability < 1:
        raise InvalidJob(f"{job}: probability={probability!r} must be above 0 and below 1, e.g. 0.99.", job=job, field="probability")
