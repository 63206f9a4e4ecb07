"""Week: the calls of a group by hour of the week, as a drawing for the page with the table of its days below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree.ElementTree import Element

from keld.page.drawing import SERIES, TEXT
from keld.page.element import tag
from keld.page.table import columns, table

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LEVELS = 5
_CELL, _LEFT = 16, 40  # of the drawing's own units


def week(hours: Sequence[int], name: str) -> list[Element]:
    """168 numbers from Monday 00:00 on: a row for each day, the more the stronger."""
    about = f"{name}: calls by hour of the week, UTC"
    labels = [tag("text", day, x=0, y=at * _CELL + 12, fill=TEXT) for at, day in enumerate(_DAYS)]
    clock = [tag("text", f"{hour:02d}", x=hour * _CELL + _LEFT, y=7 * _CELL + 16, fill=TEXT) for hour in range(0, 24, 6)]
    drawn = tag("svg", *labels, *clock, *_cells(hours), viewBox="0 0 424 132", role="img", aria_label=about, class_="figure week")
    rows = [(day, f"{sum(hours[at * 24 : at * 24 + 24]):,}") for at, day in enumerate(_DAYS)]
    numbers = table(about, [*columns("day", kind=None), *columns("calls")], rows)
    return [
        tag("figure", tag("figcaption", "Calls by hour of the week, UTC."), drawn),
        tag("details", tag("summary", "In numbers"), numbers),
    ]


def _cells(hours: Sequence[int]) -> Iterator[Element]:
    """One path for each strength."""
    most = max(hours) or 1
    for level in range(1, _LEVELS + 1):
        found = "".join(
            f"M{at % 24 * _CELL + _LEFT} {at // 24 * _CELL}h14v14h-14z"
            for at, calls in enumerate(hours)
            if calls and min(int(calls / most * _LEVELS) + 1, _LEVELS) == level
        )
        if found:
            yield tag("path", d=found, fill=SERIES[0], fill_opacity=f"{level / _LEVELS:g}", class_="s0")
