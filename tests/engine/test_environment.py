"""The verbs of `Keld`: one job run a partition whoever asks, nothing bought twice, nothing told that must not be."""

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from upath import UPath

from keld import Account, Keld, KeldError, Settings
from keld.emulator import Emulator
from keld.errors import AccessRefused, InvalidJob, ProviderUnreachable, SinkError, SourceError, UnknownJobRun
from keld.state import RunState
from keld.table import try_sink
from tests.support.ticket_job import (
    SYSTEM,
    Peer,
    anthropic,
    billed_usd,
    check_promise,
    creates,
    fault,
    finish,
    ledger_dump,
    openai,
    outcomes,
    purchases,
    run,
    tickets,
    triage,
)

pytestmark = pytest.mark.by_turns

QUOTED_ROW = "CANARY-ROW ticket 1: the invoice is wrong"
QUOTED_KEY = "Bearer sk-canary-key-0123456789"


# --- where it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value"), [("KELD_HOME", "~/keld"), ("KELD_LEDGER_URL", "sqlite:///~/keld/ledger.db"), ("KELD_STAGING", "")]
)
def test_a_variable_means_the_same_whether_a_shell_or_a_file_of_variables_set_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    """`docker --env-file` and systemd's `EnvironmentFile` leave `~` as it is, and Compose gives `${KELD_STAGING:-}` as an empty text."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "keld"))
    monkeypatch.delenv("KELD_LEDGER_URL", raising=False)
    monkeypatch.setenv(variable, value)
    with Keld() as keld:
        assert (keld.home, keld.ledger_url) == (tmp_path / "keld", f"sqlite:///{tmp_path}/keld/ledger.db")
        assert keld.statuses() == []


# --- identity ---------------------------------------------------------------------------------------------------------


def test_an_open_run_is_attached_to_not_doubled(
    keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, ledger_url: str
) -> None:
    """A retry, a clear, a second daemon: they all find the same job run."""
    first = keld.submit(triage(peer), tickets())
    keld.advance(first.id)
    again = open_keld().submit(triage(peer), tickets())
    assert again.id == first.id
    done = finish(keld, emulator, first.id)
    assert len(creates(emulator, peer)) == 1
    check_promise(keld, emulator, done, tickets())


def test_a_run_under_way_owns_what_was_asked(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """An upstream that is made again while the provider works changes nothing under way."""
    first = keld.submit(triage(peer), tickets())
    keld.advance(first.id)
    assert keld.submit(triage(peer), tickets(changed=[0])).id == first.id
    check_promise(keld, emulator, finish(keld, emulator, first.id), tickets())


def test_a_run_of_which_nothing_was_sent_is_planned_anew_when_the_table_changed(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """It costs nothing to start again."""
    first = keld.submit(triage(peer), tickets())
    second = keld.submit(triage(peer), tickets(changed=[0]))
    assert second.id != first.id
    check_promise(keld, emulator, finish(keld, emulator, second.id), tickets(changed=[0]))


def test_a_finished_run_asked_again_buys_nothing(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """Re-materialising a partition is free."""
    first = run(keld, emulator, triage(peer))
    before = len(emulator.requests())
    second = run(keld, emulator, triage(peer))
    assert second.id == first.id
    assert len(emulator.requests()) == before
    check_promise(keld, emulator, second, tickets())


def test_changed_rows_pay_only_for_the_changed(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """What was answered once, to the same question, is not asked again."""
    run(keld, emulator, triage(peer))
    second = run(keld, emulator, triage(peer), tickets(changed=[1, 4]))
    assert second.generation == 2
    assert second.reused == 4
    assert outcomes(keld, second) == ["answered"] * 6
    assert purchases(emulator) == Counter({0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1})


def test_rows_that_only_moved_are_not_asked_again(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A row is known by what is asked, not by where it stands."""
    first = run(keld, emulator, triage(peer))
    backwards = tickets().take(pa.array([5, 4, 3, 2, 1, 0]))
    second = run(keld, emulator, triage(peer), backwards)
    answers = [keld.read(status.id).read_all().column("category").to_pylist() for status in (first, second)]
    assert answers[0] == answers[1][::-1]
    assert len(emulator.bill()) == 6


def test_rows_without_an_answer_are_asked_again_in_the_next_generation(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A failed row was not paid; the answered ones were."""
    fault(emulator, "rows", "error", status=400, count=2)
    run(keld, emulator, triage(peer))
    second = run(keld, emulator, triage(peer))
    assert outcomes(keld, second) == ["answered"] * 6
    assert set(purchases(emulator).values()) == {1}


@pytest.mark.parametrize("change", [{"system": "Another."}, {"params": {"temperature": 1}}, {"max_output_tokens": 99}], ids=str)
def test_another_question_is_asked_of_every_row(keld: Keld, emulator: Emulator, peer: Peer, change: dict[str, Any]) -> None:
    """An answer to another question is no answer to this one."""
    run(keld, emulator, triage(peer))
    second = run(keld, emulator, triage(peer, **change))
    assert second.reused == 0
    assert len(emulator.bill()) == 12


def test_force_asks_every_row_anew(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """The user's own word is the only way to pay twice."""
    run(keld, emulator, triage(peer))
    second = run(keld, emulator, triage(peer), force=True)
    assert second.reused == 0
    assert set(purchases(emulator).values()) == {2}


def test_partitions_namespaces_and_jobs_are_runs_of_their_own(keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """Identity is (namespace, job, partition), and nothing else."""
    job = triage(openai)
    ids = {keld.submit(job, tickets(), partition=day).id for day in ("2026-11-19", "2026-11-20", None)}
    ids.add(open_keld(namespace="other").submit(job, tickets()).id)
    ids.add(keld.submit(triage(openai, name="other"), tickets()).id)
    assert len(ids) == 5


def test_a_cancelled_run_asked_again_asks_only_what_is_left(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """What was paid before the cancel is kept for the next generation."""
    first = keld.submit(triage(peer), tickets(10))
    keld.advance(first.id)
    emulator.advance(30)
    keld.cancel(first.id)
    finish(keld, emulator, first.id)
    second = run(keld, emulator, triage(peer), tickets(10))
    assert second.reused + second.requests == 10
    assert outcomes(keld, second) == ["answered"] * 10
    assert set(purchases(emulator).values()) == {1}


# --- many workers -----------------------------------------------------------------------------------------------------


def test_two_environments_advancing_one_run_buy_once(
    open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, ledger_url: str
) -> None:
    """Sensors, workers and people may all call at once; one holds the lease, the others go home."""
    table = tickets(12)
    keld = open_keld()
    status = keld.submit(triage(peer, max_shard_rows=3), table)
    workers = [open_keld() for _ in range(4)]
    start = threading.Barrier(len(workers))

    def advance(worker: Keld) -> None:
        start.wait(30)
        for _ in range(3):
            worker.advance(status.id)

    with ThreadPoolExecutor(len(workers)) as pool:
        for _ in range(4):
            list(pool.map(advance, workers))
            emulator.advance(30)
    done = finish(keld, emulator, status.id)
    assert len(creates(emulator, peer)) == 4
    check_promise(keld, emulator, done, table)


def test_two_submits_at_once_make_one_run(open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """The second finds what the first has made."""
    workers = [open_keld() for _ in range(4)]
    start = threading.Barrier(len(workers))

    def submit(worker: Keld) -> str:
        start.wait(30)
        return worker.submit(triage(peer), tickets()).id

    with ThreadPoolExecutor(len(workers)) as pool:
        ids = set(pool.map(submit, workers))
    assert len(ids) == 1
    check_promise(workers[0], emulator, finish(workers[0], emulator, ids.pop()), tickets())


def test_a_worker_that_lost_its_lease_writes_and_sends_nothing(open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer) -> None:
    """Frozen for longer than its lease, it wakes up in the middle of a step that another one has done."""
    slow, quick = open_keld(), open_keld()
    status = slow.submit(triage(peer), tickets())
    real = slow.provider(peer.name).upload

    def upload(path: Path, key: str) -> str | None:
        emulator.advance(timedelta(minutes=10))
        quick.advance(status.id)
        return real(path, key)

    slow.provider(peer.name).upload = upload  # type: ignore[method-assign]  # the moment at which the worker stands still
    slow.advance(status.id)
    done = finish(quick, emulator, status.id)
    assert len(creates(emulator, peer)) == 1
    check_promise(quick, emulator, done, tickets())


# --- the output -------------------------------------------------------------------------------------------------------


def test_the_output_is_absent_until_it_is_whole(keld: Keld, emulator: Emulator, peer: Peer, tmp_path: Path) -> None:
    """A reader downstream must never see half a partition."""
    sink = tmp_path / "out.parquet"
    status = keld.submit(triage(peer, max_shard_rows=2), tickets(), sink=sink)
    while not status.over:
        assert not sink.exists()
        status = keld.advance(status.id)
        emulator.advance(10)
    assert pq.read_table(sink).equals(keld.read(status.id).read_all())


def test_an_output_that_cannot_be_written_can_be_written_later(keld: Keld, emulator: Emulator, peer: Peer, tmp_path: Path) -> None:
    """The answers are safe; only the write is repeated."""
    folder = tmp_path / "sinks"
    folder.mkdir()
    status = keld.submit(triage(peer), tickets(), sink=folder / "out.parquet")
    keld.advance(status.id)
    emulator.advance(60)
    folder.rmdir()
    folder.write_text("a file where the directory was")
    with pytest.raises(SinkError):
        keld.advance(status.id)
    folder.unlink()
    folder.mkdir()
    done = finish(keld, emulator, status.id)
    assert pq.read_table(folder / "out.parquet").num_rows == 6
    check_promise(keld, emulator, done, tickets())


@pytest.fixture
def stuck(keld: Keld, emulator: Emulator, peer: Peer, tmp_path: Path) -> str:
    """A job run, all of whose rows are paid, and whose output cannot be written."""
    status = keld.submit(triage(peer), tickets(), sink=tmp_path / "sinks" / "out.parquet")
    keld.advance(status.id)
    emulator.advance(60)
    (tmp_path / "sinks").rmdir()
    (tmp_path / "sinks").write_text("a file where the directory was")
    with pytest.raises(SinkError):
        keld.advance(status.id)
    return status.id


def test_what_cannot_be_written_can_be_read_and_written_elsewhere(
    keld: Keld, emulator: Emulator, peer: Peer, tmp_path: Path, stuck: str
) -> None:
    """What is paid can always be had."""
    assert keld.read(stuck).read_all().num_rows == 6
    keld.write(stuck, tmp_path / "by-hand.parquet")
    with pytest.raises(SinkError, match="Nothing was sent"):
        keld.submit(triage(peer), tickets(), sink=tmp_path / "sinks" / "another.parquet")
    assert keld.submit(triage(peer), tickets(), sink=tmp_path / "elsewhere.csv").problem is None  # of the other sink
    done = run(keld, emulator, triage(peer), sink=tmp_path / "elsewhere.csv")
    assert (done.id, done.state, done.problem) == (stuck, RunState.FINISHED, None)
    assert (tmp_path / "elsewhere.csv").read_text().count("\n") == pq.read_table(tmp_path / "by-hand.parquet").num_rows + 1 == 7
    check_promise(keld, emulator, done, tickets())


@pytest.mark.parametrize("by", ["cancel", "a submit without a sink", "another question", "force"])
def test_what_cannot_be_written_stands_in_nobodys_way(
    keld: Keld, emulator: Emulator, peer: Peer, tmp_path: Path, stuck: str, by: str
) -> None:
    match by:
        case "cancel":
            keld.cancel(stuck)
            keld.advance(stuck)
        case "a submit without a sink":
            assert keld.submit(triage(peer), tickets()).id == stuck
        case "another question":
            new = keld.submit(triage(peer, system="Another."), tickets(), sink=tmp_path / "new.parquet")
            assert (new.generation, new.outdated) == (2, None)
        case "force":
            assert keld.submit(triage(peer), tickets(), force=True, sink=tmp_path / "new.parquet").generation == 2
    assert (keld.status(stuck).state, keld.status(stuck).answered) == (RunState.FINISHED, 6)
    assert keld.read(stuck).read_all().num_rows == 6


def test_a_sink_that_cannot_be_written_is_found_before_anything_is_sent(keld: Keld, emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SinkError, match="Nothing was sent"):
        keld.submit(triage(openai), tickets(), sink=tmp_path / "file" / "out.parquet")
    assert not emulator.requests()
    assert keld.find("triage") is None
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file() and path.name[:6] != "ledger") == ["file"]


def test_a_form_that_has_not_a_columns_type_is_refused_by_a_table_without_rows(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="parquet cannot hold these columns"):
        try_sink(tmp_path / "out.parquet", pa.schema([("odd", pa.month_day_nano_interval())]))
    try_sink(tmp_path / "out.parquet", tickets().schema)
    assert list(tmp_path.iterdir()) == []


def test_an_output_asked_for_afterwards_costs_nothing(keld: Keld, emulator: Emulator, peer: Peer, tmp_path: Path) -> None:
    """The answers are there; they are written once more."""
    run(keld, emulator, triage(peer))
    before = len(emulator.requests())
    done = run(keld, emulator, triage(peer), sink=tmp_path / "later.parquet")
    assert pq.read_table(tmp_path / "later.parquet").num_rows == 6
    assert len(emulator.requests()) == before
    check_promise(keld, emulator, done, tickets())


def test_an_output_may_be_written_to_a_place_that_only_the_caller_can_open(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A file system with credentials of its own; `{partition}` in it is filled, as in a sink."""
    status = run(keld, emulator, triage(peer), partition="p")
    place = UPath("memory://labels/{partition}.parquet")
    assert keld.write(status.id, place) == "memory:///labels/p.parquet"
    assert len(UPath("memory://labels/p.parquet").read_bytes()) > 0


def test_a_table_that_a_function_gives_is_asked_for_only_where_it_is_needed(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A query over a warehouse costs, too; what is under way needs none."""
    asked: list[int] = []

    def query() -> pa.Table:
        asked.append(1)
        return tickets()

    status = keld.submit(triage(peer), query)
    keld.advance(status.id)
    assert keld.submit(triage(peer), query).id == status.id
    assert len(asked) == 1


OURS = ["position", "retryable", "outcome", "error", "model", "lane", "cost_pico", "prompt", "fingerprint", "row", "index"]


def test_an_answers_fields_may_have_any_name_that_is_not_kelds(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Files of our own have columns, too: a field of their name was paid for, and never collected."""
    kind = {"type": "object", "properties": {name: {"type": "string"} for name in OURS}, "required": OURS, "additionalProperties": False}
    fault(emulator, "rows", "error", status=500, count=2)  # a second round, so that all is read again
    done = run(keld, emulator, triage(peer, output_type=kind), tickets().append_column("x", pa.array(range(6))))
    assert (done.answered, keld.read(done.id).schema.names[3:-5]) == (6, OURS)
    assert set(purchases(emulator).values()) == {1}
    again = run(keld, emulator, triage(peer, output_type=kind), tickets(changed=[0]).append_column("x", pa.array(range(6))))
    assert (again.answered, again.reused) == (6, 5)


@pytest.mark.parametrize("name", ["keld_outcome", "keld_position", "Keld_anything"])
def test_an_answers_field_in_kelds_own_namespace_is_refused(keld: Keld, emulator: Emulator, name: str) -> None:
    kind = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    with pytest.raises(InvalidJob, match="output_prefix"):
        keld.submit(triage(openai, output_type=kind), tickets())
    assert not emulator.requests()


def test_a_run_that_is_not_over_cannot_be_read(keld: Keld, emulator: Emulator) -> None:
    status = keld.submit(triage(openai), tickets())
    with pytest.raises(UnknownJobRun, match="Advance it first"):
        keld.read(status.id)


# --- refusals before anything is sent ---------------------------------------------------------------------------------


def test_a_key_that_is_missing_later_is_not_told_as_if_nothing_had_been_sent(
    open_emulator: Callable[..., Emulator], open_keld: Callable[..., Keld], peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sensor's process lacks the key that the worker had: a batch is out."""
    emulator = open_emulator()
    with open_keld(clock=emulator.now) as worker:
        sent = worker.submit(triage(peer), tickets())
    emulator.advance(60)
    monkeypatch.delenv(f"{peer.name.upper()}_API_KEY")
    seen = open_keld(clock=emulator.now).advance(sent.id)
    assert "No call was made." in (seen.problem or "") and "Nothing was sent" not in (seen.problem or "")


def test_a_missing_key_is_told_before_anything_is_kept(keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job run that could never begin would only be in the way."""
    monkeypatch.delenv(f"{peer.name.upper()}_API_KEY")
    with pytest.raises(AccessRefused, match="No call was made"):
        keld.submit(triage(peer), tickets())
    assert keld.statuses() == []


def test_models_without_a_key_are_left_out_as_long_as_there_are_others(
    keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a list that many teams share, one has the keys of a part; which was left out, plan and log say."""
    other = openai if peer.name == "anthropic" else anthropic
    monkeypatch.delenv(f"{other.name.upper()}_API_KEY")
    why = f"No key for {other.name}: the environment variable {other.name.upper()}_API_KEY is not set"
    # Of a cascade, too: the one that is left has the last word.
    asked = triage(peer, models=[other.models, peer.models], deadline=timedelta(hours=9), accept=pc.field("category") == "none of them")
    plan = keld.plan(asked, tickets())
    assert {option.obstacle for option in plan.options if option.provider == other.name} == {why}
    with caplog.at_level(logging.WARNING, "keld"):
        done = run(keld, emulator, asked)
    assert done.answered == 6
    assert why in caplog.text
    assert {batch.provider for batch in done.batches} == {peer.name}
    assert creates(emulator, other) == []


def test_a_job_is_refused_where_no_model_has_a_key_and_is_planned_all_the_same(
    keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would cost is a question one asks before one has an account."""
    for peer in (openai, anthropic):
        monkeypatch.delenv(f"{peer.name.upper()}_API_KEY")
    asked = triage(openai, models=[openai.models, anthropic.models])
    assert keld.plan(asked, tickets()).chosen is not None
    with pytest.raises(AccessRefused, match=r"No key for \w+: .*_API_KEY is not set\. No call was made"):
        keld.submit(asked, tickets())


@pytest.mark.parametrize("deadline", [timedelta(hours=9), timedelta(hours=30), pendulum.duration(hours=9)], ids=str)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Paris"])
def test_a_partition_may_end_at_another_librarys_instant(
    keld: Keld, emulator: Emulator, peer: Peer, zone: str, deadline: timedelta
) -> None:
    """As an orchestrator gives it; a deadline some hours ahead is where it is reckoned with."""
    now = emulator.now()
    status = keld.submit(triage(peer, deadline=deadline), tickets(), ends_at=pendulum.instance(now).in_timezone(zone))
    assert (status.deadline_at, status.deadline_basis) == (now + timedelta(hours=deadline.total_seconds() / 3600), "partition-end")


def test_a_partitions_end_without_a_time_zone_is_refused_in_words(keld: Keld, emulator: Emulator) -> None:
    with pytest.raises(InvalidJob, match=r"triage\[x\]: ends_at=2026-11-20 .* has no time zone\. Nothing was sent"):
        keld.submit(triage(openai), tickets(), partition="x", ends_at=pendulum.naive(2026, 11, 20))
    assert keld.statuses() == []


@pytest.mark.parametrize("field", ["{ds}", "{partitions}", "{ partition }", "{partition:>8}", "{Partition}"])
def test_a_field_of_a_path_that_nothing_fills_is_refused(keld: Keld, emulator: Emulator, tmp_path: Path, field: str) -> None:
    """It would be a part of the file's name, and each partition would be written over the one before."""
    path, sent = f"{tmp_path}/{field}.parquet", len(emulator.requests())
    done = run(keld, emulator, triage(openai))
    for refused in (
        lambda: keld.submit(triage(openai), tickets(), partition="a", sink=path),
        lambda: keld.submit(triage(openai), UPath(path), partition="a"),
        lambda: keld.plan(triage(openai), [path], partition="a"),
        lambda: keld.write(done.id, path),
    ):
        with pytest.raises(InvalidJob, match="which Keld does not fill"):
            refused()
    assert len(emulator.requests()) > sent
    assert [found.name for found in tmp_path.rglob("*{*")] == []


def test_a_key_may_come_from_a_function(open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vaults and orchestrators keep keys that stand in no environment variable."""
    for peer in (openai, anthropic):
        monkeypatch.delenv(f"{peer.name.upper()}_API_KEY")
        account = Account(kind=peer.name, api_key=lambda: "sk-from-a-vault")
        keld = open_keld(accounts={peer.name: account})
        assert run(keld, emulator, triage(peer)).answered == 6
        assert "vault" not in repr(account)


def test_a_refused_key_ends_run_at_once(
    open_emulator: Callable[..., Emulator], keld: Keld, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody should wait for a night to read that the key is wrong."""
    emulator = open_emulator(api_keys=["sk-the-right-one"])
    monkeypatch.setenv(f"{peer.name.upper()}_API_KEY", "sk-the-wrong-one-canary")
    with pytest.raises(AccessRefused) as refused:
        keld.run(triage(peer), tickets(), poll_s=0.01)
    assert "canary" not in str(refused.value)
    assert emulator.batches() == []
    monkeypatch.setenv(f"{peer.name.upper()}_API_KEY", "sk-the-right-one")


@pytest.mark.slow
def test_a_provider_that_is_not_there_ends_run_after_a_few_tries(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """It waits some seconds of real time between them; the job run can be taken up again."""
    emulator.stop()
    with pytest.raises(ProviderUnreachable, match="run the same command again"):
        keld.run(triage(peer), tickets())
    (status,) = keld.statuses()
    assert not status.over


def test_a_repeated_key_is_refused_without_its_value(keld: Keld, emulator: Emulator) -> None:
    """Row identity is the key; two rows of one name cannot both be answered."""
    table = pa.table({"ticket_id": ["CANARY-1", "CANARY-1"], "body": ["a", "b"]})
    with pytest.raises(SourceError, match="not unique") as refused:
        keld.submit(triage(openai), table)
    assert "CANARY" not in str(refused.value)
    assert emulator.requests() == []


def test_a_provider_nobody_configured_is_refused(keld: Keld) -> None:
    with pytest.raises(InvalidJob, match="nobody"):
        keld.submit(triage(openai, models="nobody:flash"), tickets())


def test_a_plan_sends_and_keeps_nothing(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """Looking costs nothing."""
    plan = keld.plan(triage(peer), tickets())
    assert plan.chosen is not None
    assert emulator.requests() == []
    assert keld.statuses() == []


def test_a_host_of_the_same_shape_is_an_account_of_its_own(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By base URL and a key of its own; the official one's is not sent there."""
    monkeypatch.setenv("GATEWAY_KEY", emulator.api_key)
    monkeypatch.delenv("OPENAI_API_KEY")
    keld = open_keld(accounts={"gateway": Account(kind="openai", base_url=emulator.openai_url, api_key_env="GATEWAY_KEY")})
    prices = {"gateway:my-model": {"input": 0.1, "output": 0.4}}
    status = run(keld, emulator, triage(openai, models="gateway:my-model", prices=prices))
    assert outcomes(keld, status) == ["answered"] * 6


# --- what must not be told --------------------------------------------------------------------------------------------


def test_no_key_prompt_or_row_gets_into_the_ledger_or_the_logs(
    keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ledger and logs are read by more people than the table is; with every kind of fault on the way."""
    monkeypatch.setenv(f"{peer.name.upper()}_API_KEY", "sk-canary-key-0123456789")
    caplog.set_level(logging.DEBUG, logger="keld")
    for nth, code in enumerate((500, 401, 429, 400)):
        fault(emulator, "create", "status", status=code, message=f"no {QUOTED_KEY}", skip=nth)
    # The call that prompts go with, which a refusal may quote.
    carries, skip = ("upload", 1) if peer is openai else ("create", 4)
    fault(emulator, carries, "status", status=422, message=f"no {QUOTED_ROW} {QUOTED_KEY}", skip=skip)
    fault(emulator, "rows", "error", status=500, count=1)
    fault(emulator, "download", "status", status=403, message=f"no {QUOTED_KEY}")
    status = run(keld, emulator, triage(peer, max_shard_rows=3, max_attempts=2), tickets(9))
    assert status.over
    assert all(rule["hits"] for rule in emulator.fault_rules())
    for told in (ledger_dump(keld.ledger_url), caplog.text, str(status), str(status.to_json())):
        assert "canary-key" not in told
        assert "CANARY" not in told
        assert SYSTEM not in told


def test_no_error_quotes_a_prompt_or_a_key(
    keld: Keld, emulator: Emulator, peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An exception's text ends up in the orchestrator's log."""
    monkeypatch.setenv(f"{peer.name.upper()}_API_KEY", "sk-canary-key-0123456789")
    for status in (400, 401, 403, 404, 409, 413, 422, 429, 500):
        emulator.clear_faults()
        carries = "upload" if peer is openai else "create"  # the call that prompts go with, which a refusal may quote
        fault(emulator, carries, "status", status=status, message=f"no {QUOTED_ROW}", times=None, retry_after=0.001)
        fault(emulator, "any", "status", status=status, message=f"no {QUOTED_KEY}", times=None, retry_after=0.001, skip=1)
        try:
            told = keld.advance(keld.submit(triage(peer, name=f"job{status}"), tickets()).id).problem or ""
        except KeldError as error:
            told = str(error)
        assert "canary-key" not in told
        assert "CANARY" not in told, (status, told)


def test_the_cost_in_the_status_is_the_bill(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """And what is in flight is told apart from what was paid."""
    status = keld.submit(triage(peer), tickets())
    status = keld.advance(status.id)
    assert (status.cost_usd, status.reserved_usd > 0) == (0, True)
    done = finish(keld, emulator, status.id)
    assert (done.cost_usd, done.reserved_usd) == (billed_usd(emulator, done.created_at), 0)
    assert 0 < done.saved_usd == done.standard_usd - done.cost_usd


def test_the_patience_of_the_runner_can_be_set(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """A look a second, for a gateway that is never late."""
    keld = open_keld(settings=Settings(settle=(timedelta(seconds=1),), settle_unfenced=timedelta(seconds=2)))
    fault(emulator, "create", "drop_before")
    status = run(keld, emulator, triage(anthropic))
    first, second = (call.at for call in creates(emulator, anthropic))
    assert second - first < timedelta(seconds=10)
    check_promise(keld, emulator, status, tickets())


def test_a_run_over_both_providers_takes_the_cheaper(keld: Keld, emulator: Emulator) -> None:
    """All models are acceptable; the best value is bought, and only once."""
    status = run(keld, emulator, triage(openai, models=[anthropic.models, openai.models]))
    assert status.state is RunState.FINISHED
    assert status.model == openai.models
    check_promise(keld, emulator, status, tickets())


def test_a_partition_that_is_no_text_is_refused_in_words(keld: Keld, emulator: Emulator) -> None:
    """A date or a number is what users give first; before, it ended in a TypeError about an iterable."""
    with pytest.raises(InvalidJob, match=r"partition=5 is of type int\. Nothing was sent"):
        keld.plan(triage(openai), tickets(), partition=5)  # type: ignore[arg-type]  # what users write


def test_a_forked_process_is_told_to_make_its_own_keld(keld: Keld, emulator: Emulator) -> None:
    """Two processes that use one connection to a database mix their statements: what was paid could be lost."""
    status = run(keld, emulator, triage(openai))
    reading, writing = os.pipe()
    if not (child := os.fork()):
        try:
            keld.status(status.id)
            os.write(writing, b"used the connection of its parent")
        except KeldError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reading, 10_000).decode()
    os.close(reading)
    os.close(writing)
    assert "Make a Keld in each process" in said
    assert keld.status(status.id).over
