"""Process: what one measured process has cost, as its own last line of output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path


def measured(piece: Callable[[], float | None]) -> None:
    """Runs `piece`, then prints its seconds, the processor's seconds of this process, and its peak memory, as JSON.

    `piece` may return its own seconds, without what it had to prepare.
    """
    began = time.perf_counter()
    told = piece()
    seconds = time.perf_counter() - began if told is None else told
    print(json.dumps({"seconds": seconds, "cpu_s": time.process_time(), "rss_mb": peak_mb()}))


def peak_mb() -> float:
    """This process's own peak; `getrusage` would give a child the peak of the parent it was forked from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
