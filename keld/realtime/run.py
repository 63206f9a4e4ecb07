"""Run: the rows of one shard without a line in its journal, asked one by one, and the result.

Beside the road, below `runner`.  A run sends one HTTP request for each row, and ends when all rows have a line, when it is asked to
stop, or when more requests would also fail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from keld.errors import InvalidJob, KeldError
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.encoder import Encoder, Reader
from keld.providers.envelope import in_doubt_line
from keld.providers.pack import packs
from keld.providers.provider import Provider
from keld.realtime.ending import Stopped
from keld.realtime.journal import Journal
from keld.realtime.journal_file import JournalFile
from keld.realtime.journal_segments import JournalSegments
from keld.realtime.loop import Loop
from keld.realtime.options import Options, Time
from keld.request import custom_id
from keld.stored import Segments

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("keld")
_T = TypeVar("_T")


class RealtimeRun(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a realtime run.  Rows are counted over the whole journal, whichever run wrote them; the rest is of this run."""

    answered: int  # paid
    refused: int  # permanently, by the provider; not paid
    in_doubt: int  # requests that may have been paid and have no answer: without a reply, or in flight at a kill
    undone: NDArray[np.int64]  # the positions without a line, ascending: not paid
    stopped: Stopped
    problem: KeldError | None  # what a person has to correct
    unanswered: str | None  # why the latest request got no answer, if none was answered since
    retry_after_s: float | None  # if there is no capacity and the provider names a wait
    seconds: float
    rows_per_s: float  # rows that got a line
    rejected: int  # requests that met a rate limit, an overload or no connection
    at_once: int  # the most requests in flight together
    settled_at: int  # the number at once with which a later run of the same model does well to begin


def run_realtime(
    provider: Provider,
    encoder: Encoder,
    reader: Reader,
    lane: Lane,
    nonce: str,
    positions: NDArray[np.int64],
    fragments: Callable[[NDArray[np.int64]], Iterator[tuple[int, bytes]]],
    journal: Path | Segments,
    *,
    apart: Collection[int] = (),
    should_stop: Callable[[], bool] = lambda: False,
    options: Options | None = None,
    clock: Time | None = None,
) -> RealtimeRun:
    """The result after the rows without a line in the journal were asked.

    Args:
        encoder, reader, nonce: of the shard; the lines' custom_ids are made of the nonce.
        positions: ascending, unique.
        fragments: (position, prompt fragment) of the positions it is given, in order; read as requests begin.
        journal: a file, or numbered objects; `answer.judge_results` reads its answers with `reader.journal` when the shard has ended.
        apart: the positions of rows that share no request with others.
        should_stop: True: no new request begins.  Called before each request and about every second until the end, so it must be cheap; an error
            that it raises ends the run in the same way, and is raised at the end.

    Raises:
        InvalidJob: the provider does not sell this lane.
        LeaseLost: another worker holds the journal, or has taken it over.
        OSError, StagingError: the journal cannot be written.  Answers in it are kept; the rows whose answers could not be written are in doubt.
    """
    if lane not in provider.traits.lanes - {Lane.BATCH}:
        raise InvalidJob(f"{provider.name} has no {lane.value} lane for single requests. Nothing was sent.")
    with open_journal(journal, nonce, reader) as kept:
        _settle(nonce, kept, provider.traits.repeats_cost)
        left = _without(positions, kept.settled)
        rows = packs(fragments(left), provider.pack_of(encoder, lane), apart)
        loop = Loop(provider, encoder, reader, lane, nonce, rows, kept, should_stop, options or Options(), clock or Time())
        log.info("realtime.begun shard=%s lane=%s rows=%d in_doubt=%d", nonce, lane.value, len(left), kept.in_doubt)
        _run(loop.all)
        in_doubt = kept.in_doubt if provider.traits.repeats_cost else 0
        return _result(loop, kept, nonce, _without(positions, kept.settled), in_doubt)


def open_journal(journal: Path | Segments, nonce: str, reader: Reader) -> Journal:
    """A shard's journal, open for its only writer.

    Raises:
        LeaseLost, OSError, StagingError: see `JournalFile`, `JournalSegments`.
    """
    if isinstance(journal, Path):
        return JournalFile(journal, nonce, reader.journal)
    return JournalSegments(journal, nonce, reader.journal)


def settle_doubts(reader: Reader, nonce: str, journal: Path | Segments, *, repeats_cost: bool = True) -> int:
    """The number of requests of the journal that may have been paid without an answer; each row that was in flight when its worker died gets a line for it.

    Args:
        repeats_cost: as in `Traits`; if not, nothing was paid, and the row counts as not asked.
    """
    with open_journal(journal, nonce, reader) as kept:
        _settle(nonce, kept, repeats_cost)
        return kept.in_doubt if repeats_cost else 0


def _settle(nonce: str, kept: Journal, repeats_cost: bool) -> None:
    if repeats_cost:
        _run(lambda: _settle_doubts(nonce, kept))
    else:
        kept.forget_open()


async def _settle_doubts(nonce: str, kept: Journal) -> None:
    # They may be paid: as after a lost reply, only a next round may ask again, if the ceiling allows it.
    for position in kept.left_open:
        line = in_doubt_line(custom_id(nonce, position), "in flight when its worker died: it may have been paid")
        await kept.keep({position: line}, Outcome.LOST)


def _result(loop: Loop, kept: Journal, nonce: str, undone: NDArray[np.int64], in_doubt: int) -> RealtimeRun:
    seconds, ending = loop.seconds, loop.ending
    stopped = ending.stopped or (Stopped.NO_CAPACITY if len(undone) else Stopped.DONE)
    log.info("realtime.ended shard=%s why=%s lines=%d undone=%d s=%.1f", nonce, stopped.value, loop.lines, len(undone), seconds)
    return RealtimeRun(
        answered=kept.answered,
        refused=kept.refused,
        in_doubt=in_doubt,
        undone=undone,
        stopped=stopped,
        problem=ending.problem,
        unanswered=ending.unanswered,
        retry_after_s=ending.retry_after_s,
        seconds=seconds,
        rows_per_s=loop.lines / seconds if seconds else 0.0,
        rejected=loop.rejections,
        at_once=loop.at_once,
        settled_at=loop.settled_at,
    )


def _without(positions: NDArray[np.int64], settled: set[int]) -> NDArray[np.int64]:
    if not settled:
        return positions
    return positions[~np.isin(positions, np.fromiter(settled, dtype=np.int64, count=len(settled)))]


def _run(work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """The result of `work` in a new event loop; in a new thread if this one has a loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work())
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(lambda: asyncio.run(work())).result()
