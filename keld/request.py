"""Request: what is asked: the question that all rows share; the only maker and reader of custom_id, and the fingerprint of what is asked.

On the road: `job` -> **`request`** -> `prompt`, `snapshot`, `shard`.  Pure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PACK = re.compile(r"([0-9]{8,15})x([0-9]{1,6})").fullmatch
_MARK = re.compile(r"([a-z0-9]{10})(?:-[0-9]{1,15}|[0-9]{8,15})(?:x[0-9]{1,6})?").fullmatch  # a batch's key, or a custom_id, plain or not
_encode = msgspec.json.Encoder().encode
_NEXT_LINE, _LINE, _PARAGRAPH = "\x85", "\u2028", "\u2029"
_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in (_NEXT_LINE, _LINE, _PARAGRAPH))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The part of a request that all rows of a job run share; kept in staging (it holds the system prompt), never in the ledger."""

    system: str | None
    output: dict[str, Any]  # `OutputSchema.to_json()`
    params: dict[str, Any] = field(default_factory=dict)
    max_output_tokens: int = 1024
    endpoint: str = "/v1/chat/completions"

    @property
    def asked_output(self) -> dict[str, Any]:
        """`output` without what only decides how an answer is read: its hints, and the names of its columns."""
        return {name: part for name, part in self.output.items() if name != "hints"} | {"prefix": ""}

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(data: bytes) -> Question:
        return msgspec.json.decode(data, type=Question)


def fingerprint(question: Question, models: Sequence[str]) -> str:
    """A hash of everything but the row that decides an answer: models, system, schema, params; not how an answer is read."""
    return hashlib.sha256(replace(question, output=question.asked_output).to_json() + _encode(list(models))).hexdigest()


def one_line(value: Any) -> bytes:
    """`value` as JSON that is one line to every reader: JSON may hold Unicode's line ends unescaped, and some readers split lines there."""
    encoded = _encode(value)
    if encoded.isascii():
        return encoded
    text = value if type(value) is str else encoded.decode()
    if _NEXT_LINE in text or _LINE in text or _PARAGRAPH in text:  # found as a character 30 times as fast as its bytes
        for end, escaped in _LINE_ENDS:
            encoded = encoded.replace(end, escaped)
    return encoded


def marks_of(fields: Iterable[str]) -> Callable[[bytes], bool]:
    """A function that is True if a prompt fragment, or the JSON of `params`, sets one of these fields."""
    names = "|".join(map(re.escape, sorted(fields)))
    find = re.compile(
        rf'"(?:{names})":[^n]'.encode()
    ).search  # a field's name with a value after it; inside a text its quotes would be escaped
    return lambda asked: find(asked) is not None


def row_fingerprint(fragment: bytes | memoryview) -> bytes:
    """16 bytes that identify a prompt: half of a sha256, which processors compute in hardware."""
    return hashlib.sha256(fragment).digest()[:16]


_REPAIR = "Your last answer to this was not accepted: {}. Answer once more, and exactly in the form that is asked for."
REPAIR_BYTES = 1_000  # the most that it adds to a fragment


def repaired(fragment: bytes, complaint: str) -> bytes:
    """A prompt fragment that also says why its last answer was not accepted."""
    text = _REPAIR.format(complaint.encode()[:300].decode("utf-8", "ignore"))
    if fragment.startswith(b"["):
        return fragment[:-1] + b"," + _encode({"role": "user", "content": text}) + b"]"
    return fragment[:-1] + _encode("\n\n" + text)[1:]


def custom_id(nonce: str, position: int, *, plain: bool = False, rows: int = 1) -> str:
    """`<10 of a-z0-9>-<position, at least 8 digits>`: within `[A-Za-z0-9_-]{1,64}`, which nearly every provider takes.

    Args:
        plain: without the hyphen.
        rows: of one request: that at `position` and those that follow it in the shard; for more than one, `x<rows>` is added.
    """
    return f"{nonce}{'' if plain else '-'}{position:08d}{'' if rows == 1 else f'x{rows}'}"


def position_of(custom_id: str, nonce: str) -> int | None:
    """The row position in a custom_id of this attempt, plain or not; None for an id that this attempt did not make."""
    if not custom_id.startswith(nonce):
        return None
    position = custom_id[len(nonce) :].removeprefix("-")
    return int(position) if 8 <= len(position) <= 15 and position.isdecimal() and position.isascii() else None


def positions_of(custom_ids: Sequence[str], nonce: str) -> NDArray[np.int64]:
    """`position_of` of each, and -1 where that is None; all at once if each has a hyphen and eight digits, as nearly all have."""
    import numpy as np

    prefix, together = f"{nonce}-".encode(), "".join(custom_ids).encode("ascii", "replace")
    width = len(prefix) + 8
    if {*map(len, custom_ids)} == {width} and len(together) == width * len(custom_ids):
        letters = np.frombuffer(together, dtype=np.uint8).reshape(-1, width)
        digits = letters[:, len(prefix) :] - ord("0")  # of bytes: what is below 0 is far above 9
        if (letters[:, : len(prefix)] == np.frombuffer(prefix, dtype=np.uint8)).all() and digits.max() <= 9:
            return digits @ 10 ** np.arange(7, -1, -1, dtype=np.int64)
    found = [position_of(custom_id, nonce) for custom_id in custom_ids]
    return np.array([-1 if position is None else position for position in found], dtype=np.int64)


def pack_of(custom_id: str, nonce: str) -> tuple[int, int] | None:
    """(the first row's position, the number of rows) of a request of many rows of this attempt; None for any other id."""
    found = _PACK(custom_id[len(nonce) :].removeprefix("-")) if custom_id.startswith(nonce) else None
    return (int(found[1]), int(found[2])) if found else None


def batch_key(nonce: str, attempt: int) -> str:
    """The mark of one create, in the batch's metadata if the provider has such: the shard and the attempt."""
    return f"{nonce}-{attempt}"


def shard_named(mark: str | None) -> str | None:
    """The nonce in a batch's mark or in a custom_id; None if Keld cannot have made it."""
    found = _MARK(mark or "")
    return found[1] if found else None
