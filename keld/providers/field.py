"""Field: the fields of accounts, as they are written in an Airflow connection or in Dagster's configuration.

Beside `account`, whose classes say which fields each kind has: a field that is added there can be written in both orchestrators, without a list here.
What is written is a text, a number or a JSON object.  Nothing is sent; no key is among these fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum, auto
from functools import cache
from typing import Any, Literal, assert_never, get_args, get_origin, get_type_hints

from keld.errors import InvalidJob
from keld.providers.account import TYPES, Account

_WRITTEN_OTHERWISE = frozenset(("kind", "base_url", "api_key_env", "api_key", "keyless"))  # each edge has its own place for these


class Form(Enum):
    """How the value of a field is written."""

    TEXT = auto()
    CHOICE = auto()
    """One of a few texts."""
    COUNT = auto()
    """A whole number."""
    DECIMAL = auto()
    """A number, best as a text, so that no digit is lost."""
    NAMES = auto()
    """A JSON object, from a name to a name."""


def fields_of(kind: str) -> Mapping[str, Form]:
    """The fields of an account of this kind, besides its address and its key."""
    return {name: _form(hint) for name, hint in _hints(TYPES.get(kind, Account)).items()}


def all_fields() -> Mapping[str, Form]:
    """The fields of the accounts of all built-in kinds, besides address and key."""
    return fields_of("") | {name: form for kind in TYPES for name, form in fields_of(kind).items()}


def kinds_with(field: str) -> list[str]:
    """The kinds that alone have this field; empty if every kind has it, or none."""
    return [] if field in fields_of("") else [kind for kind in TYPES if field in fields_of(kind)]


def account_of(kind: str, written: Mapping[str, object], subject: str, **given: Any) -> Account:
    """An account of a built-in or another package's kind.

    Args:
        written: the values of its fields by their names, as they were written.  None and "" are as not written.
        subject: what it was written in, for the error, e.g. `The connection keld_eu`.
        given: address and key, as of `Account`.

    Raises:
        InvalidJob: the kind has no such field, or a value cannot be read.
    """
    forms = fields_of(kind)
    read: dict[str, Any] = {}
    for name, value in written.items():
        if value is None or value == "":
            continue
        if name not in forms:
            raise InvalidJob(
                f"{subject} has a field {name!r}, which an account of kind {kind} does not have{_owners(name)}. Nothing was sent. "
                f"Remove it, or correct the kind; {kind} has {', '.join(forms)}."
            )
        read[name] = _read(name, value, _hints(TYPES.get(kind, Account))[name], subject)
    try:
        return Account.of(kind, **given, **read)
    except InvalidJob as problem:
        raise InvalidJob(f"{subject} is no account. {problem}") from None


def _owners(field: str) -> str:
    owners = kinds_with(field)
    return f"; it is a field of {', '.join(owners)}" if owners else ""


@cache
def _hints(account: type[Account]) -> Mapping[str, Any]:
    return {name: hint for name, hint in get_type_hints(account).items() if name not in _WRITTEN_OTHERWISE}


def _form(hint: Any) -> Form:
    """By the type that the class of the account gives the field."""
    if get_origin(hint) is Mapping:
        return Form.NAMES
    if get_origin(hint) is Literal:
        return Form.CHOICE
    if hint is int:
        return Form.COUNT
    return Form.DECIMAL if Decimal in (hint, *get_args(hint)) else Form.TEXT


def _read(name: str, value: object, hint: Any, subject: str) -> Any:
    """The value as the account's class takes it.

    Raises:
        InvalidJob: it is not of the field's form.
    """
    match form := _form(hint):
        case Form.TEXT:
            found, wanted = _text(value), "Write a text."
        case Form.CHOICE:
            choices = get_args(hint)
            found, wanted = (value if value in choices else None), f"Write {' or '.join(choices)}."
        case Form.COUNT:
            found, wanted = _count(value), "Write a whole number, e.g. 64."
        case Form.DECIMAL:
            found, wanted = _decimal(value), 'Write a number above 0, e.g. "1.1".'
        case Form.NAMES:
            found, wanted = _names(value), 'Write a JSON object from model to deployment, e.g. {"gpt-5-mini": "mini-batch"}.'
        case _:
            assert_never(form)
    if found is None:
        raise InvalidJob(f"{subject} has {name}={value!r:.80}, which cannot be read. Nothing was sent. {wanted}")
    return found


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _count(value: object) -> int | None:
    number = _decimal(value)
    return int(number) if number is not None and number == number.to_integral_value() else None


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() and number > 0 else None


def _names(value: object) -> dict[str, str] | None:
    """A JSON object, or its text: a URI and an environment variable can hold only the text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    if not isinstance(value, dict):
        return None
    return value if all(isinstance(part, str) and part.strip() for item in value.items() for part in item) else None
