"""Encoder: writes the request lines of one shard, and reads its result lines.

Beside `provider`: a dialect in an envelope.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from keld.price import Lane
from keld.providers.envelope import LINES, read_journal, reply_line
from keld.providers.pack import Pack, Packing, Row, packed, packs
from keld.providers.part import BodyTemplate, Dialect, Envelope
from keld.providers.template import Hole
from keld.reply import Reply
from keld.request import custom_id, one_line

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_PIECE_BYTES = 1 << 20  # of a file: what its lines add to their fragments in one piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Makes the requests of one shard from prompt fragments.

    Args:
        path: where a single request is sent, from the version on.
        fast_template: the bodies of the fast lanes, where the host knows the model by another name there.
    """

    path: str
    nonce: str
    template: BodyTemplate
    dialect: Dialect
    envelope: Envelope = LINES
    plain_ids: bool = False
    fast_template: BodyTemplate | None = None

    @property
    def overhead_bytes(self) -> int:
        """The most that a line adds to its fragment."""
        return self.template.size_bytes + self.envelope.overhead_bytes(self.path)

    def line(self, position: int, fragment: bytes) -> bytes:
        """A line of a batch's input, of one row."""
        return self.envelope.wrap(custom_id(self.nonce, position, plain=self.plain_ids), self.path, self.template.fill(fragment))

    def lines(self, rows: Iterator[Row], most: Pack, apart: Collection[int] = ()) -> Iterator[bytes]:
        """The lines of a batch's input, with as many rows in each as `most` allows; those whose position is in `apart` have one of their own."""
        for group in packs(rows, most, apart):
            name = custom_id(self.nonce, group[0][0], plain=self.plain_ids, rows=len(group))
            yield self.envelope.wrap(name, self.path, self.template.fill(packed(group)))

    def file(self, blocks: Iterable[tuple[NDArray[np.int64], pa.Array]]) -> Iterator[bytes | memoryview]:
        """The bytes of the shard's file, in pieces of some megabytes: one line for each position and its fragment, in order.

        Most of a line is the same for all rows, so Arrow joins a piece from that, the numbers and the fragments, without an object a row.

        Args:
            blocks: N positions, and their N fragments as large_binary.
        """
        import pyarrow.compute as pc

        first, second = Hole.new().mark.encode(), Hole.new().mark.encode()
        opening, rest = b"".join(self.envelope.around(iter((first, second)))).split(first)
        comma, closing = rest.split(second)
        shape, rows = self._shape(), max(1, _PIECE_BYTES // self.overhead_bytes)
        join = None if shape is None else _joiner(comma, *shape)
        if opening:  # a file of one piece is written without a thread
            yield opening
        skipped = len(comma)  # before the first line there is none
        for positions, fragments in blocks:
            for start in range(0, len(positions), rows):
                here, asked = positions[start : start + rows], fragments.slice(start, rows)
                plain = join is not None and pc.all(pc.starts_with(asked, pattern='"')).as_py()
                yield (join(here, asked) if join is not None and plain else self._lines(comma, here, asked))[skipped:]
                skipped = 0
        if closing:
            yield closing

    def _lines(self, comma: bytes, positions: NDArray[np.int64], fragments: pa.Array) -> memoryview:
        """The lines of some rows, made one by one, each after a comma."""
        pairs = zip(positions.tolist(), fragments.to_pylist(), strict=True)
        return memoryview(b"".join([comma + self.line(position, fragment) for position, fragment in pairs]))

    def _shape(self) -> tuple[bytes, bytes, bytes] | None:
        """The bytes of a line before its position, between that and its fragment, and after; None if it is not of this shape.

        Found in a line that is made of marks; of a fragment that is one message, since a whole conversation may be taken apart.
        """
        position, fragment = 10**14 + secrets.randbelow(9 * 10**14), b'"%b"' % Hole.new().mark.encode()
        lead, found, rest = self.line(position, fragment).partition(b"%08d" % position)
        middle, also, tail = rest.partition(fragment)
        return (lead, middle, tail) if found and also else None

    def body(self, fragment: bytes, lane: Lane) -> bytes:
        """The body of one request in a fast lane: the same bytes as in the batch's line, except for the lane.

        Raises:
            InvalidJob: the provider does not sell such requests in that lane.
        """
        return self.dialect.in_lane((self.fast_template or self.template).fill(fragment), lane)

    def headers(self, lane: Lane) -> Mapping[str, str]:
        """The headers of one request in a fast lane that name the lane."""
        return self.dialect.lane_headers(lane)

    def unpacked(self, line: bytes, custom_ids: Sequence[str], weights: Sequence[int]) -> list[bytes] | None:
        """The journal's line of a request with many rows as one line for each; None if the answer does not have one part for each."""
        response = msgspec.json.decode(line)["response"]
        parts = self.dialect.divided(response["body"], weights) if isinstance(self.dialect, Packing) else None
        if parts is None:
            return None
        return [reply_line(custom_id, response["status_code"], one_line(part)) for custom_id, part in zip(custom_ids, parts, strict=True)]

    def repeated(self, line: bytes, custom_ids: Sequence[str]) -> list[bytes]:
        """The journal's line of a request that was refused as a line for each of its rows."""
        response = msgspec.json.decode(line)["response"]
        return [reply_line(custom_id, response["status_code"], one_line(response["body"])) for custom_id in custom_ids]


def _joiner(comma: bytes, lead: bytes, middle: bytes, tail: bytes) -> Callable[[NDArray[np.int64], pa.Array], memoryview]:
    """A function from N positions and N fragments to N lines of this shape, each after a comma."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.large_binary()
    begin, between, end, nothing = (pa.scalar(text, type=kind) for text in (comma + lead, middle, tail, b""))

    def join(positions: NDArray[np.int64], fragments: pa.Array) -> memoryview:
        numbers = pc.utf8_lpad(pa.array(positions).cast(pa.large_string()), width=8, padding="0").cast(kind)
        _, bounds, lines = pc.binary_join_element_wise(begin, numbers, between, fragments, end, nothing).buffers()
        return memoryview(lines)[: np.frombuffer(bounds, dtype=np.int64)[len(positions)]]

    return join


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads the answers to one question from one model."""

    dialect: Dialect
    envelope: Envelope | None

    def results(self, block: bytes) -> list[Reply]:
        """Replies of a block of whole lines of a batch's results; a line without a readable id gives none."""
        return (self.envelope or LINES).read(block, self.dialect)

    def journal(self, block: bytes) -> list[Reply]:
        """Replies of a block of whole lines of a fast lane's journal."""
        return read_journal(block, self.dialect, self.envelope)
