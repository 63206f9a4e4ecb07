"""Value: the value of a term, as it is given in an operator or as Airflow has rendered it -> as `keld.Job` takes it.

Templates, Variables and trigger forms give text: numbers, lists and objects are read from it here, spans and instants by `keld`.  A text that
cannot be read is left as it is, for `keld` to refuse with its own words.  Pure.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from keld import InvalidJob, Job
from keld_airflow.text import Text, check_syntax, has_marks, is_unread

# Airflow uses `params` for something else.
_RENAMED = {"params": "request_params"}
TERMS = {_RENAMED.get(field.name, field.name): field.name for field in fields(Job)}
"""The name of each term in the operator -> its name in `Job`."""

# By the types of `Job`, so that a new term is read as its type says.
_TYPES = {field.name: str(field.type).split(" | ") for field in fields(Job)}
_REQUIRED = ("name", "key", "prompt", "models")
_PLACEHOLDERS: dict[str, Any] = {"name": "job", "key": "key", "prompt": "{column}", "models": ("account:first", "account:second")}
# Parameters of models that are text, whatever the text looks like.
_TEXT_PARAMS = frozenset(("user", "metadata", "safety_identifier", "prompt_cache_key", "stop", "stop_sequences", "labels"))
_TRUE, _FALSE = frozenset(("true", "1", "yes")), frozenset(("false", "0", "no"))


def is_open(value: Any) -> bool:
    """True if a value is known only when Airflow has rendered it: it is, or holds, a template of Jinja or another task's output."""
    if isinstance(value, str):
        return has_marks(value)
    if isinstance(value, Text):
        return value.jinja
    if isinstance(value, Mapping):
        return any(is_open(part) for part in value.values())
    if isinstance(value, list | tuple | set):
        return any(is_open(part) for part in value)
    return hasattr(value, "iter_references")


def check_templates(value: Any, name: str) -> None:
    """Passes if Jinja can read every template in a value.

    Raises:
        InvalidJob: it cannot.
    """
    if isinstance(value, str) and has_marks(value):
        check_syntax(value, name)
    elif isinstance(value, Text) and value.jinja:
        check_syntax(value.text, name)
    elif isinstance(value, Mapping | list | tuple | set):
        for part in value.values() if isinstance(value, Mapping) else value:
            check_templates(part, name)


def job_of(terms: Mapping[str, Any]) -> Job:
    """The job that the terms declare, by their names in `Job`.

    Raises:
        InvalidJob: as of `Job`.
    """
    return Job(**{name: _read(name, value) for name, value in terms.items()})


def check_known(terms: Mapping[str, Any]) -> None:
    """Passes if the terms that are known already are valid.

    Raises:
        InvalidJob: as of `Job`.
    """
    known = {name: value for name, value in terms.items() if not is_open(value) and not is_unread(value)}
    if "prompt" not in known:
        known.pop("missing", None)  # it is checked against the prompt's columns
    job_of({name: known.get(name, _PLACEHOLDERS[name]) for name in _REQUIRED} | known)


def check_rendered(value: Any, name: str) -> None:
    """Passes if a template, or another task, gave a value.

    Raises:
        InvalidJob: it gave none; a ceiling or a model that is missing must not be a job without it.
    """
    if value is None or (value.text if isinstance(value, Text) else value) == "None":
        raise InvalidJob(
            f"{name} was rendered as {value!r}: the value it names is missing. Nothing was sent. Give that value, or omit {name}.",
            field=name,
        )


def typed(declared: Any, rendered: Any, name: str = "") -> Any:
    """The parameters of a model with numbers and booleans where Jinja left their text, which a provider refuses; text that was written stays text."""
    if name in _TEXT_PARAMS or not is_open(declared):
        return rendered
    if isinstance(rendered := literal(rendered), Mapping):
        known = declared if isinstance(declared, Mapping) else {}
        return {key: typed(known.get(key, declared), part, str(key)) for key, part in rendered.items()}
    if isinstance(rendered, list) and isinstance(declared, list) and len(declared) == len(rendered):
        return [typed(*parts) for parts in zip(declared, rendered, strict=True)]
    if not isinstance(rendered, str):
        return rendered
    if rendered.strip().lower() in ("true", "false"):
        return rendered.strip().lower() == "true"
    return _number(_number(rendered, int), float)


def share(value: Any) -> Any:
    """A number that was written as text, e.g. in a Variable; anything else as it is."""
    return _number(value, float) if isinstance(value, str) else value


def _read(name: str, value: Any) -> Any:
    """The value of a term, read from its text if `Job` does not take text for it; a text that cannot be read is left for `Job` to refuse."""
    types = _TYPES[name]
    if isinstance(value, Text):
        return value.text
    if name == "models":
        return _models(value)
    if name == "tags" and isinstance(value := literal(value), Mapping):
        return {label: str(text) for label, text in value.items()}  # Jinja's native types make a number of "20261119"
    if not isinstance(value, str):
        return value
    if types[0] == "bool":
        return True if value.strip().lower() in _TRUE else False if value.strip().lower() in _FALSE else value
    if types[0] in ("int", "float"):
        return _number(value, int if types[0] == "int" else float)
    return literal(value) if any(part.startswith("Mapping[") for part in types) and value.lstrip().startswith("{") else value


def _models(value: Any) -> Any:
    """Several models in one text: as JSON or Python write a list, or with commas or blanks between them."""
    if not isinstance(value, str):
        return value
    listed = literal(value)
    if isinstance(listed, str) and ("," in value or len(value.split()) != 1):
        return value.replace(",", " ").split()
    return listed.strip() if isinstance(listed, str) else listed


def literal(value: Any) -> Any:
    """A list or an object from its text in JSON, or as Python prints it, which is how Jinja renders one."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    if not isinstance(value, str):
        return value
    try:
        number = kind(value)
    except ValueError:
        return value
    return number if math.isfinite(number) else value
