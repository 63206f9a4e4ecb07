"""Ticket worker: a process that does the tickets' job run on one account to its end, or dies at a failpoint.

Unlike that of `worker_process` it knows no scenario, and its account may be of any kind, also one of another package.
"""

import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from keld import Account, Keld
from keld.emulator import Emulator
from keld.providers.account import TYPES
from tests.support.ticket_job import openai, tickets, triage
from tests.support.worker_process import Time, server

OTHERHOST = Path(__file__).parents[1] / "providers" / "otherhost"


@dataclass(frozen=True)
class Ended:
    """What became of a worker; where it came to its end, it said state, answered rows and rows in doubt."""

    exitcode: int | None
    said: list[str]


def worker(home: Path, emulator: Emulator, kind: str, model: str, base_url: str = "", point: str | None = None) -> Ended:
    """A worker when it has ended.

    Args:
        base_url: of the account; "": the kind's own.
        point: where it is killed.
    """
    env = emulator.env() | ({"KELD_FAILPOINT": f"{point}:kill9"} if point else {})
    said = home / "said"
    process = server().Process(target=_work, args=(said, env, home, emulator.url, kind, model, base_url))
    process.start()
    process.join(120)
    return Ended(process.exitcode, said.read_text().split() if said.exists() else [])


def _work(said: Path, env: dict[str, str], home: Path, url: str, kind: str, model: str, base_url: str) -> None:
    os.environ.update(env)
    sys.path.insert(0, str(OTHERHOST))
    time, models = Time(url), f"mine:{model}"
    account = TYPES.get(kind, Account)(kind=kind, base_url=base_url or None)
    with Keld(home=home, clock=time, accounts={"mine": account}) as keld:
        job = triage(openai, models=models, prices={models: {"input": 1, "output": 2}})
        status = keld.submit(job, tickets(), sink=str(home / "out.parquet"))
        for _ in range(80):
            status = keld.advance(status.id)
            if status.over:
                break
            time.advance(max((status.next_check_at or time()) - time(), timedelta(seconds=1)))
        in_doubt = sum(shard.error.rows for shard in keld.ledger.shards(status.id) if shard.error is not None)
        said.write_text(f"{status.state.value} {status.answered} {in_doubt}")
