"""Figure: the drawings of the page, as SVG.

Measured 2026-11-29 beside Altair, Plotly, Bokeh and pygal: these few shapes are a tenth of the size of the smallest, need no script and no other
package, and follow the reader's light or dark colours.  A series is one path.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import accumulate
from math import log10
from xml.etree.ElementTree import Element

from keld.page.drawing import GRID, OUTLINE, SERIES, TEXT
from keld.page.element import tag
from keld.price import Lane
from keld.report.curve import Curve
from keld.report.day import Days
from keld.turnaround import turnaround
from keld.view import span, usd

_DASHES = (None, "6 3", "14 3", "9 3 2 3")
_HEIGHT, _TOP = 180, 18
_TICKS_S = (1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)
_POINTS = 60  # of a curve: more cannot be seen
_MARGINS = 80  # marks of one job, as before


def swatch(series: int) -> Element:
    """The colour of a series, for a legend: a piece of its line."""
    line = tag("line", x1=0, x2=22, y1=5, y2=5, **_stroke(series))
    return tag("svg", line, width=22, height=10, aria_hidden="true", class_="swatch")


def columns(days: Days) -> Element:
    """What was paid in each period, stacked by group, under the outline of the standard price."""
    paid = [sum(amounts, Decimal(0)) for amounts in zip(*days.paid_usd.values(), strict=True)] or [Decimal(0)]
    top = _round_up(max([*paid, *days.standard_usd]))
    base = [Decimal(0)] * len(days.starts)
    drawn = []
    for series, amounts in enumerate(days.paid_usd.values()):
        drawn.append(tag("path", d=_stack(base, amounts, top), fill=SERIES[series], class_=f"s{series}"))
        base = [low + amount for low, amount in zip(base, amounts, strict=True)]
    drawn.append(tag("path", d=_steps(days.standard_usd, top), fill="none", stroke=OUTLINE, class_="outline", **_THIN))
    total, standard = sum(paid, Decimal(0)), sum(days.standard_usd, Decimal(0))
    firsts = [f"{start:%Y-%m-%d}" for start in days.starts]
    return _frame(
        f"What was paid each {days.unit}, {firsts[0]} to {firsts[-1]}: {usd(total)} of {usd(standard)} at standard price.",
        drawn,
        width=len(days.starts),
        rules=[(share, usd(top * Decimal(str(share)))) for share in (0.5, 1.0)],
        ticks=[(0.0, firsts[0]), (1.0, firsts[-1])] if len(firsts) > 1 else [(0.0, firsts[0])],
    )


def curves(lane: Lane, shown: Sequence[Curve]) -> Element:
    """The share of shards that had completed after so long, for up to four models; the prior is dotted grey."""
    prior = [turnaround(lane).quantile(n / 40).total_seconds() for n in range(1, 40)]
    seconds = [max(1.0, one) for curve in shown for one in curve.completed_s] + prior
    low, high = log10(min(seconds)), log10(max(seconds) * 1.05)

    def across(second: float) -> float:
        return (log10(max(second, 1.0)) - low) / (high - low) * 100

    drawn = [
        tag("path", d=_line((across(s), n / 40) for n, s in enumerate(prior, 1)), fill="none", stroke=OUTLINE, class_="prior", **_DOTTED)
    ]
    for series, curve in enumerate(shown):
        if curve.completed_s:
            ends = curve.completed_s
            points = [(ends[0], 0.0), *((ends[n - 1], n / len(ends)) for n in _some(len(ends)))]
            drawn.append(
                tag(
                    "path",
                    d=_line((across(s), share) for s, share in points),
                    fill="none",
                    vector_effect="non-scaling-stroke",
                    **_stroke(series),
                )
            )
    named = "; ".join(f"{curve.name} half by {span(curve.median_s)}" for curve in shown)
    return _frame(
        f"Share of {lane} submissions that had completed, by time since submission: {named}.",
        drawn,
        width=100,
        rules=[(0.5, "half"), (0.9, "nine in ten")],
        ticks=[(across(tick) / 100, span(tick)) for tick in _TICKS_S if low <= log10(tick) <= high],
    )


def margins(seconds: Sequence[float], reach: float) -> Element:
    """One mark for each job run that is over: right of the middle it ended before its deadline, left of it after.

    Args:
        reach: seconds at the ends of the drawing; the scale is that of a square root, so that minutes can be seen beside days.
    """
    step = max(1, len(seconds) // _MARGINS)
    shown = sorted(seconds)[::step]
    kept = "".join(_mark(second, reach) for second in shown if second >= 0)
    late = "".join(_mark(second, reach) for second in shown if second < 0)
    return tag(
        "svg",
        tag("line", x1="50%", x2="50%", y1=0, y2=16, stroke=OUTLINE, class_="outline"),
        tag(
            "svg",
            tag("path", d=kept, fill="none", stroke=SERIES[0], class_="l0", **_UNSCALED),
            tag("path", d=late, fill="none", stroke=SERIES[1], class_="l1", **_UNSCALED),
            viewBox="0 0 100 16",
            preserveAspectRatio="none",
            width="100%",
            height=16,
        ),
        class_="bar",
        width="100%",
        height=16,
        aria_hidden="true",  # the cells beside it say the same
    )


_UNSCALED = {"vector_effect": "non-scaling-stroke", "stroke_width": 2}
_THIN = {"vector_effect": "non-scaling-stroke", "stroke_width": 1}
_DOTTED = {**_UNSCALED, "stroke_dasharray": "1 4"}


def _stroke(series: int) -> dict[str, object]:
    return {"stroke": SERIES[series], "stroke_width": 2, "stroke_dasharray": _DASHES[series], "class_": f"l{series}"}


def _frame(
    label: str, drawn: Sequence[Element], *, width: int, rules: Sequence[tuple[float, str]], ticks: Sequence[tuple[float, str]]
) -> Element:
    """A drawing with its rules (share of the height, text) and ticks (share of the width, text)."""
    bottom = _TOP + _HEIGHT
    lines = [
        part
        for share, text in rules
        for y in [bottom - share * _HEIGHT]
        for part in (
            tag("line", x1=0, x2="100%", y1=f"{y:g}", y2=f"{y:g}", stroke=GRID, class_="grid"),
            tag("text", text, x=0, y=f"{y - 4:g}", fill=TEXT),
        )
    ]
    below = [tag("text", text, x=f"{share * 100:.1f}%", y=bottom + 16, fill=TEXT, text_anchor=_anchor(share)) for share, text in ticks]
    plot = tag("svg", *drawn, viewBox=f"0 0 {width} 100", preserveAspectRatio="none", width="100%", height=_HEIGHT, y=_TOP)
    axis = tag("line", x1=0, x2="100%", y1=bottom, y2=bottom, stroke=OUTLINE, class_="outline")
    return tag("svg", *lines, plot, axis, *below, role="img", aria_label=label, class_="figure", width="100%", height=bottom + 22)


def _anchor(share: float) -> str:
    return "start" if share < 0.05 else "end" if share > 0.95 else "middle"


def _stack(base: Sequence[Decimal], amounts: Sequence[Decimal], top: Decimal) -> str:
    """Rectangles, one a period, each on what lies below it."""
    parts = []
    for n, (low, amount) in enumerate(zip(base, amounts, strict=True)):
        if amount > 0:
            parts.append(f"M{n + 0.08:g} {_down(low, top)}V{_down(low + amount, top)}H{n + 0.92:g}V{_down(low, top)}Z")
    return "".join(parts)


def _steps(amounts: Sequence[Decimal], top: Decimal) -> str:
    """One horizontal line a period, where it has an amount."""
    return "".join(f"M{n + 0.03:g} {_down(amount, top)}H{n + 0.97:g}" for n, amount in enumerate(amounts) if amount > 0)


def _line(points: Iterable[tuple[float, float]]) -> str:
    """A line through (0 to 100 across, share of the height)."""
    return "M" + "L".join(f"{x:.1f} {100 - share * 100:.1f}" for x, share in points)


def _down(amount: Decimal, top: Decimal) -> str:
    return f"{float(100 - amount / top * 100):.1f}"


def _mark(second: float, reach: float) -> str:
    across = 50 + 49 * (min(abs(second), reach) / reach) ** 0.5 * (1 if second >= 0 else -1)
    return f"M{across:.1f} 3V13"


def _round_up(amount: Decimal) -> Decimal:
    """The next round number at or above an amount."""
    if amount <= 0:
        return Decimal(1)
    size = Decimal(10) ** amount.adjusted()
    return next(size * step / 10 for step in (10, 15, 20, 30, 40, 50, 60, 80, 100) if size * step / 10 >= amount)


def _some(count: int) -> list[int]:
    """Up to 60 of the numbers 1 to `count`, evenly, the last one included."""
    steps = min(count, _POINTS)
    return sorted({round(n) for n in accumulate([count / steps] * steps)})
