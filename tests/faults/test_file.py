"""A disk that fails, and keys that look like paths: the last good state stays, nothing is written outside of its folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keld import Keld, KeldError, failpoint
from keld.emulator import Emulator
from keld.staging import Staging, StagingError
from keld.table import open_table, write_table
from tests.support.ticket_job import Peer, check_promise, creates, finish, openai, tickets, triage

# --- a disk that fails ------------------------------------------------------------------------------------------------

WRITES = (
    "snapshot.write", "staging.question.write", "staging.question.fsync", "staging.question.rename", "staging.positions.write",
    "staging.positions.fsync", "staging.positions.rename", "staging.input.write", "staging.input.fsync", "staging.input.rename",
    "download.request", "download.chunk", "download.rename", "sink.write", "sink.written",
)  # fmt: skip
FAILING = [
    pytest.param(point, action, id=f"{point}-{action}", marks=() if (n + m) % 3 == 0 else pytest.mark.slow)
    for n, point in enumerate(WRITES)
    for m, action in enumerate(("enospc", "eio"))
]


@pytest.mark.share(2)
@pytest.mark.parametrize(("point", "action"), FAILING)
def test_a_failing_disk_is_told_keeps_what_was_and_costs_nothing_twice(
    open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, point: str, action: str
) -> None:
    """At every place that writes: the output absent or whole, the error in words, and the same command goes on afterwards."""
    sink = tmp_path / "out.parquet"
    pq.write_table(pa.table({"before": [1]}), sink)
    monkeypatch.setenv("KELD_FAILPOINT", f"{point}:{action}")
    failpoint._passes.clear()
    with pytest.raises(Exception) as failed:
        finish(open_keld(), emulator, open_keld().submit(triage(peer), tickets(), sink=sink).id)
    assert isinstance(failed.value, KeldError | OSError)
    assert pq.read_table(sink).num_rows in (1, 6)
    monkeypatch.delenv("KELD_FAILPOINT")
    again = open_keld()
    status = finish(again, emulator, again.submit(triage(peer), tickets(), sink=sink).id)
    assert pq.read_table(sink).num_rows == 6
    assert len(creates(emulator, peer)) == 1
    check_promise(again, emulator, status, tickets())
    if not point.startswith("sink."):  # those stand around the writer, whose own faults are put into words by `table`
        assert isinstance(failed.value, KeldError), f"{failed.value!r} was not put into words"
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".parquet" and path != sink], "half a file was left"


# --- keys that look like paths ----------------------------------------------------------------------------------------

ODD = (
    "../../x", "/etc/passwd", "..", ".", "", "a/b", "a\\b", "nul\0byte", "x" * 300, "\ud800", "CON", "NUL.txt", "line\nbreak", "\u202e", "😀" * 60,
    "%2e%2e%2f", "{partition}", "C:\\x", "~root", "-rf", " ", "a" * 149 + "é", "file:///x", "s3://b/x", "tab\t", "|", "*",
)  # fmt: skip


@pytest.mark.parametrize("key", ODD, ids=ascii)
@pytest.mark.parametrize("template", ["out/{partition}.parquet", "out/{partition}/", "out/", "{partition}.csv"])
def test_a_partitions_key_never_leads_out_of_its_folder(tmp_path: Path, key: str, template: str) -> None:
    """Keys come from orchestrators, and there from tables."""
    check_inside(tmp_path, key, template)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.text(st.characters(exclude_categories=()), max_size=400))
@example("\ud800/../x")
def test_no_text_as_a_key_leads_out_of_its_folder(tmp_path: Path, key: str) -> None:
    """Whatever it is: one file inside the folder that can be read again by the same key, or an error in words."""
    check_inside(tmp_path, key, "out/{partition}.parquet")


def check_inside(folder: Path, key: str, template: str) -> None:
    root = folder / "deep" / "root"
    before = set(folder.rglob("*"))
    table = pa.table({"a": [1]})
    try:
        written = write_table(f"{root}/{template}", table.schema, table.to_batches(), partition=key)
    except KeldError:
        assert not [path for path in folder.rglob("*") if path.is_file() and path not in before]
        return
    made = [path for path in folder.rglob("*") if path.is_file() and path not in before]
    assert all(path.resolve().is_relative_to(root.resolve()) for path in made)
    assert len(made) <= 1
    if template != "out/":
        assert sum(batch.num_rows for batch in open_table(f"{root}/{template}", partition=key).batches()) == 1
    for path in made:
        path.unlink()
    assert written.rows == 1


def test_a_job_run_takes_any_key_as_partition_or_says_no_before_it_pays(
    keld: Keld, emulator: Emulator, tmp_path: Path, ledger_url: str
) -> None:
    """From the declaration to the ledger, either database; its files in staging are named by ids of our own."""
    for key in ODD:
        check_run(keld, emulator, tmp_path, key)


def check_run(keld: Keld, emulator: Emulator, tmp_path: Path, key: str) -> None:
    sink = f"{tmp_path}/tables/out/{{partition}}.parquet"
    try:
        status = keld.submit(triage(openai), tickets(2), partition=key, sink=sink)
    except KeldError:
        assert emulator.requests() == []
        assert "\0" in key or "\ud800" in key or not key
        return
    assert keld.find("triage", key).id == status.id  # type: ignore[union-attr]
    keld.cancel(status.id)
    assert finish(keld, emulator, status.id).partition == key
    home, tables = keld.home.resolve(), (tmp_path / "tables").resolve()
    outside = [
        path
        for path in tmp_path.rglob("*")
        if path.is_file() and not {home, tables} & {*path.resolve().parents} and "ledger" not in path.name
    ]
    assert outside == []


@pytest.mark.parametrize("name", ["../x", "/etc", "..", "", "a/b", "a\0b", "é" * 10, "X" * 32, "a" * 33, "\ud800" * 10])
def test_staging_takes_no_name_that_keld_did_not_make(tmp_path: Path, name: str) -> None:
    """No text of a provider's or a table's can become a path."""
    with pytest.raises(StagingError):
        Staging(tmp_path).run(name)
    with pytest.raises(StagingError):
        Staging(tmp_path).run("a" * 32).shard(name)


def test_ids_of_rows_that_look_like_paths_are_data(keld: Keld, emulator: Emulator, peer: Peer, tmp_path: Path) -> None:
    """A row's key goes to no file name, and not to the provider."""
    rows = [key for key in ODD if key.isprintable() and key]
    table = pa.table({"ticket_id": rows, "body": [f"b{n}" for n in range(len(rows))]})
    status = finish(keld, emulator, keld.submit(triage(peer), table).id)
    check_promise(keld, emulator, status, table)
    names = {part for path in tmp_path.rglob("*") for part in path.relative_to(tmp_path).parts}
    assert not names & set(rows)


def test_a_sink_that_cannot_be_is_refused_before_anything_is_sent(keld: Keld, emulator: Emulator) -> None:
    """The answers would be paid for, and have nowhere to go."""
    sinks: list[Any] = ["out.xlsx", "out\0.parquet", "/proc/no/such/{partition}.parquet"]
    for sink in sinks:
        try:
            status = keld.submit(triage(openai, name=f"job{sinks.index(sink)}"), tickets(), sink=sink)
        except KeldError as refused:
            assert str(refused)
            continue
        keld.cancel(status.id)
        with pytest.raises(KeldError):
            finish(keld, emulator, status.id)
    assert emulator.requests() == []
