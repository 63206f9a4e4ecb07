"""Cascade: the cheap model first; rows whose answer is not accepted are asked of the next one.

Beside `enrich`.  `accept` says which answers are accepted.  It is kept with the job run, because the worker that collects does not have the
user's Python code: so it is an Arrow expression over the answer's columns, or a minimum for each, and no function.  A row keeps an answer
that is not accepted until a stronger model has given another.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache, reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from keld.answer import read_answers
from keld.errors import InvalidJob
from keld.outcome import Outcome
from keld.row_set import RowSet
from keld.schema import OutputSchema

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOT_SATISFYING = (Outcome.INVALID.value, Outcome.REFUSED.value)  # counts like an answer that is not accepted


def serialize_accept(job: str, accept: Any, output: OutputSchema) -> str | None:
    """`accept` as text that any worker can read; None if every answer is accepted.

    Args:
        accept: a boolean Arrow expression over the answer's columns, or the minimum of each named column.

    Raises:
        InvalidJob: it names other columns, is not boolean, or cannot be serialized.
    """
    if accept is None:
        return None
    from pyarrow import substrait

    wanted = reduce(and_, (pc.field(name) >= least for name, least in accept.items())) if isinstance(accept, Mapping) else accept
    try:
        serialized = substrait.serialize_expressions([wanted], ["accept"], output.columns)
        text = base64.b64encode(serialized).decode()
        unsatisfied(pa.RecordBatch.from_pylist([], schema=output.columns), text)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidJob(
            f"{job}: accept= cannot be used: {error}. It is a yes or no over the answer's columns ({', '.join(output.columns.names)}), "
            "e.g. accept=pc.field('confidence') >= 0.8, or accept={'confidence': 0.8}. Nothing was sent.",
            job=job,
            field="accept",
        ) from None
    return text


def unsatisfied(answers: pa.RecordBatch, serialized: str) -> NDArray[np.bool_]:
    """Which of N rows of answer columns are not accepted; a null counts as not accepted."""
    from pyarrow import dataset

    found = dataset.dataset(pa.Table.from_batches([answers])).to_table(columns={"accept": _deserialized(serialized)}).column("accept")
    if not pa.types.is_boolean(found.type):
        raise pa.ArrowInvalid(f"it gives {found.type}, not yes or no")
    satisfied: NDArray[np.bool_] = pc.fill_null(found, False).to_numpy()
    return ~satisfied


@cache
def _deserialized(serialized: str) -> Any:
    from pyarrow import substrait

    return substrait.deserialize_expressions(base64.b64decode(serialized)).expressions["accept"]


def levels(asked: Sequence[tuple[Path, int]], rows: int, last: int) -> list[RowSet]:
    """For each model up to number `last`: the rows to ask it next.

    Args:
        asked: answers files, each with the number of the model that was asked.
    """
    reached = [RowSet(rows) for _ in range(last + 1)]
    for path, model in asked:
        for batch in read_answers(path, columns=["keld_position", "keld_outcome", "keld_retryable"]):
            vain = pc.and_(pc.equal(batch.column(1), Outcome.ANSWERED.value), batch.column(2))
            vain = pc.or_(vain, pc.is_in(batch.column(1), pa.array(_NOT_SATISFYING)))
            reached[min(model + 1, last)].add(batch.column(0).to_numpy()[vain.to_numpy(zero_copy_only=False)])
    found, higher = [], RowSet(rows)
    for here in reversed([RowSet.all(rows), *reached[1:]]):
        found.append(here - higher)
        higher |= here
    return found[::-1]
