"""Progress wait: a test waits as long as something makes progress.

A slow or busy machine is no error; one where nothing makes progress is.  So no wait of the suite ends after a number of seconds alone.
"""

import time
from collections.abc import Callable

STILL_S = 120.0  # far longer than a busy machine keeps a process from its next step


def wait_while_it_moves(done: Callable[[float], bool], progress: Callable[[], object], *, still_s: float = STILL_S) -> bool:
    """True once `done` is; False when `progress` has given the same for `still_s` seconds.

    Args:
        done: waits for at most so many seconds, and says whether what is waited for has come.
        progress: anything that changes while there is something to wait for: counts, states, seconds of processor time.
    """
    seen, moved_at = progress(), time.monotonic()
    while not done(1.0):
        now = progress()
        if now != seen:
            seen, moved_at = now, time.monotonic()
        elif time.monotonic() - moved_at > still_s:
            return False
    return True
