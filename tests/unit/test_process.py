"""Processes: what a dead one left is taken away, what a living one writes, or one elsewhere, is not."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from keld import process
from keld.table import write_table

ROWS = pa.table({"a": [1, 2]})
HALF = """
import os, signal, sys
import pyarrow as pa
from keld.table import write_table
def rows():
    yield from pa.table({"a": [1]}).to_batches()
    os.kill(os.getpid(), signal.SIGKILL)
write_table(sys.argv[1], pa.schema([("a", pa.int64())]), rows())
"""


def write(sink: Path) -> None:
    write_table(sink, ROWS.schema, ROWS.to_batches())


def test_what_a_killed_writer_left_beside_an_output_is_removed_by_the_next(tmp_path: Path) -> None:
    """A directory of the user's must not fill with files that nobody ever takes away."""
    killed = subprocess.run([sys.executable, "-c", HALF, str(tmp_path / "out.parquet")], check=False)
    assert killed.returncode == -9
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".keld-")
    write(tmp_path / "another.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["another.parquet"]


def test_what_may_be_a_living_writers_stays(tmp_path: Path) -> None:
    here, elsewhere = process.mark(), f"{'0' * 12}-1"
    token = "0123456789abcdef"
    names = [f".keld-{here}-{token}.tmp", f".keld-{elsewhere}-{token}.tmp", f".keld-{token}.tmp", ".keld-mine", "out.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    write(tmp_path / "out.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {*names, "out.parquet"}


def test_a_process_is_dead_only_where_its_number_means_something(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert process.is_dead(process.machine(), str(gone.pid))
    assert not process.is_dead(process.machine(), str(os.getpid()))
    assert not process.is_dead("another-host", str(gone.pid))
    assert not process.is_dead(process.machine(), "what")
    assert process.is_dead_mark(process.mark().replace(str(os.getpid()), str(gone.pid)))
