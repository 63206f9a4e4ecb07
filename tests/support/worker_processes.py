"""Worker processes: several real processes on the same job runs: workers that advance, sensors that poll, a command line, one that stands still.

The fork server of `worker_process` starts them.  Each writes its log and every exception to a file of its own.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from keld import Keld, Settings
from tests.support.worker_process import Order, server, work

# Real time, so that the command line is one of them.  A create whose worker was killed is given 5 s to land (12 s where no fence
# keeps it from landing later), many times what the emulator needs on a machine that is busy with this very test.
PATIENCE = Settings(
    settle=(timedelta(seconds=1), timedelta(seconds=1), timedelta(seconds=2)),
    settle_unfenced=timedelta(seconds=8),
    poll_least=timedelta(seconds=0.2),
    poll_most=timedelta(seconds=1),
)
_PAUSE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a member of the crowd works, and whom it asks."""

    home: str
    ledger_url: str
    env: dict[str, str]
    log: str  # the file that takes what it says and what it raises


# --- the members ------------------------------------------------------------------------------------------------------


def start(member: Callable[..., None], place: Place, *arguments: Any) -> BaseProcess:
    """A process that is that member: `member(place, *arguments)`."""
    process = server().Process(target=_speaking_into_its_log, args=(member, place, *arguments))
    process.start()
    return process


def start_command_line(place: Place, *words: str) -> subprocess.Popen[bytes]:
    """The `keld` command as a user starts it."""
    env = {**os.environ, **place.env, "KELD_HOME": place.home, "KELD_LEDGER_URL": place.ledger_url}
    with Path(place.log).open("wb") as log:
        return subprocess.Popen([Path(sys.executable).parent / "keld", *words], env=env, stdout=log, stderr=log)


def advance_all(place: Place, run_ids: Sequence[str]) -> None:
    """Advances job runs, in the order given, over and over, until all of them are over."""
    pause, under_way = threading.Event(), list(run_ids)
    with _keld(place) as keld:
        while under_way:
            under_way = [run_id for run_id in under_way if not keld.advance(run_id, budget_s=1).over]
            pause.wait(_PAUSE_S if under_way else 0)


def poll_all(place: Place) -> None:
    """Polls whatever is open, in two overlapping ticks, until nothing is."""
    with _keld(place) as keld, ThreadPoolExecutor(2) as pool:
        for tick in [pool.submit(_poll_to_the_end, keld) for _ in range(2)]:
            tick.result()


def follow_order(_: Place, order: Order) -> None:
    """What a worker of the kill tests does."""
    work(order)


def _poll_to_the_end(keld: Keld) -> None:
    pause = threading.Event()
    while not all(status.over for status in keld.poll()):
        pause.wait(_PAUSE_S)


def _keld(place: Place) -> Keld:
    return Keld(home=place.home, ledger_url=place.ledger_url, settings=PATIENCE)


def _speaking_into_its_log(member: Callable[..., None], place: Place, *arguments: Any) -> None:
    with Path(place.log).open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 2)
    os.environ.update(place.env)
    logging.basicConfig(level=logging.INFO, format="%(name)s %(message)s", force=True)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    member(place, *arguments)


# --- one that stands still --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sleeper:
    """A worker that stops itself by SIGSTOP, as if its machine were suspended, until it is woken."""

    process: BaseProcess
    log: Path

    def stopped(self) -> Sleeper:
        """This one, when it has stopped.

        Raises:
            AssertionError: it ended instead.
        """
        while not self._stands_still():
            self.process.join(0.005)  # it is the fork server's child: nobody but /proc tells us that it stopped
            assert self.process.exitcode is None, f"it never stopped: {self.log.read_text()}"
        return self

    def wake(self) -> None:
        os.kill(self.process.pid or 0, signal.SIGCONT)

    def ended(self) -> str:
        """What it said and raised until it ended, by itself and well.

        Raises:
            AssertionError: it did not.
        """
        self.process.join(60)
        assert self.process.exitcode == 0, self.log.read_text()
        return self.log.read_text()

    def _stands_still(self) -> bool:
        with suppress(FileNotFoundError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False


def sleeper(order: Order, stops: str, log: Path) -> Sleeper:
    """A worker that has stopped at the first of `stops`, written as in `KELD_FAILPOINT`."""
    place = Place(home=order.home, ledger_url=order.ledger_url, env={}, log=str(log))
    process = start(follow_order, place, replace(order, env={**order.env, "KELD_FAILPOINT": stops}))
    return Sleeper(process, log).stopped()
