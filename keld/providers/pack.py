"""Pack: many rows in one request of a fast lane, and the answer divided among them again.

Beside `encoder`.  Pure.  Only where a dialect takes a list where it takes one row's prompt (embeddings), and only where the kind's traits say so.
The rows of a pack are one request: they are marked together, answered together, refused together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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


def packs(rows: Iterator[Row], most: Pack) -> Iterator[list[Row]]:
    """The rows in groups for one request each, in their order; a whole conversation goes alone."""
    group: list[Row] = []
    size = 0
    for row in rows:
        fragment = row[1]
        joins = most.rows > 1 and fragment.startswith(b'"')
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


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` split by weight into whole numbers whose sum is `total`, each within 1 of its exact share.

    >>> shares(10, [1, 1, 1])
    [3, 3, 4]
    """
    whole, given, seen, found = sum(weights) or 1, 0, 0, []
    for weight in weights:
        seen += weight
        upto = total * seen // whole
        found.append(upto - given)
        given = upto
    return found
