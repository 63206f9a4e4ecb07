"""Who waits: the verdicts on a made month, with all that a log may have and with less.  A wrong `does not wait` is the one error that may not be."""

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keld.audit import Audit, Rules, Waits, examine, rules_of
from tests.audit.workload import ANONYMOUS, DECEIVING, FREE, WAITING, Call, _run, anonymous, conversations, month, whole_seconds
from tests.audit.writer import _lines, anthropic_csv, litellm_rows, openai_usage

NOW = datetime(2026, 11, 30, tzinfo=UTC)
SEEDS = (1, 2, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 13)))  # the twelve of docs/notes/measurements.md
UNDECIDED = {"fraud-check", "rewrite", "checks-ci", "consumer", "triage"}


def _audited(folder: Path, calls: list[Call], without: tuple[str, ...] = (), rules: Rules | None = None) -> Audit:
    path = folder / "log.jsonl"
    path.write_bytes(_lines({name: value for name, value in row.items() if name not in without} for row in litellm_rows(calls)))
    return examine([str(path)], now=NOW, rules=rules)


def _verdicts(audit: Audit) -> dict[str, Waits]:
    return {one.key.service: one.waits for one in audit.findings}


def _said(found: dict[str, Waits], verdict: Waits) -> set[str]:
    return {service for service, waits in found.items() if waits is verdict}


@pytest.mark.share(2)
@pytest.mark.parametrize("seed", SEEDS)
def test_with_all_the_evidence_every_verdict_is_right_and_what_looks_alike_is_asked(seed: int, tmp_path: Path) -> None:
    found = _verdicts(_audited(tmp_path, month(seed)))
    assert _said(found, Waits.NO) == set(FREE) - UNDECIDED
    assert _said(found, Waits.YES) == set(WAITING) - UNDECIDED
    assert _said(found, Waits.ASK) == UNDECIDED


@pytest.mark.share(2)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("without", "waiting"),
    [
        (("end_user", "session_id"), {"chat", "copilot", "summarize", "completion"}),
        (("end_user", "session_id", "completionStartTime"), set()),
    ],
    ids=["no ids", "no ids, no streams"],
)
def test_what_a_log_lacks_costs_verdicts_and_never_makes_a_wrong_one(
    seed: int, without: tuple[str, ...], waiting: set[str], tmp_path: Path
) -> None:
    found = _verdicts(_audited(tmp_path, month(seed), without))
    assert _said(found, Waits.NO) == set(FREE) - UNDECIDED
    assert _said(found, Waits.YES) == waiting


@pytest.mark.share(2)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_of_whole_seconds_shows_no_closed_loop_and_decides_less(seed: int, tmp_path: Path) -> None:
    audit = _audited(tmp_path, whole_seconds(month(seed)))
    found = _verdicts(audit)
    assert _said(found, Waits.NO) <= set(FREE) - UNDECIDED
    assert _said(found, Waits.NO) >= {"classify", "embed", "tagger", "translate", "catalog"}
    assert not any("closed loop" in sign.text for one in audit.findings for sign in one.evidence.signs)
    assert all("parts of a second" in one.evidence.missing for one in audit.findings)


@pytest.mark.parametrize("seed", SEEDS)
def test_buckets_of_a_minute_say_who_does_not_wait_by_the_clock_and_never_who_waits(seed: int, tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_bytes(openai_usage(month(seed)))
    found = _verdicts(examine([str(tmp_path / "usage.json")], now=NOW))
    assert _said(found, Waits.YES) == set()
    assert _said(found, Waits.NO) == {"classify", "embed", "tagger", "translate", "catalog", "morning"}


@pytest.mark.parametrize("width", [3_600, 86_400])
def test_wider_buckets_decide_nothing(width: int, tmp_path: Path) -> None:
    (tmp_path / "usage.json").write_bytes(openai_usage(month(1), width))
    assert set(_verdicts(examine([str(tmp_path / "usage.json")], now=NOW)).values()) == {Waits.ASK}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_of_less_than_a_week_decides_nothing(seed: int, tmp_path: Path) -> None:
    """In a log of two days every group looks like a single backfill, and a pool that serves people like a closed loop."""
    audit = _audited(tmp_path, month(seed, days=2, groups=WAITING | FREE | DECEIVING))
    assert Counter(_verdicts(audit).values()).keys() == {Waits.ASK}
    assert audit.factor == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_saturated_pool_and_a_nightly_job_with_peoples_ids_are_asked_about(seed: int, tmp_path: Path) -> None:
    found = _verdicts(_audited(tmp_path, month(seed, groups=DECEIVING)))
    assert found == {"pool": Waits.ASK, "notices": Waits.ASK, "standup": Waits.NO}


@pytest.mark.share(2)
@pytest.mark.parametrize("seed", SEEDS)
def test_people_without_an_id_are_asked_about_whatever_looks_like_a_job(seed: int, tmp_path: Path) -> None:
    """A service that is maintained, or opens, at a fixed minute; another time zone and a scheduler's name; a pool that is full on two days."""
    found = _verdicts(_audited(tmp_path, month(seed, groups=ANONYMOUS)))
    assert found == dict.fromkeys(ANONYMOUS, Waits.ASK)


@pytest.mark.parametrize("step", [600, 3_600, 86_400])
def test_a_log_whose_instants_are_rounded_has_no_clock_and_no_night(step: int, tmp_path: Path) -> None:
    """Each call of a rounded log is on the hour."""
    calls = [
        replace(call, at=call.at // step * step, end=call.at // step * step + 1)
        for call in month(1, groups={"etl": anonymous, "spark": FREE["classify"]})
    ]
    audit = _audited(tmp_path, calls)
    assert set(_verdicts(audit).values()) == {Waits.ASK}
    assert all(any("rounded to" in text for text in one.evidence.missing) for one in audit.findings)


@pytest.mark.parametrize(
    "stray", [[-400 * 86_400.0], [-400 * 86_400.0, 900 * 86_400.0], [-1_700_000_000.0]], ids=["last year", "both sides", "1972"]
)
def test_a_few_stray_calls_make_no_long_log_of_a_short_one(stray: list[float], tmp_path: Path) -> None:
    """Two days of calls look like a single backfill; with a call of last year they looked like one on 3 of 400 days."""
    calls = month(1, days=2, groups=WAITING | FREE | DECEIVING)
    audit = _audited(tmp_path, [*calls, *(replace(calls[0], at=at, end=at + 1) for at in stray)])
    assert set(_verdicts(audit).values()) == {Waits.ASK}
    assert audit.factor == 1


@pytest.mark.wide
def test_stray_calls_change_no_month(tmp_path: Path) -> None:
    calls = month(1)
    (tmp_path / "with").mkdir()
    stray = _audited(tmp_path / "with", [*calls, replace(calls[0], at=-400 * 86_400.0, end=-400 * 86_400.0 + 1)])
    assert stray.factor == pytest.approx(_audited(tmp_path, calls).factor, rel=0.01)


def test_a_year_of_one_call_a_day_is_no_run(tmp_path: Path) -> None:
    """One person who asks once a morning looks like that."""
    calls = [Call(at=day * 86_400.0 + 28_800, end=day * 86_400.0 + 28_802, service="daily", job="") for day in range(-300, 28)]
    assert _verdicts(_audited(tmp_path, calls)) == {"daily": Waits.ASK}


def test_days_of_a_console_file_are_no_night_even_where_the_key_is_called_etl(tmp_path: Path) -> None:
    """Each row of such a file is at midnight."""
    (tmp_path / "log").write_bytes(anthropic_csv(month(1, groups={"etl-nightly": conversations})))
    (tmp_path / "rules.toml").write_text('timezone = "Europe/Berlin"\n')
    audit = examine([str(tmp_path / "log")], now=NOW, rules=rules_of(str(tmp_path / "rules.toml")))
    assert set(_verdicts(audit).values()) == {Waits.ASK}


def test_a_job_just_before_a_meeting_has_a_deadline_that_is_called_a_guess(tmp_path: Path) -> None:
    """It does not wait for seconds, and yet it is due in two minutes, which no log says."""
    audit = _audited(tmp_path, month(1, groups=DECEIVING))
    standup = next(one for one in audit.findings if one.key.service == "standup")
    assert "guess" in standup.delay_basis
    assert standup.evidence.runs.period == "day"


def test_a_rule_is_stronger_than_the_evidence_and_the_first_that_fits_holds(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[group]]\nmatch = {service = "consum*"}\nwaits = false\nacceptable_delay = "9h"\n'
        '[[group]]\nmatch = {service = "*", model = "gpt-*"}\nwaits = true\n'
    )
    audit = _audited(tmp_path, month(1, days=2), rules=rules_of(str(rules)))
    found = _verdicts(audit)
    assert _said(found, Waits.NO) == {"consumer"}
    assert set(found.values()) == {Waits.NO, Waits.YES}
    assert next(one.delay for one in audit.findings if one.key.service == "consumer").total_seconds() == 9 * 3600  # type: ignore[union-attr]


def test_the_rule_that_a_finding_prints_settles_it(tmp_path: Path) -> None:
    calls = month(1)
    asked = [one for one in _audited(tmp_path, calls).findings if one.waits is Waits.ASK]
    (tmp_path / "rules.toml").write_text("\n".join(one.stanza() for one in asked))
    assert _said(_verdicts(_audited(tmp_path, calls, rules=rules_of(str(tmp_path / "rules.toml")))), Waits.ASK) == set()


@pytest.mark.parametrize(("zone", "night"), [("", False), ('timezone = "Asia/Tokyo"\n', False), ('timezone = "Europe/Berlin"\n', True)])
def test_it_is_night_where_the_rules_say_that_people_are_and_nowhere_else(zone: str, night: bool, tmp_path: Path) -> None:
    """02:00 in UTC is 11:00 in Tokyo; and a log says nothing of where its people live."""
    (tmp_path / "rules.toml").write_text(zone)
    audit = _audited(tmp_path, month(1, groups={"classify": FREE["classify"]}), rules=rules_of(str(tmp_path / "rules.toml")))
    assert any("22:00" in sign.text for sign in audit.findings[0].evidence.signs) is night


def test_a_month_has_thirty_nights_of_a_nightly_job(tmp_path: Path) -> None:
    """From the first call to the last of 28 nights it is 27 days, and yet 28 of 30 nights were seen."""
    calls = month(1, groups={"classify": FREE["classify"]})
    assert _audited(tmp_path, calls).factor == pytest.approx(30 / 28, rel=0.005)
    assert _audited(tmp_path, month(1)).factor == pytest.approx(30 / 28, rel=0.005)


@pytest.mark.share(2)
@pytest.mark.parametrize("seed", SEEDS)
def test_people_without_an_id_are_asked_about_in_buckets_and_whole_seconds_too(seed: int, tmp_path: Path) -> None:
    calls = month(seed, groups=ANONYMOUS)
    (tmp_path / "usage.json").write_bytes(openai_usage(calls))
    assert Waits.NO not in _verdicts(examine([str(tmp_path / "usage.json")], now=NOW)).values()
    assert Waits.NO not in _verdicts(_audited(tmp_path, whole_seconds(calls))).values()


@pytest.mark.share(2)
@pytest.mark.parametrize("workers", [4, 16])
def test_a_long_run_that_keeps_a_time_and_is_worked_by_a_program_does_not_wait(workers: int, tmp_path: Path) -> None:
    """Unlike a hotline's hours: its calls follow each other, or are spread evenly."""
    rng = random.Random(workers)
    looped = [call for day in range(14) for call in _run(rng, "looped", "", day * 86_400 + 7_200, 200 * workers, workers=workers)]
    even = [
        replace(call, service="even", at=day * 86_400 + 3_600 + number * 2.0)
        for day in range(14)
        for number, call in enumerate(looped[:300])
    ]
    even = [replace(call, end=call.at + 1.5) for call in even]
    calls = sorted((*looped, *even), key=lambda call: call.at)
    assert _verdicts(_audited(tmp_path, calls)) == {"looped": Waits.NO, "even": Waits.NO}
    assert _verdicts(_audited(tmp_path, whole_seconds(even)))["even"] is Waits.NO
