"""Short waits: whoever follows a job run to its end in this process looks again within a tenth of a second.

The emulator's batches end in less, and a try that failed is repeated as often as always: what is left out is time in which nothing happens.
"""

import pytest

from keld import follow

_MOST_S = 0.1


def shorten(patch: pytest.MonkeyPatch) -> None:
    """From now on `Keld.run`, `Keld.finish` and the commands that wait do so for a tenth of a second at most between two looks."""
    wait_s = follow._wait_s
    patch.setattr(follow, "_wait_s", lambda *given: min(wait_s(*given), _MOST_S))
    patch.setattr(follow, "_BUSY_S", _MOST_S)
