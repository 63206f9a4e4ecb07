"""Audit: the command that reads the logs of other tools, and says which calls could wait."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from keld.cli.command import app
from keld.cli.failure import Exit, fail, refusals
from keld.cli.option import AsJson
from keld.cli.output import console, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keld.audit import Rules

from contextlib import contextmanager


@app.command()
def audit(
    log: Annotated[
        list[str],
        typer.Argument(
            metavar="LOG...", help="Usage logs: files, directories, patterns, URIs, or the URL of LiteLLM's Postgres. Formats may be mixed."
        ),
    ],
    rules: Annotated[str | None, typer.Option("--rules", help="What owners know, a TOML file; stronger than any evidence.")] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write the result as one page.")] = None,
    jobs: Annotated[Path | None, typer.Option("--jobs", help="Write a Job for each group that does not wait.")] = None,
    worksheet: Annotated[Path | None, typer.Option("--worksheet", help="Write the questions to the owners, as Markdown.")] = None,
    fail_over: Annotated[
        str | None, typer.Option("--fail-over", metavar="USD", help="Exit with 3 if more than this could be saved in a month for sure.")
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            "--samples", min=0, max=20, help="Show the beginnings of so many prompts of each group. Default: none is kept or shown."
        ),
    ] = 0,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="The format of all files, or a mapping file, .toml. Default: known by the content."),
    ] = None,
    from_ledger: Annotated[
        bool,
        typer.Option("--from-ledger", help="Take late, again and twice from this environment's job runs, where the rules have no priors."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find in usage logs the calls that nobody waits for, and what moving them to batches would save, net.  Sends nothing."""
    limit = _limit(fail_over)
    with refusals():
        from keld.audit import examine

        with _progress(quiet=as_json) as progress:
            found = examine(
                log,
                now=datetime.now(UTC),
                rules=_rules(rules, from_ledger=from_ledger),
                form=form,
                samples=samples,
                progress=progress,
            )
    if html is not None:
        from keld.audit.page import page

        _write(html, page(found))
    if jobs is not None:
        from keld.audit.handover import jobs_file

        _write(jobs, jobs_file(found, with_prompts=samples > 0))
    if worksheet is not None:
        from keld.audit.worksheet import worksheet as questions

        _write(worksheet, questions(found))
    if as_json:
        print_json(found.to_json())
    else:
        from keld.audit.view import audit_view

        console().print(audit_view(found))
    if limit is not None and found.free_usd > limit:
        fail(f"${found.free_usd:,.2f} a month could be saved; the limit is ${limit:,.2f}.", Exit.SOME_FAILED)


def _rules(path: str | None, *, from_ledger: bool) -> Rules:
    from keld.audit import Rules, rules_of

    found = Rules() if path is None else rules_of(path)
    if not from_ledger:
        return found
    from keld.audit.history import shares_of
    from keld.environment import Keld

    with Keld() as keld:
        return found.learned(*shares_of(keld.ledger.catalog.runs(keld.namespace), keld.ledger.costs.lines(keld.namespace)))


def _limit(text: str | None) -> Decimal | None:
    try:
        found = None if text is None else Decimal(text)
    except InvalidOperation:
        found = Decimal("nan")
    if found is not None and not found.is_finite():
        fail(f"--fail-over {text}: give an amount in USD, e.g. 100.", Exit.REFUSED)
    return found


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.", Exit.ERROR)
    typer.echo(f"Written: {path}", err=True)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A function that shows how much was read; on a terminal only."""
    screen = console(stderr=True)
    if quiet or not screen.is_terminal:
        yield lambda calls, size: None
        return
    with screen.status("Reading") as shown:
        yield lambda calls, size: shown.update(f"{calls:,} calls, {size / 1e6:,.0f} MB")
