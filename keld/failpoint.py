"""Failpoint: a named place where a test may make the process die, stand still, fail or hang.

`KELD_FAILPOINT=create.sent:kill9` (several by commas; `name:action:3` acts on the third pass).  Every external step of the runner and
every ledger commit has one, from the first commit on, because "whatever crashes when" is only worth what a crash at each of
them has shown.  None lies inside a transaction.  Costs a dictionary look-up when nothing is set.
"""

import errno
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable

_passes: Counter[str] = Counter()
_lock = threading.Lock()
seen: set[str] = set()  # the names this process has passed, for tests that enumerate them
on_pass: Callable[[str], None] | None = None  # called at every pass: a test that holds workers and lets them go, step by step


class FailpointHit(RuntimeError):
    """Raised by the action `raise`; deliberately no `KeldError`, since nothing may catch it as one."""


def failpoint(name: str) -> None:
    """Passes; or dies by SIGKILL, stands still by SIGSTOP, raises, hangs, or fails as a full or a broken disk would, when `KELD_FAILPOINT` names it."""
    seen.add(name)
    if on_pass is not None:
        on_pass(name)
    plan = os.environ.get("KELD_FAILPOINT")
    if not plan:
        return
    for rule in plan.split(","):
        point, _, rest = rule.partition(":")
        action, _, nth = rest.partition(":")
        if point == name and _is_due(name, int(nth or 1)):
            _act(name, action)


def _is_due(name: str, nth: int) -> bool:
    with _lock:
        _passes[name] += 1
        return _passes[name] == nth


def _act(name: str, action: str) -> None:
    match action:
        case "kill9":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "raise":
            raise FailpointHit(name)
        case "hang":
            threading.Event().wait()
        case "enospc":
            raise OSError(errno.ENOSPC, "No space left on device", name)
        case "eio":
            raise OSError(errno.EIO, "Input/output error", name)
        case _:
            raise ValueError(f"KELD_FAILPOINT={name}:{action}: the actions are kill9, stop, raise, hang, enospc, eio.")
