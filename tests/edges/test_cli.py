"""The command line's contract: the exit status of each command, the shape of each `--json`, and messages in the words of the command line."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

import keld
from keld.cli import app
from keld.cli.failure import Exit, in_options
from keld.emulator import Emulator
from keld.emulator.server import exports
from keld.providers.account import ACCOUNTS
from keld.view import findings_view, list_view, plan_view, prices_view, status_view, usd

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs/reference/cli.md").read_text()
COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
JOBS = """
from decimal import Decimal
from keld import Job

labels = Job(name="labels", key="id", prompt="{body}", models="openai:gpt-5-mini", tags={"team": "support"})
cheap = Job(name="cheap", key="id", prompt="{body}", models="openai:gpt-5-mini", ceiling_usd=Decimal("0.000001"))
refused = Job(name="refused", key="id", prompt="{body}", models="openai:gpt-5-mini", max_attempts=1)
number = 5
"""


@pytest.fixture
def emulator(open_emulator: Callable[..., Emulator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """An emulated provider, and a directory with `jobs.py` and `in.parquet`."""
    emulated = open_emulator(frozen=False, latency_s=0)
    for name in ("KELD_LEDGER_URL", "KELD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "exits.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "broken.py").write_text("labels = (\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/inner.py").write_text("from .jobs import labels\n")
    pq.write_table(pa.table({"id": [1, 2], "body": ["The invoice is wrong.", "The printer is on fire."]}), "in.parquet")
    return emulated


def _keld(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def _declared() -> keld.Job:
    return keld.Job(name="labels", key="id", prompt="{body}", models="openai:gpt-5-mini")


def _run(job: str = "labels", *words: str) -> Result:
    return _keld("run", f"jobs.py:{job}", "-s", "in.parquet", "-t", "out.parquet", "-p", "monday", "--poll-s", "0.05", *words)


def _json(result: Result) -> Any:
    """The document on standard output, and nothing else is there."""
    return json.loads(result.stdout)


# --- exit status ------------------------------------------------------------------------------------------------------


def test_a_run_that_answers_every_row_ends_with_0(emulator: Emulator) -> None:
    ran = _run()
    assert ran.exit_code == Exit.OK, ran.output
    assert pq.read_table("out.parquet")["keld_outcome"].to_pylist() == ["answered"] * 2


def test_a_run_with_rows_that_have_no_answer_ends_with_3(emulator: Emulator) -> None:
    pq.write_table(pa.table({"id": [1, 2], "body": ["The invoice is wrong.", None]}), "in.parquet")
    ran = _run()
    assert ran.exit_code == Exit.SOME_FAILED, ran.output
    assert "1 of 2 rows answered" in ran.output


REFUSED = {
    "a job that is nowhere": (["run", "nowhere.py:labels", "-s", "in.parquet", "-t", "out.parquet"], "There is no file nowhere.py"),
    "a name that is no job": (["plan", "jobs.py:number", "-s", "in.parquet"], "jobs.py has no Job named 'number'"),
    "a job without a name": (["plan", "jobs.py", "-s", "in.parquet"], "say where the Job is"),
    "a source that is nowhere": (["plan", "jobs.py:labels", "-s", "none.parquet"], "SourceUnavailable"),
    "a ceiling that is too low to plan": (["plan", "jobs.py:cheap", "-s", "in.parquet"], "CeilingTooLow: The cheapest plan for cheap[]"),
    "a ceiling that is too low to run": (["run", "jobs.py:cheap", "-s", "in.parquet", "-t", "out.parquet"], "Raise ceiling_usd to $"),
    "a sink that cannot be written": (["run", "jobs.py:labels", "-s", "in.parquet", "-t", "out.xlsx"], "SinkRefused"),
    "a source that is standard input": (["plan", "jobs.py:labels", "-s", "-"], "not standard input and output"),
    "a sink that is standard output": (["run", "jobs.py:labels", "-s", "in.parquet", "-t", "-"], "not standard input and output"),
    "a job file that exits": (
        ["plan", "exits.py:labels", "-s", "in.parquet"],
        "exits.py cannot be loaded: SystemExit: 3 (exits.py, line 2). Nothing",
    ),
    "a job file that is no Python": (
        ["plan", "broken.py:labels", "-s", "in.parquet"],
        "was never closed (broken.py, line 1). Nothing was sent.",
    ),
    "a job file without its suffix": (["plan", "sub/jobs:labels", "-s", "in.parquet"], "write its whole name: sub/jobs.py:NAME."),
    "a module by its file": (["plan", "sub/inner.py:labels", "-s", "in.parquet"], "from the directory above the package: sub.inner:NAME."),
    "types that are none": (["plan", "jobs.py:labels", "-s", "in.parquet", "--types", "id"], "--types 'id': give COLUMN=TYPE"),
    "a model without a rate": (["prices", "openai:no-such-model"], "No rate is known for openai:no-such-model"),
    "an account whose models have no batch rate": (["prices", "self_hosted"], "No list has a batch rate for a model of self_hosted"),
    "a model without an account": (["prices", "gpt-5-mini"], "say whose model it is"),
    "a way to group that is none": (["spend", "--by", "colour"], "--by colour: choose one of"),
    "a day that is none": (["spend", "--since", "yesterday"], "--since yesterday: give a date"),
    "an option that is none": (["status", "--colour"], "No such option"),
    "no command": (["colour"], "No such command"),
    "an emulator open to the network": (["emulate", "--host", "0.0.0.0", "--port", "0"], "token"),
}


@pytest.mark.share(2)
@pytest.mark.parametrize(("words", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_before_anything_is_sent_ends_with_2(emulator: Emulator, words: list[str], said: str) -> None:
    refused = _keld(*words)
    assert refused.exit_code == Exit.REFUSED, refused.output
    assert said in re.sub(r"[\s│]+", " ", refused.stderr)


ERRORS = {
    "the status of a job run that is nowhere": (["status", "labels", "-p", "never"], "UnknownJobRun"),
    "the cancel of a job run that is nowhere": (["cancel", "labels", "-p", "never"], "UnknownJobRun"),
    "a reconcile of an account that is nowhere": (["reconcile", "elsewhere"], "InvalidJob"),
}


@pytest.mark.parametrize(("words", "said"), ERRORS.values(), ids=ERRORS)
def test_another_error_ends_with_1(emulator: Emulator, words: list[str], said: str) -> None:
    failed = _keld(*words)
    assert failed.exit_code == Exit.ERROR, failed.output
    assert failed.stderr.startswith(f"{said}: ")
    assert "Traceback" not in failed.output


@pytest.mark.parametrize("words", [["status"], ["watch"], ["reconcile"], ["gc"], ["spend"]], ids=lambda words: words[0])
def test_a_ledger_that_cannot_be_opened_ends_with_1(emulator: Emulator, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KELD_LEDGER_URL", "mysql://nowhere/keld")
    failed = _keld(*words)
    assert failed.exit_code == Exit.ERROR, failed.output
    assert failed.stderr.startswith("LedgerError: ")


@pytest.mark.share(3)
@pytest.mark.parametrize(
    "words", [["status"], ["watch"], ["reconcile"], ["gc"], ["spend"], ["prices"], ["prices", "openai:gpt-5-mini"]], ids=" ".join
)
def test_a_command_with_nothing_to_show_ends_with_0(emulator: Emulator, words: list[str]) -> None:
    assert _keld(*words).exit_code == Exit.OK


@pytest.mark.parametrize("words", [["status", "tpyo"], ["spend", "--job", "tpyo"], ["watch", "tpyo"]], ids=" ".join)
def test_a_list_without_a_job_run_of_that_name_names_the_job(emulator: Emulator, words: list[str]) -> None:
    """Without the name it says that there is no job run at all, which is not true."""
    _run()
    shown = _keld(*words)
    assert shown.exit_code == Exit.OK
    assert "of tpyo" in shown.output
    assert words[0] != "status" or "jobs there: labels" in shown.output


def test_a_list_without_a_job_run_names_the_ledger_it_looked_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who runs Airflow or Dagster has the job runs in another home; "none" alone reads as if they were lost."""
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "another"))
    for words in (["status"], ["status", "--open"], ["status", "labels"]):
        assert f"in the namespace 'default' of sqlite:///{tmp_path}/another/ledger.db" in _keld(*words).output.replace("\n", "")


ASKING = {
    "status": "No job runs in",
    "status --open": "No job run is open in",
    "status labels": "No job runs of labels in",
    "status labels -p monday": "No job run of labels[monday] in",
    "watch": "No job run is open in",
    "spend": "No job runs in these days in",
    "report --json": "No job runs in these days in",
    "report --html page.html": "No job runs in these days in",
    "cancel labels": "No job run of labels without a partition in",
    "doctor openai:gpt-5-mini": "",
    "gc": "",
    "reconcile": "",
    "reconcile --from-staging": "",
    "reconcile openai --dry-run": "",
    "prices openai:gpt-5-mini": "",
    "plan jobs.py:labels -s in.parquet": "",
    "run jobs.py:labels -s in.parquet -t out.orc": "",
}


@pytest.mark.share(2)
@pytest.mark.parametrize(("words", "said"), ASKING.items(), ids=ASKING)
def test_a_command_that_asks_leaves_no_ledger_and_says_where_it_looked(emulator: Emulator, tmp_path: Path, words: str, said: str) -> None:
    """Typed in the wrong directory, a ledger without a job run would look as if the job runs were lost, and hide that the home is another one."""
    asked = _keld(*words.split())
    assert not (tmp_path / "home").exists()
    where = f"the namespace 'default' of sqlite:///{tmp_path}/home/ledger.db, where there is no ledger yet" if said else ""
    assert f"{said} {where}".strip() in asked.output.replace("\n", "")


def test_a_doctor_without_a_ledger_says_whether_one_can_be_made(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"There is no ledger at sqlite:///{tmp_path}/home/ledger.db yet" in _keld("doctor", "openai").output.replace("\n", "")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "file/home"))
    found = _keld("doctor", "openai")
    assert found.exit_code == Exit.ERROR
    assert "none can be made" in found.output


def test_a_reconcile_of_an_account_that_is_not_there_names_the_accounts(emulator: Emulator) -> None:
    refused = _keld("reconcile", "tpyo", "--dry-run")
    assert refused.exit_code == Exit.ERROR
    assert refused.stderr == f"InvalidJob: No account is named 'tpyo'; the accounts are {', '.join(sorted(ACCOUNTS))}. Nothing was done.\n"


def test_a_base_url_without_its_path_is_named_as_the_thing_to_correct(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP 404 does not pass by itself: to wait until the provider is back would be the wrong advice."""
    monkeypatch.setenv("OPENAI_BASE_URL", emulator.env()["OPENAI_BASE_URL"].removesuffix("/v1"))
    refused = _run()
    assert refused.exit_code == Exit.REFUSED
    assert "Check the base URL of openai: most often a part of its path is missing, such as /v1." in refused.stderr
    assert "when this is corrected." in refused.stderr


def test_prices_of_a_misspelt_model_do_not_ask_to_name_a_model(emulator: Emulator) -> None:
    assert "name a model" not in _keld("prices", "openai:gpt-5-mni").output
    assert "name a model" in _keld("prices").output


def test_a_cancel_of_what_is_over_ends_with_0_and_changes_nothing(emulator: Emulator) -> None:
    _run()
    cancelled = _keld("cancel", "labels", "-p", "monday")
    assert (cancelled.exit_code, cancelled.stdout) == (Exit.OK, "There is nothing to cancel: the job run is over.\n")


def test_a_run_without_a_key_ends_with_2(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    refused = _run()
    assert refused.exit_code == Exit.REFUSED, refused.output
    assert refused.stderr.startswith("AccessRefused: No key for openai")


def test_a_plan_says_that_the_key_of_its_only_model_is_missing(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that follows would be refused; the plan is where a person looks first."""
    monkeypatch.delenv("OPENAI_API_KEY")
    planned = _keld("plan", "jobs.py:labels", "-s", "in.parquet")
    assert planned.exit_code == Exit.OK
    assert "openai:gpt-5-mini: not usable yet: No key for openai" in planned.output.replace("\n", " ")
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    assert "not usable yet" not in _keld("plan", "jobs.py:labels", "-s", "in.parquet").output


def test_a_cancel_that_does_not_wait_ends_with_0(emulator: Emulator, open_emulator: Callable[..., Emulator]) -> None:
    open_emulator(frozen=True, latency_s=3600)
    with keld.Keld() as environment:
        environment.submit(keld.Job(name="slow", key="id", prompt="{body}", models="openai:gpt-5-mini"), "in.parquet", partition="monday")
    cancelled = _keld("cancel", "slow", "-p", "monday", "--no-wait")
    assert (cancelled.exit_code, cancelled.stdout.startswith("The cancel is recorded.")) == (Exit.OK, True)


def test_a_run_that_does_not_wait_ends_with_4_until_the_answers_are_there(
    emulator: Emulator, open_emulator: Callable[..., Emulator]
) -> None:
    """A scheduler asks again every few minutes; it buys nothing twice, and nothing is held in between."""
    slow = open_emulator(frozen=True, latency_s=3600)
    for _ in range(2):
        asked = _run("labels", "--no-wait")
        assert (asked.exit_code, asked.stdout) == (Exit.WAITING, ""), asked.output
        assert "Run the same command again to continue." in asked.stderr
    slow.advance(3600)
    ended = _run("labels", "--no-wait", "--json")
    assert (ended.exit_code, _json(ended)["answered"], len(slow.batches()), len(slow.bill())) == (Exit.OK, 2, 1, 2)


def test_a_run_that_does_not_wait_ends_with_1_for_what_waiting_does_not_mend(emulator: Emulator) -> None:
    emulator.faults({"rules": [{"at": "any", "do": "status", "status": 401, "times": None}]})
    refused = _run("labels", "--no-wait")
    assert refused.exit_code == Exit.ERROR, refused.output
    assert "Run the same command again when this is corrected." in refused.stderr


def test_an_interrupted_run_ends_with_130_and_says_how_to_continue(emulator: Emulator, open_emulator: Callable[..., Emulator]) -> None:
    """The batch at the provider goes on; the same command finds it."""
    open_emulator(frozen=True, latency_s=3600)
    words = ["run", "jobs.py:labels", "-s", "in.parquet", "-t", "out.parquet", "-p", "monday", "--poll-s", "0.05"]
    # A suite that runs in the background ignores interrupts, and so would its children.
    heard = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); runpy.run_module('keld', run_name='__main__')"
    with subprocess.Popen([sys.executable, "-c", heard, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "in_progress" in line)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == Exit.INTERRUPTED, said + rest
    assert "Interrupted. labels[monday] can be continued: 1 batch continues at the provider" in rest
    assert "keld cancel labels --partition monday" in rest


@pytest.mark.parametrize("words", [["status"], ["plan", "jobs.py:labels", "-s", "in.parquet"], ["spend"]], ids=lambda words: words[0])
def test_an_interrupted_command_says_so(emulator: Emulator, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a word, and a prompt on the same line, one does not know whether something was sent."""
    (Path.cwd() / "jobs.py").write_text("raise KeyboardInterrupt")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(keld.Keld, "statuses", interrupted)
    monkeypatch.setattr(keld.Keld, "spend", interrupted)
    ended = _keld(*words)
    assert (ended.exit_code, ended.stderr) == (Exit.INTERRUPTED, "Interrupted. The same command continues where this one stood.\n")


def test_an_interrupt_while_the_command_is_imported_has_no_traceback() -> None:
    code = """
import sys
class Interrupted:
    def find_spec(self, name, *_):
        if name == "keld.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from keld.__main__ import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (Exit.INTERRUPTED, "")


@pytest.mark.parametrize("words", [["prices", "openai:gpt-5-mini"], ["prices", "openai:gpt-5-mini", "--json"]], ids=" ".join)
def test_a_full_disk_behind_standard_output_has_no_traceback(words: list[str]) -> None:
    """`keld spend --csv > report.csv` on a full disk; `/dev/full` is one."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-m", "keld", *words], check=False, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, ended.stderr.count("\n")) == (Exit.ERROR, 1)
    assert "The output cannot be written: No space left on device." in ended.stderr


@pytest.mark.parametrize("value", ['"{}"', "'{}'", "{}\n", " {}"])
@pytest.mark.parametrize(("name", "holds"), [("KELD_HOME", "home"), ("KELD_NAMESPACE", "team"), ("KELD_LEDGER_URL", "sqlite:///a.db")])
def test_a_variable_with_the_quotes_of_a_file_of_variables_is_no_other_place(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, name: str, holds: str, value: str
) -> None:
    """`docker --env-file` keeps quotes (github.com/docker/cli/issues/3630): the job run was not found in a home of that name, and all was paid again."""
    monkeypatch.setenv(name, value.format(holds))
    for refused in (_run(), _keld("plan", "jobs.py:labels", "-s", "in.parquet")):
        assert refused.exit_code == Exit.REFUSED
        assert f"{name} has quotation marks or blanks around its value" in refused.stderr
        assert holds not in refused.stderr.replace(name, "")
    assert _keld("cancel", "labels").exit_code == _keld("status").exit_code == Exit.ERROR
    assert emulator.bill() == []


def test_a_second_interrupt_shows_no_traceback_of_pythons_own_end() -> None:
    """Some versions of `uv run` pass on the Ctrl-C that the terminal has sent to all (github.com/astral-sh/uv/issues/13756)."""
    code = (
        "import atexit, os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "atexit.register(os.kill, os.getpid(), signal.SIGINT); sys.argv = ['keld', '--version']; from keld.cli import main; main()"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True).stderr == ""


def test_an_emulator_whose_port_is_taken_says_which_and_what_to_do(emulator: Emulator) -> None:
    """One that was started before still runs in another terminal."""
    refused = _keld("emulate", "--port", emulator.url.rpartition(":")[2])
    assert refused.exit_code == Exit.REFUSED
    assert "Address already in use. --port 0 takes a free one." in refused.stderr


# --- the shape of --json ----------------------------------------------------------------------------------------------


def test_the_json_of_a_plan(emulator: Emulator) -> None:
    plan = _json(_keld("plan", "jobs.py:labels", "-s", "in.parquet", "-p", "monday", "--json"))
    assert list(plan) == [
        "job", "partition", "rows", "unaskable", "reused", "identical", "work", "options", "chosen", "due", "due_basis", "ceiling_usd",
        "probability", "lane", "most_rows", "skipped", "left_out", "notes", "table_notes", "reason",
    ]  # fmt: skip
    assert list(plan["chosen"]) == [
        "provider", "model", "lane", "shards", "requests", "usage", "estimate", "expected_usd", "worst_usd", "risk_usd", "rates_source",
        "half_by", "most_by", "chance", "rescued_by", "obstacle", "cache", "least_requests", "too_few", "by_the_hour", "ahead",
        "unmarked_usd", "marked_usd", "instead",
    ]  # fmt: skip
    assert plan["chosen"] in plan["options"]
    assert isinstance(plan["chosen"]["worst_usd"], str)  # money is decimal text


STATUS = [
    "id", "namespace", "job", "partition", "generation", "state", "rows", "answered", "failed", "quarantined", "reused", "unaskable", "requests",
    "model", "lane", "expected_usd", "estimated_usd", "ceiling_usd", "reserved_usd", "cost_usd", "standard_usd", "input_tokens", "cached_tokens",
    "cache_saved_usd", "output_tokens", "as_of", "created_at", "finished_at", "deadline_at", "deadline_basis", "next_check_at", "escalates_at",
    "removed_at", "outcomes", "tags", "owner", "source", "outdated", "sink", "output_uri", "problem", "problem_kind", "problem_permanent",
    "batches", "saved_usd", "estimate_error", "turnaround_s", "deadline_met", "over", "cache_hit_rate",
]  # fmt: skip
BATCH = [
    "shard", "round", "state", "provider", "host", "model", "lane", "batch_id", "requests", "done", "ended", "error", "refused", "not_before",
    "submitted_at", "ended_at", "cost_usd", "cache_ttl", "input_tokens", "cached_tokens", "cache_saved_usd", "obstacle",
]  # fmt: skip
SPEND = [
    "group", "job_runs", "rows", "failed", "asked", "answered", "input_tokens", "cached_tokens", "output_tokens", "paid_usd", "standard_usd",
    "estimated_usd", "estimate_paid_usd", "twice_usd", "in_flight_usd", "unknown_usd", "unknown_rows", "saved_usd", "estimate_error",
]  # fmt: skip


def test_the_json_of_a_run_a_status_and_a_cancel_is_one_status(emulator: Emulator) -> None:
    ran = _json(_run("labels", "--json"))
    assert list(ran) == STATUS
    assert list(ran["batches"][0]) == BATCH
    assert (ran["state"], ran["over"], ran["outcomes"]) == ("finished", True, {"answered": 2})
    assert list(_json(_keld("status", "labels", "-p", "monday", "--json"))) == STATUS
    assert list(_json(_keld("cancel", "labels", "-p", "monday", "--json"))) == STATUS


def test_the_json_of_all_statuses_is_a_list(emulator: Emulator) -> None:
    assert _json(_keld("status", "--json")) == []
    _run()
    (one,) = _json(_keld("status", "--json"))
    assert list(one) == STATUS


def test_the_json_of_spend_and_the_header_of_its_csv(emulator: Emulator) -> None:
    _run()
    spent = _json(_keld("spend", "--by", "team", "--json"))
    assert list(spent) == ["by", "lines", "total"]
    assert [list(line) for line in (*spent["lines"], spent["total"])] == [SPEND] * 2
    assert [line["group"] for line in spent["lines"]] == ["support"]
    assert _keld("spend", "--csv").stdout.splitlines()[0].split(",") == SPEND


def test_the_json_of_prices(emulator: Emulator) -> None:
    quotes = _json(_keld("prices", "openai:gpt-5-mini", "--json"))
    assert [list(quote) for quote in quotes] == [["provider", "model", "lane", "rates"]] * len(quotes)
    assert list(quotes[0]["rates"]) == ["brackets", "source", "dated", "conflict", "gpu_hour_usd"]
    assert {quote["lane"] for quote in quotes} == {"batch", "flex", "standard"}


def test_the_json_of_reconcile(emulator: Emulator) -> None:
    """A ledger that was lost, with its staging, knows nothing of a batch that the provider still has."""
    _run()
    os.rename("home", "elsewhere")
    found = _json(_keld("reconcile", "openai", "--dry-run", "--days", "9000", "--json"))
    assert [list(one) for one in found] == [
        [
            "provider", "host", "batch_id", "native", "created_at", "requests", "verdict", "job", "partition", "shard", "job_run", "shard_id",
            "cost_usd", "cost_is_worst", "lost",
        ]
    ]  # fmt: skip


def test_the_json_of_gc(emulator: Emulator) -> None:
    unknown = Path("home/staging") / ("0" * 32)
    unknown.mkdir(parents=True)
    os.utime(unknown, (0, 0))
    found = _json(_keld("gc", "--dry-run", "--json"))
    assert [list(one) for one in found] == [["run_id", "job", "partition", "finished_at", "size_bytes", "known", "leftover", "leftovers"]]


@pytest.mark.parametrize("width", [60, 80, 240])
def test_a_narrow_terminal_has_fewer_columns_and_no_half_figures(emulator: Emulator, width: int) -> None:
    """An ellipsis instead of the cost, the partition or the batch's id cannot be read or copied."""
    _run()
    with keld.Keld() as environment, Console(width=width) as console, console.capture() as shown:
        status = environment.find("labels", "monday")
        assert status is not None
        console.print(list_view([status]))
        console.print(status_view(status))
        console.print(plan_view(environment.plan(_declared(), "in.parquet", partition="tuesday")))
    text = shown.get()
    assert "…" not in text
    for whole in ("monday", "finished", usd(status.cost_usd), status.batches[0].batch_id or "", "openai:gpt-5-mini", "standard"):
        assert whole in text
    assert ("turnaround" in text) == (width == 240)


@pytest.mark.parametrize("width", [80, 100, 240])
def test_a_terminal_of_80_columns_shows_whole_prices_and_whole_ids_of_batches(width: int) -> None:
    """An id is looked up at the provider's dashboard, and a price is compared."""
    quotes = keld.Keld().prices(["anthropic:claude-sonnet-4-5"])
    stray = keld.Finding(
        provider="openai", host="h", batch_id=f"batch_{'f' * 32}", native="completed", created_at=datetime.now(UTC), requests=1_000,
        verdict=keld.Verdict.ANOTHERS,
    )  # fmt: skip
    with Console(width=width) as console, console.capture() as shown:
        console.print(prices_view(quotes, all_models=False))
        console.print(findings_view([stray], dry_run=True))
    text = shown.get()
    assert "…" not in text
    for whole in ("anthropic:claude-sonnet-4-5", "> 200,000 tokens", "22.5", stray.batch_id):
        assert whole in text
    assert ("genai-prices" in text) == (width == 240)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_the_users_code_prints_is_not_in_the_json(emulator: Emulator, tmp_path: Path, command: str) -> None:
    """Else `keld run --json | jq` fails for a line of debugging."""
    (tmp_path / "loud.py").write_text(
        "from keld import Job\n"
        "def prompts(rows):\n    print('a prompt')\n    return [f'{body}' for body in rows['body']]\n"
        "labels = Job(name='labels', key='id', prompt=prompts, models='openai:gpt-5-mini')\nprint('loaded')\n"
    )
    words = ["--poll-s", "0.05", "-t", "out.parquet"] if command == "run" else []
    ran = _keld(command, "loud.py:labels", "-s", "in.parquet", "--json", *words)
    assert _json(ran)["job"] == "labels"
    assert "loaded" in ran.stderr and "a prompt" in ran.stderr


def test_json_of_a_refusal_is_nothing_on_standard_output(emulator: Emulator) -> None:
    """A program that reads it sees the exit status; a person reads standard error."""
    refused = _run("cheap", "--json")
    assert (refused.exit_code, refused.stdout) == (Exit.REFUSED, "")


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("python", "options"),
    [
        ("Give delimiter=';', or remove it.", "Give --delimiter ';', or remove it."),
        (r"e.g. delimiter='\t' for a tab", r"e.g. --delimiter '\t' for a tab"),
        ("or give quote='' where", "or give --quote '' where"),
        ("types={'a': 'int64', 'b c': 'decimal(12,2)'}.", "--types a=int64 --types 'b c=decimal(12,2)'."),
        ("Correct encoding=, or the file.", "Correct --encoding, or the file."),
        ("give force=True (`keld run --force`).", "give --force (`keld run --force`)."),
        ("e.g. ceiling_usd=40, output_prefix='llm_'", "e.g. ceiling_usd=40, output_prefix='llm_'"),
        ("/data/partition=2026/part.csv: no", "/data/partition=2026/part.csv: no"),
        ("e.g. sink='out/{partition}.parquet'", "e.g. --sink 'out/{partition}.parquet'"),
    ],
)
def test_a_message_names_options_where_python_names_arguments(python: str, options: str) -> None:
    assert in_options(python) == options


def test_a_tab_can_be_typed_as_its_escape(emulator: Emulator) -> None:
    Path("t.csv").write_text("id\tbody\n1\tx\n")
    assert _keld("plan", "jobs.py:labels", "-s", "t.csv", "--delimiter", r"\t").exit_code == Exit.OK


# --- the command itself -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["-m", "keld"], ["-c", "from keld.cli import main; main()"]], ids=["python -m keld", "keld"])
def test_the_command_says_its_version(words: list[str]) -> None:
    ended = subprocess.run([sys.executable, *words, "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"keld {keld.__version__}\n"


@pytest.mark.share(3)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete_the_commands(shell: str) -> None:
    """The script that `keld --install-completion` installs calls the command in this way."""
    words = {"COMP_WORDS": "keld re", "COMP_CWORD": "1"} if shell == "bash" else {"_TYPER_COMPLETE_ARGS": "keld re"}
    asked = {"_KELD_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **words}
    code = "import sys; sys.argv = ['keld']; from keld.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert "reconcile" in ended.stdout
    assert "status" not in ended.stdout


# --- the reference ----------------------------------------------------------------------------------------------------


def _section(command: str) -> str:
    found = re.search(rf"^### `keld {command}[^\n]*\n(.*?)(?=^##|\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found is not None, command
    return found[0]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_reference_has_every_option_of_a_command_and_no_other(command: str) -> None:
    options = {
        option for parameter in COMMANDS[command].params for option in (*parameter.opts, *parameter.secondary_opts) if option[0] == "-"
    }
    named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", _section(command).replace(f"keld {command}", "")))
    assert named == options - {"--help"}


def test_the_reference_has_the_exit_statuses_of_every_command() -> None:
    rows = re.findall(r"^\| `keld ([a-z]+)` \|((?: [^|]+\|)+)$", REFERENCE, re.MULTILINE)
    assert sorted(name for name, _ in rows) == sorted(COMMANDS)
    assert all({int(code) for code in re.findall(r"\b\d+\b", cells)} <= set(Exit) for _, cells in rows)


def test_prices_of_an_account_are_those_of_its_models() -> None:
    shown = CliRunner().invoke(app, ["prices", "mistral", "--json"])
    assert shown.exit_code == Exit.OK, shown.output
    quoted = {quote["provider"] for quote in json.loads(shown.stdout)}
    assert quoted == {"mistral"}


def test_the_emulator_prints_the_variables_and_not_its_token() -> None:
    with Emulator(token="s3cret") as emulator:
        lines = exports(emulator.env(), secret="s3cret")
        assert f"export GOOGLE_GEMINI_BASE_URL={emulator.url}/gemini" in lines
        assert 'export GEMINI_API_KEY="$KELD_EMULATOR_TOKEN"' in lines
        assert "s3cret" not in "\n".join(lines)
