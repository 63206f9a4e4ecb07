"""Option: the options that several commands have, and how their text is read."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any

import typer

from keld.cli.failure import Exit, fail
from keld.errors import InvalidJob

JobArgument = Annotated[str, typer.Argument(metavar="JOBS.py:NAME", help="Where the Job is: a Python file or module, and its name there.")]
Source = Annotated[
    str,
    typer.Option(
        "--source",
        "-s",
        help="A Parquet, CSV or JSON Lines file, a directory of them, a pattern, or a Delta table; path or URI. {partition} stands for the key.",
    ),
]
Sink = Annotated[
    str,
    typer.Option("--sink", "-t", help="Where the enriched partition is written: a .parquet, .csv or .jsonl file, or a directory."),
]
Partition = Annotated[str | None, typer.Option("--partition", "-p", help="The partition's key, e.g. 2026-11-19.")]
OnlyJob = Annotated[str | None, typer.Argument(help="Only this job.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--types",
        metavar="COLUMN=TYPE",
        help="The type of a CSV or JSON Lines column, e.g. amount=decimal(12,2); may be given several times. Other CSV columns are text.",
    ),
]
Encoding = Annotated[
    str | None,
    typer.Option("--encoding", help="The encoding of text files, e.g. cp1252. Default: UTF-8, or UTF-16 if the file begins with its mark."),
]
Delimiter = Annotated[
    str | None, typer.Option("--delimiter", help=r"The delimiter of CSV files; \t is a tab. Default: a comma, in .tsv files a tab.")
]
Quote = Annotated[
    str | None, typer.Option("--quote", help="The quote character of CSV files; '' if nothing is quoted. Default: a double quote.")
]
PollS = Annotated[
    float | None,
    typer.Option("--poll-s", min=0.05, help="Seconds between two looks at the provider. Default: it depends on the age of the batches."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; only print what would be done.")]


def reading(types: list[str] | None, encoding: str | None, delimiter: str | None, quote: str | None) -> dict[str, Any]:
    """How text files are read, as arguments of `Keld.plan` and `Keld.submit`.

    Raises:
        InvalidJob: one of `types` is not COLUMN=TYPE.
    """
    return {"types": _types(types), "encoding": encoding, "delimiter": "\t" if delimiter == r"\t" else delimiter, "quote": quote}


def check_places(*places: str) -> None:
    """Passes unless a source or a sink is `-`, which other commands take for standard input or output."""
    if "-" in places:
        fail(
            "Keld reads and writes files, not standard input and output. Nothing was sent. Give a path; ./- is a file of that name.",
            Exit.REFUSED,
        )


def _types(given: list[str] | None) -> dict[str, str] | None:
    if given is None:
        return None
    found: dict[str, str] = {}
    for text in given:
        name, mark, kind = text.partition("=")
        if not mark or not name or not kind:
            raise InvalidJob(f"--types {text!r}: give COLUMN=TYPE, e.g. 'amount=decimal(12,2)'. Nothing was sent.", field="types")
        found[name] = kind
    return found


def day(option: str, text: str | None, today: date) -> date | None:
    """The day of a date, or of a number of days ago; None if the option was not given."""
    if text is None:
        return None
    try:
        return today - timedelta(days=int(text)) if text.isdecimal() and len(text) < 8 else date.fromisoformat(text)
    except (ValueError, OverflowError):
        fail(f"{option} {text}: give a date as 2026-11-19, or how many days ago, as 7.", Exit.REFUSED)
