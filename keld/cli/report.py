"""Report: the command `keld report`: the ledger as a page for people and as tables for other tools."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from keld.cli.failure import Exit, fail, refusals
from keld.cli.option import AsJson, day
from keld.cli.output import looked_in, print_json

if TYPE_CHECKING:
    from keld.environment import Keld


def report(
    by: Annotated[
        str, typer.Option("--by", help="What divides the days: team, project, category, job, model, provider, lane, or tag:NAME.")
    ] = "team",
    since: Annotated[
        str | None, typer.Option("--since", metavar="DAY", help="Submitted on this day (UTC) or later: a date, or how many days ago.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DAY", help="Submitted on this day (UTC) or before.")] = None,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="FILE", help="Write a page: one file, without a script. A path, or a URI such as s3://..."),
    ] = None,
    focus: Annotated[str | None, typer.Option("--focus", metavar="DIR", help="Write focus.csv: rows of FOCUS 1.4, Cost and Usage.")] = None,
    parquet: Annotated[str | None, typer.Option("--parquet", metavar="DIR", help="Write cost_line.parquet and job_run.parquet.")] = None,
    csv: Annotated[str | None, typer.Option("--csv", metavar="DIR", help="Write cost_line.csv and job_run.csv.")] = None,
    audit: Annotated[
        str | None, typer.Option("--audit", metavar="FILE", help="Show a result of `keld audit --json` beside: what could still wait.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write what job runs cost and saved, which deadlines were kept, how long lanes took: as a page, for BI, or as FOCUS rows."""
    from keld.environment import Keld
    from keld.spend import DIMENSIONS, is_dimension

    if not is_dimension(by):
        fail(f"--by {by}: choose one of {', '.join(DIMENSIONS)}, or tag:NAME.", Exit.REFUSED)
    if not any((html, focus, parquet, csv, as_json)):
        fail("Say what to write: --html FILE, --focus DIR, --parquet DIR, --csv DIR, or --json. `keld spend` shows a table.", Exit.REFUSED)
    with refusals(Exit.ERROR), Keld() as keld:
        today = keld.clock().date()
        first, last = day("--since", since, today), day("--until", until, today)
        written = _tables(keld, first, last, {"focus": focus, "parquet": parquet, "csv": csv})
        if html:
            keld.write_report(html, by=by, since=first, until=last, audit=audit)
            written.append(html)
        found = keld.overview(by, since=first, until=last, audit=audit).to_json() if as_json else None
        if not keld.spend(by, since=first, until=last).lines:
            typer.echo(f"No job runs in these days in {looked_in(keld)}.", err=True)
    if found is not None:
        print_json(found)
    for name in written:
        typer.echo(f"Written: {name}", err=as_json)


def _tables(keld: Keld, since: date | None, until: date | None, directories: dict[str, str | None]) -> list[str]:
    written = []
    for form in ("focus", "parquet", "csv"):
        if directory := directories[form]:
            written += keld.export_spend(directory, form, since=since, until=until)
    return written
