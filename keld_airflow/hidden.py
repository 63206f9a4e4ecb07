"""Hidden: rows that another task gave, in a templated field of an operator.

Airflow stores the text of such a field after it was rendered: for rows it stores only their type, not their content.  Where the rows were
before, and whether that is Airflow's database, depends on the XCom backend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from keld_airflow.value import literal

_WRITTEN = re.compile(r"""\s*(?:\[\s*['"{\]]|{\s*['"])""")  # not a pattern of names, [ab]*.csv, nor a field, {partition}


class HiddenRows:
    """Rows that print as their type."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __repr__(self) -> str:
        return f"<rows: {type(self.rows).__name__}>"


class HiddenRowsField:
    """A field of an operator that wraps rows in `HiddenRows` when it is set: in `__init__` for a mapped task, at rendering for others."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        return self if task is None else task.__dict__.get(self._name)

    def __set__(self, task: Any, value: Any) -> None:
        task.__dict__[self._name] = _hide(value)


class SourceField(HiddenRowsField):
    """The same for the source of a task: a template that is no native one leaves the text of the rows, which is read, and hidden as well.

    Airflow would store that text as it stores a path, and an error would quote it.
    """

    def __set__(self, task: Any, value: Any) -> None:
        super().__set__(task, value)
        if is_text_of_rows(value):
            task.__dict__[self._name] = HiddenRows(literal(value))


def is_text_of_rows(value: Any) -> bool:
    """True if it is a list or an object as Python or JSON writes it, not the name of anything."""
    return isinstance(value, str) and _WRITTEN.match(value) is not None


def unwrap(value: Any) -> Any:
    """`value`, or the arguments in it, with the hidden rows as they were given."""
    return _each(value, lambda part: part.rows if isinstance(part, HiddenRows) else part)


def _hide(value: Any) -> Any:
    return HiddenRows(value) if is_rows(value) else _each(value, lambda part: HiddenRows(part) if is_rows(part) else part)


def _each(value: Any, change: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: change(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(change(part) for part in value)
    return change(value)


def is_rows(value: Any) -> bool:
    """True if it is a table, or a list whose first item is a row."""
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping)
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__dataframe__") or hasattr(value, "to_arrow")
