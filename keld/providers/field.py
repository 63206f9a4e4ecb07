"""Field: the fields of accounts, as they are written in an Airflow connection or in Dagster's configuration.

Beside `account`, whose classes say which fields each kind has: a field that is added there can be written in both orchestrators, without a list here.
What is written is a text, a number or a JSON object.  Nothing is sent; no key is among these fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from keld.errors import InvalidJob
from keld.providers.account import TYPES, Account

_WRITTEN_OTHERWISE = frozenset(
    ("kind", "base_url", "api_key_env", "api_key", "keyless", "credentials")
)  # each edge has its own place for these


def account_fields(kind: str | None = None) -> Mapping[str, type]:
    """The fields of an account besides its address and its key, each with the type of its value: `str`, `int`, `Decimal`, or `dict` from name to name.

    Args:
        kind: which kind's; None: those of the accounts of all built-in kinds.
    """
    if kind is None:
        return {name: form for each in ("", *TYPES) for name, form in account_fields(each).items()}
    return {name: _type(hint) for name, hint in _hints(kind).items()}


def account_of(kind: str, written: Mapping[str, object], subject: str, **given: Any) -> Account:
    """An account of a built-in or another package's kind.

    Args:
        written: the values of its fields by their names, as they were written.  None and "" are as not written.
        subject: what it was written in, for the error, e.g. `The connection keld_eu`.
        given: address and key, as of `Account`.

    Raises:
        InvalidJob: the kind has no such field, or a value cannot be read.
    """
    hints, read = _hints(kind), dict[str, Any]()
    for name, value in written.items():
        if value is None or value == "":
            continue
        if name not in hints:
            raise InvalidJob(
                f"{subject} has a field {name!r}, which an account of kind {kind} does not have{_owners(name)}. Nothing was sent. "
                f"Remove it, or correct the kind; {kind} has {', '.join(hints)}."
            )
        read[name] = _read(name, value, hints[name], subject)
    try:
        return Account.of(kind, **given, **read)
    except InvalidJob as problem:
        raise InvalidJob(f"{subject} is no account. {problem}") from None


def _owners(field: str) -> str:
    owners = [kind for kind in TYPES if field in _hints(kind)]
    return f"; it is a field of {', '.join(owners)}" if owners else ""


@cache
def _hints(kind: str) -> Mapping[str, Any]:
    return {name: hint for name, hint in get_type_hints(TYPES.get(kind, Account)).items() if name not in _WRITTEN_OTHERWISE}


def _type(hint: Any) -> type:
    """By the type that the class of the account gives the field."""
    if get_origin(hint) is Mapping:
        return dict
    if hint is int:
        return int
    return Decimal if Decimal in (hint, *get_args(hint)) else str


def _read(name: str, value: object, hint: Any, subject: str) -> Any:
    """The value as the account's class takes it.

    Raises:
        InvalidJob: it is not of the field's type.
    """
    found: Any
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        found, wanted = (value if isinstance(value, str) and value in choices else None), f"Write {' or '.join(choices)}."
    elif (wanted_type := _type(hint)) is dict:
        found, wanted = _names(value), 'Write a JSON object from model to deployment, e.g. {"gpt-5-mini": "mini-batch"}.'
    elif wanted_type is int:
        found, wanted = _count(value), "Write a whole number, e.g. 64."
    elif wanted_type is Decimal:
        found, wanted = _decimal(value), 'Write a number above 0, e.g. "1.1".'
    else:
        found, wanted = _text(value), "Write a text."
    if found is None:
        raise InvalidJob(f"{subject} has {name}={value!r:.80}, which cannot be read. Nothing was sent. {wanted}")
    return found


def _text(value: object) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def _count(value: object) -> int | None:
    number = _decimal(value)
    # Above a billion nothing is meant, and `int` of "1e999999" takes minutes.
    return int(number) if number is not None and number < 10**9 and number == number.to_integral_value() else None


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
        except (ValueError, RecursionError):
            return None
    if not isinstance(value, dict):
        return None
    return value if all(isinstance(part, str) and part.strip() for item in value.items() for part in item) else None
