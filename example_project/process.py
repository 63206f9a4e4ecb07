"""Process: what the demos and the tests start on this machine: its port, its descendants, how long to wait for it.

Nothing waits by the clock alone: a slow machine is no failure.  What counts is how much processor time passes without any progress.
"""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import psutil

_STILL_S = 300.0  # of real time without any processor time: then the processes hang


class Patience:
    """How long to wait for some processes: until they have used so much processor time, or none for a while, since their last progress.

    Args:
        computed_s: the seconds of processor time that they have used so far.
        patience_s: how many of these they may use without progress.
    """

    def __init__(self, computed_s: Callable[[], float], patience_s: float) -> None:
        self._computed_s, self._patience_s, self._began = computed_s, patience_s, time.monotonic()
        self._seen: object = None
        self._at = self._last = self._moved_at = 0.0
        self.note(None, first=True)

    def note(self, seen: object, *, first: bool = False) -> bool:
        """True if it is worth waiting longer.

        Args:
            seen: the progress; when it changes, the wait starts again.
        """
        computed, now = self._computed_s(), time.monotonic()
        if first or seen != self._seen:
            self._seen, self._at, self._last, self._moved_at = seen, computed, computed, now
        elif computed != self._last:
            self._last, self._moved_at = computed, now
        return computed - self._at < self._patience_s and now - self._moved_at < _STILL_S

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    """True if something listens at a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def session(leader: subprocess.Popen[bytes]) -> Iterator[psutil.Process]:
    """The processes of a session, their status in `info`.

    More than its process group: Airflow gives every task a group of its own, in which it outlives its worker.
    """
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader.pid:
                yield process


def computed_s(leaders: Iterable[subprocess.Popen[bytes]]) -> float:
    """The seconds that these processes, and what they have started, have computed so far."""
    computed = 0.0
    for leader in leaders:
        for member in session(leader):
            with suppress(psutil.NoSuchProcess):
                computed += sum(member.cpu_times()[:4])
    return computed


def end(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Ends processes and all that they started: asked first, then made to, since some do not heed it."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    until = time.monotonic() + 10
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=max(0.1, until - time.monotonic()))
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and what it started at once, as if their host had lost its power."""
    for member in session(process):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
