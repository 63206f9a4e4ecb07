"""Output: tables, JSON and CSV on standard output."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from keld.report.cell import cell

if TYPE_CHECKING:
    from rich.console import Console

    from keld.environment import Keld

_COMMANDS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\t"), ord("\n")})
_PIPE_WIDTH = 240  # characters: in a pipe or a file no line is wrapped


def console(*, stderr: bool = False) -> Console:
    """The console for tables, as wide as the terminal; in a pipe or a file no line is wrapped.

    It obeys nothing in what it shows: names of partitions, tags and models, and messages of providers, may have a terminal's commands or markup in them.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Plain(Console):
        def render(self, *what: Any) -> Iterable[Segment]:
            return (one if one.control else Segment(printable(one.text), one.style) for one in super().render(*what))

    found = Plain(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found.width = _PIPE_WIDTH
    return found


def printable(text: str) -> str:
    """A text without the characters that a terminal obeys; lines and tabs stay."""
    return text.translate(_COMMANDS)


def looked_in(keld: Keld) -> str:
    """The namespace and the ledger of an environment, for a message that something is not there."""
    from keld.ledger import is_missing, shown

    none = ", where there is no ledger yet" if is_missing(keld.ledger_url) else ""
    return f"the namespace {keld.namespace!r} of {shown(keld.ledger_url)}{none}"


def print_json(document: Any) -> None:
    """Prints one JSON document; a noun is printed as its fields, also in a list."""
    from keld.status import to_json_value

    typer.echo(json.dumps(to_json_value(document), indent=2))


def print_csv(rows: list[dict[str, Any]]) -> None:
    """Prints a header and one line for each row, safe to open in a spreadsheet."""
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else ["group"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {"group": cell(row["group"])})  # the only text: numbers are no formulas
