"""Shards of a real job run: a row that no batch can hold gets its outcome, and the others are answered."""

import pyarrow as pa
import pytest

from keld import Keld
from keld.emulator import Emulator
from keld.state import RunState
from tests.support.ticket_job import openai, outcomes, run, triage


@pytest.mark.parametrize("large", [[1], [3], [0, 1, 2, 3]], ids=["in the middle", "at the end", "all"])
def test_a_row_too_large_for_any_batch_has_its_outcome_and_the_job_run_is_finished(
    keld: Keld, emulator: Emulator, large: list[int]
) -> None:
    """It must neither slip into a file that is then too large, nor look as if somebody had cancelled."""
    table = pa.table({"ticket_id": range(4), "body": ["x" * (9_000 if n in large else 9) for n in range(4)]})
    status = run(keld, emulator, triage(openai, max_shard_bytes=5_000), table)
    expected = ["unaskable" if n in large else "answered" for n in range(4)]
    assert (status.state, outcomes(keld, status)) == (RunState.FINISHED, expected)
    assert [batch.requests for batch in status.batches] == [batch.done for batch in status.batches]
