"""The spend report: every line adds up, by whatever people ask, and each shard is counted where it ran."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from rich.console import Console
from typer.testing import CliRunner

from keld import Keld
from keld.cli import app
from keld.emulator import Emulator
from keld.errors import InvalidJob
from keld.ledger import CostLine, Ledger, Orphan, Shard, ShardError, ShardFault
from keld.ledger.table import RUN as RUN_TABLE
from keld.ledger.table import SHARD as SHARD_TABLE
from keld.spend import DIMENSIONS, Report, report
from keld.state import RunState, State
from keld.view import spend_view
from tests.engine.test_orphan import bought_late, sweep
from tests.support import bill_check
from tests.support.ticket_job import Peer, anthropic, fault, openai, run, tickets, triage
from tests.unit.test_status import NOW, RUN

pytestmark = pytest.mark.by_turns

BATCH = CostLine(
    run_id=RUN.id, provider="openai", model="m", lane="batch", asked=20, answered=15, input_tokens=900, output_tokens=90,
    paid_usd=Decimal("0.25"), standard_usd=Decimal("0.5"), estimated_usd=Decimal("0.2"), estimate_paid_usd=Decimal("0.25"),
)  # fmt: skip
RESCUE = replace(BATCH, provider="anthropic", lane="standard", asked=5, answered=5, paid_usd=Decimal("0.3"), standard_usd=Decimal("0.3"))


def groups(found: Report) -> list[str]:
    return [line.group for line in found.lines]


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "group"),
    [
        ("job", "labels"), ("partition", "2026-11-19"), ("model", "openai:m"), ("provider", "openai"), ("lane", "batch"), ("day", "2026-11-20"),
        ("team", "support"), ("tag:team", "support"), ("project", "-"), ("category", "-"), ("tag:nobody", "-"),
    ],
)  # fmt: skip
def test_a_line_is_named_by_what_was_asked_for(by: str, group: str) -> None:
    assert groups(report([RUN], [BATCH], by)) == [group]


@pytest.mark.parametrize("by", ["", "modle", "tag:", "rows"])
def test_what_nobody_can_group_by_is_refused(by: str) -> None:
    with pytest.raises(InvalidJob, match="choose one of team, project, category"):
        report([RUN], [BATCH], by)


@pytest.mark.parametrize("by", ["model", "provider", "lane"])
def test_where_nothing_had_to_be_asked_there_is_no_model(by: str) -> None:
    """A job run whose rows were all answered before is still one."""
    [line] = report([RUN], [], by).lines
    assert (line.group, line.job_runs, line.asked, line.paid_usd) == ("-", 1, 0, 0)


@pytest.mark.parametrize(("by", "paid"), [("lane", ["0.3", "0.25"]), ("provider", ["0.3", "0.25"]), ("job", ["0.55"])])
def test_a_job_run_whose_rows_moved_on_is_counted_where_they_ran(by: str, paid: list[str]) -> None:
    found = report([RUN], [BATCH, RESCUE], by)
    assert [line.paid_usd for line in found.lines] == [Decimal(usd) for usd in paid]
    assert (found.total.job_runs, found.total.rows, found.total.asked, found.total.answered) == (1, 20, 25, 20)


def test_rows_and_failures_are_of_job_runs_not_of_lanes() -> None:
    """A row that moved from one to another would stand in both."""
    failed = structs.replace(RUN, failed=2, quarantined=1)
    assert [(line.rows, line.failed) for line in report([failed], [BATCH, RESCUE], "lane").lines] == [(None, None)] * 2
    assert [(line.rows, line.failed) for line in report([failed], [BATCH, RESCUE], "team").lines] == [(20, 3)]


def test_job_runs_of_one_group_are_summed() -> None:
    other = structs.replace(RUN, id="s" * 32, partition="2026-11-20")
    [line] = report([RUN, other], [BATCH, replace(BATCH, run_id=other.id, reserved_usd=Decimal("0.5"))], "job").lines
    assert (line.job_runs, line.rows, line.asked, line.answered) == (2, 40, 40, 30)
    assert (line.paid_usd, line.in_flight_usd, line.standard_usd, line.saved_usd) == tuple(map(Decimal, ("0.5", "0.5", "1", "0.5")))


def test_a_job_run_that_was_planned_anew_is_not_counted_beside_the_one_that_took_its_place() -> None:
    superseded = structs.replace(RUN, id="s" * 32, state=RunState.CANCELLED, outcomes=None)
    cancelled = structs.replace(RUN, id="t" * 32, state=RunState.CANCELLED, outcomes={"unasked": 20})
    assert report([RUN, superseded, cancelled], [BATCH], "job").total.job_runs == 2


def test_the_dearest_comes_first_and_days_in_their_order() -> None:
    runs = [structs.replace(RUN, id=name * 32, job=name, created_at=NOW + timedelta(days=n)) for n, name in enumerate("abc")]
    cost_lines = [replace(BATCH, run_id=one.id, paid_usd=Decimal(usd)) for one, usd in zip(runs, (1, 9, 1), strict=True)]
    assert groups(report(runs, cost_lines, "job")) == ["b", "a", "c"]
    assert groups(report(runs, cost_lines, "day")) == ["2026-11-20", "2026-11-21", "2026-11-22"]


def test_no_job_runs_make_no_lines() -> None:
    found = report([], [], "job")
    assert (found.lines, found.total.paid_usd, found.total.estimate_error) == ((), 0, None)


@given(
    costs=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("mn"), st.decimals(0, 100, places=12)), max_size=20
    ),
    by=st.sampled_from(sorted(DIMENSIONS)),
)
def test_however_it_is_cut_the_total_is_the_same(costs: list[tuple[str, int, str, Decimal]], by: str) -> None:
    runs = [structs.replace(RUN, id=str(n), job=job, created_at=NOW + timedelta(days=day)) for n, (job, day, _, _) in enumerate(costs)]
    cost_lines = [
        replace(BATCH, run_id=str(n), model=model, lane=lane, paid_usd=usd)
        for n, (_, _, model, usd) in enumerate(costs)
        for lane in ("batch", "flex")
    ]
    found = report(runs, cost_lines, by)
    assert sum(line.paid_usd for line in found.lines) == found.total.paid_usd == 2 * sum(usd for *_, usd in costs)
    assert found.total.job_runs == len(costs)


# --- what is told beside the money ------------------------------------------------------------------------------------


def test_the_estimate_is_held_against_what_was_paid() -> None:
    assert report([RUN], [BATCH], "job").total.estimate_error == pytest.approx(0.25)
    cheaper = replace(BATCH, estimate_paid_usd=Decimal("0.1"))
    assert report([RUN], [cheaper], "job").total.estimate_error == pytest.approx(-0.5)


def test_where_nothing_came_to_its_end_nothing_is_said_of_the_estimate() -> None:
    assert report([RUN], [replace(BATCH, estimated_usd=Decimal(0), estimate_paid_usd=Decimal(0))], "job").total.estimate_error is None


def test_what_escalation_cost_above_the_standard_price_is_saved_with_a_minus() -> None:
    assert report([RUN], [replace(RESCUE, paid_usd=Decimal("0.4"))], "job").total.saved_usd == Decimal("-0.1")


# --- from the ledger --------------------------------------------------------------------------------------------------

DONE = {"state": State.COLLECTED, "ended": "completed", "attempt": 1}
MONEY = {"cost_usd": Decimal("0.1"), "standard_usd": Decimal("0.2"), "answered": 4, "input_tokens": 50, "output_tokens": 5}


@pytest.fixture
def ledger(ledger_url: str) -> Any:
    opened = Ledger(ledger_url)
    yield opened
    opened.close()


def enter(ledger: Ledger, run_id: str = "r" * 32, *shards: dict[str, Any], **terms: Any) -> None:
    """A job run with such shards, as if they had come so far."""
    asked = {"state": State.PLANNED, "round": 0, "provider": "openai", "host": "h", "model": "m", "lane": "batch", "requests": 4,
             "size_bytes": 1, "worst_usd": Decimal(1), "expected_usd": Decimal("0.08")}  # fmt: skip
    kept = structs.asdict(RUN)
    with ledger._db.write() as db:
        db.execute(sa.insert(RUN_TABLE).values(kept | {"id": run_id, "partition": run_id} | terms))
        for n, shard in enumerate(shards):
            db.execute(sa.insert(SHARD_TABLE).values(asked | {"id": f"{run_id[-4:]}{n:06}", "run_id": run_id, "ordinal": n} | shard))
    made = ledger.shards(run_id)
    sums = {
        "spent_usd": sum((shard.cost_usd or 0 for shard in made), Decimal(0)),
        "standard_usd": sum((shard.standard_usd or 0 for shard in made), Decimal(0)),
        "reserved_usd": sum(map(bill_check.reserved, made), Decimal(0)),
    }
    with ledger._db.write() as db:
        db.execute(sa.update(RUN_TABLE).where(RUN_TABLE.c.id == run_id).values(**sums))


def test_shards_are_added_up_by_model_and_lane(ledger: Ledger) -> None:
    rescue = {**DONE, **MONEY, "lane": "standard", "done": 4, "provider": "anthropic", "cost_usd": Decimal("0.3")}
    enter(ledger, "r" * 32, {**DONE, **MONEY}, {**DONE, **MONEY}, rescue, {"state": State.DROPPED})
    found = {cost_line.lane: cost_line for cost_line in ledger.costs.lines("default")}
    assert {lane: (one.asked, one.answered, one.paid_usd, one.standard_usd) for lane, one in found.items()} == {
        "batch": (8, 8, Decimal("0.2"), Decimal("0.4")), "standard": (4, 4, Decimal("0.3"), Decimal("0.2")),
    }  # fmt: skip
    assert (found["batch"].input_tokens, found["batch"].output_tokens, found["standard"].provider) == (100, 10, "anthropic")
    assert (found["batch"].estimated_usd, found["batch"].estimate_paid_usd) == (Decimal("0.16"), Decimal("0.2"))


def test_a_batch_that_lost_rows_says_nothing_of_the_estimate(ledger: Ledger) -> None:
    """What they cost is not known."""
    enter(ledger, "r" * 32, {**DONE, **MONEY, "outcomes": {"answered": 3, "lost": 1}})
    assert [(one.estimated_usd, one.estimate_paid_usd) for one in ledger.costs.lines("default")] == [(0, 0)]


def test_a_batch_of_which_some_costs_are_not_known_says_nothing_of_the_estimate(ledger: Ledger) -> None:
    """Its answers came without counts of tokens, and would seem to have cost nothing."""
    enter(ledger, "r" * 32, {**DONE, **MONEY, "error": ShardError(code=ShardFault.UNMETERED, rows=1)})
    [cost_line] = ledger.costs.lines("default")
    assert (cost_line.estimated_usd, cost_line.estimate_paid_usd) == (0, 0)


def test_a_batch_that_was_cut_short_says_nothing_of_the_estimate(ledger: Ledger) -> None:
    """It was estimated for all of its rows, and paid for some."""
    enter(ledger, "r" * 32, {**DONE, **MONEY, "ended": "expired"})
    [cost_line] = ledger.costs.lines("default")
    assert (cost_line.paid_usd, cost_line.estimated_usd, cost_line.estimate_paid_usd) == (Decimal("0.1"), 0, 0)


@pytest.mark.parametrize("state", State)
def test_what_may_still_be_billed_is_in_flight(ledger: Ledger, state: State) -> None:
    enter(ledger, "r" * 32, {"state": state})
    [cost_line] = ledger.costs.lines("default")
    may = (State.SUBMITTING, State.UNKNOWN, State.IN_PROGRESS, State.CANCELLING, State.ENDED, State.QUARANTINED)
    assert cost_line.reserved_usd == (1 if state in may else 0)
    assert (cost_line.unknown_usd, cost_line.unknown_rows) == ((1, 4) if state is State.QUARANTINED else (0, 0))


@pytest.mark.parametrize(
    ("doubt", "rows"),
    [
        ({"outcomes": {"answered": 3, "lost": 1}}, 1),
        ({"error": ShardError(code=ShardFault.IN_DOUBT, rows=2)}, 2),
        ({"error": ShardError(code=ShardFault.UNMETERED, rows=4), "outcomes": {"answered": 4}}, 4),
        ({"outcomes": {"answered": 4}}, 0),
    ],
)
def test_rows_that_may_be_on_the_bill_and_were_never_told_are_counted_as_such(ledger: Ledger, doubt: dict[str, Any], rows: int) -> None:
    enter(ledger, "r" * 32, {**DONE, **MONEY, **doubt})
    [cost_line] = ledger.costs.lines("default")
    assert (cost_line.unknown_rows, cost_line.unknown_usd, cost_line.reserved_usd) == (rows, Decimal(rows) / 4, Decimal(rows) / 4)


def test_what_was_bought_once_too_often_is_paid_twice_where_its_shard_ran(ledger: Ledger) -> None:
    enter(ledger, "r" * 32, {**DONE, **MONEY}, {**DONE, **MONEY, "lane": "standard"})
    [first] = [one for one in ledger.shards("r" * 32) if one.lane == "batch"]
    for name in ("known", "not_yet"):
        ledger.orphans.add(orphan(first, name))
    ledger.orphans.settle("h", "known", Decimal("0.07"), NOW)
    found = {cost_line.lane: cost_line for cost_line in ledger.costs.lines("default")}
    batch = found["batch"]
    assert (batch.paid_usd, batch.twice_usd, batch.reserved_usd, batch.standard_usd) == (
        Decimal("0.17"),
        Decimal("0.07"),
        1,
        Decimal("0.2"),
    )
    assert found["standard"].twice_usd == 0


def orphan(shard: Shard, batch_id: str) -> Orphan:
    return Orphan(
        host="h",
        batch_id=batch_id,
        provider="openai",
        run_id=shard.run_id,
        shard_id=shard.id,
        requests=4,
        worst_usd=Decimal(1),
        found_at=NOW,
    )


def test_other_namespaces_jobs_and_days_are_left_out(ledger: Ledger) -> None:
    enter(ledger, "a" * 32, {**DONE, **MONEY}, created_at=NOW - timedelta(days=1))
    enter(ledger, "b" * 32, {**DONE, **MONEY}, job="other")
    enter(ledger, "c" * 32, {**DONE, **MONEY}, namespace="another")
    chosen: list[tuple[dict[str, Any], str]] = [
        ({}, "ab"), ({"job": "other"}, "b"), ({"since": NOW}, "b"), ({"until": NOW}, "a"), ({"since": NOW, "job": "labels"}, ""),
    ]  # fmt: skip
    for how, expected in chosen:
        assert sorted(one.run_id[0] for one in ledger.costs.lines("default", **how)) == list(expected)
        assert sorted(one.id[0] for one in ledger.catalog.runs("default", **how)) == list(expected)


def test_however_many_job_runs_there_are_the_questions_are_few(ledger: Ledger, tmp_path: Path) -> None:
    """A status each would be two queries each."""
    for n in range(20):
        enter(ledger, f"{n:032}", {**DONE, **MONEY}, {**DONE, **MONEY, "lane": "flex", "done": 4})
    asked: list[str] = []
    with Keld(home=tmp_path, ledger_url=ledger.url) as keld:
        sa.event.listen(keld.ledger._db._engine, "before_cursor_execute", lambda *of: asked.append(of[2]))
        found = keld.spend("lane")
    assert [(line.group, line.job_runs, line.paid_usd) for line in found.lines] == [("batch", 20, 2), ("flex", 20, 2)]
    assert len([statement for statement in asked if statement.startswith("SELECT")]) == 5


# --- from a provider's bill -------------------------------------------------------------------------------------------


def test_rows_that_moved_on_before_the_deadline_are_counted_in_the_lane_that_answered_them(
    keld: Keld, emulator: Emulator, ledger_url: str
) -> None:
    fault(emulator, "life", "stuck", done=0.5)
    run(keld, emulator, triage(anthropic, deadline=timedelta(hours=2), tags={"team": "support"}), most=200)
    lanes = {line.group: line for line in keld.spend("lane").lines}
    billed = {lane: [entry for entry in emulator.bill() if entry.lane == lane] for lane in ("batch", "standard")}
    assert {lane: (line.answered, line.input_tokens) for lane, line in lanes.items()} == {
        lane: (len(entries), sum(entry.input_tokens for entry in entries)) for lane, entries in billed.items()
    }
    assert lanes["standard"].saved_usd == 0 < lanes["batch"].saved_usd
    [team] = keld.spend("team").lines
    assert (team.group, team.rows, team.answered, team.asked) == ("support", 6, 6, 9)
    assert team.paid_usd == sum(line.paid_usd for line in lanes.values())


def test_what_landed_late_is_told_as_paid_twice(keld: Keld, emulator: Emulator, peer: Peer) -> None:
    status = sweep(keld, emulator, bought_late(keld, emulator, peer))
    total = keld.spend("model").total
    assert (total.paid_usd, total.twice_usd, total.in_flight_usd) == (status.cost_usd, status.cost_usd / 2, 0)
    assert total.saved_usd == status.saved_usd


def test_what_is_in_flight_is_told_apart(keld: Keld, emulator: Emulator) -> None:
    status = keld.advance(keld.submit(triage(openai), tickets()).id)
    total = keld.spend("provider").total
    assert (total.asked, total.answered, total.paid_usd, total.in_flight_usd) == (6, 0, 0, status.reserved_usd)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def told(keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Two job runs by teams with hard names, and what `keld spend` says of them."""
    monkeypatch.setenv("KELD_HOME", str(keld.home))
    monkeypatch.setenv("KELD_LEDGER_URL", keld.ledger_url)
    run(keld, emulator, triage(openai, tags={"team": "=HYPERLINK(A1)"}), partition="a")
    run(keld, emulator, triage(anthropic, tags={"team": "[red]"}), partition="b")

    def tell(*options: str, code: int = 0) -> str:
        told = CliRunner().invoke(app, ["spend", *options])
        assert told.exit_code == code, told.output
        return told.output

    return tell


def test_the_table_has_a_total_and_says_what_it_does_not_know(told: Callable[..., str]) -> None:
    table = told("--by", "team")
    assert "[red]" in table, "a name is not markup"
    assert [line.split()[:3] for line in table.splitlines() if line.startswith("total")] == [["total", "2", "12"]]
    assert "vs estimate" in table
    assert "no discounts, no tax" in table
    assert "Paid twice: nothing, as far as the ledger knows." in table
    assert "in flight" not in table.lower(), "a column that says nothing is left out"


@pytest.mark.parametrize("width", [60, 80, 100, 120, 240])
def test_on_a_narrow_screen_columns_go_and_no_figure_is_cut(width: int) -> None:
    """Half an amount would be worse than none."""
    rich = replace(BATCH, paid_usd=Decimal(1_234_567), standard_usd=Decimal(2_345_678), input_tokens=10**12, twice_usd=Decimal("0.123456"))
    console = Console(width=width, file=io.StringIO())
    console.print(spend_view(report([RUN], [rich], "team"), width))
    table = console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO
    assert "…" not in table
    assert {"$1,234,567.00", "$1,111,111.00"} <= set(table.split())
    assert ("job runs" in table) is (width > 80)


def test_json_has_the_lines_and_the_total(told: Callable[..., str], keld: Keld) -> None:
    found = json.loads(told("--by", "model", "--json"))
    assert (found["by"], len(found["lines"]), found["total"]["job_runs"]) == ("model", 2, 2)
    assert Decimal(found["total"]["paid_usd"]) == sum(status.cost_usd for status in keld.statuses())
    assert {"saved_usd", "estimate_error", "twice_usd", "in_flight_usd", "unknown_rows"} <= found["total"].keys()


def test_csv_is_lines_that_no_spreadsheet_runs(told: Callable[..., str]) -> None:
    rows = list(csv.DictReader(io.StringIO(told("--by", "team", "--csv"))))
    assert sorted(row["group"] for row in rows) == ["'=HYPERLINK(A1)", "[red]"]
    assert all(Decimal(row["paid_usd"]) > 0 for row in rows)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "＋1", "－1", "＠1"])
def test_a_cell_that_begins_like_a_formula_is_told_as_text(text: str) -> None:
    from keld.report.cell import cell

    assert cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-", "", "support", "a=b", "'quoted"])
def test_any_other_cell_stays_as_it_is(text: str) -> None:
    from keld.report.cell import cell

    assert cell(text) == text


def test_days_may_be_told_by_date_or_by_how_many_ago(told: Callable[..., str]) -> None:
    """The day of submission, in UTC, the first and the last included."""
    today = datetime.now(UTC).date()
    assert "total" in told("--since", "7")
    assert "No job runs" in told("--since", (today + timedelta(days=400)).isoformat())
    assert "No job runs" in told("--until", "400")
    assert "No job runs" in told("--job", "another")
    assert "total" in told("--job", "triage", "--until", (today + timedelta(days=400)).isoformat())


def test_the_first_and_the_last_day_are_included(keld: Keld, emulator: Emulator) -> None:
    submitted = run(keld, emulator, triage(openai)).created_at.date()
    day = timedelta(days=1)
    spans: list[tuple[date | None, date | None, int]] = [
        (submitted, submitted, 1), (submitted + day, None, 0), (None, submitted - day, 0), (submitted - day, submitted + day, 1),
    ]  # fmt: skip
    assert [keld.spend(since=since, until=until).total.job_runs for since, until, _ in spans] == [count for *_, count in spans]


@pytest.mark.share(4)
@pytest.mark.parametrize("options", [["--by", "modle"], ["--since", "yesterday"], ["--until", "2026-13-01"], ["--since", "9999999"]])
def test_what_cannot_be_understood_is_refused(told: Callable[..., str], options: list[str]) -> None:
    assert options[0] in told(*options, code=2)
