"""Component: `KeldBatchComponent`, a job and its two assets declared in YAML, for projects of `dg`.

Above `asset` and `definitions`: the attributes are those of `keld.Job` and `build_batch_assets`, under the same names, and nothing is decided here.
Every `dg` command imports this module, in every project of an environment that has Keld: what needs pyarrow, pandas or a provider's SDK is
imported when definitions are built, so that a broken package does not stop `dg`.

A mistake is refused at its line of the file, in the words of the job that refuses it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import dagster as dg
from dagster.components.resolved.core_models import (  # as the first-party integrations do: `dagster` does not export them
    AssetSpecUpdateKwargs,
    MultiRunBackfillPolicyModel,
    SingleRunBackfillPolicyModel,
    resolve_asset_spec_update_kwargs_to_mapping,
    resolve_backfill_policy,
)
from pydantic import BaseModel, ConfigDict

from keld import Column, InvalidJob, Job, KeldError
from keld_dagster.prompt import rendered, template_of
from keld_dagster.scaffold import KeldScaffolder
from keld_dagster.translator import KeldTranslator

if TYPE_CHECKING:
    from keld_dagster.resource import KeldResource


_PATTERNS = {
    "ceiling_usd": r"^[0-9]+(\.[0-9]+)?$|\{\{",
    "deadline": r"^\s*(P|[0-9])|\{\{",
    "models": r"^[A-Za-z0-9_-]+:\S+$|\{\{",
}

# Attributes that are arguments of `build_batch_assets` as they are.
_OPTIONS = (
    "backfill_policy", "completion_rate", "delimiter", "encoding", "frame", "io_manager_key", "op_tags", "partition_mapping", "pool", "quote",
    "resource_key", "types", "valid_rate",
)  # fmt: skip


class TextFile(dg.Model):
    """A text in a file of its own, such as `prompt.md`; the path is relative to the folder of the YAML file."""

    path: str


class PromptFrom(dg.Model):
    """Where the prompt comes from, if it does not stand in the YAML file; one of `path`, `column` and `function`."""

    path: str | None = None
    column: str | None = None
    json_text: bool = False
    function: str | None = None


def _as_written(context: dg.ResolutionContext, value: Any) -> Any:
    """The value with its templates resolved; a text without a template is left as it is, where Dagster would make a number of "1"."""
    if isinstance(value, str):
        return context.resolve_value(value) if "{{" in value or "{%" in value else value
    if isinstance(value, Mapping):
        return {key: _as_written(context.at_path(key), one) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [_as_written(context.at_path(n), one) for n, one in enumerate(value)]
    return value


def _given(form: Any, description: str, examples: list[Any] | None = None) -> dg.Resolver:
    """An attribute that is taken as it is written, templates resolved."""
    return dg.Resolver(_as_written, model_field_type=form, description=description, examples=examples, inject_before_resolve=False)


def _refusal(context: dg.ResolutionContext, field: str, model: BaseModel, problem: object) -> Exception:
    """The error that shows the attribute's place in the file and says what is wrong with it."""
    at = context.at_path(field) if field in type(model).model_fields else context
    return at.build_resolve_fn_exc([f"{problem}\n"], field_name=field, model=model)


def _text(context: dg.ResolutionContext, model: BaseModel, field: str) -> str | None:
    """A text that stands in the YAML file, or in a file of its own; templates rendered."""
    given = getattr(model, field)
    if given is None:
        return None
    try:
        if not isinstance(given, str):
            path = context.resolve_source_relative_path(str(_as_written(context, given.path)))
            given = path.read_text(encoding="utf-8")
        return rendered(given, context.scope)
    except UnicodeDecodeError as error:
        raise _refusal(context, field, model, f"{field}: {given.path} is not a text in UTF-8 ({error.reason}).") from None
    except OSError as error:
        what = f"{field}: the file {error.filename} cannot be read ({error.strerror}). Its path is relative to the folder of the YAML file."
        raise _refusal(context, field, model, what) from None
    except ValueError as error:
        raise _refusal(context, field, model, f"{field}: {error}") from None


def _prompt(context: dg.ResolutionContext, model: BaseModel) -> Any:
    given: Any = model.prompt  # type: ignore[attr-defined]
    if isinstance(given, PromptFrom):
        ways = [name for name in ("path", "column", "function") if getattr(given, name) is not None]
        if len(ways) != 1:
            what = f"prompt: give one of path, column and function, not {' and '.join(ways) or 'none'}."
            raise _refusal(context, "prompt", model, what)
        if given.column is not None:
            return Column(_as_written(context, given.column), json=given.json_text)
        if given.function is not None:
            return _made_by(context, model, _as_written(context, given.function))
    try:
        return template_of(_text(context, model, "prompt") or "")
    except ValueError as error:
        raise _refusal(context, "prompt", model, f"prompt: {error}") from None


def _made_by(context: dg.ResolutionContext, model: BaseModel, path: str) -> Any:
    """The prompt that a function of a row or of a record batch makes, as of `keld_assets`."""
    from keld_dagster.decorator import prompt_of  # here: every `dg` command imports this module, and needs no table library

    function = _imported(context, model, "prompt", path, "a function of a row, or of a record batch")
    if not callable(function):
        raise _refusal(
            context, "prompt", model, f"prompt: {path} is a {type(function).__name__}, not a function of a row, or of a record batch."
        )
    try:
        return prompt_of(function)
    except TypeError as error:
        raise _refusal(context, "prompt", model, f"prompt: {error}") from None


def _system(context: dg.ResolutionContext, model: BaseModel) -> str | None:
    return _text(context, model, "system")


def _output_type(context: dg.ResolutionContext, model: BaseModel) -> Any:
    given = _as_written(context.at_path("output_type"), model.output_type)  # type: ignore[attr-defined]
    return _imported(context, model, "output_type", given, "a Pydantic model") if isinstance(given, str) else given


def _imported(context: dg.ResolutionContext, model: BaseModel, field: str, path: str, what: str) -> Any:
    """The object at an import path; one that begins with a dot is relative to the folder of the YAML file."""
    where = path
    if path.startswith("."):
        where = dg.ComponentLoadContext.from_resolution_context(context).normalize_component_type_str(path)
    module, _, name = where.rpartition(".")
    hint = f"Give the import path of {what}, such as my_project.labels.Label, or .labels.Label for the file labels.py beside the YAML file."
    try:
        return getattr(import_module(module), name)
    except AttributeError:
        raise _refusal(context, field, model, f"{field}: the module {module} has no {name!r}. {hint}") from None
    except (ModuleNotFoundError, ValueError) as error:  # ValueError: a path without a module
        missing = getattr(error, "name", None) or module
        raise _refusal(context, field, model, f"{field}: {path!r} cannot be imported: there is no module {missing!r}. {hint}") from None


class KeldBatchComponent(dg.Component, dg.Resolvable, dg.Model, KeldTranslator):
    """Asks an LLM one question of every row of an asset or a table, in batches, by a deadline and under a ceiling price.

    It makes the assets `<name>_batch` (what was sent) and `<name>` (the rows with their answers), checks, and the sensor that brings the
    answers in.  In a text, `{{ }}` is Dagster's, `{column}` is the row's, and other braces are text.  A subclass may override `get_asset_spec`.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    # -- the question
    name: Annotated[
        str, _given(str, "The job; with the partition it identifies what was paid for. Also the result asset, unless asset.key is given.")
    ]
    source: Annotated[
        Any,
        _given(
            str | list[str],
            "Where the rows come from: the key of an asset, or a path or URI with {partition} for the key, or a list of these.",
            ["tickets", "s3://lake/tickets/{partition}.parquet"],
        ),
    ]
    key: Annotated[str, _given(str, "The column that identifies a row; unique and never null within a partition.")]
    prompt: Annotated[
        Any,
        dg.Resolver.from_model(
            _prompt,
            model_field_type=str | PromptFrom,
            description="What is asked of a row: a text with {column}, or {path: prompt.md}, {column: ...} for a column of ready prompts, "
            "{function: my_project.prompts.triage}.",
        ),
    ]
    models: Annotated[
        Any, _given(str | list[str], "The acceptable models; Keld takes the cheapest that meets the terms.", [["openai:gpt-5-mini"]])
    ]
    system: Annotated[
        str | None,
        dg.Resolver.from_model(
            _system, model_field_type=str | TextFile | None, description="The instruction shared by all rows; a text, or {path: system.md}."
        ),
    ] = None
    output_type: Annotated[
        Any,
        dg.Resolver.from_model(
            _output_type,
            model_field_type=str | dict[str, Any] | None,
            description="What an answer must look like: the import path of a Pydantic model (.labels.Label is the file labels.py beside the YAML file), "
            "or a JSON Schema. Default: one column of text.",
        ),
    ] = None
    columns: Annotated[
        Mapping[str, Any] | None,
        _given(
            dict[str, dict[str, Any] | list[Any]] | None,
            "Short for a JSON Schema: the answer's columns, all of them required, each a JSON Schema or the list of its values.",
            [{"category": ["billing", "bug"], "urgency": {"type": "integer", "minimum": 1, "maximum": 5}}],
        ),
    ] = None

    # -- the terms
    deadline: Annotated[
        timedelta | datetime | str | None, _given(str | None, "A span after the partition's end, or an instant.", ["9h", "1d 6h", "PT9H"])
    ] = None
    ceiling_usd: Annotated[Any, _given(float | str | None, "The most one partition may cost, retries included.")] = None
    probability: Annotated[float | None, _given(float | None, "The wanted probability of keeping the deadline; default 0.99.")] = None
    lane: Annotated[str | None, _given(str | None, "auto (the cheapest that meets the terms), batch, flex or standard.")] = None
    max_output_tokens: Annotated[int | None, _given(int | None, "Per row; default 1024.")] = None
    max_attempts: Annotated[int | None, _given(int | None, "How often one row may be asked; default 3.")] = None
    params: Annotated[
        Mapping[str, Any] | None, _given(dict[str, Any] | None, "Extra fields of every request's body.", [{"temperature": 0}])
    ] = None
    missing: Annotated[
        Any, _given(str | dict[str, str] | None, "What the prompt shows where a column is null; default: such a row is not asked.")
    ] = None
    accept: Annotated[Any, _given(dict[str, Any] | None, "Least values of the answer's columns; below them the next model is asked.")] = (
        None
    )
    reuse: Annotated[str | None, _given(str | None, "partition (default), namespace or never: whose answers are used again.")] = None
    endpoint: Annotated[str | None, _given(str | None, "For providers of OpenAI's shape, such as /v1/responses.")] = None
    prices: Annotated[
        Mapping[str, Any] | None, _given(dict[str, dict[str, Any]] | None, "USD per million tokens, for models in no price list.")
    ] = None
    probe: Annotated[
        bool | str | None, _given(bool | str | None, "Ask one row before the others of a batch: true, false, batch or standard.")
    ] = None
    hedge: Annotated[bool | None, _given(bool | None, "Ask late rows elsewhere although their batch still runs; some are paid twice.")] = (
        None
    )
    cache: Annotated[str | None, _given(str | None, "auto or never: the provider's prompt cache.")] = None
    priority: Annotated[str | None, _given(str | None, "A column of numbers; the largest are asked first if not all can be.")] = None
    max_shard_rows: Annotated[int | None, _given(int | None, "Rows of one batch, below the provider's own limit.")] = None
    max_shard_bytes: Annotated[int | None, _given(int | None, "Bytes of one batch, below the provider's own limit.")] = None
    output_prefix: Annotated[str | None, _given(str | None, "Put before the answer's columns.")] = None
    tags: Annotated[
        Mapping[str, str] | None, _given(dict[str, str] | None, "Labels for the spend report; an asset's tags are asset.tags.")
    ] = None

    # -- the assets
    asset: Annotated[
        Mapping[str, Any] | None,
        dg.Resolver(
            resolve_asset_spec_update_kwargs_to_mapping,
            model_field_type=AssetSpecUpdateKwargs.model(),
            description="Attributes of the assets, as everywhere in Dagster: key, partitions_def, group_name, owners, tags, automation_condition, ...",
        ),
    ] = None
    io_manager_key: Annotated[str | None, _given(str | None, "Of the IO manager that takes the enriched partition.")] = None
    frame: Annotated[Any, _given(str | None, "pandas, polars, pyarrow, ...: the form in which rows are loaded and handed over.")] = None
    completion_rate: Annotated[
        float | None, _given(float | None, "The least share of answered rows; below it, what is downstream does not run.")
    ] = None
    valid_rate: Annotated[
        float | None, _given(float | None, "The least share of answers that fit the output schema; below it, a check warns.")
    ] = None
    backfill_policy: Annotated[
        dg.BackfillPolicy | None,
        dg.Resolver(
            resolve_backfill_policy,
            model_field_type=SingleRunBackfillPolicyModel | MultiRunBackfillPolicyModel | None,
            description="How many partitions one run submits.",
        ),
    ] = None
    partition_mapping: Annotated[
        Any, _given(str | None, "Which partitions of the source are a partition's rows: a template of yours that gives a mapping.")
    ] = None
    op_tags: Annotated[Mapping[str, Any] | None, _given(dict[str, Any] | None, "Of the op, such as dagster-k8s/config.")] = None
    hooks: Annotated[Any, _given(list[str] | str | None, "Of the op: templates of yours that give hooks.")] = None
    retry_policy: Annotated[Any, _given(dict[str, Any] | None, "For short faults, such as {max_retries: 3, delay: 10}.")] = None
    pool: Annotated[str | None, _given(str | None, "Limits how many runs upload or download at once.")] = None
    types: Annotated[Any, _given(dict[str, str] | None, "Columns of a text file and their types, if the source is a path.")] = None
    encoding: Annotated[str | None, _given(str | None, "Of a text file, if the source is a path.")] = None
    delimiter: Annotated[str | None, _given(str | None, "Of a text file, if the source is a path.")] = None
    quote: Annotated[str | None, _given(str | None, "Of a text file, if the source is a path.")] = None
    resource_key: Annotated[str | None, _given(str | None, "Of the KeldResource; default keld.")] = None
    resource: Annotated[
        Any,
        _given(
            dict[str, Any] | None,
            "The fields of the KeldResource; {} for the defaults. None if the project defines it elsewhere. {env: NAME} is an environment "
            "variable, whose value Dagster does not show.",
            [{}, {"ledger_url": {"env": "KELD_LEDGER_URL"}}],
        ),
    ] = None

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The form of the YAML; `dg check yaml` compares the file with its JSON Schema, and loads nothing."""
        found = super().model()
        said = found.model_config.get("json_schema_extra")
        if not callable(said):
            found.model_config["json_schema_extra"] = partial(_with_patterns, said or {})
        return found

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        made: dict[str, Any] = {"produces": ["asset", "asset_check", "sensor", "job"]}
        known = inspect.signature(dg.ComponentTypeSpec).parameters  # the first 1.12 have no `produces`
        return dg.ComponentTypeSpec(
            description=inspect.getdoc(cls), tags=["llm", "batch"], **{name: value for name, value in made.items() if name in known}
        )

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> KeldBatchComponent:
        """The component, refused here if its assets could not be made: the file and the line are known now."""
        component: KeldBatchComponent = super().resolve_from_model(context, model)
        try:
            component.build_assets()
        except (KeldError, ValueError, TypeError, dg.DagsterInvalidDefinitionError) as problem:
            raise _refusal(context, component._field_of(problem), model, problem) from None
        return component

    def _field_of(self, problem: Exception) -> str:
        """The attribute that an error is about; empty if it is about several."""
        if isinstance(problem, InvalidJob) and problem.field is not None:
            return "columns" if problem.field == "output_type" and self.columns is not None else problem.field
        return next((name for name in type(self).model_fields if f"{name}=" in str(problem)), "")

    def build_job(self) -> Job:
        """The job as declared."""
        declared = {field.name: getattr(self, field.name) for field in fields(Job)}
        if self.columns is not None:
            if self.output_type is not None:
                raise InvalidJob(f"{self.name}: output_type and columns say the same; give one of them.", job=self.name, field="columns")
            declared["output_type"] = _schema(self.columns)
        return Job(**{name: value for name, value in declared.items() if value is not None})

    def build_assets(self) -> dg.AssetsDefinition:
        """The two assets of the job."""
        from keld_dagster.declaration import build_batch_assets  # see the module's header

        given = dict(self.asset or {})
        if "skippable" in given:
            raise ValueError("asset.skippable: both assets of a job are skippable, since a run that submits has no result yet. Remove it.")
        key = given.pop("key", None)
        if key is not None:
            given["name"] = key.to_user_string()
        if "kinds" in given:
            given["kinds"] = set(given["kinds"])
        given |= {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        if self.hooks is not None:
            given["hooks"] = set(self.hooks)
        if self.retry_policy is not None:
            given["retry_policy"] = dg.RetryPolicy(**self.retry_policy) if isinstance(self.retry_policy, Mapping) else self.retry_policy
        return build_batch_assets(self.build_job(), source=self.source, translator=self, **given)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        from keld_dagster.definitions import keld_definitions  # see the module's header

        return keld_definitions([self.build_assets()], resource=self._resource())

    def _resource(self) -> KeldResource | None:
        from keld_dagster.resource import KeldResource  # see the module's header

        return KeldResource(**_with_variables(self.resource)) if isinstance(self.resource, Mapping) else self.resource


def _with_patterns(said: Mapping[str, Any], schema: dict[str, Any]) -> None:
    """Adds to a JSON Schema what Dagster says of it, and the patterns of texts: Dagster allows any text for any attribute, as it may be a template."""
    schema.update(said)
    for name, pattern in _PATTERNS.items():
        schema["properties"][name] |= {"pattern": pattern, "items": {"pattern": pattern}}


def _schema(columns: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an answer with these columns."""
    properties = {name: {"enum": form} if isinstance(form, list) else form for name, form in columns.items()}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _with_variables(value: Any) -> Any:
    """The value with an `EnvVar` for each `{env: NAME}`."""
    if isinstance(value, Mapping):
        return dg.EnvVar(value["env"]) if value.keys() == {"env"} else {key: _with_variables(one) for key, one in value.items()}
    return value


dg.scaffold_with(KeldScaffolder)(KeldBatchComponent)
