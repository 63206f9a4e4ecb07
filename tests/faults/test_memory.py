"""Results made to burst a reader: memory and disk stay bounded, whatever one line or one file unfolds to."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from keld.emulator import Emulator
from tests.support.ticket_job import Peer

_VOCABULARY_MB = 70 if find_spec("rs_bpe") else 0  # what the extra `tokens` holds in memory to count by

# A process of its own, since the peak of memory is a process's; prints it in MB, what the staging held at most, and the outcomes.
# It turns the emulator's clock: results that lack a row are fetched for ten minutes before it is asked again.
WORKER = """
import json, sys
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen
sys.path.insert(0, {root!r})
import keld.providers.download as download
from keld import Keld
from tests.support.ticket_job import Peer, tickets, triage

most = [0]
publish = download._publish
def published(part, path):
    most[0] = max(most[0], part.stat().st_size)
    return publish(part, path)
download._publish = published
def clock(body=None):
    with urlopen({url!r} + "/_keld/clock", data=body) as answer:
        return datetime.fromisoformat(json.load(answer)["now"])
with Keld(clock=clock) as keld:
    status = keld.submit(triage(Peer(**{peer!r}), output_type=str, max_output_tokens={tokens}), tickets())
    while not status.over:
        status = keld.advance(status.id)
        clock(b'{{"advance_s": 60}}')
    outcomes = keld.read(status.id).read_all().column("keld_outcome").to_pylist()
peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps([peak // 1024, most[0], outcomes]))
"""
# Fault, tokens an answer may have (which bounds what a file may weigh), and the bytes of it that may ever stand on the disk.
BURSTS: dict[str, tuple[tuple[dict[str, Any], ...], int, int]] = {
    "a line of 300 MB": (
        ({"at": "lines", "do": "huge", "count": 1, "size_mb": 300}, {"at": "lines", "do": "reorder", "order": "input"}), 64_000, 302_000_000,
    ),
    "a gzip bomb of 2 GB behind the lines": (({"at": "download", "do": "gzip_bomb", "size_mb": 2_000, "after_lines": True},), 256, 80_000_000),
    "brackets a million deep": (({"at": "lines", "do": "deep", "count": 3, "levels": 1_000_000},), 256, 20_000_000),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: the peak of memory cannot be read here")
@pytest.mark.parametrize("burst", BURSTS)
def test_no_line_and_no_file_bursts_memory_or_disk(tmp_path: Path, peer: Peer, burst: str) -> None:
    """A worker that is killed for its memory is killed again by the same file, for ever."""
    rules, tokens, most_bytes = BURSTS[burst]
    with Emulator(frozen=True, latency_s=60) as emulator:
        emulator.faults({"rules": list(rules)})
        told = {"name": peer.name, "model": peer.model, "creates": peer.creates}
        code = WORKER.format(root=str(Path(__file__).parents[2]), url=emulator.url, peer=told, tokens=tokens)
        env = {**os.environ, **emulator.env(), "KELD_HOME": str(tmp_path / "home")}
        ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    peak_mb, most, outcomes = json.loads(ended.stdout.splitlines()[-1])
    assert outcomes == ["answered"] * 6
    assert peak_mb < 300 + _VOCABULARY_MB, peak_mb
    assert most <= most_bytes
