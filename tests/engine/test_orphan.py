"""A create that landed after its last look, and whatever else a provider has that the ledger does not: found, stopped, counted."""

import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import anthropic as anthropic_sdk
import openai as openai_sdk
import pytest
from typer.testing import CliRunner

from keld import Account, Keld, Settings, Status
from keld.cli import app
from keld.emulator import Emulator
from keld.errors import InvalidJob, ProviderUnreachable
from keld.runner.find_lost import orphan_of
from keld.runner.finding import Finding, Verdict
from tests.support.ticket_job import Peer, anthropic, billed_usd, creates, fault, finish, openai, outcomes, purchases, run, tickets, triage

pytestmark = pytest.mark.by_turns

HOUR = timedelta(hours=1)


def bought_late(keld: Keld, emulator: Emulator, peer: Peer, **terms: Any) -> Status:
    """A job run whose first create showed only after its shard was sent again."""
    fault(emulator, "create", "drop_after")
    fault(emulator, "create", "list_lag", for_s=5_000)
    return run(keld, emulator, triage(peer, **terms))


def lost_for_good(keld: Keld, emulator: Emulator, **fault_terms: Any) -> Status:
    """An Anthropic job run that is quarantined: its create was without a reply, and is not in the list."""
    fault(emulator, "create", "drop_after")
    fault(emulator, "create", "list_lag", **{"for_s": 5_000, **fault_terms})
    return run(keld, emulator, triage(anthropic))


@pytest.fixture
def careful(open_keld: Callable[..., Keld]) -> Keld:
    """An environment that rather quarantines than sends again what may have landed."""
    return open_keld(settings=Settings(resend_unfenced=False, poll_least=timedelta(seconds=30)))


def sweep(keld: Keld, emulator: Emulator, status: Status, ticks: int = 12) -> Status:
    """Ten minutes a tick."""
    for _ in range(ticks):
        emulator.advance(600)
        status = keld.advance(status.id)
    return status


# --- by itself --------------------------------------------------------------------------------------------------------


def test_a_create_that_shows_after_the_last_look_is_counted(keld: Keld, emulator: Emulator, peer: Peer, ledger_url: str) -> None:
    """Bought once too often: never hidden."""
    status = bought_late(keld, emulator, peer)
    assert status.answered == 6
    assert billed_usd(emulator, status.created_at) == 2 * status.cost_usd
    status = sweep(keld, emulator, status)
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)
    assert [orphan.cost_usd for orphan in keld.ledger.orphans.of(status.id)] == [status.cost_usd / 2]
    assert len(creates(emulator, peer)) == 2


def test_a_late_create_is_stopped_where_its_mark_tells_whose_it_is(keld: Keld, emulator: Emulator) -> None:
    """What it has not done yet is not paid."""
    fault(emulator, "life", "stuck", done=0.5, match={"batch": 1})
    status = bought_late(keld, emulator, openai)
    status = sweep(keld, emulator, status)
    assert Counter(purchases(emulator).values()) == {2: 3, 1: 3}
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)


def test_until_its_cost_is_known_a_orphan_counts_at_its_worst(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "stuck", done=0.5, match={"batch": 1})
    status = bought_late(keld, emulator, openai)
    emulator.advance(5_000)
    keld.poll([])
    assert keld.status(status.id).reserved_usd == keld.ledger.shards(status.id)[0].worst_usd


def test_a_poll_stops_a_late_create_and_reads_no_results(keld: Keld, emulator: Emulator) -> None:
    """Sensors call it: it stays light."""
    fault(emulator, "life", "stuck", done=0.5, match={"batch": 1})
    bought_late(keld, emulator, openai)
    emulator.advance(5_000)
    before = len(emulator.requests())
    keld.poll([])
    made = [call.path.rpartition("/")[2] for call in emulator.requests()[before:]]
    assert "cancel" in made
    assert "content" not in made


def test_where_no_create_was_lost_nothing_is_swept(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """No list calls for those who need none."""
    status = run(keld, emulator, triage(peer))
    before = len(emulator.requests())
    sweep(keld, emulator, status)
    assert len(emulator.requests()) == before


def test_an_account_is_swept_by_one_worker_at_a_time(keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    status = bought_late(keld, emulator, openai)
    others = [open_keld() for _ in range(3)]
    emulator.advance(5_000)
    for each in (keld, *others):
        each.poll([])
    before = len(emulator.requests())
    for each in (keld, *others):
        each.poll([])
    assert len(emulator.requests()) == before
    assert len(keld.ledger.orphans.of(status.id)) == 1


def test_what_landed_before_it_was_sent_again_is_adopted(keld: Keld, emulator: Emulator) -> None:
    """It is paid already: its answers are used, and nothing is bought twice."""
    fault(emulator, "create", "drop_after")
    fault(emulator, "create", "list_lag", for_s=700)
    fault(emulator, "create", "status", status=429, retry_after=3_600, skip=1)
    status = run(keld, emulator, triage(openai))
    assert outcomes(keld, status) == ["answered"] * 6
    assert set(purchases(emulator).values()) == {1}
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)


# --- quarantine -------------------------------------------------------------------------------------------------------


def test_where_it_is_not_to_be_sent_again_a_lost_create_is_quarantined_with_the_reason(careful: Keld, emulator: Emulator) -> None:
    status = lost_for_good(careful, emulator)
    assert outcomes(careful, status) == ["quarantined"] * 6
    reason = careful.read(status.id).read_all().column("keld_error").to_pylist()[0]
    assert "reply to its create was lost" in reason
    assert len(creates(emulator, anthropic)) == 1
    assert status.reserved_usd > 0


def test_a_quarantined_row_is_not_bought_again_by_asking_again(careful: Keld, emulator: Emulator) -> None:
    """Not even when the table has changed: only its changed rows are asked."""
    status = lost_for_good(careful, emulator)
    again = run(careful, emulator, triage(anthropic), tickets(changed=[0]))
    assert again.id != status.id
    assert outcomes(careful, again) == ["answered"] + ["quarantined"] * 5
    assert (again.answered, again.quarantined) == (1, 5)
    assert purchases(emulator)[1] == 1


def test_a_quarantined_batch_that_turns_up_is_adopted_and_its_answers_used(careful: Keld, emulator: Emulator) -> None:
    """Without being asked to."""
    status = lost_for_good(careful, emulator)
    emulator.advance(5_000)
    careful.advance(status.id)
    status = finish(careful, emulator, status.id)
    assert outcomes(careful, status) == ["answered"] * 6
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)
    assert len(creates(emulator, anthropic)) == 1


# --- by a person ------------------------------------------------------------------------------------------------------


def verdicts(found: list[Finding]) -> list[Verdict]:
    return [one.verdict for one in found]


@pytest.mark.books_open("a dry run: what landed late is told, and not counted yet")
def test_reconcile_says_what_it_would_do_and_what_it_costs(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = bought_late(keld, emulator, peer)
    emulator.advance(5_000)
    before = [call.method for call in emulator.requests()]
    (found,) = keld.reconcile(dry_run=True)
    assert (found.verdict, found.job, found.shard, found.requests) == (Verdict.SETTLE, "triage", 0, 6)
    assert (found.cost_usd, found.cost_is_worst) == (status.cost_usd, False)
    assert {call.method for call in emulator.requests()[len(before) :]} == {"GET"}
    assert keld.ledger.orphans.of(status.id) == []


@pytest.mark.books_open("the reconcile had no time")
def test_reconcile_that_has_no_more_time_says_so_and_changes_nothing_it_did_not_look_at(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    """A host that lists for hours held it for hours."""
    status = bought_late(keld, emulator, peer)
    emulator.advance(5_000)
    told: list[Finding] = []
    before = len(emulator.requests())
    with pytest.raises(ProviderUnreachable, match=rf"before all batches of {peer.name} had been looked at\. 0 were found.*--minutes"):
        keld.reconcile(budget_s=0, progress=told.append)
    assert (told, len(emulator.requests()), keld.ledger.orphans.of(status.id)) == ([], before, [])
    found = keld.reconcile(dry_run=True, progress=told.append)
    assert told == found != []


def test_a_create_whose_list_cannot_be_read_says_how_a_person_settles_it_and_that_way_does(
    keld: Keld, emulator: Emulator, peer: Peer
) -> None:
    """A list that takes longer than a verb has is never read to its end by a worker."""
    status = keld.submit(triage(peer), tickets())
    fault(emulator, "create", "drop_after")
    fault(emulator, "list", "status", status=500, times=None, skip=1)  # the first is read before the create
    status = keld.advance(status.id)
    emulator.advance(timedelta(days=6))
    status = finish(keld, emulator, status.id)
    (error,) = {row["keld_error"] for row in keld.read(status.id).read_all().to_pylist()}
    found = re.search(r"`keld (reconcile \w+) --days (\d+)`.*--minutes.*`keld run --force`", error)
    assert found is not None, error
    emulator.clear_faults()
    assert verdicts(keld.reconcile([peer.name], since=timedelta(days=int(found[2])))) == [Verdict.ADOPT]
    assert finish(keld, emulator, status.id).answered == 6


def test_reconcile_stops_a_late_create_and_counts_it(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "stuck", done=0.5, match={"batch": 1})
    status = bought_late(keld, emulator, openai)
    emulator.advance(5_000)
    assert verdicts(keld.reconcile()) == [Verdict.CANCEL]
    emulator.advance(60)
    assert verdicts(keld.reconcile()) == [Verdict.SETTLE]
    assert keld.reconcile() == []
    assert keld.status(status.id).cost_usd == billed_usd(emulator, status.created_at)


def test_reconcile_adopts_what_was_quarantined(careful: Keld, emulator: Emulator) -> None:
    status = lost_for_good(careful, emulator, for_s=200_000)
    emulator.advance(200_000)
    assert verdicts(careful.reconcile(dry_run=True)) == [Verdict.ADOPT]
    assert careful.status(status.id).over
    careful.reconcile()
    status = finish(careful, emulator, status.id)
    assert outcomes(careful, status) == ["answered"] * 6
    assert status.cost_usd == billed_usd(emulator, status.created_at)


@pytest.mark.books_open("others have batches at this provider")
def test_reconcile_leaves_alone_what_others_made(keld: Keld, emulator: Emulator, peer: Peer, tmp_path: Any) -> None:
    """Another team's batches, and another ledger's."""
    run(keld, emulator, triage(peer))
    asked: Any = {"model": peer.model, "max_tokens": 9, "messages": [{"role": "user", "content": "theirs"}]}
    if peer is anthropic:
        anthropic_sdk.Anthropic().messages.batches.create(requests=[{"custom_id": "theirs", "params": asked}])
    else:
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": asked}
        file = openai_sdk.OpenAI().files.create(file=("theirs.jsonl", json.dumps(line).encode()), purpose="batch")
        openai_sdk.OpenAI().batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    with Keld(home=tmp_path / "another", clock=emulator.now) as another:
        run(another, emulator, triage(peer))
    before = len([call for call in emulator.requests() if call.method == "POST"])
    found = keld.reconcile()
    assert verdicts(found) == ([Verdict.ANOTHERS] if peer is openai else [])
    assert len([call for call in emulator.requests() if call.method == "POST"]) == before


def test_reconcile_says_of_an_unmarked_batch_that_only_its_end_will_tell(careful: Keld, emulator: Emulator) -> None:
    fault(emulator, "life", "stuck")
    status = lost_for_good(careful, emulator)
    emulator.advance(5_000)
    assert verdicts(careful.reconcile(dry_run=True)) == [Verdict.UNPROVEN]
    assert outcomes(careful, status) == ["quarantined"] * 6


def test_a_create_that_is_being_looked_for_is_left_to_its_job_run(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "create", "drop_after")
    status = keld.submit(triage(openai), tickets())
    keld.advance(status.id)
    assert verdicts(keld.reconcile()) == [Verdict.SEARCHED]
    status = finish(keld, emulator, status.id)
    assert purchases(emulator) == Counter(dict.fromkeys(range(6), 1))


def test_the_command_line_tells_it_in_a_table_and_in_json(
    keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, ledger_url: str
) -> None:
    status = bought_late(keld, emulator, openai)
    emulator.advance(5_000)
    monkeypatch.setenv("KELD_HOME", str(keld.home))
    monkeypatch.setenv("KELD_LEDGER_URL", keld.ledger_url)
    told = CliRunner().invoke(app, ["reconcile", "--dry-run", "--days", "9000"], env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    assert "would be counted" in told.output
    as_json = json.loads(CliRunner().invoke(app, ["reconcile", "--days", "9000", "--json"]).output)
    assert [(one["verdict"], Decimal(one["cost_usd"])) for one in as_json] == [("settle", status.cost_usd)]
    assert "has every batch" in CliRunner().invoke(app, ["reconcile", "--days", "9000"]).output


def test_a_batch_that_the_provider_will_not_tell_of_hides_no_other(keld: Keld, emulator: Emulator) -> None:
    """It is asked for again by the next sweep; what the others cost is counted now."""
    first = bought_late(keld, emulator, openai, name="first")
    second = bought_late(keld, emulator, openai, name="second")
    emulator.advance(5_000)
    keld.reconcile(dry_run=True)
    orphans = [found.batch_id for found in keld.reconcile(dry_run=True)]
    for status, batch_id in ((first, orphans[1]), (second, orphans[0])):
        (shard,) = keld.ledger.shards(status.id)
        keld.ledger.orphans.add(orphan_of(shard, batch_id, emulator.now()))
    fault(emulator, "get", "status", status=400, times=None, match={"path": orphans[0]})
    assert [found.batch_id for found in keld.reconcile()] == [orphans[1]]
    emulator.clear_faults()
    assert [found.batch_id for found in keld.reconcile()] == [orphans[0]]


# --- beside a create --------------------------------------------------------------------------------------------------


def theirs(rows: int = 6) -> Any:
    """A batch of somebody else's in the same account, of the same size."""
    asked: Any = {"model": anthropic.model, "max_tokens": 9, "messages": [{"role": "user", "content": "theirs"}]}
    return anthropic_sdk.Anthropic().messages.batches.create(requests=[{"custom_id": f"theirs-{n}", "params": asked} for n in range(rows)])


def test_of_a_create_that_was_done_twice_the_one_beside_is_stopped(keld: Keld, emulator: Emulator) -> None:
    """A gateway that retries: both were accepted, one reply came through."""
    fault(emulator, "create", "twice")
    status = keld.submit(triage(openai), tickets())
    keld.advance(status.id)
    emulator.advance(30)
    keld.poll()
    (orphan,) = keld.ledger.orphans.of(status.id)
    assert (orphan.worst_usd, keld.status(status.id).reserved_usd) == (orphan.worst_usd, 2 * orphan.worst_usd)
    status = sweep(keld, emulator, finish(keld, emulator, status.id))
    assert Counter(purchases(emulator).values()) == {2: 3, 1: 3}
    assert keld.spend().total.twice_usd > 0
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)


@pytest.mark.parametrize("lag_s", [40, 500])
def test_a_list_that_lags_behind_does_not_prove_that_a_create_made_one_batch(keld: Keld, emulator: Emulator, lag_s: int) -> None:
    """It is whole, and shows neither; by the time it does, the one that counts may be over."""
    fault(emulator, "create", "twice")
    fault(emulator, "create", "list_lag", for_s=lag_s, times=2)
    fault(emulator, "life", "stuck", done=0.5, match={"batch": 2})
    status = keld.submit(triage(openai), tickets())
    keld.advance(status.id)
    keld.poll()
    status = sweep(keld, emulator, finish(keld, emulator, status.id), ticks=3)
    assert Counter(purchases(emulator).values()) == {2: 3, 1: 3}
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)
    listed = len([call for call in emulator.requests() if call.method == "GET" and call.path.rstrip("/").endswith("batches")])
    sweep(keld, emulator, status)
    assert listed == len([call for call in emulator.requests() if call.method == "GET" and call.path.rstrip("/").endswith("batches")])


def test_where_no_mark_tells_the_one_beside_is_reserved_for_and_counted_when_its_results_tell(keld: Keld, emulator: Emulator) -> None:
    fault(emulator, "create", "twice")
    status = keld.submit(triage(anthropic), tickets())
    keld.advance(status.id)
    emulator.advance(30)
    keld.poll()
    (candidate,) = keld.ledger.candidates.of(status.id)
    assert keld.status(status.id).reserved_usd == 2 * candidate.worst_usd
    status = sweep(keld, emulator, finish(keld, emulator, status.id))
    assert set(purchases(emulator).values()) == {2}
    assert keld.spend().total.twice_usd == status.cost_usd / 2
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)
    assert not [call for call in emulator.requests() if call.path.endswith("/cancel")]


@pytest.mark.books_open("others have batches at this provider")
@pytest.mark.parametrize("stuck", [False, True])
def test_a_batch_of_somebody_else_beside_ours_is_let_go(keld: Keld, emulator: Emulator, stuck: bool) -> None:
    """Never cancelled, and not reserved for for ever: when it has ended its results tell, and one that never ends is given up."""
    if stuck:
        fault(emulator, "life", "stuck", done=0.5, match={"batch": 2})
    status = keld.submit(triage(anthropic), tickets())
    keld.advance(status.id)
    other = theirs()
    emulator.advance(30)
    keld.poll()
    assert [candidate.batch_id for candidate in keld.ledger.candidates.of(status.id)] == [other.id]
    status = finish(keld, emulator, status.id)
    if stuck:
        emulator.advance(timedelta(days=4))
    status = sweep(keld, emulator, status, ticks=3)
    assert (status.reserved_usd, keld.ledger.orphans.of(status.id), status.answered) == (0, [], 6)
    assert not [call for call in emulator.requests() if call.path.endswith("/cancel")]


@pytest.mark.books_open("others have batches at this provider")
def test_a_batch_of_another_size_or_time_is_nobodys_candidate(keld: Keld, emulator: Emulator) -> None:
    theirs()
    emulator.advance(600)
    status = keld.submit(triage(anthropic), tickets())
    keld.advance(status.id)
    theirs(rows=5)
    emulator.advance(30)
    keld.poll()
    emulator.advance(600)
    theirs()
    finish(keld, emulator, status.id)
    assert keld.ledger.candidates.of(status.id) == []


def test_two_creates_that_were_lost_side_by_side_do_not_take_each_other(keld: Keld, emulator: Emulator) -> None:
    """Each is a candidate of the other until it is adopted; nothing stays reserved, and nothing is told to be bought twice."""
    fault(emulator, "create", "drop_after", times=2, skip=1)
    status = run(keld, emulator, triage(anthropic, max_shard_rows=2))
    status = sweep(keld, emulator, status, ticks=2)
    assert outcomes(keld, status) == ["answered"] * 6
    assert (status.cost_usd, status.reserved_usd) == (billed_usd(emulator, status.created_at), 0)
    assert keld.ledger.orphans.of(status.id) == []


def test_a_candidate_whose_results_tell_is_told_once(keld: Keld, emulator: Emulator) -> None:
    """It is in the provider's list, and among the candidates: a table that names it twice would show its cost twice."""
    fault(emulator, "create", "twice")
    status = keld.submit(triage(anthropic), tickets())
    keld.advance(status.id)
    emulator.advance(30)
    keld.poll()
    emulator.advance(5_000)
    assert verdicts(keld.reconcile(dry_run=True)) == [Verdict.SETTLE]
    sweep(keld, emulator, finish(keld, emulator, status.id))


@pytest.mark.books_open("the account whose batch is not counted yet is configured elsewhere")
def test_an_account_that_is_not_configured_here_stops_nobody_elses_job_runs(open_keld: Callable[..., Keld], emulator: Emulator) -> None:
    """Several teams share a ledger, and not their accounts: the sweep of one is not the other's business."""
    theirs = Account(kind="openai", base_url=emulator.env()["OPENAI_BASE_URL"], api_key=lambda: "any")
    fault(emulator, "create", "drop_after")
    fault(emulator, "create", "list_lag", for_s=5_000)
    them = open_keld(accounts={"theirs": theirs})
    job = triage(openai, models="theirs:gpt-5-mini", prices={"theirs:gpt-5-mini": {"input": 1, "output": 1}})
    run(them, emulator, job)
    us = open_keld()
    assert run(us, emulator, triage(openai, name="ours")).answered == 6
    us.poll()
    assert (us.reconcile(), us.not_configured()) == ([], ["theirs"])
    with pytest.raises(InvalidJob, match="theirs"):
        us.reconcile(["theirs"])
