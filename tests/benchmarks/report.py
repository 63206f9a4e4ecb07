"""Report: what a benchmark has found, printed as it comes, and kept as Markdown, JSON and plots."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

Run = Mapping[str, float]
"""`seconds`, `cpu_s` (of the processor) and `rss_mb` (peak) of one process."""

_WIDTH, _HEIGHT, _EDGE = 640, 360, 60
_COLOURS = ("#2563eb", "#dc2626", "#16a34a", "#9333ea", "#ea580c", "#0891b2")


@dataclass
class Report:
    """Collects figures; nothing is asserted."""

    rounds: int
    lines: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    plots: dict[str, str] = field(default_factory=dict)

    def section(self, title: str) -> None:
        print(f"\n{title}", flush=True)
        self.lines += ["", f"## {title}", "", "| what | figure | remark |", "|---|---:|---|"]

    def say(self, what: str, figure: str, remark: str = "") -> None:
        print(f"  {what:<72} {figure:>12}   {remark}", flush=True)
        self.lines.append(f"| {what} | {figure} | {remark} |")

    def ratio(self, what: str, above: Sequence[float], below: Sequence[float], remark: str) -> None:
        """Says `above` / `below`, round by round: the median, and in the remark the least and the most."""
        ratios = sorted(a / b for a, b in zip(above, below, strict=True))
        self.found[what] = ratios
        self.say(what, f"{median(ratios):.2f} x", f"{remark}; {ratios[0]:.2f} to {ratios[-1]:.2f}" if len(ratios) > 1 else remark)

    def runs(self, what: str, runs: Sequence[Run], rows: int) -> None:
        """Says what runs of `rows` rows took: medians, least and most."""
        self.found[what] = {"rows": rows, "runs": runs}
        seconds, cpu = sorted(run["seconds"] for run in runs), sorted(run["cpu_s"] for run in runs)
        self.say(
            f"{what}: {rows:,} rows",
            f"{median(seconds):.1f} s",
            f"{seconds[0]:.1f} to {seconds[-1]:.1f}; {rows / median(seconds):,.0f} rows/s; {median(cpu) / rows * 1e6:.0f} us of CPU a row; "
            f"peak {max(run['rss_mb'] for run in runs):.0f} MB",
        )

    def plot(self, name: str, title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Keeps a plot with two logarithmic axes: lines of (x, y)."""
        self.plots[name] = _svg(title, {label: points for label, points in lines.items() if points})

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
        head = [f"# Benchmark of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "", f"{machine}; {self.rounds} rounds, medians."]
        pictures = ["", *(f"![{name}]({name}.svg)" for name in self.plots)]
        (folder / "report.md").write_text("\n".join([*head, *self.lines, *pictures]) + "\n")
        (folder / "report.json").write_text(json.dumps({"machine": machine, "rounds": self.rounds, "found": self.found}, indent=1))
        for name, picture in self.plots.items():
            (folder / f"{name}.svg").write_text(picture)
        print(f"\nwritten to {folder}/", flush=True)


def _svg(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    points = [point for line in lines.values() for point in line]
    (left, right), (low, high) = (_decades([point[axis] for point in points]) for axis in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log10(x) - left) / (right - left), (math.log10(y) - low) / (high - low)
        return _EDGE + across * (_WIDTH - 2 * _EDGE), _HEIGHT - _EDGE - up * (_HEIGHT - 2 * _EDGE)

    parts = [f'<text x="{_EDGE}" y="20" font-weight="bold">{title}</text>']
    for n in range(left, right + 1):
        x, bottom = at(10.0**n, 10.0**low)
        parts.append(f'<path d="M{x:.0f} {bottom:.0f}V{_EDGE}" stroke="#ddd"/><text x="{x - 12:.0f}" y="{bottom + 18:.0f}">1e{n}</text>')
    for n in range(low, high + 1):
        _, y = at(10.0**left, 10.0**n)
        parts.append(f'<path d="M{_EDGE} {y:.0f}H{_WIDTH - _EDGE}" stroke="#ddd"/><text x="10" y="{y + 4:.0f}">{10.0**n:g}</text>')
    for n, (label, line) in enumerate(lines.items()):
        colour, placed = _COLOURS[n % len(_COLOURS)], [at(*point) for point in line]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in placed)}"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        parts.append(f'<text x="{_WIDTH - _EDGE - 110}" y="{_EDGE + 16 * n:.0f}" fill="{colour}">{label}</text>')
    inside = "".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">{inside}</svg>\n'


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around `values`, at least one decade."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)
