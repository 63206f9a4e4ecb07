"""The trigger and the poller behind it: when they fire, what they ask of the provider, and whom they leave alone."""

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from keld import Keld
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import LATENCY_S, ROWS, Worker, job, supervised
from tests.support.ticket_job import fault

DAY: dict[str, Any] = {"partition_key": "2026-11-19"}
TI = SimpleNamespace(dag_id="dag", task_id="label", run_id="run-1", map_index=-1)


def operator(**given: Any) -> Any:
    from keld_airflow import KeldBatchOperator

    return KeldBatchOperator(**{"task_id": "label", "job": job(), "source": lambda: ROWS, **given})


def trigger_of(fields: dict[str, Any], **changes: Any) -> Any:
    """The trigger as a triggerer makes it from the database; it looks at once."""
    from keld_airflow import KeldTrigger

    return KeldTrigger(**{**fields, "look_at": datetime.now(UTC).isoformat(), **changes})


async def first_event(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("no event")


# --- firing -----------------------------------------------------------------------------------------------------------


def test_it_holds_ids_and_instants_and_can_be_made_again_from_them(worker: Worker, provider: Emulator) -> None:
    """Airflow keeps its fields in the database, and makes it anew in every triggerer that takes it over."""
    fields = worker.until_sent(operator(), **DAY).trigger
    assert set(fields) == {"keld_conn_id", "job_run", "holder", "epoch", "look_at", "wake_at", "found", "cancels"}
    path, again = trigger_of(fields, look_at=fields["look_at"]).serialize()
    assert (path, again) == ("keld_airflow.trigger.KeldTrigger", fields)
    assert datetime.fromisoformat(fields["look_at"]) > datetime.now(UTC) + timedelta(seconds=5), (
        "the scheduler must note the deferral first"
    )


def test_it_fires_when_the_provider_is_done(worker: Worker, provider: Emulator) -> None:
    sent = worker.until_sent(operator(), **DAY)
    provider.advance(LATENCY_S)
    assert asyncio.run(first_event(trigger_of(sent.trigger))) == sent.event


def test_it_fires_at_the_deadline_which_is_an_instant(worker: Worker, provider: Emulator) -> None:
    """A span would begin anew with every triggerer that takes over."""
    fields = worker.until_sent(operator(), **DAY).trigger
    event = asyncio.run(first_event(trigger_of(fields, wake_at=datetime.now(UTC).isoformat())))
    assert event["reason"] == "deadline"


def test_a_deadline_in_a_few_seconds_wakes_a_task_no_sooner_than_the_scheduler_has_noted_that_it_deferred(
    worker: Worker, provider: Emulator
) -> None:
    """A task whose trigger fires before that is marked failed (apache/airflow#71580)."""
    now = datetime.now(UTC)
    fields = worker.until_sent(operator(job=job(lane="batch", deadline=now + timedelta(seconds=4)))).trigger
    assert now + timedelta(seconds=9) < datetime.fromisoformat(fields["wake_at"]) < now + timedelta(seconds=30)


def test_a_task_that_resumes_in_another_ledger_fails_for_good_and_sends_nothing(
    worker: Worker, provider: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody gives the connection a ledger of its own while tasks wait; a retry would find nothing there, and buy every row again."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    task = operator(retries=5)
    sent = worker.until_sent(task, **DAY)
    provider.advance(LATENCY_S)
    monkeypatch.setenv("KELD_LEDGER_URL", f"sqlite:///{tmp_path}/another.db")
    resumed = worker.run(task, event=sent.event, **DAY)
    assert isinstance(resumed.error, AirflowFailException)
    assert "another ledger than then" in str(resumed.error)
    assert len(provider.batches()) == 1
    monkeypatch.delenv("KELD_LEDGER_URL")
    assert worker.run(task, **DAY).state == "success"
    assert len(provider.batches()) == 1


def test_two_triggerers_that_both_run_it_buy_nothing_twice(worker: Worker, provider: Emulator) -> None:
    """One that froze and the one that took over: `run` only looks."""
    fields = worker.until_sent(operator(), **DAY).trigger
    provider.advance(LATENCY_S)

    async def both() -> list[dict[str, Any]]:
        return await asyncio.gather(first_event(trigger_of(fields)), first_event(trigger_of(fields)))

    first, second = asyncio.run(both())
    assert first == second
    assert [call.path for call in provider.requests() if call.method == "POST"] == ["/v1/files", "/v1/batches"]


# --- the shared poller ------------------------------------------------------------------------------------------------


class Turning:
    """A pause that takes no time: the provider's clock, and the environment's, is turned instead."""

    def __init__(self, provider: Emulator) -> None:
        self.provider, self.pauses, self.told = provider, list[float](), list[tuple[int, str]]()

    def tell(self, level: int, words: str) -> None:
        self.told.append((level, words))

    async def __call__(self, news: asyncio.Event, seconds: float) -> None:
        self.pauses.append(seconds)
        self.provider.advance(seconds)
        await asyncio.sleep(0)


@pytest.fixture
def frozen(open_emulator: Callable[..., Emulator]) -> Emulator:
    return open_emulator(latency_s=LATENCY_S)


def poll_until_due(opened: Callable[[], Keld], provider: Emulator, job_runs: list[str]) -> Turning:
    """All job runs waited for, in one event loop; the pauses there were, and what was told of the first."""
    from keld_airflow.poller import Poller

    turning = Turning(provider)

    async def all_due() -> None:
        poller = Poller(opened, clock=provider.now, pause=turning)
        tells = [turning.tell, *[lambda level, words: None] * len(job_runs)]
        await asyncio.gather(*(poller.due(job_run, provider.now(), tell) for job_run, tell in zip(job_runs, tells, strict=False)))

    asyncio.run(asyncio.wait_for(all_due(), 60))
    return turning


@pytest.fixture
def twelve(frozen: Emulator, open_keld_at: Callable[[], Keld]) -> list[str]:
    """Twelve job runs at the provider."""
    with open_keld_at() as keld:
        sent = [keld.submit(job(), ROWS, partition=f"2026-11-{day:02d}").id for day in range(1, 13)]
        for job_run in sent:
            keld.advance(job_run)
    return sent


@pytest.fixture
def open_keld_at(frozen: Emulator, tmp_path: Any) -> Callable[[], Keld]:
    return lambda: Keld(home=tmp_path / "keld", clock=frozen.now)


def test_twelve_waits_take_one_list_page_a_look(frozen: Emulator, open_keld_at: Callable[[], Keld], twelve: list[str]) -> None:
    """A look of each for itself would be twelve calls; ten thousand would be all that a provider bears."""
    before = len(frozen.requests())
    turning = poll_until_due(open_keld_at, frozen, twelve)
    asked = frozen.requests()[before:]
    lists = [call for call in asked if call.path == "/v1/batches" and call.method == "GET"]
    assert len(lists) <= len(turning.pauses) + 1
    assert len(asked) - len(lists) <= 12, "and one look at each that has ended, before it is believed"
    assert max(turning.pauses) > 2 * min(turning.pauses), "the older, the seldomer"


def test_a_job_run_that_another_worker_holds_is_looked_at_again_after_a_pause(
    frozen: Emulator, open_keld_at: Callable[[], Keld], twelve: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its batch has ended, and only the holder may record that: so the look stays due, and one after the other would be a flood of calls."""
    from keld_airflow.poller import Poller

    frozen.advance(LATENCY_S)
    turning, looks, poll = Turning(frozen), list[int](), Keld.poll

    def holding(keld: Keld, *of: Any, **how: Any) -> Any:
        """The other worker is through after the fifth look."""
        looks.append(len(turning.pauses))
        statuses = poll(keld, *of, **how)
        if len(looks) == 5:
            keld.ledger.leases.release(lease, lease.due_at)
        return statuses

    monkeypatch.setattr(Keld, "poll", holding)
    with open_keld_at() as keld:
        lease = keld.ledger.leases.claim(twelve[0], "another worker", frozen.now())
        assert lease is not None
        poller = Poller(open_keld_at, clock=frozen.now, pause=turning)
        asyncio.run(poller.due(twelve[0], frozen.now(), turning.tell))
    assert looks == [0, 1, 2, 3, 4, 5]


def test_a_provider_that_is_down_ends_no_wait(frozen: Emulator, open_keld_at: Callable[[], Keld], twelve: list[str]) -> None:
    """Five failed looks in a row end the wait of others; an outage is no fault of the task."""
    fault(frozen, "any", "status", status=503, times=6)
    poll_until_due(open_keld_at, frozen, twelve[:1])
    fault(frozen, "any", "drop_before", times=3)
    poll_until_due(open_keld_at, frozen, twelve[1:2])


@pytest.mark.wide
def test_a_ledger_that_cannot_be_opened_ends_no_wait(frozen: Emulator, open_keld_at: Callable[[], Keld], twelve: list[str]) -> None:
    """A database is restarted now and then."""
    tries: list[int] = []

    def sometimes() -> Keld:
        tries.append(1)
        if len(tries) < 4:
            raise OSError("the database is starting up")
        return open_keld_at()

    assert poll_until_due(sometimes, frozen, twelve[:2]).pauses[:3] == [30.0, 30.0, 30.0]


def test_a_job_run_that_the_ledger_does_not_know_wakes_its_task_and_blinds_nobody(
    frozen: Emulator, open_keld_at: Callable[[], Keld], twelve: list[str]
) -> None:
    """The task then says so; waited for, it would be silent for ever."""
    poll_until_due(open_keld_at, frozen, ["0" * 32, *twelve[:3]])


@pytest.mark.share(2)
@pytest.mark.parametrize(
    ("status", "says"), [(401, "HTTP 401 .* Check the key"), (503, "HTTP 503 .* tried again later")], ids=["refused", "down"]
)
def test_what_stands_in_the_way_of_a_wait_is_told_once_and_that_it_is_gone(
    frozen: Emulator, open_keld_at: Callable[[], Keld], twelve: list[str], status: int, says: str
) -> None:
    """An hour of looks that all fail is one line in the task's log; without it, a wait looks the same as a slow batch."""
    fault(frozen, "any", "status", status=status, times=20)
    turning = poll_until_due(open_keld_at, frozen, twelve[:1])
    assert len(turning.pauses) > 5
    [refused, gone] = [told for told in turning.told if "rows done" not in told[1]]
    assert (refused[0], gone[0]) == (logging.WARNING, logging.INFO)
    assert re.search(says, refused[1])


def test_a_wait_tells_how_far_the_provider_is_when_something_has_changed_and_not_at_each_look(
    frozen: Emulator, open_keld_at: Callable[[], Keld]
) -> None:
    """A thousand tasks that wait for a day must not fill the disk; and one that says nothing looks like one that hangs."""
    with open_keld_at() as keld:
        sent = keld.submit(job(deadline=timedelta(hours=9)), ROWS, partition="2026-11-19", ends_at=frozen.now()).id
        keld.advance(sent)
    turning = poll_until_due(open_keld_at, frozen, [sent])
    told = [words for _, words in turning.told]
    assert re.fullmatch(
        r"At the provider: 0 of 5 rows done in 1 batch; \$0\.0000 so far; expected by 2\d{3}-\d\d-\d\d \d\d:\d\d UTC; "
        r"unanswered rows move to a faster lane at .* UTC; due at .* UTC\.",
        told[0],
    )
    assert len(set(told)) == len(told) <= 6 < len(turning.pauses)


@pytest.mark.wide
def test_another_obstacle_is_another_line(frozen: Emulator, open_keld_at: Callable[[], Keld], twelve: list[str]) -> None:
    """A ledger that is away, and then a key that is refused, are two calls for two people."""
    fault(frozen, "any", "status", status=401, times=20)
    tries: list[int] = []

    def later() -> Keld:
        tries.append(1)
        if len(tries) < 4:
            raise OSError("CANARY: the database is starting up")
        return open_keld_at()

    told = [words for level, words in poll_until_due(later, frozen, twelve[:1]).told if level == logging.WARNING]
    assert [bool(re.search(says, words)) for says, words in zip(("OSError", "HTTP 401"), told, strict=True)] == [True, True]
    assert "CANARY" not in str(told)


def test_a_trigger_says_it_in_its_own_coroutine_and_names_the_connection(
    worker: Worker, provider: Emulator, capfd: pytest.CaptureFixture[str]
) -> None:
    """Airflow puts a line into a task's log by the coroutine it is said in; of a poller that all tasks share, by none."""
    import structlog

    fields = worker.until_sent(operator(), **DAY).trigger
    fault(provider, "any", "status", status=401, times=None, message="CANARY")

    async def said() -> dict[str, Any]:
        """The first line, with the task it is bound to."""
        lines: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        def keep(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
            if "Waiting continues" in str(event.get("event")):
                lines.put_nowait(dict(event))
            raise structlog.DropEvent

        trigger = trigger_of(fields)
        trigger._log = structlog.wrap_logger(None, processors=[structlog.contextvars.merge_contextvars, keep])
        structlog.contextvars.bind_contextvars(task_id="label")
        waiting = asyncio.create_task(first_event(trigger))
        line = asyncio.create_task(lines.get())
        await asyncio.wait([waiting, line], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return await line

    line = asyncio.run(asyncio.wait_for(said(), 120))
    assert line["task_id"] == "label"
    assert "connection keld_default" in str(line)
    assert "CANARY" not in str(line)


# --- a kill, and what looks like one ----------------------------------------------------------------------------------


def killed(fields: dict[str, Any], states: dict[str, str]) -> None:
    """Airflow tells the trigger that its task was killed, while its database has these states."""
    trigger = trigger_of(fields)
    trigger.task_instance = TI
    with supervised(states):
        asyncio.run(trigger.on_kill())


def cancels(provider: Emulator) -> int:
    return sum(call.path.endswith("/cancel") for call in provider.requests())


@pytest.mark.parametrize("states", [{"label": "failed"}, {"label": "success"}, {}], ids=["failed", "success", "gone"])
def test_a_task_that_was_ended_by_hand_cancels_its_batch(worker: Worker, provider: Emulator, states: dict[str, str]) -> None:
    killed(worker.until_sent(operator(), **DAY).trigger, states)
    assert cancels(provider) == 1


@pytest.mark.share(2)
@pytest.mark.parametrize("state", ["deferred", "running", "queued", "scheduled", "up_for_retry", "restarting", None])
def test_a_task_that_goes_on_keeps_its_batch(worker: Worker, provider: Emulator, state: str) -> None:
    """A triggerer that froze and lost it to another is told of a kill as well; so is the trigger of a task that was cleared."""
    killed(worker.until_sent(operator(), **DAY).trigger, {"label": state})
    assert cancels(provider) == 0


def test_a_task_that_is_renamed_while_it_waits_keeps_its_batch_until_it_begins_under_its_new_name(
    worker: Worker, provider: Emulator, tmp_path: Path
) -> None:
    """Airflow removes the old instance, and ends its trigger, before the new one has a slot."""
    killed(worker.until_sent(operator(), **DAY).trigger, {"label": "removed"})
    assert cancels(provider) == 0
    renamed = worker.until_sent(operator(task_id="classify"), **DAY)
    assert abandoned(tmp_path, {"label": "removed", "classify": "deferred"}) == []
    provider.advance(LATENCY_S)
    assert worker.run(operator(task_id="classify"), event=renamed.event, **DAY).state == "success"
    assert (len(provider.batches()), cancels(provider)) == (1, 0)


@pytest.mark.parametrize(("state", "asked"), [("failed", 1), ("deferred", 0)])
def test_an_airflow_that_only_ends_the_trigger_of_a_killed_task_gets_its_batch_cancelled_as_well(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch, state: str, asked: int
) -> None:
    """Before Airflow 3.3 a kill and a triggerer that is shut down look the same: the coroutine is cancelled."""
    from keld_airflow import trigger

    monkeypatch.setattr(trigger, "_CALLS_ON_KILL", False)
    waiting = trigger.KeldTrigger(**worker.until_sent(operator(), **DAY).trigger)
    waiting.task_instance = TI

    async def end() -> None:
        wait = asyncio.create_task(anext(waiting.run()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    with supervised({"label": state}):
        asyncio.run(end())
    assert cancels(provider) == asked


def answering_loop() -> asyncio.AbstractEventLoop:
    """The event loop on which Airflow 3.1 answers what is asked from this thread."""

    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    return async_to_sync(running)()


def test_what_a_killed_task_asks_airflow_is_answered_on_the_triggerer_s_own_event_loop(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any other thread 3.1 answers it on another loop, and the whole triggerer dies: "Response read out of order"."""
    from keld_airflow import trigger

    waiting = trigger.KeldTrigger(**worker.until_sent(operator(), **DAY).trigger)
    waiting.task_instance = TI
    loops = list[asyncio.AbstractEventLoop]()
    monkeypatch.setattr(trigger, "is_over", lambda ti: loops.append(answering_loop()) or True)
    monkeypatch.setattr(trigger, "detach_and_cancel", lambda *of: loops.append(answering_loop()) or True)

    async def kill() -> None:
        await waiting.on_kill()
        assert loops == [asyncio.get_running_loop()] * 2

    asyncio.run(kill())


@pytest.mark.wide
def test_what_the_poller_asks_airflow_is_answered_on_the_triggerer_s_own_event_loop(
    frozen: Emulator, open_keld_at: Callable[[], Keld], twelve: list[str]
) -> None:
    """It asks for the connection, and for the states of tasks that nobody waits for."""
    from keld_airflow.poller import Poller

    loops, turning = list[asyncio.AbstractEventLoop](), Turning(frozen)

    def opened() -> Keld:
        loops.append(answering_loop())
        return open_keld_at()

    async def due() -> None:
        await Poller(opened, clock=frozen.now, pause=turning).due(twelve[0], frozen.now(), turning.tell)
        assert set(loops) == {asyncio.get_running_loop()}

    asyncio.run(due())


@pytest.mark.parametrize("calls_on_kill", [True, False])
def test_a_kill_is_carried_out_to_the_end_though_airflow_cuts_it_off(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch, calls_on_kill: bool
) -> None:
    """Airflow 3.3 gives it 30 seconds, 3.1 and 3.2 cancel the trigger again with each heartbeat; a busy triggerer takes longer."""
    from keld_airflow import trigger

    monkeypatch.setattr(trigger, "_CALLS_ON_KILL", calls_on_kill)
    asked, answer = threading.Event(), threading.Event()

    def is_over(ti: Any) -> bool:
        asked.set()
        return answer.wait(60)

    monkeypatch.setattr(trigger, "is_over", is_over)
    waiting = trigger.KeldTrigger(**worker.until_sent(operator(), **DAY).trigger)
    waiting.task_instance = TI

    async def end() -> None:
        killed = asyncio.create_task(waiting.on_kill() if calls_on_kill else anext(waiting.run()))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        if not calls_on_kill:
            killed.cancel()
        await asyncio.to_thread(asked.wait, 60)
        killed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await killed
        answer.set()
        await asyncio.gather(*trigger._ENDING)

    asyncio.run(end())
    assert cancels(provider) == 1


def test_a_trigger_from_before_a_clear_cancels_nothing_even_when_the_task_is_over(worker: Worker, provider: Emulator) -> None:
    """It is told late; the batch belongs to the new try by then."""
    old = worker.until_sent(operator(), **DAY).trigger
    worker.until_sent(operator(), **DAY)
    killed(old, {"label": "failed"})
    assert cancels(provider) == 0


def test_a_batch_that_another_dag_run_waits_for_is_left_alone(worker: Worker, provider: Emulator) -> None:
    """A backfill and the day's own run may want the same partition; the last one to go cancels."""
    mine = worker.until_sent(operator(), **DAY).trigger
    other = worker.until_sent(operator(), run_id="backfill", **DAY).trigger
    killed(mine, {"label": "failed"})
    assert cancels(provider) == 0
    killed(other, {"label": "failed"})
    assert cancels(provider) == 1


@pytest.mark.parametrize(("state", "expected"), [("failed", 1), ("running", 0)])
def test_a_worker_that_is_told_to_stop_cancels_only_if_somebody_ended_the_task(
    worker: Worker, provider: Emulator, state: str, expected: int
) -> None:
    """The same signal comes when a worker is shut down for a new version."""
    executed = worker.until_sent(operator(), **DAY).task
    with supervised({"label": state}):
        executed.on_kill()
    assert cancels(provider) == expected


@pytest.mark.parametrize("where", ["triggerer", "worker"])
def test_a_task_that_is_to_leave_its_batch_does_so_and_a_later_try_finds_the_answers(
    worker: Worker, provider: Emulator, where: str
) -> None:
    """What is paid for tonight is wanted tomorrow, whoever marks the task failed."""
    task = operator(on_kill="leave")
    sent = worker.until_sent(task, **DAY)
    if where == "triggerer":
        killed(sent.trigger, {"label": "failed"})
    else:
        with supervised({"label": "failed"}):
            sent.task.on_kill()
    assert cancels(provider) == 0
    ended = worker.through(task, provider, **DAY)
    assert ended.state == "success", ended.error
    assert len(provider.bill()) == 5


def test_a_trigger_that_an_earlier_version_made_still_cancels(worker: Worker, provider: Emulator) -> None:
    """It is in Airflow's database while Keld is upgraded."""
    fields = worker.until_sent(operator(), **DAY).trigger
    del fields["cancels"]
    killed(fields, {"label": "failed"})
    assert cancels(provider) == 1


# --- a kill that nobody heard of --------------------------------------------------------------------------------------


def abandoned(tmp_path: Path, states: dict[str, str], *, later: timedelta = timedelta(hours=1), asks: str | None = None) -> list[str]:
    """What is cancelled by a triggerer, or the task of another Dag run, that comes `later`, while Airflow's database has these states."""
    from keld_airflow.abandoned import cancel_abandoned

    with Keld(home=tmp_path / "keld", clock=lambda: datetime.now(UTC) + later) as keld, supervised(states):
        return cancel_abandoned(keld)


@pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed"])
def test_a_task_that_was_ended_by_hand_before_a_triggerer_had_its_trigger_gets_its_batch_cancelled(
    worker: Worker, provider: Emulator, tmp_path: Path, state: str
) -> None:
    """Airflow tells nobody of it: the trigger is deleted before it ran."""
    sent = worker.until_sent(operator(), **DAY)
    assert abandoned(tmp_path, {"label": state}) == [sent.event["job_run"]]
    assert cancels(provider) == 1
    assert abandoned(tmp_path, {"label": state}, later=timedelta(days=1)) == [], "once"


@pytest.mark.parametrize(
    ("states", "count"), [({"label_3": "failed", "label": "deferred"}, 1), ({"label_3": "deferred", "label": "failed"}, 0)]
)
def test_of_a_mapped_task_the_instance_that_was_ended_is_meant(
    worker: Worker, provider: Emulator, tmp_path: Path, states: dict[str, str], count: int
) -> None:
    worker.until_sent(operator(partition="eu"), map_index=3, **DAY)
    assert len(abandoned(tmp_path, states)) == count
    assert cancels(provider) == count


@pytest.mark.parametrize("states", [{"label": "deferred"}, {"label": "up_for_retry"}, {"label": "queued"}, {}])
def test_a_task_that_goes_on_or_is_another_airflow_s_keeps_its_batch_though_nobody_looks(
    worker: Worker, provider: Emulator, tmp_path: Path, states: dict[str, str]
) -> None:
    """The triggerers may all be down; and two Airflows may use one ledger."""
    worker.until_sent(operator(), **DAY)
    assert abandoned(tmp_path, states) == []
    assert cancels(provider) == 0


def test_a_batch_that_somebody_looks_at_is_not_abandoned(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """Its trigger is alive, and hears of a kill itself."""
    worker.until_sent(operator(), **DAY)
    assert abandoned(tmp_path, {"label": "failed"}, later=timedelta(seconds=1)) == []


def test_a_task_that_was_to_leave_its_batch_has_not_abandoned_it(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    worker.until_sent(operator(on_kill="leave"), **DAY)
    assert abandoned(tmp_path, {"label": "failed"}) == []
    assert cancels(provider) == 0


def test_a_batch_that_another_dag_run_still_waits_for_is_not_abandoned(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """A backfill of a namesake, say; the states are those of `run-1` only."""
    worker.until_sent(operator(), **DAY)
    worker.until_sent(operator(), run_id="backfill", **DAY)
    assert abandoned(tmp_path, {"label": "failed"}) == []
    assert cancels(provider) == 0


def test_a_task_that_failed_by_itself_keeps_its_batch(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """It has ended, too; cleared tomorrow, it finds what it paid for."""
    task = operator()
    sent = worker.until_sent(task, **DAY)
    fault(provider, "any", "status", status=401, times=None)
    ended = worker.run(task, event=sent.event, **DAY)
    assert ended.state == "failed"
    assert abandoned(tmp_path, {"label": "failed"}) == []
    assert cancels(provider) == 0


def test_a_task_whose_trigger_broke_keeps_its_batch(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    task = operator()
    worker.until_sent(task, **DAY)
    assert worker.run(task, failed="Trigger failure", **DAY).state == "failed"
    assert abandoned(tmp_path, {"label": "failed"}) == []
    assert cancels(provider) == 0


def test_a_task_that_failed_while_the_ledger_was_away_keeps_its_batches(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """It could not give its attachment up; but a worker was wanted, which a task that was killed while it waited does not leave behind."""
    fault(provider, "life", "stuck", match={"batch": 2})
    sent = worker.until_sent(operator(job=job(max_shard_rows=3)), **DAY)
    provider.advance(LATENCY_S)
    with Keld(home=tmp_path / "keld") as keld:
        keld.poll([sent.event["job_run"]])
    assert abandoned(tmp_path, {"label": "failed"}) == []
    assert cancels(provider) == 0


def test_a_provider_that_was_away_when_a_task_was_killed_is_asked_to_cancel_later(
    worker: Worker, provider: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keld_airflow import kill

    monkeypatch.setattr(kill, "_TRIES", 1)
    sent = worker.until_sent(operator(), **DAY)
    fault(provider, "any", "status", status=503, times=20)
    killed(sent.trigger, {"label": "failed"})
    provider.clear_faults()
    before = cancels(provider)
    assert abandoned(tmp_path, {"label": "failed"}, later=timedelta(days=1)) == [sent.event["job_run"]]
    assert cancels(provider) == before + 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody looks at counts as unseen at once."""
    from keld_airflow import abandoned

    monkeypatch.setattr(abandoned, "_UNSEEN", timedelta(days=-1))


@pytest.mark.usefixtures("impatient")
def test_the_next_task_of_the_ledger_cancels_what_was_abandoned(worker: Worker, provider: Emulator) -> None:
    """Where no triggerer runs, and so no other wait is polled."""
    worker.until_sent(operator(), **DAY)
    worker.states = {"label": "failed", "other": "running"}
    worker.until_sent(operator(task_id="other", job=job(name="other")), **DAY)
    assert cancels(provider) == 1


@pytest.mark.usefixtures("impatient")
def test_a_triggerer_cancels_what_was_abandoned_while_it_polls_for_others(worker: Worker, provider: Emulator) -> None:
    worker.until_sent(operator(), **DAY)
    waiting = worker.until_sent(operator(task_id="other", job=job(name="other")), **DAY)
    assert cancels(provider) == 0

    async def poll() -> None:
        wait = asyncio.create_task(first_event(trigger_of(waiting.trigger)))
        while not cancels(provider):
            await asyncio.sleep(0.01)  # the poller has a thread of its own
        wait.cancel()

    with supervised({"label": "failed", "other": "deferred"}):
        asyncio.run(asyncio.wait_for(poll(), 60))


@pytest.mark.usefixtures("impatient")
def test_a_dag_run_that_is_started_anew_after_a_kill_takes_the_batch_over(worker: Worker, provider: Emulator) -> None:
    """Rather than cancel it and buy it again."""
    worker.until_sent(operator(), **DAY)
    worker.states = {"label": "failed"}
    again = worker.through(operator(task_id="again", job=job()), provider, **DAY)
    assert again.state == "success", again.error
    assert (cancels(provider), len(provider.bill())) == (0, 5)
