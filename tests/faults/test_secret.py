"""Key and prompts through every failure path of the table, at a provider that says both back: told nowhere but in the rows themselves."""

import contextlib
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from keld import Keld, KeldError, Settings
from keld.cli import app
from keld.emulator import Emulator
from keld.providers.kinds import BUILT_IN, preset_of
from tests.faults.case import CASES, Case
from tests.faults.play import play
from tests.faults.secret import KEY, echoing, found_in
from tests.faults.test_table import impatient  # noqa: F401  a fixture
from tests.support.ticket_job import PEERS, SYSTEM, Peer, ledger_dump, tickets, triage
from tests.support.ticket_job import openai as openai_peer


class Listener(logging.Handler):
    """Every record of every logger, at any level, with the traceback it carries."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def log() -> Iterator[Listener]:
    listener, root = Listener(), logging.getLogger()
    level = root.level
    root.addHandler(listener)
    root.setLevel(logging.DEBUG)
    yield listener
    root.setLevel(level)
    root.removeHandler(listener)


@pytest.fixture
def canary(monkeypatch: pytest.MonkeyPatch, emulator: Emulator) -> str:
    """The environment holds a key that can be searched for, of each kind that has one there."""
    for kind in BUILT_IN:
        set_key(monkeypatch, kind)
    return KEY


def set_key(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The key of a kind where its account finds it; of AWS the secret key, which signs and is never sent."""
    variable = preset_of(kind, kind).api_key_env or ("AWS_SECRET_ACCESS_KEY" if kind == "bedrock" else None)
    if variable is not None:
        monkeypatch.setenv(variable, KEY)


def all_cases() -> Iterator[Any]:
    says = [case for case in CASES if echoing(list(case.rules)) != list(case.rules)]
    for n, case in enumerate(says):
        for m, name in enumerate(case.on):
            fast = not case.slow and n % 4 == 0 and n // 4 % len(case.on) == m
            yield pytest.param(case, name, id=f"{case} - {name}", marks=() if fast else pytest.mark.slow)


@pytest.mark.share(2)
@pytest.mark.parametrize(("case", "name"), list(all_cases()))
def test_no_failure_path_tells_a_key_or_a_prompt(
    open_emulator: Callable[..., Emulator],
    open_keld: Callable[..., Keld],
    monkeypatch: pytest.MonkeyPatch,
    log: Listener,
    case: Case,
    name: str,
) -> None:
    """Logs, ledger, status and exceptions are read by more people than the table is."""
    emulator = open_emulator(**{"latency_s": 60, **case.emulator})
    set_key(monkeypatch, name)
    keld = open_keld(clock=emulator.now, settings=Settings(**case.settings))
    status = play(case, PEERS[name], keld, emulator, rules=echoing(list(case.rules)))
    told = {
        "ledger": ledger_dump(keld.ledger_url),
        "status": f"{status!r} {status.to_json()} {keld.statuses()!r}",
        "reprs": f"{keld!r} {keld.provider(name)!r} {vars(keld.provider(name)).get('_account')!r} {keld.accounts!r} {triage(PEERS[name])!r} {keld.ledger!r}",
        "log": "\n".join(log.lines),
    }
    assert {where: found_in(text) for where, text in told.items() if where != "reprs"} == {"ledger": [], "status": [], "log": []}
    assert KEY not in told["reprs"]
    assert log.lines


@pytest.mark.share(2)
@pytest.mark.parametrize("name", PEERS)
def test_no_exception_tells_a_key_or_a_prompt(keld: Keld, emulator: Emulator, canary: str, log: Listener, name: str) -> None:
    """Its whole traceback, causes and contexts with it, ends up in an orchestrator's log."""
    provider = keld.provider(name)
    calls: tuple[Callable[[], object], ...] = (
        lambda: provider.get("batch_1"), provider.newest, lambda: list(provider.batches(emulator.now())), lambda: provider.cancel("batch_1"),
        lambda: provider.delete_input("file-1"), lambda: keld.run(triage(PEERS[name]), tickets(), poll_s=0.05),
    )  # fmt: skip
    for status in (400, 401, 403, 404, 409, 413, 422, 429, 500):
        emulator.clear_faults()
        rule = {"at": "any", "do": "status", "status": status, "times": None, "retry_after": 0.001}
        emulator.faults({"rules": echoing([rule])})
        for call in calls if status == 401 else calls[:-1]:
            with contextlib.suppress(KeldError):
                try:
                    call()
                except KeldError as error:
                    assert found_in("".join(traceback.format_exception(error))) == []
                    raise
    assert found_in("\n".join(log.lines)) == []


JOBS = f"""
from typing import Literal
from pydantic import BaseModel
from keld import Job

class Label(BaseModel):
    category: Literal["billing", "bug", "account", "other"]

job = Job(name="triage", key="ticket_id", system={SYSTEM!r}, prompt="Classify: {{body}}", output_type=Label, models="MODELS", max_attempts=1)
"""
PATHS: dict[str, tuple[dict[str, Any], ...]] = {
    "no fault": (),
    "refused key": ({"at": "any", "do": "status", "status": 401, "times": None},),
    "refused file": ({"at": "create", "do": "status", "status": 422},),
    "failed rows": ({"at": "rows", "do": "error", "status": 400, "count": 2},),
    "redirect": ({"at": "get", "do": "redirect", "times": 1},),
}


@pytest.mark.parametrize("path", PATHS)
def test_the_command_line_tells_no_key_and_no_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_emulator: Callable[..., Emulator], log: Listener, peer: Peer, path: str
) -> None:
    """What it prints stands in terminals, pipes and build logs."""
    emulator = open_emulator(latency_s=0, frozen=False)
    set_key(monkeypatch, peer.name)
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "home"))
    emulator.faults({"rules": echoing(list(PATHS[path]))})
    (tmp_path / "jobs.py").write_text(JOBS.replace("MODELS", peer.models))
    pq.write_table(tickets(), tmp_path / "in.parquet")
    job, source = f"{tmp_path / 'jobs.py'}:job", str(tmp_path / "in.parquet")
    for words in (
        ["plan", job, "--source", source], ["plan", job, "--source", source, "--json"],
        ["run", job, "--source", source, "--sink", str(tmp_path / "out.parquet"), "--poll-s", "0.05"],
        ["status"], ["status", "--json"], ["status", "triage", "--partition", ""], ["spend"], ["spend", "--json"], ["spend", "--csv"],
    ):  # fmt: skip
        ran = CliRunner().invoke(app, words)
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        assert found_in(ran.output) == [], words
    assert found_in("\n".join(log.lines)) == []
    assert found_in(ledger_dump(f"sqlite:///{tmp_path / 'home' / 'ledger.db'}")) == []


def test_staging_and_outputs_are_the_only_files_with_a_prompt(keld: Keld, emulator: Emulator, canary: str, tmp_path: Path) -> None:
    """And none of them holds the key."""
    play(next(case for case in CASES if "half done" in case.fault), openai_peer, keld, emulator)
    holds = {path: found_in(path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    assert not [path for path, found in holds.items() if KEY in found]
    assert {path.relative_to(tmp_path).parts[:2] for path, found in holds.items() if found} == {("home", "staging")}
