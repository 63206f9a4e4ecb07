"""Template: a request body as constant bytes around one prompt fragment.

Beside `base`; a part of every dialect.  The constant JSON of a request is serialised once for each shard; a row costs
one join.  docs/notes/measurements.md: 4.5 times a json.dumps loop, half the speed of a native encoder, memory flat.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec

from keld.request import one_line


class Hole(msgspec.Struct, frozen=True):
    """The place in a body where a row's own JSON goes."""

    mark: str

    @staticmethod
    def new() -> Hole:
        return Hole(f"hole-{secrets.token_hex(16)}")


class Template(msgspec.Struct, frozen=True):
    """The bytes before and after the hole."""

    head: bytes
    tail: bytes

    def fill(self, fragment: bytes) -> bytes:
        return self.head + fragment + self.tail

    @property
    def size_bytes(self) -> int:
        return len(self.head) + len(self.tail)


def template(document: Any, hole: Hole) -> Template:
    """`document`, which holds `hole.mark` once as a string, as bytes around it."""
    head, tail = one_line(document).split(one_line(hole.mark))
    return Template(head, tail)
