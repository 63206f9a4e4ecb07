"""Answer: result lines -> answers, exactly one per request.

On the road: `providers` read the wire into `Reply`; **`answer`** judges, prices and orders them; `enrich` reads the result.
The order and the counts of a provider are not trusted: rows are matched by custom_id only, each asked row gets exactly one outcome, a row
that no file mentions is `lost`, a second line for a row is counted and dropped, an unknown id is counted and dropped.
Memory is bounded by blocks, however large the shard's answers are: large ones are written by position into ranges on disk, and each
range is sorted by itself.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from keld.errors import InvalidAnswer
from keld.gpu_time import Split
from keld.outcome import ANSWERED, Outcome
from keld.price import PICO, Lane, Rates
from keld.reply import Reply
from keld.request import custom_id, pack_of, positions_of
from keld.schema import OutputSchema
from keld.spread import spread
from keld.table import ParquetSink, read_parquet
from keld.unanswered import Unanswered

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 512 << 10  # fits in a processor's cache: larger blocks are read once more from memory at each step
LINE_BYTES_MAX = 64 << 20  # the longest result line that is read; a longer one is an error of its row, not of the file
_TOKENS_MOST = 10**9  # of one answer: far more than any model takes, and its cost at any rate still fits in 64 bits
_REMEMBERED = 256  # answers, by their text
_RANGE_BYTES = 48 << 20  # answers above this size are sorted range by range


@dataclass(slots=True)
class Tally:
    """The counts and costs of a shard's result files.

    `standard_usd` is what the same would have cost in the standard lane, `uncached_usd` in the lane that served it, but without any cache.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    retryable: int = 0
    lines: int = 0  # requests that have their line; of one row each, unless rows were packed
    duplicates: int = 0
    foreign: int = 0
    unreadable: int = 0
    unmetered: int = 0  # answers that do not say what they used; they count as free
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    standard_usd: Decimal = Decimal(0)
    uncached_usd: Decimal = Decimal(0)

    @property
    def answered(self) -> int:
        return self.outcomes[ANSWERED]


# Names that no field of an answer can have: `environment` refuses `keld_` there.
OWN = pa.schema(
    [
        pa.field("keld_position", pa.int64()),
        pa.field("keld_outcome", pa.string()),
        pa.field("keld_error", pa.string()),
        pa.field("keld_model", pa.string()),
        pa.field("keld_lane", pa.string()),
        pa.field("keld_cost_pico", pa.int64()),
        pa.field("keld_retryable", pa.bool_()),
    ]
)


_FORMERLY = {
    "keld_position": "position",
    "keld_retryable": "retryable",
}  # before ledgers had versions; today a field of an answer may have such a name


def read_answers(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The answers in a file, by position, in blocks, only `columns`; with this version's names, also if an earlier version wrote it.

    Raises:
        StagingError: the file is missing or broken.
    """
    if not _is_former(path):
        yield from read_parquet(path, columns)
        return
    wanted = None if columns is None else [_FORMERLY.get(name, name) for name in columns]
    back = {former: name for name, former in _FORMERLY.items()}
    for batch in read_parquet(path, wanted):
        yield batch.rename_columns([back.get(name, name) for name in batch.schema.names])


def _is_former(path: Path) -> bool:
    import pyarrow.parquet as pq

    with suppress(OSError, pa.ArrowException):  # `read_parquet` raises the error
        names: list[str] = pq.read_schema(path).names
        return names[:1] == ["position"]
    return False


def first_position(path: Path) -> int:
    """The position of the first answer in a file, or one before it."""
    import pyarrow.parquet as pq

    with suppress(OSError, pa.ArrowException):  # `read_parquet` raises the error
        metadata = pq.read_metadata(path)
        if metadata.num_row_groups and (known := metadata.row_group(0).column(0).statistics) is not None and known.has_min_max:
            return int(known.min)
    return -1


def answer_schema(output: OutputSchema) -> pa.Schema:
    """The columns of an answers file: Keld's own, then the answer's."""
    return pa.schema([*OWN, *output.columns])


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What a shard sent, as far as it is needed to judge its answers."""

    nonce: str
    positions: NDArray[np.int64]  # ascending
    weights: NDArray[np.int64] | None = None  # of each row's prompt; set if one request may hold many rows
    model: str
    lane: str
    rates: Rates
    standard: Rates | None  # None: the standard price is unknown, and nothing counts as saved
    split: Split | None = None  # the cost of the host's time, divided among the answers; None: they are paid at `rates`
    unsatisfied: Callable[[pa.RecordBatch], NDArray[np.bool_]] | None = (
        None  # N answers -> which of them a stronger model must answer again
    )


@dataclass(frozen=True, slots=True)
class Missing:
    """The outcome of a row that no result mentions."""

    outcome: Outcome
    why: str
    retryable: bool


LOST = Missing(Outcome.LOST, "in no result file", retryable=True)


def judge_results(
    files: Sequence[Path],
    read: Callable[[bytes], list[Reply]],
    sent: Sent,
    output: OutputSchema,
    answers: Path,
    unmentioned: Missing = LOST,
) -> Tally:
    """The counts of `files`, whose lines are judged and written to `answers`: one answer for each row of `sent`, by position.

    Args:
        files: the provider's result files, those with the answers first, so that an answer beats an error of the same row.
        read: a block of whole lines -> replies; an unreadable line gives none.
    """
    tally = Tally()
    weight = sum(path.stat().st_size for path in files)
    rows, decode = Unanswered(sent.positions), _decoder(output)
    with AnswerSink(answers, output, sent.positions, weight) as sink:
        for replies, here in _own(files, read, sent, rows, tally):
            if replies:
                sink.add(_judge(replies, here, sent, output, decode, tally))
        if len(missing := rows.rest):
            rest = unmentioned
            sink.add(same(missing, rest.outcome, rest.why, sent, output, retryable=rest.retryable))
            tally.outcomes[rest.outcome] += len(missing)
            tally.retryable += len(missing) if rest.retryable else 0
    if sent.split is not None:  # also if it brought no answer
        tally.cost_usd = tally.standard_usd = tally.uncached_usd = sent.split.usd
    return tally


def _decoder(output: OutputSchema) -> Callable[[Any], Any]:
    """The decoder of an answer's content; of objects it remembers some, since labels are few, and come again and again."""
    decode = output.decoder().decode
    if output.kind != "object":
        return decode
    remembered = lru_cache(_REMEMBERED)(decode)
    return lambda content: remembered(content) if type(content) is str else decode(content)


def weight_of_results(files: Sequence[Path], read: Callable[[bytes], list[Reply]], sent: Sent) -> int:
    """The weight of all answers in `files` together, by which the cost of a host's time is split; the arguments as of `judge_results`."""
    return sum(sum(map(_weight, replies)) for replies, _ in _own(files, read, sent, Unanswered(sent.positions), Tally()))


def _own(
    files: Sequence[Path], read: Callable[[bytes], list[Reply]], sent: Sent, rows: Unanswered, tally: Tally
) -> Iterator[tuple[list[Reply], NDArray[np.int64]]]:
    """The first reply of each row, which is taken of `rows`, and its position, block by block; the other replies are counted."""
    for block in _blocks(files, tally):
        replies = read(block)
        positions = positions_of([reply.custom_id for reply in replies], sent.nonce)
        if rows.take_all(positions):  # as in nearly all blocks: each is its row's first reply
            tally.lines += len(replies)
            yield replies, positions
        else:
            yield _first_replies(replies, positions, sent, rows, tally)


def _first_replies(
    replies: list[Reply], positions: NDArray[np.int64], sent: Sent, rows: Unanswered, tally: Tally
) -> tuple[list[Reply], NDArray[np.int64]]:
    first: list[Reply] = []
    here: list[int] = []
    for reply, position in zip(replies, positions.tolist(), strict=True):
        found = _unpacked(reply, sent) if position < 0 else [(reply, position)] if rows.asked(position) else []
        fresh = (
            found
            if rows.take_all(np.array([row for _, row in found], dtype=np.int64))
            else [(one, row) for one, row in found if rows.take(row)]
        )
        first += [one for one, _ in fresh]
        here += [row for _, row in fresh]
        tally.lines += bool(fresh)
        tally.duplicates += len(found) - len(fresh)
        tally.foreign += not found
    return first, np.array(here, dtype=np.int64)


def _unpacked(line: Reply, sent: Sent) -> list[tuple[Reply, int]]:
    """(reply, position) of each row of a request of many rows; none if this shard cannot have sent it."""
    if (pack := pack_of(line.custom_id, sent.nonce)) is None:
        return []
    first, rows = pack
    start = int(np.searchsorted(sent.positions, first))
    here = sent.positions[start : start + rows].tolist()
    if rows < 2 or len(here) != rows or here[0] != first:
        return []
    weights = [1] * rows if sent.weights is None else sent.weights[start : start + rows].tolist()
    return list(zip(spread(line, [custom_id(sent.nonce, row) for row in here], weights), here, strict=True))


# Engines read a prompt in parallel and write an answer token by token: one token of output takes as long as some ten of input.
_INPUT_A_TOKEN = 10
_WORKED_ON = (ANSWERED, Outcome.INVALID, Outcome.REFUSED)


def _weight(reply: Reply) -> int:
    """The part of a host's time that an answer took, by its tokens; 0 if the row was refused."""
    if reply.outcome not in _WORKED_ON:
        return 0
    return max(1, min(_INPUT_A_TOKEN * reply.output_tokens + reply.input_tokens, _TOKENS_MOST))


def same(
    positions: Sequence[int] | NDArray[np.int64],
    outcome: Outcome,
    error: str | None,
    sent: Sent | None,
    output: OutputSchema,
    *,
    retryable: bool = False,
) -> pa.RecordBatch:
    """The same outcome, without an answer, for N rows; `sent` is None if they never belonged to a shard."""
    n = len(positions)
    values: list[pa.Array] = [
        pa.array(positions, type=pa.int64()),
        pa.repeat(pa.scalar(outcome.value), n),
        pa.repeat(pa.scalar(error, type=pa.string()), n),
        pa.repeat(pa.scalar(sent.model if sent else None, type=pa.string()), n),
        pa.repeat(pa.scalar(sent.lane if sent else None, type=pa.string()), n),
        pa.repeat(pa.scalar(0, type=pa.int64()), n),
        pa.repeat(pa.scalar(retryable), n),
    ]
    return pa.RecordBatch.from_arrays([*values, *(pa.nulls(n, column.type) for column in output.columns)], schema=answer_schema(output))


def _judge(
    replies: list[Reply], positions: NDArray[np.int64], sent: Sent, output: OutputSchema, decode: Callable[[Any], Any], tally: Tally
) -> pa.RecordBatch:
    outcomes, errors, retryable = ([*map(attrgetter(name), replies)] for name in ("outcome", "error", "retryable"))
    decoded: list[Any] = [None] * len(replies)
    for at, reply in enumerate(replies):
        if reply.outcome is ANSWERED:
            try:
                decoded[at] = decode(reply.content)
            except InvalidAnswer as why:
                outcomes[at], errors[at], retryable[at] = Outcome.INVALID, str(why), True  # asked again, with what was wrong
    cost, standard, uncached = _costs(replies, sent, tally)
    answers = output.to_arrow(decoded)
    if sent.unsatisfied is not None:
        vain = [outcome in (Outcome.INVALID, Outcome.REFUSED) for outcome in outcomes]
        wanting = sent.unsatisfied(answers) & np.array([outcome is ANSWERED for outcome in outcomes])
        retryable = (np.array(retryable) | vain | wanting).tolist()
    others = [outcome for outcome in outcomes if outcome is not ANSWERED]
    tally.outcomes.update(others)
    if len(others) < len(outcomes):  # else it would be there with 0
        tally.outcomes[ANSWERED] += len(outcomes) - len(others)
    tally.retryable += sum(retryable)
    tally.cost_usd += Decimal(int(cost.sum())) / PICO
    tally.standard_usd += Decimal(int(standard.sum())) / PICO
    tally.uncached_usd += Decimal(int(uncached.sum())) / PICO
    own = [
        pa.array(positions),
        _texts(outcomes),
        _texts(errors),
        _texts([reply.model or sent.model for reply in replies]),
        _texts([sent.lane] * len(replies) if sent.lane != Lane.FLEX else [_lane(reply, sent) for reply in replies]),
        pa.array(cost),
        pa.array(retryable, type=pa.bool_()),
    ]
    return pa.RecordBatch.from_arrays([*own, *answers.columns], schema=answer_schema(output))


def _texts(values: Sequence[str | None]) -> pa.Array:
    """N texts; of nearly all blocks they are the same for every row."""
    if values and values.count(values[0]) == len(values):
        return pa.repeat(pa.scalar(values[0], type=pa.string()), len(values))
    return pa.array(values, type=pa.string())


def _costs(replies: list[Reply], sent: Sent, tally: Tally) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pico-dollars of each reply: at the rates of the lane that served it, at the standard rates, and without a cache."""
    # Impossible counts are an error of the provider; they must neither lower a cost nor block the other answers.
    counts = [_within([*map(count, replies)]) if any(map(count, replies)) else np.zeros(len(replies), dtype=np.int64) for count in _COUNTS]
    counts[0] = np.maximum(counts[0], counts[1] + counts[2])
    counts[3] = np.minimum(counts[3], counts[2])
    tally.input_tokens += int(counts[0].sum())
    tally.cached_tokens += int(counts[1].sum())
    tally.cache_write_tokens += int(counts[2].sum())
    tally.output_tokens += int(counts[4].sum())
    if sent.split is not None:
        cost = np.array(sent.split.take([_weight(reply) for reply in replies]), dtype=np.int64)
        return cost, cost, cost
    tally.unmetered += _unmetered(replies, counts[0] + counts[4], sent)
    none = np.zeros_like(counts[0])
    plain = (counts[0], none, none, none, counts[4])
    standard_rates = sent.standard or sent.rates
    standard, cost, uncached = standard_rates.cost_pico(*counts), sent.rates.cost_pico(*counts), sent.rates.cost_pico(*plain)
    if sent.lane != Lane.FLEX:
        return cost, standard, uncached
    asked_for = [_lane(reply, sent) == sent.lane for reply in replies]
    return np.where(asked_for, cost, standard), standard, np.where(asked_for, uncached, standard_rates.cost_pico(*plain))


def _unmetered(replies: list[Reply], tokens: NDArray[np.int64], sent: Sent) -> int:
    """The number of answers without a count of their tokens, at a host or gateway that leaves it out."""
    if tokens.all() or (sent.weights is not None and tokens.any()):  # a short row's share of its request's tokens may be none
        return 0
    return sum(replies[at].outcome in (ANSWERED, Outcome.INVALID) for at in np.flatnonzero(tokens == 0).tolist())


_COUNTS = tuple(map(attrgetter, ("input_tokens", "cached_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens")))


def _within(counts: list[int]) -> NDArray[np.int64]:
    try:
        found = np.array(counts, dtype=np.int64)
    except OverflowError:
        found = np.array([max(0, min(count, _TOKENS_MOST)) for count in counts], dtype=np.int64)
    return found.clip(0, _TOKENS_MOST)


def _lane(reply: Reply, sent: Sent) -> str:
    """The lane an answer is billed in: a flex request may be served by the standard tier, at the standard price."""
    if sent.lane == Lane.FLEX and reply.tier not in (None, Lane.FLEX):
        return Lane.STANDARD.value
    return sent.lane


def _blocks(files: Iterable[Path], tally: Tally) -> Iterator[bytes]:
    """Blocks of whole lines, about half a megabyte each; split on `\\n` bytes only, since U+2028 inside a JSON string is not a line end."""
    for path in files:
        with path.open("rb") as file:
            rest = bytearray()  # grows in place: a line of many blocks is held once, not twice
            while chunk := file.read(BLOCK_BYTES):
                end = chunk.rfind(b"\n") + 1
                if not end:
                    rest += chunk
                    if len(rest) > LINE_BYTES_MAX:
                        tally.unreadable += 1
                        rest.clear()
                        rest += _skip_line(file)
                    continue
                yield b"".join((rest, chunk[:end]))
                rest[:] = chunk[end:]
            if rest:
                yield bytes(rest)


def _skip_line(file: Any) -> bytes:
    """The beginning of the next line, after the rest of a line that is too long was skipped."""
    while chunk := file.read(BLOCK_BYTES):
        end = chunk.find(b"\n")
        if end >= 0:
            return bytes(chunk[end + 1 :])
    return b""


class AnswerSink:
    """Takes answers in any order; after a `with` block without an error the file holds them by position."""

    def __init__(self, path: Path, output: OutputSchema, positions: NDArray[np.int64], weight_bytes: int) -> None:
        self._path = path
        self._schema = answer_schema(output)
        n = max(1, -(-weight_bytes // _RANGE_BYTES))
        self._bounds = positions[np.linspace(0, len(positions), n, endpoint=False).astype(np.int64)[1:]] if n > 1 else positions[:0]
        self._held: list[list[pa.RecordBatch]] = [[] for _ in range(n)]
        self._spill: tempfile.TemporaryDirectory[str] | None = None
        self._writers: dict[int, Any] = {}

    def __enter__(self) -> AnswerSink:
        if len(self._held) > 1:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._spill = tempfile.TemporaryDirectory(dir=self._path.parent, prefix=".answers-")
        return self

    def add(self, batch: pa.RecordBatch) -> None:
        """Adds N answers."""
        if self._spill is None:
            self._held[0].append(batch)
            return
        ranges = np.searchsorted(self._bounds, batch.column(0).to_numpy(), side="right")
        for n in np.unique(ranges).tolist():
            self._writer(n).write_batch(batch.take(pa.array(np.flatnonzero(ranges == n))))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            for writer in self._writers.values():
                writer.close()
            if kind is None:
                with ParquetSink(self._path, self._schema) as sink:
                    for n in range(len(self._held)):
                        for batch in self._ordered(n):
                            sink.write(batch)
        finally:
            if self._spill is not None:
                self._spill.cleanup()

    def _writer(self, n: int) -> Any:
        if n not in self._writers:
            assert self._spill is not None
            self._writers[n] = pa.ipc.new_stream(str(Path(self._spill.name) / f"{n}.arrows"), self._schema)
        return self._writers[n]

    def _ordered(self, n: int) -> list[pa.RecordBatch]:
        if self._spill is None:
            table = pa.Table.from_batches(self._held[n], schema=self._schema)
        elif n in self._writers:
            with pa.ipc.open_stream(str(Path(self._spill.name) / f"{n}.arrows")) as stream:
                table = stream.read_all()
        else:
            return []
        order = np.argsort(table.column(0).to_numpy(), kind="stable")
        return list(table.take(pa.array(order)).to_batches(max_chunksize=16_384))
