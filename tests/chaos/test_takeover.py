"""Two real processes and a server that trickles: a worker that gets nowhere loses its job run, and the other brings it to its end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.slow_server import SlowServer, one_batch
from tests.support.ticket_job import Peer

SLOW, QUICK = "sk-slow", "sk-quick"
pytestmark = pytest.mark.slow  # each starts processes of their own

LONG_S = 300  # only against hanging
WORKER = """
import sys
from datetime import timedelta
sys.path.insert(0, {root!r})
from keld import Account, Keld, Settings
from tests.support.ticket_job import Peer, tickets, triage

key, peer = sys.argv[1], Peer(**{peer!r})
second = timedelta(seconds=1)
settings = Settings(stalled_after=second, silent_for=second, retry_unreachable=second / 4, call_within=30 * second)
account = Account(kind=peer.name, base_url={url!r}, api_key=lambda: key)
with Keld(accounts={{peer.name: account}}, settings=settings) as keld:
    keld.ledger.leases.lease_for = 3 * second
    print(keld.run(triage(peer, output_type=str), tickets(), poll_s=0.2).answered)
"""


def worker(peer: Peer, server: SlowServer, home: Path, key: str, **env: str) -> subprocess.Popen[str]:
    told = {"name": peer.name, "model": peer.model, "creates": peer.creates}
    url = server.url + ("/v1" if peer.name == "openai" else "")
    code = WORKER.format(root=str(Path(__file__).parents[2]), peer=told, url=url)
    return subprocess.Popen(
        [sys.executable, "-c", code, key], env={**os.environ, "KELD_HOME": str(home), **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_while_one_worker_meets_a_trickle_another_brings_the_job_run_to_its_end(peer: Peer, tmp_path: Path) -> None:
    """Its download is broken off, again and again, and between two tries the job run is anybody's."""
    with one_batch() as (made, server):
        made.dawdles = lambda method, route, head: route == "results" and SLOW.encode() in head
        slow = worker(peer, server, tmp_path, SLOW)
        assert made.dawdled.wait(LONG_S)
        quick = worker(peer, server, tmp_path, QUICK)
        assert quick.communicate(timeout=LONG_S)[0].strip() == "6"
        assert slow.communicate(timeout=LONG_S)[0].strip() == "6", "the first one finds it done"
    assert made.creates == 1


@pytest.mark.parametrize("point", ["download.chunk:hang"])
def test_a_worker_that_hangs_where_no_limit_reaches_loses_its_job_run(peer: Peer, tmp_path: Path, point: str) -> None:
    """A disk, a lock, a resolver: its process lives, and its heartbeat could go on for ever.  It beats only while the step gets on."""
    with one_batch() as (made, server):
        hung = worker(peer, server, tmp_path, QUICK, KELD_FAILPOINT=point)
        try:
            while not any(path.endswith(("/content", "/results")) for _, path in server.asked):
                assert hung.poll() is None, hung.communicate()
                server.over.wait(0.05)
            quick = worker(peer, server, tmp_path, QUICK)
            assert quick.communicate(timeout=LONG_S)[0].strip() == "6"
            assert hung.poll() is None, "it lives, and holds nothing"
        finally:
            hung.send_signal(signal.SIGKILL)
            hung.wait()
    assert made.creates == 1
