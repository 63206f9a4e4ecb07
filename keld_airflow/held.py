"""Held: rows that another task gave, on their way through a templated field.

Airflow stores what such a field holds after it was rendered: of rows it is told what they are, not what they say.  Where they lay before,
and whether that is Airflow's database, is for its XCom backend to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Held:
    """Rows that print as their type."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __repr__(self) -> str:
        return f"<rows: {type(self.rows).__name__}>"


class HeldField:
    """A field of an operator whose rows are `Held` from when they are set: in `__init__` of a mapped task, when rendered of others."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        return self if task is None else task.__dict__.get(self._name)

    def __set__(self, task: Any, value: Any) -> None:
        task.__dict__[self._name] = _held(value)


def let_out(value: Any) -> Any:
    """What was held in `value`, or in the arguments that it is."""
    return _each(value, lambda part: part.rows if isinstance(part, Held) else part)


def _held(value: Any) -> Any:
    return Held(value) if is_rows(value) else _each(value, lambda part: Held(part) if is_rows(part) else part)


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: change(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(change(part) for part in value)
    return change(value)


def is_rows(value: Any) -> bool:
    """Whether it is a table, or begins as rows do."""
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping)
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__dataframe__") or hasattr(value, "to_arrow")
