"""Progress: advances a job run to its end, or by what is due, and shows its progress; after Ctrl-C the same command continues."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

from keld.cli.failure import Exit, fail, fail_with
from keld.cli.output import console, print_json, printable
from keld.errors import KeldError

if TYPE_CHECKING:
    from keld.environment import Keld
    from keld.status import Status


def finish(keld: Keld, status: Status, poll_s: float | None, as_json: bool) -> NoReturn:
    """Advances a job run to its end, prints how it ended, and exits with the matching status."""
    end(advance(keld, status, poll_s, as_json), as_json)


def end(status: Status, as_json: bool) -> NoReturn:
    """Prints how a job run ended, and exits with the matching status."""
    if as_json:
        print_json(status.to_json())
    else:
        from keld.view import outcome_view

        console().print(outcome_view(status))
    sys.exit(Exit.OK if status.answered == status.rows else Exit.SOME_FAILED)


def step(keld: Keld, status: Status, as_json: bool) -> Status:
    """The status of a job run that is over, after what is due now was done; exits if it is not over, with `WAITING` where it only waits."""
    try:
        status = keld.advance_until_waiting(status.id)
    except KeldError as problem:
        _fail(keld, status, problem)
    if status.over:
        return status
    if as_json:
        print_json(status.to_json())
    if status.problem is not None and status.problem_permanent:
        fail(f"{status.problem} Run the same command again when this is corrected.", Exit.ERROR)
    from keld.view import status_line

    obstacle = "" if status.problem is None else f"{status.problem} "
    fail(f"{status_line(status)}. {obstacle}Run the same command again to continue.", Exit.WAITING)


def advance(keld: Keld, status: Status, poll_s: float | None, as_json: bool) -> Status:
    """The status at the end; progress is shown on standard error, unless `as_json`."""
    try:
        with _shown(quiet=as_json) as show:
            show(status)
            return keld.finish(status.id, poll_s=poll_s, progress=show)
    except KeyboardInterrupt:
        _interrupted(keld.status(status.id))
    except KeldError as problem:
        _fail(keld, status, problem)


def _fail(keld: Keld, status: Status, problem: KeldError) -> NoReturn:
    """Prints the problem and exits: with `REFUSED` only where it is known that nothing of the job run was sent."""
    try:
        sent = keld.status(status.id).sent
    except KeldError:  # the ledger itself is what failed
        sent = True
    fail_with(problem, Exit.ERROR if sent else Exit.REFUSED)


def _interrupted(status: Status) -> NoReturn:
    from keld.view import counted, name_of

    at_provider = [batch for batch in status.batches if batch.batch_id and not batch.ended]
    what = (
        f"{counted(len(at_provider), 'batch continues', 'batches continue')} at the provider" if at_provider else "nothing is at a provider"
    )
    cancel = f"keld cancel {status.job}" + (f" --partition {status.partition}" if status.partition else "")
    fail(
        f"Interrupted. {name_of(status)} can be continued: {what}, {status.answered:,} of {status.rows:,} rows are answered. "
        f"Run the same command to continue, or `{cancel}`.",
        Exit.INTERRUPTED,
    )


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Callable[[Status], None]]:
    """A function that shows a status: a live table on a terminal, elsewhere a line for each change, nothing if `quiet`."""
    if quiet:
        yield lambda _: None
    elif not (screen := console(stderr=True)).is_terminal:
        yield _line_for_each_change()
    else:
        from rich.live import Live

        from keld.view import status_view

        with Live(console=screen, transient=True, auto_refresh=False) as live:
            yield lambda one: live.update(status_view(one), refresh=True)


def _line_for_each_change() -> Callable[[Status], None]:
    from keld.view import status_line

    last: list[str] = []

    def show(one: Status) -> None:
        line = status_line(one)
        if last != [line]:
            last[:] = [line]
            typer.echo(printable(line), err=True)

    return show
