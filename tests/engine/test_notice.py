"""Notices: people hear of what matters once, whatever dies in between, and no hook stops a job run."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from keld import InvalidJob, Keld, Notice, Settings, notice
from keld.emulator import Emulator
from tests.engine.test_orphan import sweep
from tests.support.ticket_job import Peer, anthropic, fault, finish, openai, outcomes, run, tickets, triage

SECRETS = ("CANARY-SYSTEM", "CANARY-ROW", "sk-", "CANARY-URL")


class Heard(list[Notice]):
    """A hook that keeps what it was told."""

    def __call__(self, told: Notice) -> None:
        self.append(told)

    @property
    def kinds(self) -> list[str]:
        return [told.kind.value for told in self]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def keld(open_keld: Callable[..., Keld], heard: Heard) -> Keld:
    return open_keld(on_event=heard)


# --- what is told -----------------------------------------------------------------------------------------------------


def test_the_end_is_told_once_however_often_it_is_looked_at(
    keld: Keld, open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer, heard: Heard, ledger_url: str
) -> None:
    status = run(keld, emulator, triage(peer), tickets())
    keld.advance(status.id)
    open_keld(on_event=heard).advance(status.id)
    assert heard.kinds == ["finished"]
    assert "6 of 6 rows answered" in heard[0].text


def test_a_missed_deadline_is_told_while_rows_are_still_open(keld: Keld, emulator: Emulator, heard: Heard) -> None:
    """Then a person can still do something about it."""
    fault(emulator, "life", "stuck")
    fault(emulator, "create", "status", status=503, times=99, match={"path": "/v1/chat/completions"})
    status = keld.submit(triage(openai, deadline=timedelta(hours=2)), tickets())
    keld.advance(status.id)
    assert heard.kinds == []
    emulator.advance(timedelta(hours=2, minutes=1).total_seconds())
    keld.poll()
    assert heard.kinds == ["late"]
    assert not heard[0].status.over
    keld.poll()
    assert heard.kinds == ["late"]


def test_rows_that_wait_for_a_persons_decision_are_told(open_keld: Callable[..., Keld], emulator: Emulator, heard: Heard) -> None:
    keld = open_keld(on_event=heard, settings=Settings(resend_unfenced=False))
    fault(emulator, "create", "drop_after")
    fault(emulator, "create", "list_lag", for_s=5_000)
    status = run(keld, emulator, triage(anthropic), tickets())
    assert outcomes(keld, status) == ["quarantined"] * 6
    assert heard.kinds == ["quarantined", "finished"]
    assert "6 rows are quarantined" in heard[0].text


def test_rows_that_did_not_fit_under_the_ceiling_are_told_at_the_end(keld: Keld, emulator: Emulator, heard: Heard) -> None:
    fault(emulator, "rows", "invalid", times=99)
    worst = next(
        option.worst_usd for option in keld.plan(triage(openai, max_output_tokens=16), tickets()).options if option.lane == "batch"
    )
    status = run(keld, emulator, triage(openai, max_output_tokens=16, max_attempts=99, ceiling_usd=worst), tickets())
    assert status.outcomes.get("over_ceiling", 0) > 0
    assert heard.kinds == ["over_ceiling", "finished"]


def test_money_that_was_paid_twice_is_told_though_the_job_run_is_long_over(keld: Keld, emulator: Emulator, heard: Heard) -> None:
    """A create that a gateway sent twice: its second batch is found, and its bill known, later."""
    fault(emulator, "create", "twice")
    fault(emulator, "life", "stuck", done=0.5, match={"batch": 2})
    status = finish(keld, emulator, keld.submit(triage(openai), tickets()).id)
    status = sweep(keld, emulator, status)
    assert sorted(heard.kinds) == ["finished", "paid_twice"]
    twice = next(told for told in heard if told.kind == "paid_twice")
    assert twice.paid_twice_usd == keld.spend().total.twice_usd > 0


def test_no_notice_holds_a_prompt_an_answer_or_a_key(keld: Keld, emulator: Emulator, peer: Peer, heard: Heard) -> None:
    run(keld, emulator, triage(peer), tickets())
    assert heard.kinds == ["finished"]
    assert [secret for secret in SECRETS if secret in heard[0].text + repr(heard[0])] == []


def test_what_ended_before_there_was_a_hook_is_not_told(open_keld: Callable[..., Keld], emulator: Emulator, heard: Heard) -> None:
    """Who sets one does not want a year of news."""
    status = run(open_keld(), emulator, triage(openai), tickets())
    keld = open_keld(on_event=heard)
    keld.advance(status.id)
    keld.poll()
    assert heard == []


# --- whatever dies ----------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_while_it_tells_is_followed_by_one_that_tells_it_again_five_minutes_later(
    open_keld: Callable[..., Keld], emulator: Emulator, heard: Heard, tmp_path: Path
) -> None:
    """Nobody knows whether it had been told: once too often is better than never."""
    keld = open_keld(on_event=heard)
    run_id = keld.submit(triage(openai), tickets()).id
    keld.advance(run_id)
    emulator.advance(70)
    (tmp_path / "dying.py").write_text("import os, signal\ndef tell(notice):\n    os.kill(os.getpid(), signal.SIGKILL)\n")
    code = f"from keld import Keld; Keld(home={str(keld.home)!r}, ledger_url={keld.ledger_url!r}).advance({run_id!r})"
    environment = {**os.environ, "KELD_ON_EVENT": "dying:tell", "PYTHONPATH": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -signal.SIGKILL
    assert keld.status(run_id).over
    keld.poll()
    assert heard.kinds == [], "the dead one may still be about it"
    emulator.advance(301)
    open_keld(on_event=heard).poll()
    open_keld(on_event=heard).poll()
    assert heard.kinds == ["finished"]


def test_two_workers_at_once_tell_it_once(open_keld: Callable[..., Keld], emulator: Emulator, ledger_url: str) -> None:
    """The second claims while the first one's hook is still busy."""
    heard, busy, go_on = Heard(), threading.Event(), threading.Event()

    def slow(told: Notice) -> None:
        heard.append(told)
        busy.set()
        go_on.wait(60)

    run_id = run(open_keld(), emulator, triage(openai), tickets()).id
    ledger = open_keld().ledger
    ledger.notices.watch(run_id, emulator.now())
    first = open_keld(on_event=slow)
    telling = threading.Thread(target=first.poll)
    telling.start()
    assert busy.wait(60)
    open_keld(on_event=heard).poll()
    go_on.set()
    telling.join()
    assert heard.kinds == ["finished"]


def test_what_another_worker_has_told_is_not_claimed_at_each_look(open_keld: Callable[..., Keld], emulator: Emulator, heard: Heard) -> None:
    """A claim is a write, and a poll looks at thousands of job runs."""
    fault(emulator, "life", "stuck")
    first, other = open_keld(on_event=heard), open_keld(on_event=heard)
    run_id = first.submit(triage(openai, deadline=timedelta(hours=2), lane="batch"), tickets()).id
    first.advance(run_id)
    other.poll()
    emulator.advance(3 * 3_600)
    first.poll()
    other.poll()
    claimed: list[str] = []
    other.ledger.notices.claim = lambda run_id, news, now: bool(claimed.append(news))  # type: ignore[method-assign]
    other.poll()
    assert (heard.kinds, claimed) == (["late"], [])


# --- no hook stops a job run ------------------------------------------------------------------------------------------


def test_a_hook_that_fails_stops_no_job_run_and_is_tried_five_times(
    open_keld: Callable[..., Keld], emulator: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Notice] = []

    def failing(told: Notice) -> None:
        calls.append(told)
        raise RuntimeError("https://hooks.example/CANARY-URL")

    caplog.set_level(logging.DEBUG)
    keld = open_keld(on_event=failing)
    status = run(keld, emulator, triage(openai), tickets())
    assert (status.answered, len(calls)) == (6, 1)
    for _ in range(20):
        emulator.advance(3_600)
        keld.advance(status.id)
    assert len(calls) == 5
    assert [event.kind for event in keld.ledger.events(status.id)].count("telling") == 5
    assert len({told.id for told in calls}) == 1
    assert "notice.failed" in caplog.text
    assert "CANARY-URL" not in caplog.text


def test_a_hook_that_is_asynchronous_is_run_to_its_end(open_keld: Callable[..., Keld], emulator: Emulator, peer: Peer) -> None:
    """Clients of chats are often asynchronous; a coroutine that nobody awaits tells nobody, and would count as told."""
    heard = Heard()

    async def tell(told: Notice) -> None:
        await asyncio.sleep(0)
        heard(told)

    run(open_keld(on_event=tell), emulator, triage(peer), tickets())
    assert heard.kinds == ["finished"]


def test_a_hook_that_hangs_stops_no_job_run_and_is_not_called_again(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notice, "_PATIENCE_S", 0.01)
    let_go, calls = threading.Event(), list[Notice]()

    def hanging(told: Notice) -> None:
        calls.append(told)
        let_go.wait(60)

    keld = open_keld(on_event=hanging)
    both = [run(keld, emulator, triage(openai), tickets(), partition=partition) for partition in ("a", "b")]
    assert [status.answered for status in both] == [6, 6]
    assert len(calls) == 1
    let_go.set()


# --- how it is named --------------------------------------------------------------------------------------------------


def test_the_environment_may_name_the_hook(
    open_keld: Callable[..., Keld], emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So one setting serves the command line, a sensor's daemon, a triggerer and every worker."""
    (tmp_path / "my_alerts.py").write_text("heard = []\ndef tell(notice):\n    heard.append(notice.kind)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("KELD_ON_EVENT", "my_alerts:tell")
    run(open_keld(), emulator, triage(openai), tickets())
    import my_alerts  # type: ignore[import-not-found]

    assert my_alerts.heard == ["finished"]


@pytest.mark.parametrize("name", ["alerts", ":tell", "alerts:", "alerts:tell it"])
def test_a_name_that_cannot_be_a_function_is_refused_at_once(
    open_keld: Callable[..., Keld], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("KELD_ON_EVENT", name)
    with pytest.raises(InvalidJob, match="module:function"):
        open_keld()


def test_a_hook_that_cannot_be_imported_stops_no_job_run(
    open_keld: Callable[..., Keld], emulator: Emulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("KELD_ON_EVENT", "no_such_module:tell")
    assert run(open_keld(), emulator, triage(openai), tickets()).answered == 6
    assert "ModuleNotFoundError" in caplog.text
