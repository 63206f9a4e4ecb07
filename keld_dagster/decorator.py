"""Decorator: `@keld_assets(...)`, a function that gives prompts becomes the two assets of a job.

    @keld_assets(source=tickets, key="ticket_id", output_type=Label, models=["openai:gpt-5-mini"], ceiling_usd=40)
    def ticket_labels(row: dict) -> str:
        '''The category of every support ticket.'''
        return f"Classify this ticket:\n\n{row['body']}"

The function's name is the asset's, its docstring the description.  One rule says what it is given: an Arrow record batch, if its parameter is
annotated `pa.RecordBatch`; else one row, a dict.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, Unpack, get_origin, is_typeddict

import dagster as dg

from keld import InvalidJob, Job, PerRow
from keld_dagster.declaration import build_batch_assets
from keld_dagster.option import AssetOptions, KeldAssetsOptions
from keld_dagster.source import SourceLike

_TERMS = {field.name for field in fields(Job)} - {"name", "prompt", "tags"}
# Names of Dagster's own decorators that mean something else here, or nothing.
_ELSEWHERE = {
    "ins": "the rows are those of source=, with partition_mapping= beside it; other upstream assets are deps=",
    "job": "the job's terms are keywords here; for a Job of your own see build_batch_assets",
    "prompt": "the decorated function gives the prompts; for a template see build_batch_assets",
    "specs": "a KeldTranslator changes what Dagster shows of the two assets",
    "outs": "a KeldTranslator changes what Dagster shows of the two assets",
    "can_subset": "the two assets can always be materialized apart",
}


def keld_assets(
    *, source: SourceLike, job_name: str | None = None, **options: Unpack[KeldAssetsOptions]
) -> Callable[[Callable[[Any], Any]], dg.AssetsDefinition]:
    """A decorator: the assets `<function>_batch` and `<function>`, the rows of `source` with the answers to the prompts of the function.

    Args:
        source: the upstream asset, or a path; as of `build_batch_assets`.
        job_name: of the job; default the result's key, with dots.  Give one before you rename the function: what was paid for is found by it.
        options: the terms of `keld.Job` (`key` and `models` are required; `key` is the column that identifies a row), and everything that
            `build_batch_assets` takes.  `tags` are those of both assets, and the job's, for `keld spend`.

    Raises:
        TypeError: an unknown keyword, or a function that is not given one row or one record batch.
        InvalidJob, ValueError: as `keld.Job` and `build_batch_assets`, while definitions load.
    """
    _check_names(options)

    def decorate(function: Callable[[Any], Any]) -> dg.AssetsDefinition:
        given: dict[str, Any] = {"name": function.__name__, "description": inspect.getdoc(function)}
        given |= {name: value for name, value in options.items() if value is not None}
        terms = {name: given.pop(name) for name in _TERMS if name in given}
        prefix = given.get("key_prefix") or []
        path = [*([prefix] if isinstance(prefix, str) else prefix), *given["name"].split("/")]
        job = _job(job_name or ".".join(path), prompt=prompt_of(function), tags=given.get("tags") or {}, **terms)
        return build_batch_assets(job, source=source, **given)

    return decorate


def _job(name: str, **terms: Any) -> Job:
    try:
        return Job(name=name, **terms)
    except InvalidJob as problem:
        if problem.field != "name":
            raise
        raise InvalidJob(
            f"{problem} The default is made of the asset's key: give another by job_name=, and keep it.", field="name"
        ) from None


def prompt_of(function: Callable[[Any], Any]) -> Any:
    """The prompt of a job, made by a function of a row or of a record batch; its parameter's annotation says which.

    Raises:
        TypeError: its parameter is annotated with something else, or it has not exactly one.
    """
    name = getattr(function, "__name__", type(function).__name__)
    parameters = [each for each in inspect.signature(function).parameters.values() if each.default is each.empty]
    if len(parameters) != 1 or parameters[0].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise TypeError(
            f"{name} takes {len(parameters)} arguments; it is given one: a row (a dict), or a record batch (annotate it with pa.RecordBatch). "
            "What else a prompt needs is a column of the source."
        )
    annotation = _annotation(function, parameters[0])
    if annotation is inspect.Parameter.empty and parameters[0].name in ("batch", "batches"):
        raise TypeError(
            f"{name}: annotate {parameters[0].name} with pa.RecordBatch to be given one, or name it row to be given one row, a dict."
        )
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    if text.rpartition(".")[2] == "RecordBatch":
        return function
    if not _is_row(annotation):
        raise TypeError(
            f"{name}: {parameters[0].name} is annotated with {text}; it is given a row, a dict, or a pa.RecordBatch if annotated so."
        )
    return PerRow(function)


def _annotation(function: Callable[[Any], Any], parameter: inspect.Parameter) -> Any:
    """The annotation as an object; as text if what it names is imported for type checkers only."""
    try:
        return typing.get_type_hints(function).get(parameter.name, parameter.annotation)
    except Exception:  # noqa: BLE001  whatever an annotation raises when it is evaluated
        return parameter.annotation


def _is_row(annotation: Any) -> bool:
    if annotation in (inspect.Parameter.empty, Any) or is_typeddict(annotation):
        return True
    if isinstance(annotation, str):  # it cannot be evaluated: not a class that we know
        return True
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, Mapping) and issubclass(dict, kind)


def _check_names(options: Mapping[str, Any]) -> None:
    """Passes if each keyword is known, and what is required is there."""
    known = {*_TERMS, *AssetOptions.__annotations__}
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = _ELSEWHERE.get(name) or (f"is {near[0]} meant?" if near else "see keld.Job and build_batch_assets")
            raise TypeError(f"keld_assets has no keyword {name}: {hint}.")
    missing = [name for name in ("key", "models") if name not in options]
    if missing:
        raise TypeError(f"keld_assets needs {' and '.join(f'{name}=' for name in missing)}, as keld.Job does.")
