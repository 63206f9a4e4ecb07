"""Command line: `keld plan | run | status | watch | cancel | reconcile | gc | prices | spend | emulate`.

An edge: it reads words, calls one verb of `Keld`, prints a view.  Exit status: 0 every row answered, 3 some rows were not (they
are written, with reasons), 2 refused before anything was sent, 1 any other error, 130 interrupted (the job run can be resumed).
`--json` prints one JSON document on standard output and nothing else there.
"""

from __future__ import annotations

import csv
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from datetime import date

    from rich.console import Console

    from keld.environment import Keld
    from keld.job import Job
    from keld.status import Status

OK, ERROR, REFUSED, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
_SHOWN = 8  # names in a message, at most

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="LLM batch jobs with a deadline and a ceiling price."
)

JobArgument = Annotated[str, typer.Argument(metavar="JOBS.py:NAME", help="Where the Job is: a Python file or module, and its name there.")]
Source = Annotated[
    str,
    typer.Option(
        "--source",
        "-s",
        help="Parquet, CSV, JSONL file, a directory of them, a pattern, a Delta table; path or URI; {partition} stands for the key.",
    ),
]
Sink = Annotated[str, typer.Option("--sink", "-t", help="Where the enriched partition goes: .parquet, .csv or .jsonl, or a directory.")]
Partition = Annotated[str | None, typer.Option("--partition", "-p", help="The partition's key, e.g. 2026-11-19.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--types", metavar="COLUMN=TYPE", help="Type of a CSV or JSONL column, e.g. amount=decimal(12,2); again for each. CSV is text else."
    ),
]
Encoding = Annotated[str | None, typer.Option("--encoding", help="Of text files, e.g. cp1252; default UTF-8, or UTF-16 by its mark.")]
Delimiter = Annotated[str | None, typer.Option("--delimiter", help="Of CSV; default a comma, in .tsv a tab.")]
Quote = Annotated[str | None, typer.Option("--quote", help="Of CSV; default a double quote; '' if nothing is quoted.")]
PollS = Annotated[
    float | None, typer.Option("--poll-s", min=0.05, help="Seconds between looks at the provider; default: by the batches' age.")
]


@app.command()
def plan(
    job: JobArgument,
    source: Source,
    partition: Partition = None,
    types: Types = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    as_json: AsJson = False,
) -> None:
    """Rows, shards, tokens and cost of each acceptable model, and what would be chosen.  Sends nothing."""
    with _refusals(), _keld() as keld:
        made = keld.plan(_job(job), source, partition=partition, types=_types(types), encoding=encoding, delimiter=delimiter, quote=quote)
        if as_json:
            from dataclasses import asdict

            from keld.status import plain

            _print_json(plain(asdict(made)))
        else:
            from keld.view import plan_view

            _console().print(plan_view(made))


@app.command()
def run(
    job: JobArgument,
    source: Source,
    sink: Sink,
    partition: Partition = None,
    poll_s: PollS = None,
    force: Annotated[bool, typer.Option("--force", help="Ask every row anew, whatever was paid for before.")] = False,
    types: Types = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    as_json: AsJson = False,
) -> None:
    """Run a partition to its end; run again after any interruption, it goes on where it stood."""
    from keld.state import RunState

    with _keld() as keld:
        with _refusals():
            declared = _job(job)
            how: dict[str, Any] = {"partition": partition, "sink": sink, "types": _types(types), "encoding": encoding}
            how |= {"delimiter": delimiter, "quote": quote, "force": force}
            began = keld.clock()
            status = keld.submit(declared, source, **how)
        if status.created_at < began and (status.over or status.state is RunState.WRITING):
            typer.echo(
                f"{status.job}[{status.partition or '-'}] was asked before: nothing is sent or paid now; the figures are those of then.",
                err=True,
            )
        while status.outdated is not None:
            typer.echo(f"{_told(status)} It is finished as it was asked; what is declared now is asked next.", err=True)
            _advance(keld, status, poll_s, as_json)
            with _refusals():
                status = keld.submit(declared, source, **how)
        _finish(keld, status, poll_s, as_json)


@app.command()
def status(
    job: Annotated[str | None, typer.Argument(help="Only this job.")] = None,
    partition: Partition = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only what is not over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Job runs of this ledger, the youngest first; with JOB and --partition one of them with its batches."""
    from keld.view import list_view, status_view

    with _refusals(ERROR), _keld() as keld:
        if job is not None and partition is not None:
            found = _found(keld, job, partition)
            _print_json(found.to_json()) if as_json else _console().print(status_view(found))
            return
        statuses = keld.statuses(job=job, open_only=open_only)
        _print_json([one.to_json() for one in statuses]) if as_json else _console().print(
            list_view(statuses) if statuses else f"No job runs in the namespace {keld.namespace!r}."
        )
        elsewhere = [f"{name} ({count:,})" for name, count in keld.namespaces().items() if name != keld.namespace]
        if elsewhere:
            typer.echo(f"Not shown are the job runs of other namespaces: {', '.join(elsewhere)}. KELD_NAMESPACE=NAME shows one.", err=True)


@app.command()
def watch(
    job: Annotated[str | None, typer.Argument(help="Only this job.")] = None,
    advance: Annotated[bool, typer.Option("--advance", help="Also do what is due: submit, collect, retry, write.")] = False,
    poll_s: PollS = 10.0,
) -> None:
    """Look on, live, until no job run is open; Ctrl-C only stops looking."""
    from threading import Event

    from rich.live import Live

    from keld.view import list_view

    with _refusals(ERROR), _keld() as keld, Live(console=_console(), auto_refresh=False) as live:
        while True:
            ids = [one.id for one in keld.statuses(job=job, open_only=True)]
            statuses = [keld.advance(one, budget_s=5) for one in ids] if advance else keld.poll(ids)
            if not statuses:
                live.console.print(f"No job run is open in the namespace {keld.namespace!r}.")
                return
            live.update(list_view(statuses), refresh=True)
            if all(one.over for one in statuses):
                return
            Event().wait(poll_s or 10.0)


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The job's name.")],
    partition: Partition = None,
    wait: Annotated[bool, typer.Option(help="Go on until the provider's last word, and keep what was paid for.")] = True,
    poll_s: PollS = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job run: what was not sent is dropped, what is at the provider is cancelled there and harvested."""
    with _keld() as keld:
        with _refusals(ERROR):
            found = _found(keld, job, partition)
            asked = keld.cancel(found.id)
        if found.over:
            _print_json(found.to_json()) if as_json else typer.echo("Nothing to cancel: it is over.")
        elif wait:
            _finish(keld, asked, poll_s, as_json)
        elif as_json:
            _print_json(asked.to_json())
        else:
            typer.echo("Asked to cancel. `keld watch --advance` or the next `keld run` brings it to its end.")


@app.command()
def reconcile(
    account: Annotated[
        list[str] | None, typer.Argument(help="Only these providers; default: all configured ones that this ledger ever sent to.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and what it costs.")] = False,
    days: Annotated[float, typer.Option("--days", min=0.01, help="How far back to look.")] = 3.0,
    from_staging: Annotated[
        bool, typer.Option("--from-staging", help="First rebuild, from the staged files, what a lost or restored ledger does not know.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find batches that the providers have and the ledger does not; adopt them, or cancel them and count what they cost."""
    from dataclasses import asdict
    from datetime import timedelta

    from keld.status import plain
    from keld.view import findings_view, list_view

    with _refusals(ERROR), _keld() as keld:
        if from_staging:
            rebuilt = keld.rebuild()
            if not as_json:
                _console().print(list_view(rebuilt) if rebuilt else "The ledger knows all that staging does.")
        found = keld.reconcile(account or None, since=timedelta(days=days), dry_run=dry_run)
        left = [] if account else keld.not_configured()
    if left:
        typer.echo(f"Not looked at: {', '.join(left)}, since no such account is configured here.", err=True)
    if as_json:
        _print_json([plain(asdict(one)) for one in found])
    else:
        _console().print(findings_view(found, dry_run=dry_run) if found else "The ledger has every batch of ours that the providers have.")


@app.command()
def gc(
    days: Annotated[float, typer.Option("--days", min=2.0, help="Of job runs that ended longer ago than this.")] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the prompts and answers that are staged of job runs long over.  Outputs and the ledger stay; removed answers cannot be reused."""
    from dataclasses import asdict
    from datetime import timedelta

    from keld.status import plain
    from keld.view import removals_view

    with _refusals(ERROR), _keld() as keld:
        found = keld.gc(timedelta(days=days), dry_run=dry_run)
        if as_json:
            _print_json([plain(asdict(one)) for one in found])
        else:
            _console().print(removals_view(found, keld.staging.root, dry_run=dry_run))


@app.command()
def prices(
    model: Annotated[
        list[str] | None, typer.Argument(metavar="[PROVIDER:MODEL]...", help="Default: every model of the accounts with a batch rate.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What models cost in each lane today, in USD per million tokens; who says so, and since when."""
    from dataclasses import asdict

    from keld.errors import PriceUnknown
    from keld.status import plain
    from keld.view import prices_view

    with _refusals(), _keld() as keld:
        quotes = keld.prices(model or None)
        if as_json:
            _print_json([plain(asdict(quote)) for quote in quotes])
        else:
            _console().print(prices_view(quotes))
        priced = {(quote.provider, quote.model) for quote in quotes if quote.rates}
        unknown = [f"{quote.provider}:{quote.model}" for quote in quotes if (quote.provider, quote.model) not in priced]
        if unknown:
            raise PriceUnknown(
                f"No rate is known for {', '.join(unknown)}, in any lane. Such a model is not run: correct its name, "
                "or give the job a rate, prices={'provider:model': {'input': USD per million tokens, 'output': ...}}.",
                models=unknown,
            )


@app.command()
def spend(
    by: Annotated[
        str, typer.Option("--by", help="team, project, category, job, partition, day, model, provider, lane, or tag:NAME.")
    ] = "job",
    job: Annotated[str | None, typer.Option("--job", help="Only this job.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DAY", help="Submitted on this day (UTC) or later: a date, or how many days ago.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DAY", help="Submitted on this day (UTC) or before.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV, safe to open in a spreadsheet; without the total.")] = False,
    as_json: AsJson = False,
) -> None:
    """What was paid, what the standard price of the same tokens would have been, how well it was foreseen, what was paid twice."""
    from keld.spend import DIMENSIONS, is_dimension
    from keld.view import spend_view

    if not is_dimension(by):
        _fail(f"--by {by}: choose one of {', '.join(DIMENSIONS)}, or tag:NAME.", REFUSED)
    with _refusals(ERROR), _keld() as keld:
        today = keld.clock().date()
        found = keld.spend(by, job=job, since=_day("--since", since, today), until=_day("--until", until, today))
    if as_json:
        _print_json(found.to_json())
    elif as_csv:
        _print_csv([line.to_json() for line in found.lines])
    else:
        console = _console()
        console.print(spend_view(found, console.width) if found.lines else "No job runs.")


@app.command()
def emulate(
    host: Annotated[str, typer.Option(help="Other than loopback only with --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8700,
    latency_s: Annotated[float, typer.Option(min=0, help="How long a batch takes.")] = 0.0,
    rows_per_s: Annotated[float | None, typer.Option(help="A batch lasts at least its rows divided by this.")] = None,
    token: Annotated[str | None, typer.Option(help="Required of every request, as its API key.", envvar="KELD_EMULATOR_TOKEN")] = None,
) -> None:
    """Stand in for OpenAI and Anthropic on this machine: same wire, no cost, a bill to check against."""
    try:
        from keld.emulator import serve
    except ImportError as error:
        _fail(f"The emulator needs {error.name}: pip install 'keld[emulator]'.", ERROR)
    try:
        serve(host=host, port=port, token=token, latency_s=latency_s, rows_per_s=rows_per_s)
    except (ValueError, OSError) as error:
        _fail(str(error), REFUSED)


def main() -> None:
    """The `keld` command."""
    _give_memory_back()
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _give_memory_back() -> None:
    """This process is ours alone: the allocator that returns freed blocks keeps it 50 MB smaller on a large partition (docs/notes/measurements.md)."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")  # read when pyarrow is imported; unknown ones are ignored


def _finish(keld: Keld, status: Status, poll_s: float | None, as_json: bool) -> NoReturn:
    """Advances to the end with live progress, prints how it ended, leaves with the exit status that says so."""
    from keld.view import outcome_view

    status = _advance(keld, status, poll_s, as_json)
    _print_json(status.to_json()) if as_json else _console().print(outcome_view(status))
    sys.exit(OK if status.answered == status.rows else SOME_FAILED)


def _advance(keld: Keld, status: Status, poll_s: float | None, as_json: bool) -> Status:
    """The job run at its end, with live progress."""
    from keld.errors import KeldError

    try:
        with _progress(quiet=as_json) as show:
            show(status)
            return keld.finish(status.id, poll_s=poll_s, progress=show)
    except KeyboardInterrupt:
        _interrupted(keld.status(status.id))
    except KeldError as problem:
        _fail(f"{type(problem).__name__}: {problem}", ERROR if keld.status(status.id).sent else REFUSED)


def _told(status: Status) -> str:
    return f"{status.job}[{status.partition}] is out, and {status.outdated} changed since it was sent."


def _interrupted(status: Status) -> NoReturn:
    from keld.view import counted

    under_way = [batch for batch in status.batches if batch.batch_id and not batch.ended]
    what = f"{counted(len(under_way), 'batch goes', 'batches go')} on at the provider" if under_way else "nothing is at a provider"
    _fail(
        f"Interrupted. {status.job}[{status.partition}] keeps its place: {what}, {status.answered:,} of {status.rows:,} rows are answered. "
        f"Run the same command to go on, or `keld cancel {status.job}"
        + (f" --partition {status.partition}" if status.partition else "")
        + "`.",
        INTERRUPTED,
    )


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[Status], None]]:
    """A function that shows a status: a live table on a terminal, a line a change elsewhere, nothing if `quiet`."""
    from rich.live import Live

    from keld.view import status_line, status_view

    console = _console(stderr=True)
    if quiet:
        yield lambda _: None
    elif console.is_terminal:
        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield lambda one: live.update(status_view(one), refresh=True)
    else:
        last: list[str] = []

        def show(one: Status) -> None:
            line = status_line(one)
            if last != [line]:
                last[:] = [line]
                typer.echo(line, err=True)

        yield show


@contextmanager
def _refusals(code: int = REFUSED) -> Iterator[None]:
    """Says a Keld error in its own words and leaves with `code`."""
    from keld.errors import KeldError

    try:
        yield
    except KeldError as problem:
        _fail(f"{type(problem).__name__}: {problem}", code)


@contextmanager
def _keld() -> Iterator[Keld]:
    from keld.environment import Keld

    with Keld() as keld:
        yield keld


def _types(given: list[str] | None) -> dict[str, str] | None:
    """`COLUMN=TYPE` by column."""
    from keld.errors import InvalidJob

    if given is None:
        return None
    found: dict[str, str] = {}
    for text in given:
        name, mark, kind = text.partition("=")
        if not mark or not name or not kind:
            raise InvalidJob(f"--types {text!r}: give COLUMN=TYPE, e.g. 'amount=decimal(12,2)'. Nothing was sent.")
        found[name] = kind
    return found


def _job(where: str) -> Job:
    from keld.errors import InvalidJob
    from keld.job import Job

    place, _, name = where.rpartition(":")
    if not place or not name:
        raise InvalidJob(f"{where!r}: say where the Job is and its name, e.g. jobs.py:labels. Nothing was sent.")
    found = _namespace(place).get(name)
    if not isinstance(found, Job):
        raise InvalidJob(f"{place} has no Job named {name!r}. Nothing was sent. It must be a module-level `{name} = Job(...)`.")
    return found


def _namespace(place: str) -> dict[str, Any]:
    """What the user's file or module defines; a fault in it is told with its line, without our own frames."""
    from keld.errors import InvalidJob, KeldError

    is_file = place.endswith(".py")
    if is_file and not Path(place).is_file():
        raise InvalidJob(f"There is no file {place}. Nothing was sent.")
    sys.path.insert(0, str(Path(place).resolve().parent) if is_file else str(Path.cwd()))
    try:
        return runpy.run_path(place) if is_file else vars(import_module(place))
    except KeldError:
        raise
    except Exception as error:  # noqa: BLE001  whatever the user's file raises is told in a line
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InvalidJob(
            f"{place} cannot be loaded: {type(error).__name__}: {error} ({last.filename}, line {last.lineno}). Nothing was sent."
        ) from None


def _found(keld: Keld, job: str, partition: str | None) -> Status:
    from keld.errors import UnknownJobRun
    from keld.ledger import shown

    found = keld.find(job, partition)
    if found is None:
        partitions = sorted({one.partition or "none, without --partition" for one in keld.statuses(job=job)})
        if partitions:
            known = f"its partitions there: {', '.join(partitions[:_SHOWN])}{', ...' if len(partitions) > _SHOWN else ''}"
        else:
            known = f"jobs there: {', '.join(sorted({one.job for one in keld.statuses()})) or 'none'}"
        elsewhere = f"; other namespaces: {', '.join(others)}" if (others := sorted(keld.namespaces().keys() - {keld.namespace})) else ""
        raise UnknownJobRun(
            f"No job run of {job}{f'[{partition}]' if partition else ' without a partition'} in the namespace {keld.namespace!r} of "
            f"{shown(keld.ledger_url)} ({known}{elsewhere}). Nothing was done."
        )
    return found


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = 240  # a pipe or a file wraps nothing
    return console


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2))


def _print_csv(rows: list[dict[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]) if rows else ["group"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row | {"group": _cell(row["group"])})  # the only text: numbers are no formulas


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula, as those are that begin like one (owasp.org/www-community/attacks/CSV_Injection, 2026)."""
    begins = text.lstrip()[:1] or text[:1]
    return f"'{text}" if text != "-" and (begins in tuple("=+-@\uff1d\uff0b\uff0d\uff20") or text[:1] in ("\t", "\r", "\n")) else text


def _day(option: str, text: str | None, today: date) -> date | None:
    """The day that a date, or a number of days ago, means."""
    from datetime import date, timedelta

    if text is None:
        return None
    try:
        return today - timedelta(days=int(text)) if text.isdecimal() and len(text) < 8 else date.fromisoformat(text)
    except (ValueError, OverflowError):
        _fail(f"{option} {text}: give a date as 2026-11-19, or how many days ago, as 7.", REFUSED)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(message, err=True)
    raise SystemExit(code)
