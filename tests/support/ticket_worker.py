"""Ticket worker: a process that does the tickets' job run on one account to its end, or dies at a failpoint.

A new interpreter, unlike `worker_process`: it finds the kind, also one of another package, as a user's process does.
"""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import keld as package
from keld import Account, Keld
from keld.emulator import Emulator
from keld.providers.account import TYPES
from tests.support.ticket_job import openai, tickets, triage
from tests.support.worker_process import Time

TESTS = Path(__file__).parents[1]
OTHERHOST = TESTS / "providers" / "otherhost"


def worker(
    home: Path, emulator: Emulator, kind: str, model: str, base_url: str = "", point: str | None = None
) -> subprocess.CompletedProcess[str]:
    """What became of the process; where it came to its end, it said state, answered rows and rows in doubt.

    Args:
        base_url: of the account; "": the kind's own.
        point: where it is killed.
    """
    path = os.pathsep.join([str(TESTS.parent), str(OTHERHOST), str(Path(package.__file__).parent.parent)])
    env = {**os.environ, **emulator.env(), "PYTHONPATH": path} | ({"KELD_FAILPOINT": f"{point}:kill9"} if point else {})
    command = [sys.executable, "-m", __name__, home, emulator.url, kind, model, base_url]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def main(home: str, url: str, kind: str, model: str, base_url: str) -> None:
    time, models = Time(url), f"mine:{model}"
    account = TYPES.get(kind, Account)(kind=kind, base_url=base_url or None)
    with Keld(home=home, clock=time, accounts={"mine": account}) as keld:
        job = triage(openai, models=models, prices={models: {"input": 1, "output": 2}})
        status = keld.submit(job, tickets(), sink=str(Path(home) / "out.parquet"))
        for _ in range(80):
            status = keld.advance(status.id)
            if status.over:
                break
            time.advance(max((status.next_check_at or time()) - time(), timedelta(seconds=1)))
        in_doubt = sum(shard.error.rows for shard in keld.ledger.shards(status.id) if shard.error is not None)
        print(status.state.value, status.answered, in_doubt)


if __name__ == "__main__":
    main(*sys.argv[1:])
