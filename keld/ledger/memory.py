"""Memory: what staging remembers of one job run, line by line, as the ledger committed it.

Below `witness`.  Plain data: a line for each change, of which the latest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from keld.ledger.record import Intent, JobRun, Orphan, Shard
from keld.state import State
from keld.stored import StoredName

UNSETTLED = (State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING, State.ENDED, State.QUARANTINED)


class Line(msgspec.Struct, omit_defaults=True):
    """One change of a job run, as the ledger committed it."""

    ledger: str  # the mark of its address
    run: JobRun | None = None
    shard: Shard | None = None
    intent: Intent | None = None
    orphan: Orphan | None = msgspec.field(default=None, name="stray")
    answered_before: int | None = None  # rows that were answered without any shard of this job run
    names: dict[str, StoredName] | None = None  # the objects that some of its files are, where staging is a bucket
    at_ns: int = 0  # the writer's clock, where the order of lines is not that of one file


@dataclass(slots=True)
class Memory:
    """The records of one job run, as read from staging."""

    run: JobRun | None = None
    ledger: str = ""
    answered_before: int = 0
    shards: dict[str, Shard] = field(default_factory=dict)
    intents: dict[tuple[str, int], Intent] = field(default_factory=dict)
    orphans: dict[str, Orphan] = field(default_factory=dict)
    names: dict[str, StoredName] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        """Adds a later line."""
        self.ledger = line.ledger
        self.run = line.run or self.run
        if line.answered_before is not None:
            self.answered_before = line.answered_before
        if line.shard is not None and line.shard.attempt >= self._attempt(
            line.shard.id
        ):  # else an older ledger, from a backup, has written it
            self.shards[line.shard.id] = line.shard
        if line.intent is not None:
            self.intents[line.intent.shard_id, line.intent.attempt] = line.intent
        if line.orphan is not None:
            self.orphans[line.orphan.batch_id] = line.orphan
        self.names |= line.names or {}

    def _attempt(self, shard_id: str) -> int:
        return self.shards[shard_id].attempt if shard_id in self.shards else 0

    @property
    def settled(self) -> bool:
        """True if it has no batch at a provider, and no row that must not be asked again."""
        over = self.run is not None and self.run.over and not self.run.quarantined
        return over and not any(shard.state in UNSETTLED for shard in self.shards.values())

    def is_ahead_of(self, shards: Iterable[Shard]) -> list[Shard]:
        """The shards that were sent more often than in `shards`, those of a ledger."""
        known = {shard.id: shard.attempt for shard in shards}
        return [shard for shard in self.shards.values() if shard.attempt > known.get(shard.id, 0)]


_decode = msgspec.json.Decoder(Line).decode


def encoded(lines: Iterable[Line]) -> bytes:
    """The lines as bytes; each begins on a new line, so that one that a crash cut off damages no other, and empty lines are ignored."""
    return b"".join(b"\n" + msgspec.json.encode(line) for line in lines) + b"\n"


def lines_in(content: bytes) -> Iterator[Line]:
    """The lines in what `encoded` made, without one that a crash cut off."""
    for line in content.split(b"\n"):
        if line:
            with suppress(msgspec.DecodeError, ValueError):
                yield _decode(line)
