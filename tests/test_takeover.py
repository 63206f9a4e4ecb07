"""Two real processes and a server that trickles: a worker that gets nowhere loses its job run, and the other brings it to its end."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from scene import Peer
from slow_server import BODY, SlowServer, slow_server

SLOW, QUICK = "sk-slow", "sk-quick"
LONG_S = 300  # only against hanging
WORKER = """
import sys
from datetime import timedelta
sys.path.insert(0, {tests!r})
from keld import Account, Keld, Settings
from scene import Peer, tickets, triage

key, peer = sys.argv[1], Peer(**{peer!r})
second = timedelta(seconds=1)
settings = Settings(stalled_after=second, silent_for=second, retry_unreachable=second / 4, call_within=30 * second)
account = Account(kind=peer.name, base_url={url!r}, api_key=lambda: key)
with Keld(accounts={{peer.name: account}}, settings=settings) as keld:
    keld.ledger.lease_for = 3 * second
    print(keld.run(triage(peer, output_type=str), tickets(), poll_s=0.2).answered)
"""


class Batches:
    """As much of either provider as one batch needs; the results trickle to those who come with the slow key."""

    def __init__(self) -> None:
        self.custom_ids: list[str] = []
        self.creates = 0
        self.trickles = threading.Event()
        self.url = ""

    def answer(self, method: str, path: str, head: bytes, body: bytes) -> bytes | None:
        found = [one.decode() for one in re.findall(rb'"custom_id":"([^"]+)"', body)]
        self.custom_ids = found or self.custom_ids
        route = path.partition("?")[0].rstrip("/")
        if route.endswith(("/content", "/results")):
            if SLOW.encode() in head:
                self.trickles.set()
                return None
            return b"".join(map(self.line, self.custom_ids))
        if method == "POST" and route.endswith("/batches"):
            self.creates += 1
        if method == "GET" and route.endswith("/batches"):
            told: object = {"data": [self.batch()] if self.creates else [], "has_more": False}
        elif "/files" in route:
            told = {"id": "file-1"}
        else:
            told = self.batch()
        return json.dumps(told).encode()

    def batch(self) -> dict[str, object]:
        now, n = datetime.now(UTC), len(self.custom_ids)
        openai = {"status": "completed", "output_file_id": "file-2", "input_file_id": "file-1"}
        anthropic = {"processing_status": "ended", "results_url": f"{self.url}/v1/messages/batches/batch_1/results"}
        counts = {"total": n, "completed": n, "failed": 0, "processing": 0, "succeeded": n, "errored": 0, "canceled": 0, "expired": 0}
        return {"id": "batch_1", "created_at": now.isoformat(), "request_counts": counts, **openai, **anthropic}

    def line(self, custom_id: str) -> bytes:
        body = {"choices": [{"message": {"content": "good"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
        message = {
            "content": [{"type": "text", "text": "good"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 5, "output_tokens": 1},
        }
        told = {"custom_id": custom_id, "response": {"status_code": 200, "body": body}, "result": {"type": "succeeded", "message": message}}
        return json.dumps(told).encode() + b"\n"


@contextmanager
def batches() -> Iterator[tuple[Batches, SlowServer]]:
    made = Batches()
    with slow_server(BODY, made.answer) as server:
        made.url = server.url
        yield made, server


def worker(peer: Peer, server: SlowServer, home: Path, key: str, **env: str) -> subprocess.Popen[str]:
    told = {"name": peer.name, "model": peer.model, "creates": peer.creates}
    url = server.url + ("/v1" if peer.name == "openai" else "")
    code = WORKER.format(tests=str(Path(__file__).parent), peer=told, url=url)
    return subprocess.Popen(
        [sys.executable, "-c", code, key], env={**os.environ, "KELD_HOME": str(home), **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_while_one_worker_meets_a_trickle_another_brings_the_job_run_to_its_end(peer: Peer, tmp_path: Path) -> None:
    """Its download is broken off, again and again, and between two tries the job run is anybody's."""
    with batches() as (made, server):
        slow = worker(peer, server, tmp_path, SLOW)
        assert made.trickles.wait(LONG_S)
        quick = worker(peer, server, tmp_path, QUICK)
        assert quick.communicate(timeout=LONG_S)[0].strip() == "6"
        assert slow.communicate(timeout=LONG_S)[0].strip() == "6", "the first one finds it done"
    assert made.creates == 1


@pytest.mark.parametrize("point", ["download.chunk:hang"])
def test_a_worker_that_hangs_where_no_limit_reaches_loses_its_job_run(peer: Peer, tmp_path: Path, point: str) -> None:
    """A disk, a lock, a resolver: its process lives, and its heartbeat could go on for ever.  It beats only while the step gets on."""
    with batches() as (made, server):
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
