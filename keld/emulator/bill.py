"""Bill: every paid row, from the server's side.

The oracle of a test of money: what the client believes it spent must equal this.  A batch's entries lie in a file in
the order in which its rows finish, so "paid until now" is a prefix of that file; the realtime entries lie in one file.
"""

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from .clock import instant
from .dialect import Lane, Made


class BillEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One paid request; `rows` is 1, or the number of texts in a request of embeddings.

    `provider` is the kind of the service.  `input_tokens` are as the service reports them: OpenAI's include the cached ones, Anthropic's do not.
    `cache_write_tokens` includes `cache_write_1h_tokens`; `output_tokens` includes `reasoning_tokens`.
    `batch_id` and `custom_id` are None for a realtime call.
    """

    provider: str
    batch_id: str | None
    custom_id: str | None
    model: str
    lane: Lane
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    body_sha256: str
    at: datetime
    rows: int = 1


def entry(provider: str, made: Made, *, batch_id: str | None, custom_id: str | None, at: float) -> BillEntry:
    """What an answer puts on the bill."""
    return BillEntry(
        provider=provider,
        batch_id=batch_id,
        custom_id=custom_id,
        model=made.model,
        lane=made.lane,
        input_tokens=made.input_tokens,
        cached_tokens=made.usage.cached,
        cache_write_tokens=made.usage.cache_write,
        cache_write_1h_tokens=made.usage.cache_write_1h,
        output_tokens=made.usage.output,
        reasoning_tokens=made.usage.reasoning,
        body_sha256=made.digest,
        at=instant(at),
        rows=made.rows,
    )


class BillSum(msgspec.Struct, kw_only=True):
    """The entries of one (provider, model, lane), added up."""

    provider: str
    model: str
    lane: Lane
    rows: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Slip(msgspec.Struct, frozen=True):
    """A file of entries, one a line, of which the first `size_bytes` are due."""

    path: Path
    size_bytes: int


class RealtimeBill:
    """Entries of calls answered at once, appended as they are answered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def add(self, entry: BillEntry) -> None:
        with self._lock:
            self._file.write(msgspec.json.encode(entry) + b"\n")

    def slip(self) -> Slip:
        return Slip(self._path, self._path.stat().st_size)

    def close(self) -> None:
        self._file.close()


def lines(slips: list[Slip]) -> Iterator[bytes]:
    """The JSON lines of all due entries, without line ends."""
    for slip in slips:
        left = slip.size_bytes
        with slip.path.open("rb") as file:
            while left > 0:
                line = file.readline()
                left -= len(line)
                yield line.rstrip(b"\n")


def entries(slips: list[Slip]) -> Iterator[BillEntry]:
    decoder = msgspec.json.Decoder(BillEntry)
    return (decoder.decode(line) for line in lines(slips))


def summary(slips: list[Slip]) -> list[BillSum]:
    """Counts and sums by (provider, model, lane), in that order."""
    sums: dict[tuple[str, str, str], BillSum] = {}
    for paid in entries(slips):
        key = (paid.provider, paid.model, paid.lane)
        total = sums.get(key)
        if total is None:
            total = sums[key] = BillSum(provider=paid.provider, model=paid.model, lane=paid.lane)
        total.rows += paid.rows
        total.input_tokens += paid.input_tokens
        total.cached_tokens += paid.cached_tokens
        total.cache_write_tokens += paid.cache_write_tokens
        total.cache_write_1h_tokens += paid.cache_write_1h_tokens
        total.output_tokens += paid.output_tokens
        total.reasoning_tokens += paid.reasoning_tokens
    return [sums[key] for key in sorted(sums)]
