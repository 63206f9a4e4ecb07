"""Report: what both demos print at the end."""

from decimal import Decimal
from pathlib import Path

import pyarrow.dataset as ds
from rich.box import SIMPLE
from rich.table import Column, Table

from keld import Status

_BARS = " ▁▂▃▄▅▆▇█"


def course(counts: dict[str, list[int]], width: int = 76) -> Table:
    """Counts of each second as rows of bars, on one time axis: when work was at the provider, and when something ran here."""
    table = Table(Column(no_wrap=True), Column(no_wrap=True), box=None, show_header=False)
    length = max(len(seconds) for seconds in counts.values())
    for name, seconds in counts.items():
        most = max([*seconds, 1])
        shown = [max(seconds[length * n // width : length * (n + 1) // width + 1], default=0) for n in range(width)]
        table.add_row(name, "".join(_BARS[round(count * 8 / most)] for count in shown))
    table.add_row("", f"0 s{f'{length} s':>{width - 3}}", style="dim")
    return table


def summary(statuses: dict[str, list[Status]]) -> Table:
    """A table of what each job cost and saved, over all its days."""
    table = Table(
        "job", "model", *(Column(name, justify="right") for name in ("days", "rows", "answered", "cost", "saved", "turnaround")), box=SIMPLE
    )
    for name, runs in statuses.items():
        table.add_row(name, (runs[0].model or "").partition(":")[2], *figures(runs))
    table.add_section()
    table.add_row("together", "", *figures([run for runs in statuses.values() for run in runs]), style="bold")
    return table


def figures(runs: list[Status]) -> list[str]:
    """Partitions, rows, answered, cost, saved against the standard price, turnaround."""
    cost, standard = (sum((getattr(run, name) for run in runs), Decimal(0)) for name in ("cost_usd", "standard_usd"))
    turnarounds = [run.turnaround_s for run in runs if run.turnaround_s is not None]
    return [
        str(len(runs)),
        f"{sum(run.rows for run in runs):,}",
        f"{sum(run.answered for run in runs):,}",
        f"${cost:.4f}",
        f"{(standard - cost) / standard:.0%} (${standard - cost:.4f})" if standard else "",
        f"{min(turnarounds):.0f} to {max(turnarounds):.0f} s" if turnarounds else "",
    ]


def rows(place: Path) -> Table:
    """A few enriched rows of the last step."""
    columns = ["ticket_id", "body", "category", "urgency", "sentiment", "embedding"]
    found = ds.dataset(place, format="parquet").head(4, columns=columns).to_pylist()
    table = Table(*(Column(name, no_wrap=True) for name in columns), box=SIMPLE)
    for row in found:
        vector = row["embedding"]
        shown = f"{vector[0]:.2f}, {vector[1]:.2f}, ... ({len(vector)})"
        table.add_row(row["ticket_id"], f"{row['body'][:36]}...", row["category"], str(row["urgency"]), row["sentiment"], shown)
    return table
