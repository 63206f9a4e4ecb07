"""Command: one function for each command; it reads arguments, calls one verb of `Keld`, and prints a view."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from datetime import timedelta
from errno import EADDRINUSE, EDQUOT, EFBIG, EIO, ENOSPC
from gc import set_threshold as collect_after
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from keld import __version__
from keld.cli.declaration import load_job
from keld.cli.failure import Exit, fail, in_options, refusals
from keld.cli.option import (
    AsJson,
    Delimiter,
    DryRun,
    Encoding,
    JobArgument,
    OnlyJob,
    Partition,
    PollS,
    Quote,
    Sink,
    Source,
    Types,
    check_places,
    day,
    reading,
)
from keld.cli.output import console, looked_in, print_csv, print_json
from keld.cli.progress import advance as advance_to_the_end
from keld.cli.progress import end, finish, step
from keld.cli.report import report
from keld.errors import PriceUnknown, ProviderUnreachable, UnknownJobRun
from keld.state import RunState

if TYPE_CHECKING:
    from keld.environment import Keld
    from keld.price import Quote as PriceQuote
    from keld.runner.finding import Finding
    from keld.status import Status

_FULL = (ENOSPC, EDQUOT, EFBIG, EIO)  # of standard output: whatever else Keld writes has errors of its own
_SHOWN = 8  # names in a message, at most


class _Commands(TyperGroup):
    """The commands; one that is interrupted says so, in words and by its exit status, which versions of Typer do not agree on."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            fail("Interrupted. The same command continues where this one stood.", Exit.INTERRUPTED)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # what is left in it would be tried once more at the end, and fail
            fail(
                f"The output cannot be written: {os.strerror(error.errno)}. What was sent stays recorded; run the same command again.",
                Exit.ERROR,
            )


app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def main() -> None:
    """The `keld` command."""
    # Read when pyarrow is imported.  This allocator returns freed blocks to the system, which keeps the process 50 MB smaller on a large
    # partition (measured 2026-11).  Only a process of our own may choose it; pyarrow ignores the setting if it does not know the allocator.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
    # Read when numpy is imported, too.  Nothing here multiplies matrices, and the threads for it wait in a loop at first: 1 % of a run.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Imports make 10^5 objects that live on, and none that dies in a cycle: by default the collector looks through them a hundred times, which
    # is 7 % of `keld status` (measured 2026-11-30).
    collect_after(50_000, 20, 20)
    try:
        app()
    finally:  # all was told: a second Ctrl-C (some versions of `uv run` pass on the first one once more) shows no traceback of Python's own end
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"keld {__version__}")
        raise typer.Exit


@app.callback()
def keld_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print Keld's version and exit.")
    ] = False,
) -> None:
    """LLM batch jobs with a deadline and a ceiling price."""


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
    """Show rows, tokens and cost of each acceptable model, and which one a run would take.  Sends nothing."""
    check_places(source)
    with refusals(), _keld() as keld, redirect_stdout(sys.stderr):  # a prompt function of the user's may print
        made = keld.plan(load_job(job), source, partition=partition, **reading(types, encoding, delimiter, quote))
    if as_json:
        print_json(made)
    else:
        from msgspec.structs import replace

        from keld.view import plan_view

        console().print(plan_view(replace(made, table_notes=tuple(map(in_options, made.table_notes)))))


@app.command()
def run(
    job: JobArgument,
    source: Source,
    sink: Sink,
    partition: Partition = None,
    wait: Annotated[
        bool,
        typer.Option(
            help="Continue to the end; or only do what is due now, and exit with 4 while the provider works: for a scheduler that asks again."
        ),
    ] = True,
    poll_s: PollS = None,
    force: Annotated[bool, typer.Option("--force", help="Ask every row again, also those that were answered and paid for before.")] = False,
    types: Types = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    quote: Quote = None,
    as_json: AsJson = False,
) -> None:
    """Run a partition to its end.  After any interruption, run the same command again: it continues where it was."""
    check_places(source, sink)
    with refusals():
        environment = _keld()
    with environment as keld:
        with refusals(), redirect_stdout(sys.stderr):  # a prompt function of the user's may print
            declared, how = load_job(job), reading(types, encoding, delimiter, quote)
            began = keld.clock()
            status = keld.submit(declared, source, partition=partition, sink=sink, force=force, **how)
        if status.created_at < began and (status.over or status.state is RunState.WRITING):
            _say_asked_before(status)
        while status.outdated is not None:
            _say_outdated(status)
            advance_to_the_end(keld, status, poll_s, as_json) if wait else step(keld, status, as_json)
            with refusals(), redirect_stdout(sys.stderr):
                status = keld.submit(declared, source, partition=partition, sink=sink, force=force, **how)
        if not wait:
            end(step(keld, status, as_json), as_json)
        finish(keld, status, poll_s, as_json)


def _say_asked_before(status: Status) -> None:
    from keld.view import name_of

    typer.echo(f"{name_of(status)} was asked before: nothing is sent or paid now; the figures are from that run.", err=True)


def _say_outdated(status: Status) -> None:
    from keld.view import name_of

    typer.echo(
        f"{name_of(status)} is at the provider, and {status.outdated} changed since it was sent. It is finished as it was asked; "
        "then what is declared now is asked.",
        err=True,
    )


@app.command()
def status(
    job: OnlyJob = None,
    partition: Partition = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only job runs that are not over.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the job runs of this ledger, the youngest first; with JOB and --partition show one of them with its batches."""
    with refusals(Exit.ERROR), _keld() as keld:
        if job is not None and partition is not None:
            _print_status(_found(keld, job, partition), as_json)
        else:
            _print_statuses(keld.statuses(job=job, open_only=open_only), _none(keld, job, open_only=open_only), as_json)
            _say_elsewhere(keld)


def _none(keld: Keld, job: str | None, *, open_only: bool) -> str:
    """The sentence for a list without a job run: where it looked, and for a job without any what the namespace has instead."""
    where = f"in {looked_in(keld)}"
    whose = f" of {job}" if job is not None else ""
    if open_only:
        return f"No job run{whose} is open {where}."
    return f"No job runs{whose} {where}" + (f" ({_known(keld, job)})." if job is not None else ".")


def _print_status(found: Status, as_json: bool) -> None:
    from keld.view import status_view

    print_json(found.to_json()) if as_json else console().print(status_view(found))


def _print_statuses(found: Sequence[Status], none: str, as_json: bool) -> None:
    from keld.view import list_view

    if as_json:
        print_json([one.to_json() for one in found])
    else:
        console().print(list_view(found) if found else none)


def _say_elsewhere(keld: Keld) -> None:
    """Prints on standard error which other namespaces this ledger has: a job run that seems to be missing is often there."""
    others = [f"{name} ({count:,})" for name, count in keld.namespaces().items() if name != keld.namespace]
    if others:
        typer.echo(f"Not shown are the job runs of other namespaces: {', '.join(others)}. KELD_NAMESPACE=NAME shows one.", err=True)


@app.command()
def watch(
    job: OnlyJob = None,
    advance: Annotated[bool, typer.Option("--advance", help="Also do what is due: submit, collect, retry, write.")] = False,
    poll_s: PollS = 10.0,
) -> None:
    """Show the open job runs, live, until none is open.  Ctrl-C only stops watching."""
    from threading import Event

    from rich.live import Live

    from keld.view import list_view

    with refusals(Exit.ERROR), _keld() as keld, Live(console=console(), auto_refresh=False) as live:
        while True:
            ids = [one.id for one in keld.statuses(job=job, open_only=True)]
            statuses = [keld.advance(one, budget_s=5) for one in ids] if advance else keld.poll(ids)
            if not statuses:
                live.console.print(_none(keld, job, open_only=True))
                return
            live.update(list_view(statuses), refresh=True)
            if all(one.over for one in statuses):
                return
            Event().wait(poll_s or 10.0)


@app.command()
def cancel(
    job: Annotated[str, typer.Argument(help="The job's name.")],
    partition: Partition = None,
    wait: Annotated[
        bool, typer.Option(help="Continue until the provider has ended its batches, and keep the answers that were paid for.")
    ] = True,
    poll_s: PollS = None,
    as_json: AsJson = False,
) -> None:
    """Cancel a job run: what was not sent is dropped; batches at the provider are cancelled there, and their answers are kept."""
    with refusals(Exit.ERROR):
        environment = _keld()
    with environment as keld:
        with refusals(Exit.ERROR):
            found = _found(keld, job, partition)
            asked = keld.cancel(found.id)
        if wait and not found.over:
            finish(keld, asked, poll_s, as_json)
    if as_json:
        print_json((found if found.over else asked).to_json())
    elif found.over:
        typer.echo("There is nothing to cancel: the job run is over.")
    else:
        typer.echo("The cancel is recorded. `keld watch --advance` or the next `keld run` finishes the job run.")


@app.command()
def reconcile(
    account: Annotated[
        list[str] | None, typer.Argument(help="Only these accounts. Default: all configured ones that this ledger has ever sent to.")
    ] = None,
    dry_run: DryRun = False,
    days: Annotated[float, typer.Option("--days", min=0.01, help="How many days to look back.")] = 3.0,
    minutes: Annotated[
        float, typer.Option("--minutes", min=0.0, help="About how long it may take; an error says so if it ends before all is looked at.")
    ] = 60.0,
    from_staging: Annotated[
        bool, typer.Option("--from-staging", help="First restore from the staged files what a lost or restored ledger does not know.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find batches that the providers have and the ledger does not; adopt them, or cancel them and count what they cost."""
    from keld.view import findings_view

    with refusals(Exit.ERROR), _keld() as keld:
        if from_staging:
            restored = keld.rebuild()
            if not as_json:
                _print_statuses(restored, "The ledger already knows everything that the staged files know.", as_json=False)
        found: list[Finding] = []
        try:
            keld.reconcile(account or None, since=timedelta(days=days), dry_run=dry_run, budget_s=minutes * 60, progress=found.append)
        except ProviderUnreachable:
            if found and not as_json:  # shows what was done, before the error that says what was not
                console().print(findings_view(found, dry_run=dry_run))
            raise
        left = [] if account else keld.not_configured()
    if left:
        typer.echo(f"Not looked at: {', '.join(left)}, since no such account is configured here.", err=True)
    if as_json:
        print_json(found)
    else:
        console().print(findings_view(found, dry_run=dry_run) if found else "The ledger has every batch of ours that the providers have.")


@app.command()
def doctor(
    account: Annotated[
        str | None,
        typer.Argument(metavar="[ACCOUNT[:MODEL]]", help="Only this account, also if it is not set up; with a model, that one, too."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find what would stop a job: keys, addresses, clock, buckets, models, prices, ledger, staging.  Nothing is paid."""
    from keld.providers.check import CheckState
    from keld.view import check_view

    screen = console()
    with refusals(), _keld() as keld:
        found = keld.doctor(account, progress=None if as_json else lambda check: screen.print(check_view(check)))
    problems = sum(check.state is CheckState.PROBLEM for check in found)
    if as_json:
        print_json(found)
    elif problems:
        typer.echo(f"{problems:,} of {len(found):,} checks found what would stop a job.", err=True)
    if problems:
        raise SystemExit(int(Exit.ERROR))


@app.command()
def gc(
    days: Annotated[float, typer.Option("--days", min=2.0, help="Only of job runs that ended more than so many days ago.")] = 30.0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove the staged prompts and answers of old job runs.  Outputs and the ledger stay; removed answers cannot be reused."""
    from keld.view import removals_view

    with refusals(Exit.ERROR), _keld() as keld:
        found = keld.gc(timedelta(days=days), dry_run=dry_run)
    if as_json:
        print_json(found)
    else:
        console().print(removals_view(found, keld.staging.shown, dry_run=dry_run))


@app.command()
def prices(
    model: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ACCOUNT[:MODEL]]...", help="Default: every model of the accounts that has a batch rate."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what models cost in each lane today, in USD per million tokens, and from which list and day that is."""
    from keld.view import prices_view

    with refusals(), _keld() as keld:
        quotes = keld.prices(model or None)
        if not quotes:
            named = ", ".join(model or [])
            raise PriceUnknown(f"No list has a batch rate for a model of {named}: name one, as in `keld prices ACCOUNT:MODEL`.", models=[])
        if as_json:
            print_json(quotes)
        else:
            console().print(prices_view(quotes, all_models=not model))
        _check_known(quotes, keld.prices)


def _check_known(quotes: Sequence[PriceQuote], sold: Callable[[], Sequence[PriceQuote]]) -> None:
    priced = {(quote.provider, quote.model) for quote in quotes if quote.rates}
    unknown = [f"{quote.provider}:{quote.model}" for quote in quotes if (quote.provider, quote.model) not in priced]
    if unknown:
        raise PriceUnknown(
            f"No rate is known for {', '.join(unknown)}, in any lane. Such a model is not run: correct its name, "
            f"or give the Job a rate, prices={{'provider:model': {{'input': USD per million tokens, 'output': ...}}}}.{_near(unknown, sold())}",
            models=unknown,
        )


def _near(unknown: Sequence[str], sold: Sequence[PriceQuote]) -> str:
    """A sentence with the names that are like the unknown ones; "" if there are none."""
    from keld.pricing import like

    near: list[str] = []
    for wrong in unknown:
        account, _, model = wrong.partition(":")
        own = like(model, [quote.model for quote in sold if quote.provider == account])
        near += [f"{account}:{name}" for name in own] or like(wrong, [f"{quote.provider}:{quote.model}" for quote in sold])
    return f" Names like it: {', '.join(dict.fromkeys(near[:8]))}." if near else ""


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
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, safe to open in a spreadsheet; without the total.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was paid, what the standard price of the same tokens is, how good the estimate was, and what was paid twice."""
    from keld.spend import DIMENSIONS, is_dimension
    from keld.view import spend_view

    if not is_dimension(by):
        fail(f"--by {by}: choose one of {', '.join(DIMENSIONS)}, or tag:NAME.", Exit.REFUSED)
    with refusals(Exit.ERROR), _keld() as keld:
        today = keld.clock().date()
        found = keld.spend(by, job=job, since=day("--since", since, today), until=day("--until", until, today))
        where = looked_in(keld)
    if as_json:
        print_json(found.to_json())
    elif as_csv:
        print_csv([line.to_json() for line in found.lines])
    else:
        screen = console()
        screen.print(
            spend_view(found, screen.width) if found.lines else f"No job runs{f' of {job}' if job else ''} in these days in {where}."
        )


app.command()(report)


@app.command()
def emulate(
    host: Annotated[str, typer.Option(help="Other than loopback only with --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 8700,
    latency_s: Annotated[float, typer.Option(min=0, help="How long a batch takes.")] = 0.0,
    rows_per_s: Annotated[float | None, typer.Option(help="A batch lasts at least its rows divided by this.")] = None,
    token: Annotated[str | None, typer.Option(help="Required of every request, as its API key.", envvar="KELD_EMULATOR_TOKEN")] = None,
) -> None:
    """Stand in for the providers of every kind on this machine: same wire, no cost, a bill to check against."""
    try:
        from keld.emulator import serve
    except ImportError as error:
        fail(f"The emulator needs {error.name}: pip install 'keld[emulator]'.", Exit.ERROR)
    try:
        serve(host=host, port=port, token=token, latency_s=latency_s, rows_per_s=rows_per_s)
    except ValueError as error:
        fail(str(error), Exit.REFUSED)
    except OSError as error:
        advice = " --port 0 takes a free one." if error.errno == EADDRINUSE else ""
        fail(f"The emulator cannot listen on {host}, port {port}: {error.strerror}.{advice}", Exit.REFUSED)


def _keld() -> Keld:
    """The environment that the environment variables describe."""
    from keld.environment import Keld

    return Keld()


def _found(keld: Keld, job: str, partition: str | None) -> Status:
    """The youngest job run of a partition.

    Raises:
        UnknownJobRun: there is none; the message names those that exist.
    """
    found = keld.find(job, partition)
    if found is None:
        whose = f"[{partition}]" if partition else " without a partition"
        raise UnknownJobRun(
            f"No job run of {job}{whose} in {looked_in(keld)} ({_known(keld, job)}). Nothing was done.",
            job=job,
            partition=partition,
        )
    return found


def _known(keld: Keld, job: str) -> str:
    """The partitions or jobs that the namespace has instead, as text."""
    partitions = sorted({one.partition or "none, without --partition" for one in keld.statuses(job=job)})
    if partitions:
        known = f"its partitions there: {', '.join(partitions[:_SHOWN])}{', ...' if len(partitions) > _SHOWN else ''}"
    else:
        known = f"jobs there: {', '.join(sorted({one.job for one in keld.statuses()})) or 'none'}"
    others = sorted(keld.namespaces().keys() - {keld.namespace})
    return known + (f"; other namespaces: {', '.join(others)}" if others else "")
