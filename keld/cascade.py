"""Cascade: the cheap model first; what does not satisfy is asked of the next one.

Beside `enrich`.  `accept` says which answers satisfy.  It is kept with the job run, for the worker that collects has no Python of the
user's: so it is an Arrow expression over the answer's columns, or the least a number must be, and no function.  An answer that does
not satisfy stays what the row has, until a stronger model has given another.
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

from keld.answer import Outcome, read_answers
from keld.errors import InvalidJob
from keld.schema import OutputSchema

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NOT_SATISFYING = (Outcome.INVALID.value, Outcome.REFUSED.value)  # as little as an answer that is not accepted


def serialize_accept(job: str, accept: Any, output: OutputSchema) -> str | None:
    """`accept` as text that any worker can read; None where every answer satisfies.

    Args:
        accept: a boolean Arrow expression, or the least that each named column must be; over the answer's columns.

    Raises:
        InvalidJob: it names other columns, is not a yes or no, or cannot be kept.
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
    """Which of N rows of answer columns are not accepted; a null is no yes."""
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


def levels(asked: Sequence[tuple[Path, int]], rows: int, last: int) -> NDArray[np.int64]:
    """N numbers: the first model, counted from 0, that each row has not been asked in vain; `last` at most.

    Args:
        asked: answers files, each with the number of the model that was asked.
    """
    level = np.zeros(rows, dtype=np.int64)
    for path, model in asked:
        for batch in read_answers(path, columns=["keld_position", "keld_outcome", "keld_retryable"]):
            vain = pc.and_(pc.equal(batch.column(1), Outcome.ANSWERED.value), batch.column(2))
            vain = pc.or_(vain, pc.is_in(batch.column(1), pa.array(_NOT_SATISFYING)))
            positions = batch.column(0).to_numpy()[vain.to_numpy(zero_copy_only=False)]
            level[positions] = np.maximum(level[positions], model + 1)
    return np.minimum(level, last)
