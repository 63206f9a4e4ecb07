"""Failpoint: a named place where a test may make the process die, stop, fail or hang.

`KELD_FAILPOINT=create.sent:kill9` (several separated by commas; `name:action:3` acts on the third pass).  Every external step of the runner
and every ledger commit has one, because crash safety is only proven by a crash at each of them.  None is inside a transaction.  Costs a
dictionary look-up when nothing is set.
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
on_pass: Callable[[str], None] | None = None  # called at every pass, for tests that stop workers and continue them step by step


class FailpointHit(RuntimeError):
    """Raised by the action `raise`; not a `KeldError`, since nothing may catch it as one."""


def failpoint(name: str) -> None:
    """Passes; or, if `KELD_FAILPOINT` names it, dies by SIGKILL, stops by SIGSTOP, raises, hangs, or fails like a full or a broken disk."""
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
