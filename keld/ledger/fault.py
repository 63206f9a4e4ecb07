"""Fault: what keeps a shard from getting on, or cost it rows; as its record keeps it.

Beside `record`.  It is stored as JSON with a key for each field that is not at its default.  No free words of a provider stand in it, since they
may quote a prompt; its codes do.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ShardFault(StrEnum):
    """The faults that Keld itself finds; a fault of a provider has the provider's own code instead."""

    WAITS_ITS_TURN = "waits_its_turn"  # others were turned away before it, and go first
    NO_CAPACITY = "no_capacity"  # a stretch that its provider turned away; its rows are asked elsewhere
    SAME_FAULT = "same_fault"  # a stretch of which many rows met the same refusal; the others are not asked
    IN_DOUBT = "in_doubt"  # requests of a stretch that may have been paid, and have no answer
    NO_LAST_WORD = "no_last_word"  # given up at its last instant
    RESULTS_UNREADABLE = "results_unreadable"  # given up at its last instant: its batch has ended, and nobody could read its results
    FOREIGN_RESULTS = "foreign_results"  # RESULTS_UNREADABLE in ledgers of version 1; not written any more
    CREATE_UNACCOUNTED_FOR = "create_unaccounted_for"  # its create may have made a batch that cannot be told from others


class RefusalReason(StrEnum):
    """What the refusal of a create is about."""

    QUEUE = "queue"  # too much at once: the same again, later
    FILE = "file"  # the file, which will never be taken
    ACCESS = "access"  # the key, the project, the money: a person mends it
    INPUT = "input"  # the uploaded file is not there (any more): it is uploaded again
    ELSEWHERE = "elsewhere"  # a redirect


class ShardError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What went wrong with a shard, the latest of it.

    Args:
        code: a `ShardFault`, or the provider's own word.
        message: in Keld's own words; None: the code says it all.
        rows: how many may be on the bill without a word of them in the results.
        refused, own, status, wait_s: of a create that was refused, and is still to be looked for: what the refusal is about, whether it is in
            the provider's own shape, its HTTP status, and how long the provider asks to wait.
    """

    code: str
    message: str | None = None
    rows: int = 0
    refused: RefusalReason | None = None
    own: bool | None = None
    status: int | None = None
    wait_s: float | None = None

    @property
    def fault(self) -> ShardFault | None:
        """The fault, where Keld itself found it; None where the code is a provider's."""
        return ShardFault(self.code) if self.code in _FAULTS else None


_FAULTS = frozenset(ShardFault)
