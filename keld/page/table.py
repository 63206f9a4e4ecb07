"""Table: tables of text, numbers and drawings, which scroll by themselves on a narrow screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar
from xml.etree.ElementTree import Element

from keld.page.element import tag

_NAME = 80  # characters of a name: a tag may hold anything
TEXT, NUMBER, DRAWN = None, "n", "drawn"  # kinds of columns: the class of their cells

Cell: TypeAlias = "str | Element"
_Line = TypeVar("_Line")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: its name, and whether its cells are texts, numbers or drawings."""

    name: str
    kind: str | None = NUMBER


def columns(*names: str, kind: str | None = NUMBER) -> list[Column]:
    """Columns of one kind."""
    return [Column(name=name, kind=kind) for name in names]


def table(
    caption: str, head: Sequence[Column], rows: Iterable[Sequence[Cell]], total: Sequence[Cell] | None = None, *, titled: bool = True
) -> Element:
    """A table; `titled`: a heading above says the caption, which is then for screen readers only."""

    def line(cells: Sequence[Cell]) -> Element:
        first, *others = cells
        rest = (tag("td", cell, class_=column.kind) for column, cell in zip(head[1:], others, strict=False))
        return tag("tr", tag("th", first, scope="row"), *rest)

    made = tag(
        "table",
        tag("caption", caption),
        tag("thead", tag("tr", *(tag("th", column.name, scope="col", class_=column.kind) for column in head))),
        tag("tbody", *(line(row) for row in rows)),
        tag("tfoot", line(total)) if total is not None else None,
    )
    return tag("div", made, class_="wide said" if titled else "wide", tabindex=0, role="region", aria_label=caption)


def cut(lines: Sequence[_Line], most: int, cells: Callable[[_Line], Sequence[Cell]], width: int) -> list[Sequence[Cell]]:
    """The cells of the first lines, and one line that says how many are left out."""
    rows = [cells(line) for line in lines[:most]]
    if left := len(lines) - most if len(lines) > most else 0:
        rows.append([f"{left:,} more", *[""] * (width - 1)])
    return rows


def named(name: str) -> str:
    """A name of a user's, cut if it is very long."""
    return name if len(name) <= _NAME else f"{name[:_NAME]}..."


def bad(text: str, is_bad: object) -> Cell:
    """The text, in another colour where it tells of a loss or a miss."""
    return tag("strong", text, class_="late") if is_bad else text
