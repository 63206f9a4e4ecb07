"""Fault: what went wrong with a shard, as its record keeps it.

Beside `record`.  It is stored as JSON with a key for each field that is not at its default.  It has no free text of a provider, since that
may quote a prompt, only its codes.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class ShardFault(StrEnum):
    """The faults that Keld itself finds; a fault of a provider has the provider's own code instead."""

    WAITS_ITS_TURN = "waits_its_turn"  # others were rejected before it, and go first
    NO_CAPACITY = "no_capacity"  # a realtime run that its provider rejected; its rows are asked elsewhere
    SAME_FAULT = "same_fault"  # a realtime run of which many rows met the same refusal; the others are not asked
    REPLY_LOST = "reply_lost"  # its create got no reply that can be read; it is looked for
    NOT_ANSWERED = "not_answered"  # a realtime run under way whose latest request got no answer; it goes on
    IN_DOUBT = "in_doubt"  # requests of a realtime run that may have been paid, and have no answer
    ANSWERS_LOST = "answers_lost"  # its batch was cancelled, or expired, at a host that then gives no answers back; some rows may be paid
    UNMETERED = "unmetered"  # some answers do not say how many tokens they used, and so what they cost
    NO_LAST_WORD = "no_last_word"  # given up without progress: the provider did not end it in time
    RESULTS_UNREADABLE = "results_unreadable"  # given up: its batch has ended, but its results could not be read
    FOREIGN_RESULTS = "foreign_results"  # RESULTS_UNREADABLE in ledgers of version 1; not written any more
    CREATE_UNACCOUNTED_FOR = "create_unaccounted_for"  # its create may have made a batch that cannot be distinguished from others


class RefusalReason(StrEnum):
    """The reason for the refusal of a create."""

    QUEUE = "queue"  # too much at once: the same request is sent again later
    FILE = "file"  # the input file is not valid
    ACCESS = "access"  # the key, the project or the billing: a person must correct it
    INPUT = "input"  # the uploaded file is not there (any more): it is uploaded again
    ELSEWHERE = "elsewhere"  # a redirect


class ShardError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The latest thing that went wrong with a shard.

    Args:
        code: a `ShardFault`, or the provider's own code.
        message: in Keld's own words; None: the code is enough.
        rows: how many may be billed although the results do not say what they cost, or do not have them.
        refused, own, status, wait_s: of a create that was refused, and is still to be looked for: the reason, whether it has
            the provider's own format, its HTTP status, and how long the provider asks to wait.
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
        """The fault that Keld itself found; None if the code is a provider's."""
        return ShardFault(self.code) if self.code in _FAULTS else None


_FAULTS = frozenset(ShardFault)
