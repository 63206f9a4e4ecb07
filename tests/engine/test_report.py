"""The report: its figures are those of the ledger, its page needs nothing and runs nothing, its tables add up."""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec import structs
from typer.testing import CliRunner

from keld import InvalidJob, Keld, SinkError, SourceError
from keld.audit.history import shares_of
from keld.cli import app
from keld.emulator import Emulator
from keld.job import RunTerms
from keld.ledger import CostLine, JobRun, Timing
from keld.price import Bracket, Lane, Rates
from keld.pricing import rates
from keld.report.alternative import alternatives_of
from keld.report.audited import audited
from keld.report.book import Book
from keld.report.curve import curves_of
from keld.report.day import days_of
from keld.report.deadline import Kept, deadlines_of
from keld.report.focus import focus_table
from keld.report.overview import DIMENSIONS, overview_of
from keld.report.page import page_of
from keld.report.tidy import tables
from keld.spend import report
from keld.state import RunState, State
from keld.view import usd
from tests.engine.test_orphan import bought_late, sweep
from tests.support.audit_result import write_result
from tests.support.page_check import Seen, assert_drawings_are_told, assert_still
from tests.support.report_book import company
from tests.support.ticket_job import openai, run, tickets, triage
from tests.unit.test_status import HOUR, NOW, RUN

MINUTE = timedelta(minutes=1)
LINE = CostLine(run_id=RUN.id, provider="openai", model="m", lane="batch", answered=20, paid_usd=Decimal("0.5"), standard_usd=Decimal(1))


def rates_of(name: str, lane: Lane, at: datetime, own: Mapping[str, Mapping[str, Any]] | None) -> Rates | None:
    """From the price lists in the package."""
    account, _, model = name.partition(":")
    return rates(account, model, lane, at, own)


def book(*runs: JobRun, lines: tuple[CostLine, ...] = (), timings: tuple[Timing, ...] = (), as_of: datetime = NOW) -> Book:
    return Book(
        namespace="default", as_of=as_of, since=None, until=None, runs={run.id: run for run in runs}, cost_lines=lines, timings=timings
    )


def sent(lane: str, begun: datetime, ended: datetime | None, collected: datetime | None = None, *, how: str = "completed") -> Timing:
    return Timing(
        run_id=RUN.id, provider="openai", host="h", model="m", lane=lane, state=State.COLLECTED if ended else State.IN_PROGRESS, requests=20,
        ended=how if ended else None, submitted_at=begun, ended_at=ended, collected_at=collected or ended,
    )  # fmt: skip


# --- the days -----------------------------------------------------------------------------------------------------------


def test_days_without_a_job_run_are_there_with_nothing_paid() -> None:
    runs = [structs.replace(RUN, id=str(n), created_at=NOW + timedelta(days=n)) for n in (0, 3)]
    days = days_of(book(*runs, lines=tuple(replace(LINE, run_id=one.id) for one in runs)), "team")
    assert [f"{start}" for start in days.starts] == ["2026-11-20", "2026-11-21", "2026-11-22", "2026-11-23"]
    assert days.paid_usd == {"support": (Decimal("0.5"), 0, 0, Decimal("0.5"))}


@pytest.mark.parametrize(
    ("length", "unit", "first"),
    [(91, "day", "2026-11-20"), (92, "week", "2026-11-16"), (643, "week", "2026-11-16"), (644, "month", "2026-11-01")],
)
def test_a_long_span_is_shown_by_week_and_a_longer_one_by_month(length: int, unit: str, first: str) -> None:
    runs = [structs.replace(RUN, id=str(n), created_at=NOW + timedelta(days=n)) for n in (0, length)]
    days = days_of(book(*runs, lines=tuple(replace(LINE, run_id=one.id) for one in runs)), "job")
    assert (days.unit, f"{days.starts[0]}", sum(days.paid_usd["labels"])) == (unit, first, 1)


@pytest.mark.parametrize("by", [*DIMENSIONS, "partition", "tag:team"])
def test_however_the_days_are_divided_they_add_up_to_what_was_paid(by: str) -> None:
    found = company(jobs=6, days=5)
    days = days_of(found, by)
    total = report(found.runs.values(), found.cost_lines, by).total
    assert sum(sum(amounts) for amounts in days.paid_usd.values()) == total.paid_usd
    assert sum(days.standard_usd) == total.standard_usd
    assert len(days.paid_usd) <= 4


def test_a_team_that_is_called_others_is_in_the_others() -> None:
    runs = [structs.replace(RUN, id=str(n), tags={"team": team}) for n, team in enumerate(["others", "a", "b", "c", "d"])]
    lines = tuple(replace(LINE, run_id=one.id, paid_usd=Decimal(9 - int(one.id))) for one in runs)
    assert {name: sum(amounts) for name, amounts in days_of(book(*runs, lines=lines), "team").paid_usd.items()} == {
        "a": 8,
        "b": 7,
        "others": 20,
    }


# --- deadlines ----------------------------------------------------------------------------------------------------------


def deadline_of(*timings: Timing, **terms: Any) -> tuple[Kept, str]:
    """What became of a deadline 9 hours after the submission, and the reason if it was missed."""
    end = terms.get("finished_at")
    run = structs.replace(RUN, deadline_at=NOW + 9 * HOUR, **{"state": RunState.FINISHED if end else RunState.OPEN, **terms})
    found = deadlines_of(book(run, timings=timings, as_of=NOW + 12 * HOUR))
    [kept] = found.jobs[0].counts
    return kept, found.missed[0].reason if found.missed else ""


def test_a_deadline_that_a_batch_met_is_kept() -> None:
    assert deadline_of(sent("batch", NOW, NOW + HOUR), finished_at=NOW + HOUR) == (Kept.KEPT, "")


def test_a_deadline_that_rows_met_in_a_faster_lane_is_kept_after_moving() -> None:
    moved = (sent("batch", NOW, NOW + 8 * HOUR, how="cancelled"), sent("standard", NOW + 8 * HOUR, NOW + 8.5 * HOUR))
    assert deadline_of(*moved, finished_at=NOW + 8.5 * HOUR) == (Kept.MOVED, "")


def test_a_probe_before_the_batch_is_no_move() -> None:
    probed = (sent("standard", NOW, NOW + MINUTE), sent("batch", NOW + MINUTE, NOW + HOUR))
    assert deadline_of(*probed, finished_at=NOW + HOUR)[0] is Kept.KEPT


@pytest.mark.parametrize(
    ("timings", "finished_at", "reason"),
    [
        ([sent("batch", NOW, NOW + 10 * HOUR)], NOW + 10 * HOUR, "openai's batch lane took 10 h 00 min"),
        ([sent("batch", NOW, NOW + 8 * HOUR, how="cancelled"), sent("flex", NOW + 8 * HOUR, NOW + 11 * HOUR)], NOW + 11 * HOUR, "openai's batch lane took 11 h 00 min"),
        ([sent("batch", NOW + 7 * HOUR, NOW + 10 * HOUR)], NOW + 10 * HOUR, "7 h 00 min passed before the first request was sent"),
        ([sent("batch", NOW, NOW + HOUR, NOW + 11 * HOUR)], NOW + 11 * HOUR, "results waited 10 h 00 min before they were collected"),
        ([sent("batch", NOW, NOW + HOUR)], NOW + 11 * HOUR, "the output was written 10 h 00 min after the last answer"),
        ([], NOW + 10 * HOUR, "nothing was sent for 10 h 00 min"),
    ],
    ids=["slow", "moved", "unsent", "uncollected", "unwritten", "nothing"],
)  # fmt: skip
def test_a_missed_deadline_says_what_took_the_time(timings: list[Timing], finished_at: datetime, reason: str) -> None:
    assert deadline_of(*timings, finished_at=finished_at) == (Kept.MISSED, reason)


def test_a_job_run_that_was_submitted_too_late_says_so() -> None:
    assert deadline_of(finished_at=NOW + 11 * HOUR, created_at=NOW + 10 * HOUR) == (Kept.MISSED, "submitted after it was due")


def test_an_open_job_run_is_overdue_once_its_deadline_is_past() -> None:
    waiting = sent("batch", NOW, None)
    assert deadline_of(waiting) == (Kept.OVERDUE, "openai's batch lane took 12 h 00 min")
    found = deadlines_of(book(structs.replace(RUN, deadline_at=NOW + HOUR), timings=(waiting,), as_of=NOW))
    assert (found.count(Kept.AHEAD), found.missed) == (1, ())


@pytest.mark.parametrize(
    "run", [RUN, structs.replace(RUN, deadline_at=NOW, state=RunState.CANCELLED, finished_at=NOW + HOUR)], ids=["none", "cancelled"]
)
def test_without_a_deadline_and_after_a_persons_cancel_none_was_missed(run: JobRun) -> None:
    assert deadlines_of(book(run, as_of=NOW + 12 * HOUR)).jobs == ()


# --- turnaround -----------------------------------------------------------------------------------------------------------


def test_a_curve_has_what_completed_and_counts_the_others() -> None:
    """A batch that expired or still runs took at least its age: the quick ones alone would look too good."""
    shown = (
        sent("batch", NOW, NOW + HOUR),
        sent("batch", NOW, NOW + 3 * HOUR),
        sent("batch", NOW, NOW + 24 * HOUR, how="expired"),
        sent("batch", NOW, None),
    )
    [curve] = curves_of(book(RUN, timings=shown, as_of=NOW + 30 * HOUR))
    assert (curve.name, curve.lane, curve.completed_s, curve.others, curve.median_s) == ("openai:m", Lane.BATCH, (3600, 10_800), 2, 3600)
    assert curve.learned.observed == curve.completed_s
    assert len(curve.learned.running) == 2


# --- the next best option ---------------------------------------------------------------------------------------------------


def option_of(line: CostLine, **terms: Any) -> tuple[str | None, str]:
    models = ("openai:gpt-5-mini", "anthropic:claude-haiku-4-5")
    [found] = alternatives_of(book(structs.replace(RUN, terms=RunTerms(models=models, **terms)), lines=(line,)), rates_of)
    return found.other, found.needs


BATCHED = replace(LINE, model="gpt-5-mini", input_tokens=10**6, output_tokens=10**5)


def test_the_next_best_option_is_the_cheapest_way_that_was_not_taken() -> None:
    assert option_of(replace(BATCHED, provider="anthropic", model="claude-haiku-4-5")) == ("openai:gpt-5-mini batch", "")


def test_a_batch_instead_of_a_fast_lane_needs_time() -> None:
    assert option_of(replace(BATCHED, lane="standard")) == ("openai:gpt-5-mini batch", "a later deadline")


def test_another_lane_than_the_demanded_one_needs_another_declaration() -> None:
    assert option_of(replace(BATCHED, lane="standard"), lane="standard") == ("openai:gpt-5-mini batch", "lane='auto' in the job")


def test_the_change_is_of_what_was_paid_once() -> None:
    line = replace(BATCHED, lane="standard", paid_usd=Decimal("0.9"), twice_usd=Decimal("0.45"))
    [found] = alternatives_of(book(structs.replace(RUN, terms=RunTerms(models=("openai:gpt-5-mini",))), lines=(line,)), rates_of)
    assert found.other_usd == Decimal("0.225")  # half of 0.25 and 2.00 a million
    assert found.change == pytest.approx(-0.5)


def test_no_option_is_made_up_where_no_price_is_known() -> None:
    [found] = alternatives_of(book(RUN, lines=(LINE,)), rates_of)
    assert (found.other, found.other_usd, found.change) == (None, None, None)


# --- the page ---------------------------------------------------------------------------------------------------------------


def page(of: Book, by: str = "team") -> str:
    return page_of(overview_of(of, by, rates_of))


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    """It is mailed, and opened from places with the strictest policies."""
    text = page(company(jobs=3, days=3))
    assert_still(text)


def test_what_users_named_is_text_on_the_page() -> None:
    hard = "<script>alert(1)</script>&\"'"
    run = structs.replace(RUN, tags={"team": hard, "project": hard}, partition=hard, reserved_usd=Decimal(1))
    seen = Seen(page(book(run, lines=(replace(LINE, provider=hard, model=hard),))))
    assert "script" not in {tag for tag, _ in seen.tags}
    assert hard in seen.texts


def test_a_page_is_the_same_each_time_it_is_made() -> None:
    assert page(company(jobs=3, days=3)) == page(company(jobs=3, days=3))


@pytest.mark.wide
def test_however_large_the_ledger_is_the_page_is_below_300_kb() -> None:
    assert len(page(company(jobs=60, days=100, names="a_rather_long_name_of_a_job_of_some_team_{n:03}"), "job").encode()) < 300_000


def test_a_name_of_any_length_leaves_the_page_small() -> None:
    run = structs.replace(RUN, tags={"team": "x" * 10**6}, partition="y" * 10**6)
    assert len(page(book(run, lines=(LINE,)))) < 40_000


def test_an_empty_ledger_has_a_page_that_says_so() -> None:
    seen = Seen(page(book()))
    assert "No job runs were submitted." in seen.texts
    assert "No job run is open." in seen.texts


@pytest.mark.parametrize("standard", ["0.25", "1"])
def test_a_loss_is_shown_as_one(standard: str) -> None:
    seen = Seen(page(book(RUN, lines=(replace(LINE, standard_usd=Decimal(standard)),))))
    assert ("-$0.25" in seen.texts) is (standard == "0.25")
    assert any(attributes.get("class") == "late" for _, attributes in seen.tags) is (standard == "0.25")


def test_each_drawing_has_a_name_or_stands_beside_its_numbers() -> None:
    assert_drawings_are_told(page(company(jobs=3, days=3)))


# --- tables for BI ------------------------------------------------------------------------------------------------------------


def test_the_tables_have_every_cost_line_and_job_run_and_add_up() -> None:
    found = company(jobs=4, days=4)
    made = tables(found)
    total = report(found.runs.values(), found.cost_lines, "job").total
    assert {name: table.num_rows for name, table in made.items()} == {"cost_line": len(found.cost_lines), "job_run": len(found.runs)}
    assert {name: sum(made["cost_line"][name].to_pylist()) for name in ("paid_usd", "standard_usd", "saved_usd", "twice_usd")} == {
        "paid_usd": total.paid_usd, "standard_usd": total.standard_usd, "saved_usd": total.saved_usd, "twice_usd": total.twice_usd,
    }  # fmt: skip
    assert sum(made["job_run"]["paid_usd"].to_pylist()) == total.paid_usd
    assert set(made["job_run"]["deadline"].to_pylist()) <= {kept.value for kept in Kept}


def test_a_pico_dollar_is_exact_in_parquet() -> None:
    line = replace(LINE, paid_usd=Decimal("1234567.000000000001"))
    assert tables(book(RUN, lines=(line,)))["cost_line"]["paid_usd"].to_pylist() == [line.paid_usd]


def test_no_cell_for_a_spreadsheet_is_a_formula() -> None:
    run = structs.replace(RUN, tags={"team": "=HYPERLINK(A1)"})
    assert tables(book(run), safe=True)["job_run"]["team"].to_pylist() == ["'=HYPERLINK(A1)"]
    assert tables(book(run))["job_run"]["team"].to_pylist() == ["=HYPERLINK(A1)"]


def test_every_column_of_the_tables_is_documented_with_its_type() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/report.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", page, re.MULTILINE))
    for table in tables(book()).values():
        assert {column.name: str(column.type) for column in table.schema} == {name: documented.get(name) for name in table.schema.names}


# --- FOCUS --------------------------------------------------------------------------------------------------------------------


def focus(of: Book) -> list[dict[str, str]]:
    """The rows as a reader of the CSV gets them."""
    table = focus_table(of, rates_of)
    return [{name: value or "" for name, value in row.items()} for row in table.to_pylist()]


def lint(rows: list[dict[str, str]]) -> list[str]:
    """What a public validator has against rows of FOCUS 1.4, Cost and Usage."""
    toolkit = pytest.importorskip("focus_data_toolkit")  # of the group dev: an environment of before does not have it
    stricter = ["SupportsUnitPricing", "SupportsMultiplePricingCategories"]
    return [str(one) for one in toolkit.lint_focus_1_4_structure("Cost and Usage", rows, supported_conditions=stricter).violations]


def priced(lane: str = "batch", **tokens: int) -> CostLine:
    """A cost line at the list prices of gpt-5-mini."""
    counts = {"input_tokens": 10**6 + 7, "cached_tokens": 10**5, "output_tokens": 10**5 + 1, **tokens}
    line = replace(LINE, model="gpt-5-mini", lane=lane, **counts)
    mine, standard = (_cost(line, _rates(name)) for name in (lane, "standard"))
    return replace(line, paid_usd=mine, standard_usd=standard)


def _rates(lane: str) -> Bracket:
    found = rates_of("openai:gpt-5-mini", Lane(lane), NOW, None)
    assert found is not None
    return found.base


def _cost(line: CostLine, bracket: Bracket) -> Decimal:
    fresh = line.input_tokens - line.cached_tokens
    return (fresh * bracket.input + line.cached_tokens * bracket.cached + line.output_tokens * bracket.output) / 10**6


HARD = [
    company(jobs=4, days=4),
    book(structs.replace(RUN, tags={"team": "=1+1", "project": "köln"}, partition=""), lines=(priced(), priced("standard"))),
    book(RUN, lines=(replace(priced(), twice_usd=Decimal("0.07"), paid_usd=priced().paid_usd + Decimal("0.07")),)),
    book(structs.replace(RUN, created_at=datetime(2026, 12, 31, 23, tzinfo=UTC)), lines=(priced(),)),
    book(RUN, lines=(LINE,)),
    book(RUN, lines=(replace(LINE, paid_usd=Decimal(0), standard_usd=Decimal(0)),)),
]


@pytest.mark.parametrize("of", HARD, ids=["company", "split", "twice", "new year", "unknown price", "nothing paid"])
def test_a_public_validator_accepts_the_rows_and_they_add_up_to_what_was_paid(of: Book) -> None:
    rows = focus(of)
    assert not rows or lint(rows) == []
    total = report(of.runs.values(), of.cost_lines, "job").total
    assert sum(Decimal(row["EffectiveCost"]) for row in rows) == total.paid_usd
    assert sum(Decimal(row["ListCost"]) for row in rows) == total.standard_usd


def test_the_validator_would_notice_a_cost_that_is_not_its_product() -> None:
    rows = focus(book(RUN, lines=(priced(),)))
    rows[0]["ListCost"] = "99"
    assert any("ListCost" in one for one in lint(rows))


def test_kinds_of_tokens_are_told_apart_where_they_add_up() -> None:
    rows = focus(book(RUN, lines=(priced(),)))
    assert {row["SkuMeter"]: int(row["PricingQuantity"]) for row in rows} == {
        "Input tokens": 900_007,
        "Cached tokens": 10**5,
        "Output tokens": 100_001,
    }
    assert all(Decimal(row["ListUnitPrice"]) > Decimal(row["ContractedUnitPrice"]) for row in rows)


def test_a_cost_line_that_list_prices_do_not_explain_is_one_row_with_a_price_of_its_own() -> None:
    """Long requests cost more a token, a host of one's own by the hour; a made-up split would be a lie."""
    [row] = focus(book(RUN, lines=(replace(priced(), paid_usd=Decimal(7)),)))
    assert (row["EffectiveCost"], row["PricingQuantity"], row["PricingUnit"], row["ContractedUnitPrice"]) == ("7", "1", "Job Runs", "7")
    assert row["ConsumedQuantity"] == str(10**6 + 7 + 10**5 + 1)


def test_the_jobs_own_prices_count() -> None:
    terms = RunTerms(models=("openai:m",), prices={"openai:m": {"input": "1", "output": "2"}})
    line = replace(LINE, lane="standard", input_tokens=10**6, output_tokens=10**6, paid_usd=Decimal(3), standard_usd=Decimal(3))
    rows = focus(book(structs.replace(RUN, terms=terms), lines=(line,)))
    assert {row["SkuMeter"]: row["EffectiveCost"] for row in rows} == {"Input tokens": "1", "Output tokens": "2"}


# --- an audit beside ----------------------------------------------------------------------------------------------------------


def test_what_could_still_wait_is_shown_beside_what_keld_did(tmp_path: Path) -> None:
    result = write_result(tmp_path)
    text = page_of(overview_of(company(jobs=3, days=3), "team", rates_of, audited(result)))
    seen = Seen(text)
    assert_still(text)
    assert {"What could still wait", "classify_gpt_5_mini", "does not wait", "Could still be saved"} <= set(seen.texts)
    assert usd(Decimal(json.loads(result.read_text())["saving_usd"]["does not wait"]["p50"])) in seen.texts


def test_without_an_audit_nothing_is_said_of_one() -> None:
    assert "What could still wait" not in page(company(jobs=3, days=3))


@pytest.mark.share(5)
@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"first": 3}', None])
def test_what_is_no_result_of_an_audit_is_refused_before_a_page_is_written(ledger: Keld, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "audit.json").write_text(text)
    with pytest.raises(SourceError, match=r"audit\.json"):
        ledger.write_report(tmp_path / "keld.html", audit=tmp_path / "audit.json")
    assert not (tmp_path / "keld.html").exists()


@pytest.mark.wide
def test_an_audit_may_assume_of_a_move_what_the_ledger_has_seen(ledger: Keld, tmp_path: Path) -> None:
    """Where the rules file says otherwise, that holds."""
    (tmp_path / "rules.toml").write_text("[priors]\ntwice = [1, 9]\n")
    log = write_result(tmp_path).with_name("spend.jsonl")
    words = ["audit", str(log), "--rules", str(tmp_path / "rules.toml"), "--json"]
    assumed, seen = (json.loads(CliRunner().invoke(app, [*words, *more]).stdout)["priors"] for more in ([], ["--from-ledger"]))
    assert (assumed["late"], assumed["again"]) == ([1, 99], [2, 98])
    assert (seen["late"], seen["again"]) == ([1, 100], [2, 99])  # one job run, of which no row was late
    assert seen["twice"] == assumed["twice"] == [1, 9]


def test_the_history_of_moves_counts_late_repeated_and_doubled_rows() -> None:
    batch = replace(LINE, asked=100, answered=80, paid_usd=Decimal(3), twice_usd=Decimal(1))
    moved = replace(LINE, lane="standard", asked=20, answered=20, paid_usd=Decimal(1))
    over = structs.replace(RUN, state=RunState.FINISHED, rows=100, reused=10)
    shares, job_runs = shares_of([over], [batch, moved])
    assert (dict(shares), job_runs) == ({"late": 0.2, "again": 10 / 120, "twice": 0.25}, 1)
    assert shares_of([structs.replace(over, state=RunState.OPEN)], [batch, moved]) == ({}, 0)
    probe = replace(moved, asked=1, answered=1)
    assert shares_of([over], [batch, probe])[0]["late"] == 0


# --- from a ledger ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(keld: Keld, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Keld:
    """One job run that is over, and one whose batch is at the provider."""
    monkeypatch.setenv("KELD_HOME", str(keld.home))
    monkeypatch.setenv("KELD_LEDGER_URL", keld.ledger_url)
    run(keld, emulator, triage(openai, deadline=timedelta(hours=9), tags={"team": "support"}), partition="2026-11-19")
    keld.advance(keld.submit(triage(openai, tags={"team": "risk"}), tickets(), partition="2026-11-20").id)
    return keld


@pytest.mark.by_turns
def test_the_report_of_a_ledger_says_what_its_spend_says(ledger: Keld, ledger_url: str, tmp_path: Path) -> None:
    found = ledger.overview("team")
    assert found.total == ledger.spend("team").total
    assert {line.group for line in found.group("team").lines} == {"support", "risk"}
    assert (found.deadlines.count(Kept.KEPT), [one.partition for one in found.open_runs]) == (1, ["2026-11-20"])
    [curve] = found.curves
    assert (len(curve.completed_s), curve.others) == (1, 1)
    assert ledger.write_report(tmp_path / "new" / "keld.html").total == found.total
    assert (tmp_path / "new" / "keld.html").read_text() == page_of(found)


@pytest.mark.by_turns
def test_rows_that_were_paid_twice_are_in_every_form_of_the_report(keld: Keld, emulator: Emulator) -> None:
    status = sweep(keld, emulator, bought_late(keld, emulator, openai))
    found = keld.overview()
    assert (found.total.twice_usd, found.total.paid_usd) == (status.cost_usd / 2, status.cost_usd)
    folder = keld.home / "export"
    for form in ("parquet", "csv", "focus"):
        keld.export_spend(folder, form)  # type: ignore[arg-type]  # a loop's text
    assert sum(pq.read_table(folder / "cost_line.parquet")["twice_usd"].to_pylist()) == status.cost_usd / 2
    rows = list(csv.DictReader(io.StringIO((folder / "focus.csv").read_text())))
    assert sum(Decimal(row["EffectiveCost"]) for row in rows) == status.cost_usd
    assert lint(rows) == []
    assert {row["SkuMeter"] for row in rows} >= {"Input tokens", "Output tokens"}, "the emulator's bill is at list prices"


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(ledger: Keld, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="An earlier one there is unchanged"):
        ledger.write_report(tmp_path / "file" / "keld.html")


def test_a_dimension_that_there_is_not_is_refused(ledger: Keld, tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="choose one of team"):
        ledger.write_report(tmp_path / "keld.html", by="modle")
    assert list(tmp_path.glob("*.html")) == []


def test_the_command_writes_what_it_was_asked_for(ledger: Keld, tmp_path: Path) -> None:
    told = _keld(
        "--html", f"{tmp_path / 'keld.html'}", "--focus", f"{tmp_path}", "--parquet", f"{tmp_path}", "--csv", f"{tmp_path}", "--by", "job"
    )
    names = {"keld.html", "focus.csv", "cost_line.parquet", "job_run.parquet", "cost_line.csv", "job_run.csv"}
    assert {Path(line.removeprefix("Written: ")).name for line in told.splitlines()} == names
    assert names <= {path.name for path in tmp_path.iterdir()}
    assert pq.read_schema(tmp_path / "job_run.parquet").field("paid_usd").type == pa.decimal128(38, 12)


def test_the_json_of_the_command_has_every_figure_of_the_page(ledger: Keld) -> None:
    found = json.loads(_keld("--json", "--since", "2000-01-01"))
    assert set(found["groups"]) == set(DIMENSIONS)
    assert Decimal(found["total"]["paid_usd"]) == ledger.spend().total.paid_usd
    assert [one["partition"] for one in found["open_job_runs"]] == ["2026-11-20"]
    assert found["deadlines"]["jobs"][0]["counts"] == {"kept": 1}
    assert json.loads(_keld("--json", "--until", "2000-01-01"))["total"]["job_runs"] == 0


@pytest.mark.parametrize("options", [[], ["--json", "--by", "modle"], ["--json", "--since", "yesterday"]])
def test_a_command_that_says_nothing_to_write_or_cannot_be_understood_is_refused(ledger: Keld, options: list[str]) -> None:
    _keld(*options, code=2)


def _keld(*options: str, code: int = 0) -> str:
    told = CliRunner().invoke(app, ["report", *options])
    assert told.exit_code == code, told.output
    return told.stdout


def test_days_of_the_report_are_days_of_submission(ledger: Keld) -> None:
    today: Callable[[int], date] = lambda n: ledger.clock().date() + timedelta(days=n)  # noqa: E731  one word for three uses
    assert [
        ledger.overview(since=since, until=until).total.job_runs
        for since, until in ((today(0), today(0)), (today(1), None), (None, today(-1)))
    ] == [2, 0, 0]
