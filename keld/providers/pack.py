"""Pack: many rows in one request, of a fast lane or of a batch, and the answer divided among them again.

Beside `encoder`.  Pure.  Only where a dialect takes a list where it takes one row's prompt (embeddings), and only where the kind's traits say so.
The rows of a pack are one request: they are marked together, answered together, refused together.  A refused one is not paid, so its rows are asked
again in smaller packs: in a fast lane in halves, at once; of a batch each by itself, in the next round (`enrich.apart`).  The custom_id of a pack
names its first row and how many follow it in the shard (`request.custom_id`), so whoever collects a batch needs to know nothing else of how it was
packed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

Row = tuple[int, bytes]
"""A row's position and its prompt fragment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """The most that one request holds."""

    rows: int = 1
    fragment_bytes: int = 0  # of its prompts together; a longer one goes alone


@runtime_checkable
class Packing(Protocol):
    """A dialect whose requests can hold a JSON array of prompts in the place of one."""

    def divided(self, body: Any, weights: Sequence[int]) -> list[dict[str, Any]] | None:
        """The answer to N prompts as N answers to one each, in the order of the prompts; None if it does not have N parts.

        Args:
            weights: of each prompt; the tokens that were used are split by it, exactly.
        """
        ...


def packs(rows: Iterator[Row], most: Pack, apart: Collection[int] = ()) -> Iterator[list[Row]]:
    """The rows in groups for one request each, in their order; a whole conversation goes alone, and so does a row of which `apart` has the position."""
    group: list[Row] = []
    size = 0
    for row in rows:
        position, fragment = row
        joins = most.rows > 1 and fragment.startswith(b'"') and position not in apart
        if group and (not joins or len(group) >= most.rows or size + len(fragment) > most.fragment_bytes):
            yield group
            group, size = [], 0
        if joins:
            group.append(row)
            size += len(fragment)
        else:
            yield [row]
    if group:
        yield group


def packed(rows: Sequence[Row]) -> bytes:
    """The fragment of one request for these rows."""
    fragments = [fragment for _, fragment in rows]
    return fragments[0] if len(fragments) == 1 else b"[" + b",".join(fragments) + b"]"
