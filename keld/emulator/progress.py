"""Progress: what the first so many finished rows of a batch come to."""

from array import array
from typing import NamedTuple

from .answer import Usage


class Totals(NamedTuple):
    """What the first so many rows come to."""

    ok: int = 0
    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    out_bytes: int = 0
    error_bytes: int = 0
    bill_bytes: int = 0


_UNPAID = Usage(0, 0)
_WIDTH = len(Totals._fields)


class Progress:
    """Running totals after each finished row, flat in one array: a batch may have 100,000."""

    def __init__(self) -> None:
        self._table = array("q", Totals())
        self._last = Totals()

    def __len__(self) -> int:
        return len(self._table) // _WIDTH - 1

    def add(self, ok: bool, usage: Usage | None, out_bytes: int, error_bytes: int, bill_bytes: int) -> None:
        usage, last = usage or _UNPAID, self._last
        self._last = Totals(
            last.ok + ok,
            last.input + usage.input,
            last.cached + usage.cached,
            last.output + usage.output,
            last.reasoning + usage.reasoning,
            last.out_bytes + out_bytes,
            last.error_bytes + error_bytes,
            last.bill_bytes + bill_bytes,
        )
        self._table.extend(self._last)

    def totals(self, done: int) -> Totals:
        """The totals of the `done` rows that finished first."""
        return Totals(*self._table[done * _WIDTH : (done + 1) * _WIDTH])
