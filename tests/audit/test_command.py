"""Command: what `keld audit` prints and writes: money in order, jobs that can be imported, a page, a worksheet, and no prompt."""

import json
import runpy
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from keld import Job
from keld.cli import app
from keld.cli.failure import Exit
from tests.audit.workload import DAYS, FREE, Call, _run, conversations, month, nightly
from tests.audit.writer import _lines, litellm_rows, pairs
from tests.support.page_check import assert_drawings_are_told, assert_still

SECRET = "the patient's name is Rosa"
SCHEMA = {"type": "object", "properties": {"category": {"type": "string"}}, "required": ["category"], "additionalProperties": False}


def _keld(*words: object) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, words)])


def _json(*words: object) -> Any:
    done = _keld(*words, "--json")
    assert done.exit_code == Exit.OK, done.output
    return json.loads(done.stdout)


def _large(calls: list[Call]) -> list[Call]:
    """With enough tokens that a month of them is worth a move."""
    return [replace(call, model="gpt-4.1", input=20_000, output=2_000) for call in calls]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Requests and responses: people who talk, and a nightly classification with a schema."""
    rows = [json.loads(line) for line in pairs(_large(month(1, groups={"chat": conversations, "classify": nightly}))).splitlines()]
    for row in rows:
        row["request"]["messages"][-1]["content"] = SECRET
        if row["service"] == "classify":
            row["request"] |= {
                "temperature": 0,
                "max_tokens": 64,
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
            }
            row["tags"] = ["team:support"]
    path = tmp_path / "log.jsonl"
    path.write_bytes(_lines(rows))
    return path


def test_the_json_has_the_money_of_each_verdict_and_the_terms_of_each_saving(log: Path) -> None:
    found = _json(log)
    assert Decimal(found["usd"]["does not wait"]) > 0
    assert Decimal(found["usd"]["waits"]) > 0
    saving = next(one["saving"] for one in found["findings"] if one["verdict"] == "does not wait")
    now, then, late, again, twice = (Decimal(saving[name]) for name in ("now_usd", "then_usd", "late", "again", "twice"))
    expected = (1 - late) * (now - then) - (again + twice) * then - Decimal(saving["staging_usd"]) - Decimal(saving["operations_usd"])
    assert Decimal(saving["net_usd"]) == pytest.approx(expected, abs=Decimal("0.05"))
    assert Decimal(saving["p10_usd"]) <= Decimal(saving["p50_usd"]) <= Decimal(saving["p90_usd"])


def test_on_a_terminal_it_says_how_much_was_read(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million calls take minutes."""
    calls = sum(1 for _ in log.open())
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert f"{calls:,} calls, " in _keld(log).stderr
    monkeypatch.delenv("TTY_COMPATIBLE")
    assert f"{calls:,} calls, " not in _keld(log).stderr


def test_the_most_expensive_group_comes_first(log: Path) -> None:
    amounts = [Decimal(one["usd"]) for one in _json(log)["findings"]]
    assert amounts == sorted(amounts, reverse=True)


def test_the_jobs_can_be_imported_and_say_what_the_log_says(log: Path, tmp_path: Path) -> None:
    assert _keld(log, "--jobs", tmp_path / "jobs.py").exit_code == Exit.OK
    text = (tmp_path / "jobs.py").read_text()
    (job,) = [one for one in runpy.run_path(str(tmp_path / "jobs.py")).values() if isinstance(one, Job)]
    assert job.acceptable == ("openai:gpt-4.1",)
    assert job.params == {"temperature": 0}
    assert (job.max_output_tokens, job.output_type, job.tags) == (64, SCHEMA, {"team": "support"})
    assert job.ceiling is not None
    assert job.ceiling >= Decimal("1.3") * 30 * Decimal("0.028")  # 30 calls of a run at the batch price of gpt-4.1
    assert job.due_by is not None
    assert "a guess" in text
    assert "TODO" in text


def test_the_system_prompt_is_in_the_jobs_only_if_samples_are_asked_for(log: Path, tmp_path: Path) -> None:
    _keld(log, "--jobs", tmp_path / "without.py")
    _keld(log, "--jobs", tmp_path / "with.py", "--samples", 1)
    assert "You are classify." not in (tmp_path / "without.py").read_text()
    assert "You are classify." in (tmp_path / "with.py").read_text()


def test_no_prompt_is_printed_or_written_unless_samples_are_asked_for(log: Path, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("page.html", "jobs.py", "questions.md")]
    words = (log, "--html", places[0], "--jobs", places[1], "--worksheet", places[2])
    for silent in (_keld(*words), _keld(*words, "--json")):
        assert not any(SECRET in text or "You are" in text for text in (silent.output, *(place.read_text() for place in places)))
    assert SECRET in _keld(log, "--samples", 1).output


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"tools": [{"type": "function"}, {"type": "function"}]}, "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example/1.png"}}]}]},
            "images are URLs",
        ),
        ({"model": "a-model-of-nobody"}, "no list has a price"),
    ],
)
def test_no_job_is_written_for_what_cannot_be_a_batch(change: dict[str, Any], why: str, log: Path, tmp_path: Path) -> None:
    rows = [row for line in log.read_bytes().splitlines() if (row := json.loads(line))["service"] == "classify"]
    for row in rows:
        row["request"] |= change
    log.write_bytes(_lines(rows))
    _keld(log, "--jobs", tmp_path / "jobs.py")
    assert not [one for one in runpy.run_path(str(tmp_path / "jobs.py")).values() if isinstance(one, Job)]
    assert why in (tmp_path / "jobs.py").read_text()


def test_no_job_is_written_for_rounds_of_a_chain(tmp_path: Path) -> None:
    """A nightly agent: nobody waits, and yet each call needs the answer of the one before."""
    calls = [
        replace(call, trace=f"{call.at // 86_400}-{number // 4}") for number, call in enumerate(_large(month(1, groups={"a": _one_worker})))
    ]
    log = tmp_path / "log.jsonl"
    log.write_bytes(_lines(row | {"session_id": call.trace} for row, call in zip(litellm_rows(calls), calls, strict=True)))
    _keld(log, "--jobs", tmp_path / "jobs.py")
    assert "chained, 4 rounds" in (tmp_path / "jobs.py").read_text()


def _one_worker(rng: Any, name: str) -> Any:
    for day in range(DAYS):
        yield from _run(rng, name, "nightly", day * 86_400 + 7_200 + rng.uniform(0, 20), 40, workers=1)


def test_names_of_a_log_cannot_write_code_or_markup(tmp_path: Path) -> None:
    """A tag is anybody's text."""
    evil = 'x"""\nimport os; os._exit(7)\n</script><script>alert(1)</script> | `'
    rows = [
        row | {"metadata": {"user_api_key_alias": evil}, "request_tags": [f"team:{evil}"]}
        for row in litellm_rows(_large(month(1, groups={"n": FREE["embed"]})))
    ]
    (tmp_path / "log").write_bytes(_lines(rows))
    (tmp_path / "rules.toml").write_text('[[group]]\nmatch = {service = "*"}\nwaits = false\n')
    words = (
        "--rules",
        tmp_path / "rules.toml",
        "--html",
        tmp_path / "p.html",
        "--jobs",
        tmp_path / "jobs.py",
        "--worksheet",
        tmp_path / "w.md",
    )
    assert _keld(tmp_path / "log", *words).exit_code == Exit.OK
    (job,) = [one for one in runpy.run_path(str(tmp_path / "jobs.py")).values() if isinstance(one, Job)]
    assert job.tags["team"].startswith('x"""')
    assert "<script" not in (tmp_path / "p.html").read_text()
    assert "<script" not in (tmp_path / "w.md").read_text().replace("\\<script", "").split("```toml")[0]


def test_the_page_stands_alone_and_each_figure_has_its_table(log: Path, tmp_path: Path) -> None:
    _keld(log, "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert_still(text)
    assert_drawings_are_told(text)
    assert text.count('class="figure week"') == text.count("<summary>In numbers</summary>") > 0


@pytest.mark.wide
def test_however_many_groups_and_files_there_are_the_page_is_below_300_kb(tmp_path: Path) -> None:
    """Names of a log have any length."""
    calls = [call for number in range(120) for call in month(1, days=8, groups={f"{number:03}-{'x' * 300}": conversations})]
    for number in range(120):
        (tmp_path / f"{number:03}-{'y' * 200}.jsonl").write_bytes(_lines(litellm_rows(calls[number::120])))
    assert _keld(tmp_path, "--html", tmp_path / "page.html").exit_code == Exit.OK
    assert len((tmp_path / "page.html").read_bytes()) < 300_000


def test_the_worksheet_asks_what_the_log_cannot_say(log: Path, tmp_path: Path) -> None:
    _keld(log, "--worksheet", tmp_path / "w.md")
    text = (tmp_path / "w.md").read_text()
    assert "| Owner | _?_ |" in text
    assert "30 in a run, usually" in text
    assert text.count("\n## ") == 1  # not for the people who talk


def test_a_limit_of_what_could_be_saved_is_an_exit_status(log: Path) -> None:
    assert _keld(log, "--fail-over", "1000000").exit_code == Exit.OK
    assert _keld(log, "--fail-over", "1").exit_code == Exit.SOME_FAILED
    assert _keld(log, "--fail-over", "much").exit_code == Exit.REFUSED


@pytest.mark.parametrize(
    "text",
    [
        "[[group]]\nmatch = {who = 'x'}\n",
        "[[group]]\nmatch = {service = 'x'}\nwait = true\n",
        "[[group]]\nmatch = {service = 'x'}\nwaits = 'no'\n",
        "[[group]]\nmatch = {service = 'x'}\nacceptable_delay = 'soon'\n",
        "[priors]\nlate = [0, 1]\n",
        "[priors]\nlater = [1, 1]\n",
        "timezone = 'Mars/Base'\n",
        "[[group]]\nmatch = {service = 'x'}\ncapacity = {fleet = 'rented'}\n",
    ],
)
def test_a_rules_file_that_is_not_valid_is_refused_by_its_name(text: str, log: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(text)
    done = _keld(log, "--rules", tmp_path / "rules.toml")
    assert done.exit_code == Exit.REFUSED
    assert "rules.toml is not valid" in done.output


def test_machines_of_ones_own_are_counted_by_whole_replicas(log: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(
        '[[group]]\nmatch = {service = "*"}\ncapacity = {name = "h100", capacity = 2, price_per_hour = 4, spot_price = 1.6}\n'
    )
    found = _json(log, "--rules", tmp_path / "rules.toml")["findings"]
    less = {one["service"]: Decimal(one["fleet_usd"][0]) for one in found}
    assert less["classify"] % (730 * 4) == 0
    assert all(one["saving"] is None for one in found)
