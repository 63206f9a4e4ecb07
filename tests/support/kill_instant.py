"""Kill instant: when a worker is killed away from any failpoint: before its n-th line of `keld`, or after a span of real time.

The fork server of `worker_process` starts it.  A line counts only its first few times: otherwise most kills would fall in a loop.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import keld
from tests.support.worker_process import KILLED, Order, server, work

_SOURCE = f"{Path(keld.__file__).parent}{os.sep}"


@dataclass(frozen=True, kw_only=True)
class Instant:
    """When it dies: before its `line`-th line, each counted at most `times` times; or, where there is none, after `span_s` of real time."""

    line: int = 0
    times: int = 1
    span_s: float = 60.0

    def __str__(self) -> str:
        return f"line {self.line} of {self.times}" if self.line else f"{self.span_s:.3f} s"


def start(order: Order, instant: Instant, last_words: Path) -> BaseProcess:
    """A worker that dies by itself where a line is named; `last_words` then takes which."""
    process = server().Process(target=_live, args=(order, instant, str(last_words)))
    process.start()
    return process


def end(process: BaseProcess, instant: Instant) -> bool:
    """Whether it was killed, when it is no more; False: it had come to its end before.

    Raises:
        AssertionError: it failed otherwise.
    """
    process.join(instant.span_s)
    process.kill()
    process.join()
    assert process.exitcode in (0, KILLED), f"a worker failed with {process.exitcode}"
    return process.exitcode == KILLED


def _live(order: Order, instant: Instant, last_words: str) -> None:
    if instant.line:
        trace = _Trace(instant, last_words)
        threading.settrace(trace.enter)
        sys.settrace(trace.enter)
    with suppress(AssertionError):  # it gave up waiting for another one, who had the job run in hand
        work(order)


class _Trace:
    """Counts lines of the package, in every thread, and kills the process before the one that was named."""

    def __init__(self, instant: Instant, last_words: str) -> None:
        self._instant, self._last_words = instant, last_words
        self._passes: Counter[tuple[Any, int]] = Counter()
        self._count = 0

    def enter(self, frame: FrameType, event: str, _: Any) -> Any:
        return self.line if frame.f_code.co_filename.startswith(_SOURCE) else None

    def line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            place = frame.f_code, frame.f_lineno
            self._passes[place] += 1
            self._count += self._passes[place] <= self._instant.times
            if self._count == self._instant.line:
                Path(self._last_words).write_text(f"{frame.f_code.co_filename.removeprefix(_SOURCE)}:{frame.f_lineno}")
                os.kill(os.getpid(), signal.SIGKILL)
        return self.line
