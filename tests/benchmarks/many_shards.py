"""Many shards: what the steps of one job run cost as its shards become more; each shard holds one row.

`python -m tests.benchmarks.many_shards SHARDS...` prints, as JSON, the milliseconds of the worker's own processor time a shard to submit and to collect,
and of one look at all of them; the emulator is a thread beside it, whose time is not counted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from keld import Job, Keld
from keld.emulator import Emulator


def measure(shards: int) -> dict[str, float]:
    """Milliseconds of processor time: a shard to submit, a shard to collect, and of a look that finds nothing changed."""
    logging.disable(logging.CRITICAL)
    with TemporaryDirectory() as home, Emulator(frozen=True, latency_s=600) as emulator:
        os.environ.update(emulator.env())
        with Keld(home=Path(home), clock=emulator.now) as keld:
            job = Job(name="many", key="id", prompt="Repeat {body}", models=["openai:gpt-5-mini"], output_type=str, max_shard_rows=1)
            rows = [{"id": n, "body": f"text {n}"} for n in range(shards)]
            keld.plan(job, rows[:1])  # loads what the first use loads
            run_id = keld.submit(job, rows).id
            submit = _ms(lambda: keld.advance(run_id, budget_s=3600))
            keld.advance(run_id)  # the first look, which also checks the creates
            look = _ms(lambda: keld.advance(run_id))
            emulator.advance(700)
            collect = _ms(lambda: keld.advance(run_id, budget_s=3600))
            assert keld.status(run_id).over
    return {"submit_ms_a_shard": submit / shards, "collect_ms_a_shard": collect / shards, "look_ms": look}


def _ms(act: Callable[[], object]) -> float:
    began = time.thread_time()
    act()
    return (time.thread_time() - began) * 1000


if __name__ == "__main__":
    print(json.dumps({count: measure(count) for count in map(int, sys.argv[1:])}))
