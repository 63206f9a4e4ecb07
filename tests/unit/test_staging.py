"""Staging: files that appear whole, under names that nothing from outside can choose."""

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keld.errors import StagingError, UnsupportedSystem
from keld.failpoint import FailpointHit
from keld.ledger import nonce
from keld.staging import Staging, check_system, disk_errors, read_positions, sha256_of, write_file, write_positions

SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
RUN = "0123456789abcdef0123456789abcdef"
HOSTILE = [
    "",
    ".",
    "..",
    "../../etc",
    "a/b",
    "A" * 12,
    "abc",
    "0" * 33,
    "abcdefghij\n",
    "abcdefghi/",
    "abcdefghi\x00",
    "ａｂｃｄｅｆｇｈｉｊ",
    "~abcdefghij",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_keld_did_not_make_is_never_a_path(tmp_path: Path, name: str) -> None:
    staging = Staging(tmp_path)
    for use in (staging.run, staging.make, staging.drop, staging.run(RUN).shard):
        with pytest.raises(StagingError, match="not an id that Keld made"):
            use(name)
    assert list(tmp_path.iterdir()) == []


@given(name=st.text(max_size=40))
def test_whatever_a_name_holds_it_stays_one_step_below_the_root(name: str) -> None:
    root = Path("/root-of-staging")
    try:
        path = Staging(root).run(name).dir
    except StagingError:
        return
    assert path.parent == root
    assert path.name == name


def test_ids_that_keld_makes_are_taken(tmp_path: Path) -> None:
    files = Staging(tmp_path).make(RUN).shard(nonce())
    assert files.dir.parent.parent == tmp_path


def test_only_the_owner_may_look_into_a_job_runs_files(tmp_path: Path) -> None:
    """They hold prompts and answers."""
    assert Staging(tmp_path / "new" / "staging").make(RUN).dir.stat().st_mode & 0o777 == 0o700


def test_a_dropped_job_run_is_gone_and_can_be_dropped_again(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    write_file(staging.make(RUN).question, [b"{}"], "staging.question")
    staging.drop(RUN)
    staging.drop(RUN)
    assert list(tmp_path.iterdir()) == []


# --- whole or not at all ----------------------------------------------------------------------------------------------


@SHARED
@given(chunks=st.lists(st.binary(max_size=30), max_size=20))
def test_a_file_holds_its_chunks_and_is_named_by_its_digest(tmp_path: Path, chunks: list[bytes]) -> None:
    digest = write_file(tmp_path / "file", chunks, "staging.input")
    assert (tmp_path / "file").read_bytes() == b"".join(chunks)
    assert digest == hashlib.sha256(b"".join(chunks)).hexdigest() == sha256_of(tmp_path / "file")


def test_a_file_larger_than_a_piece_is_whole(tmp_path: Path) -> None:
    digest = write_file(tmp_path / "file", (bytes([n % 256]) * 1_000_000 for n in range(11)), "staging.input")
    assert (tmp_path / "file").stat().st_size == 11_000_000
    assert digest == sha256_of(tmp_path / "file")


@pytest.mark.parametrize("before", [None, b"what stood there"], ids=["nothing there", "something there"])
@pytest.mark.parametrize("point", ["write", "fsync", "rename"])
def test_a_fault_before_the_end_leaves_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, before: bytes | None
) -> None:
    if before is not None:
        (tmp_path / "file").write_bytes(before)
    monkeypatch.setenv("KELD_FAILPOINT", f"house.{point}:raise")
    monkeypatch.setattr("keld.failpoint._passes", Counter())
    with pytest.raises(FailpointHit):
        write_file(tmp_path / "file", [b"new"], "house")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([] if before is None else [before])


def test_a_source_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_file(tmp_path / "file", chunks(), "staging.input")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_with_what_it_meant() -> None:
    with (
        pytest.raises(StagingError, match=r"No space left on device\. This shard was not sent\.") as caught,
        disk_errors(Path("/staging"), "This shard was not sent."),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "KELD_HOME" in str(caught.value)


def test_a_file_that_is_not_there_has_no_digest(tmp_path: Path) -> None:
    assert sha256_of(tmp_path / "nothing") is None


# --- positions --------------------------------------------------------------------------------------------------------


@SHARED
@given(positions=st.sets(st.integers(0, 10**12), max_size=50))
def test_positions_are_read_back(tmp_path: Path, positions: set[int]) -> None:
    write_positions(tmp_path / "positions.npy", np.array(sorted(positions), dtype=np.int64))
    assert read_positions(tmp_path / "positions.npy").tolist() == sorted(positions)


@pytest.mark.parametrize("content", [None, b"", b"not numpy", b"\x80\x04pickle"])
def test_positions_that_cannot_be_read_say_what_to_do(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "positions.npy").write_bytes(content)
    with pytest.raises(StagingError, match="Restore the staging directory"):
        read_positions(tmp_path / "positions.npy")


def test_a_system_that_keeps_no_promise_of_staging_is_refused() -> None:
    """On Windows the question whether another worker is alive would end it."""
    check_system(os.name)
    with pytest.raises(UnsupportedSystem, match="WSL"):
        check_system("nt")
