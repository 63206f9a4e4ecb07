"""Drawing: the pieces of drawings that several pages have, as SVG.

A drawing is as wide as its place: positions along it are shares of its width, and text keeps its size.  Colours are attributes, so that they are
there where a server's policy forbids styles, too; the style sheet overrides them in dark mode.
"""

from __future__ import annotations

from decimal import Decimal
from xml.etree.ElementTree import Element

from keld.page.element import tag

SERIES = ("#0b6bcb", "#b25e00", "#0a7d55", "#8a3ffc")  # told apart in grey, too; at least 4.6:1 on white
OUTLINE, GRID, TEXT = "#59636e", "#d1d9e0", "#59636e"


def patch(series: int) -> Element:
    """The colour of a series, for a legend: a piece of its bars."""
    return tag(
        "svg",
        tag("rect", width=12, height=12, fill=SERIES[series], class_=f"s{series}"),
        width=12,
        height=12,
        aria_hidden="true",
        class_="swatch",
    )


def bar(value: Decimal, most: Decimal, *, series: int = 0, outline: Decimal | None = None) -> Element:
    """A value as a bar, with another one as an outline; `most` is as wide as the place.  The cells beside it say the same."""
    return tag(
        "svg",
        tag("rect", x=0, y=2, height=12, width=_percent(value, most), fill=SERIES[series], class_=f"s{series}"),
        None
        if outline is None
        else tag("rect", x=0, y="0.5", height=15, width=_percent(outline, most), fill="none", stroke=OUTLINE, class_="outline"),
        class_="bar",
        width="100%",
        height=16,
        aria_hidden="true",
    )


def _percent(amount: Decimal, most: Decimal) -> str:
    return f"{float(max(amount, Decimal(0)) / most * 100) if most else 0:.2f}%"
