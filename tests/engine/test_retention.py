"""Retention: what is staged goes when it is told to, and never what somebody still needs."""

import json
import os
import re
from datetime import timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from keld import Keld
from keld.cli import app
from keld.emulator import Emulator
from keld.errors import StagingError
from keld.failpoint import FailpointHit
from keld.view import removals_view
from tests.support.ticket_job import fault, finish, openai, purchases, run, tickets, triage

MONTH = timedelta(days=31)


def test_the_files_of_job_runs_that_ended_long_ago_go_and_their_spend_stays(keld: Keld, emulator: Emulator) -> None:
    old = run(keld, emulator, triage(openai), partition="2026-01-01")
    emulator.advance(MONTH)
    young = run(keld, emulator, triage(openai), partition="2026-02-01")
    [told] = keld.gc(dry_run=True)
    assert (told.run_id, told.job, told.partition) == (old.id, "triage", "2026-01-01")
    assert told.size_bytes > 1_000
    assert keld.gc() == [told]
    assert keld.staging.run_ids() == [young.id]
    assert keld.gc() == []
    assert (keld.status(old.id).cost_usd, keld.status(old.id).removed_at) == (old.cost_usd, emulator.now())


def test_what_is_under_way_is_kept_however_old_it_is(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "stuck", done=0)
    open_run = keld.submit(triage(openai), tickets())
    keld.advance(open_run.id)
    emulator.advance(MONTH)
    assert keld.gc() == []


def test_what_has_just_ended_is_kept_whatever_is_said(keld: Keld, emulator: Emulator) -> None:
    """A batch that lands late may want to be settled yet."""
    run(keld, emulator, triage(openai))
    emulator.advance(timedelta(hours=47))
    assert keld.gc(timedelta(0)) == []
    emulator.advance(timedelta(hours=2))
    assert len(keld.gc(timedelta(0))) == 1


def test_rows_that_must_not_be_asked_again_keep_the_files_that_say_so(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "create", "hidden", for_s=10**9)
    sent = keld.submit(triage(openai), tickets())
    for _ in range(15):
        status = keld.advance(sent.id)
        emulator.advance(timedelta(days=1))
    assert status.quarantined == 6
    emulator.advance(MONTH)
    assert keld.gc() == []


def test_a_partition_whose_answers_are_gone_is_not_asked_again_where_its_output_stands(
    keld: Keld, emulator: Emulator, tmp_path: Path
) -> None:
    """A cleared task of last quarter must not buy it anew."""
    sink = tmp_path / "out.parquet"
    ended = run(keld, emulator, triage(openai), sink=str(sink))
    emulator.advance(MONTH)
    keld.gc()
    again = keld.submit(triage(openai), tickets(), sink=str(sink))
    assert (again.id, again.over) == (ended.id, True)
    assert sum(purchases(emulator).values()) == 6


def test_answers_that_are_gone_are_missed_in_words(keld: Keld, emulator: Emulator, tmp_path: Path) -> None:
    ended = run(keld, emulator, triage(openai), sink=str(tmp_path / "out.parquet"))
    emulator.advance(MONTH)
    keld.gc()
    for ask in (
        lambda: keld.read(ended.id),
        lambda: keld.write(ended.id, str(tmp_path / "copy.parquet")),
        lambda: keld.submit(triage(openai), tickets(), sink=str(tmp_path / "elsewhere.parquet")),
    ):
        with pytest.raises(StagingError, match=r"removed by `keld gc` on .*were written to .*out\.parquet.*force=True"):
            ask()
    anew = finish(keld, emulator, keld.submit(triage(openai), tickets(), force=True).id)
    assert anew.answered == 6


def test_a_changed_partition_whose_answers_are_gone_is_asked_whole(keld: Keld, emulator: Emulator) -> None:
    run(keld, emulator, triage(openai))
    emulator.advance(MONTH)
    keld.gc()
    again = run(keld, emulator, triage(openai), tickets(changed=[2]))
    assert (again.reused, again.answered) == (0, 6)


def test_a_directory_that_the_ledger_does_not_know_is_told_and_left(keld: Keld, emulator: Emulator) -> None:
    """By a wrong KELD_LEDGER_URL all of them are unknown."""
    foreign = keld.staging.make("f" * 32)
    (foreign.dir / "snapshot.parquet").write_bytes(b"rows")
    os.utime(foreign.dir, (0, 0))
    [told] = keld.gc()
    assert (told.run_id, told.known, told.size_bytes) == ("f" * 32, False, 4)
    assert foreign.snapshot.exists()


def test_a_removal_that_is_killed_is_finished_by_the_next(keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = run(keld, emulator, triage(openai))
    emulator.advance(MONTH)
    monkeypatch.setenv("KELD_FAILPOINT", "gc.noted:raise")
    with pytest.raises(FailpointHit):
        keld.gc()
    assert keld.staging.run_ids() == [ended.id]
    assert len(keld.gc()) == 1
    assert keld.staging.run_ids() == []


def test_people_read_what_goes_by_job_and_what_is_left(keld: Keld, emulator: Emulator) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        run(keld, emulator, triage(openai), partition=day)
    os.utime(keld.staging.make("f" * 32).dir, (0, 0))
    emulator.advance(MONTH)
    told = Console(file=StringIO(), width=120)
    told.print(removals_view(keld.gc(dry_run=True), keld.staging.root, dry_run=True))
    text = told.file.getvalue()
    assert re.search(r"Would be removed from .*staging:", text)
    assert re.search(r"triage +2 +0\.\d", text)
    assert "Not removed: 1 directories" in text


def test_the_command_finds_nothing_in_a_young_ledger(keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    run(keld, emulator, triage(openai))
    monkeypatch.setenv("KELD_HOME", str(keld.home))
    monkeypatch.setenv("KELD_LEDGER_URL", keld.ledger_url)
    assert "Nothing is old enough" in CliRunner().invoke(app, ["gc"]).output
    assert json.loads(CliRunner().invoke(app, ["gc", "--json"]).output) == []


def test_what_dead_workers_left_half_written_goes_from_job_runs_that_stay(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "stuck", done=0)
    status = keld.submit(triage(openai), tickets())
    keld.advance(status.id)
    files = keld.staging.run(status.id)
    shard = next(path for path in files.dir.iterdir() if path.is_dir())
    (shard / ".answers-x").mkdir()
    left = [files.dir / ".keld-0123456789ab-1-0123456789abcdef.tmp", shard / ".input.jsonl.1.aa", shard / ".answers-x" / "0.arrows"]
    for path in left:
        path.write_bytes(b"half")
    for path in (*left, shard / ".answers-x"):
        os.utime(path, (emulator.now().timestamp(),) * 2)
    kept = {path for path in files.dir.rglob("*") if not any(part.startswith(".") for part in path.relative_to(files.dir).parts)}
    assert keld.gc() == []
    emulator.advance(MONTH)
    [told] = keld.gc()
    assert (told.leftover, told.size_bytes, told.run_id) == (True, 12, status.id)
    assert set(files.dir.rglob("*")) == kept
