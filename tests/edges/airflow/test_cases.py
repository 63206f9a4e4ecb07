"""A Keld task and what else Airflow has: limits, timeouts, trigger rules, setup and teardown, callbacks, mapping; in a real Airflow, so minutes.

Each test prints what it saw as a line of a table: case, end, rows bought, slots held while it waits.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from example_project.stack import StackFailed
from keld import Keld
from tests.edges.airflow.live_airflow import QUIET, Stack, change, database_url, live, told_of_secrets

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DAGS = ("ten", "chained", "unchained", "pooled", "capped", "tables", "brief", "primed", "edited", "ruled", "prepared")
MAPPED = 4


class Cases:
    """A stack, and how many rows were bought since a case began."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.airflow, self.emulator, self.place = stack, stack.airflow, stack.emulator, stack.place / "tables"
        self._before = 0

    def states(self, dag_id: str, run_id: str = "~", task_id: str = "label") -> Counter[str | None]:
        return Counter(task["state"] for task in self.airflow.tasks(dag_id, run_id) if task["task_id"] == task_id)

    def until(self, dag_id: str, run_id: str = "~", task_id: str = "label", **wanted: int) -> None:
        """Returns when a task has as many instances in each state as wanted."""
        what = f"{task_id} of {dag_id} {run_id}: {wanted}"
        self.airflow.until(lambda: self._is(dag_id, run_id, task_id, Counter(wanted)), what)

    def _is(self, dag_id: str, run_id: str, task_id: str, wanted: Counter[str]) -> bool:
        seen = self.states(dag_id, run_id, task_id)
        ended = Counter({state: seen[state] for state in ("failed", "success", "skipped", "upstream_failed")})
        assert ended <= wanted, f"{task_id} of {dag_id} {run_id}: {seen}"
        return all(seen[state] == count for state, count in wanted.items())

    def begin(self) -> None:
        """Rows are counted from here on."""
        self._before = len(self.emulator.bill())

    def start(self, dag_id: str, **more: Any) -> str:
        self.begin()
        return self.airflow.trigger(dag_id, **more)

    def held_by_triggerer(self, dag_id: str, run_id: str) -> None:
        """Returns when a triggerer has the task, and runs its trigger: from then on it is told of a kill."""
        self.until(dag_id, run_id, deferred=1)
        self.airflow.until(lambda: f"{dag_id}/{run_id}/label/-1" in self.stack.logs(), "a triggerer has it")

    def slots(self, pool: str = "default_pool") -> str:
        """How many slots of a pool are taken, and how many tasks in it wait."""
        facts = self.airflow.ask("GET", f"/api/v2/pools/{pool}")
        return f"{facts['occupied_slots']} of {facts['slots']}"

    def note(self, case: str, end: str, slots: str) -> None:
        print(f"\n| {case} | {end} | {len(self.emulator.bill()) - self._before:,} | {slots} |")

    def xcom(self, dag_id: str, run_id: str) -> Any:
        """The manifest that the task has left."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/label/xcomEntries/return_value"
        return self.airflow.ask("GET", f"{path}?deserialize=true")["value"]

    def notes(self, run_id: str) -> list[str]:
        """What the tasks and callbacks of a Dag run have left word of, in order."""
        lines = (self.place / "notes").read_text().splitlines()
        return [what for run, _, what in (line.partition(" ") for line in lines) if run == run_id]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, postgres: Callable[[], str]) -> Iterator[Cases]:
    """On Postgres: with SQLite a scheduler may end itself when a backfill is launched (`StaleDataError`, Airflow 3.3.2)."""
    with live(tmp_path_factory.mktemp("cases"), dags=DAGS, **QUIET, **database_url("postgres", postgres)) as stack:
        yield Cases(stack)


def test_ten_days_are_filled_at_once_to_the_end_of_the_backfill(cases: Cases) -> None:
    cases.begin()
    backfill = cases.airflow.backfill("ten", "2026-02-01T00:00:00Z", "2026-02-10T00:00:00Z", max_active_runs=10)
    cases.until("ten", deferred=10)
    slots = cases.slots()
    cases.stack.provider_ends()
    cases.until("ten", success=10)
    path = f"/api/v2/backfills/{backfill}"
    cases.airflow.until(lambda: cases.airflow.ask("GET", path)["completed_at"] is not None, "the backfill is over")
    assert {run["state"] for run in cases.airflow.runs("ten")} == {"success"}
    cases.note("backfill of 10 days, max active 10", "success", slots)


def test_a_pool_that_counts_deferred_tasks_caps_the_batches_that_are_open(cases: Cases) -> None:
    cases.airflow.ask("POST", "/api/v2/pools", {"name": "open_batches", "slots": 2, "include_deferred": True})
    run_id = cases.start("pooled")
    cases.until("pooled", run_id, deferred=2)
    slots = cases.slots("open_batches")
    cases.stack.provider_ends()
    cases.until("pooled", run_id, success=2, deferred=2)
    cases.stack.provider_ends()
    cases.until("pooled", run_id, success=MAPPED)
    assert {task["rendered_map_index"] for task in cases.airflow.tasks("pooled", run_id)} == {"us", "eu", "apac", "latam"}
    cases.note("pool of 2 slots with `include_deferred`, 4 mapped tasks", "success", slots)


def test_max_active_tis_per_dag_caps_the_batches_that_are_open(cases: Cases) -> None:
    """Before Airflow 3.3 it did not count what is deferred."""
    run_id = cases.start("capped")
    cases.until("capped", run_id, deferred=2)
    slots = cases.slots()
    cases.stack.provider_ends()
    cases.until("capped", run_id, success=2, deferred=2)
    cases.stack.provider_ends()
    cases.until("capped", run_id, success=MAPPED)
    cases.note("`max_active_tis_per_dag=2`, 4 mapped tasks", "success", slots)


def test_a_table_each_is_mapped_over_with_its_own_source_sink_and_partition(cases: Cases) -> None:
    for name in ("eu", "us"):
        (cases.place / f"in-{name}.csv").write_text("id,body\n" + "".join(f"{n},{name} {n}\n" for n in range(5)))
    run_id = cases.start("tables")
    cases.until("tables", run_id, deferred=2)
    slots = cases.slots()
    cases.stack.provider_ends()
    cases.until("tables", run_id, success=2)
    for name in ("eu", "us"):
        assert pq.read_table(cases.place / f"out-{name}.parquet").column("body").to_pylist() == [f"{name} {n}" for n in range(5)]
    cases.note("`expand_kwargs` over 2 tables", "success", slots)


def test_an_execution_timeout_does_not_count_the_wait(cases: Cases) -> None:
    """An hour for a step on a worker; the wait is longer.  As if it had begun two hours ago: no test waits for that."""
    run_id = cases.start("brief")
    cases.held_by_triggerer("brief", run_id)
    slots = cases.slots()
    [task] = cases.airflow.tasks("brief", run_id)
    began = "UPDATE task_instance SET start_date = start_date - interval '2 hours' WHERE dag_id = 'brief' AND state = 'deferred'"
    assert change(cases.airflow, began) == 1
    cases.stack.provider_ends()
    cases.until("brief", run_id, success=1)
    [after] = cases.airflow.tasks("brief", run_id)
    assert after["try_number"] == task["try_number"]
    assert after["duration"] > 3600, "Airflow, too, takes it for that long"
    cases.note("`execution_timeout` of an hour, deferred for longer", "success", slots)


def test_a_task_waits_for_the_row_that_goes_ahead_and_for_those_behind_it(cases: Cases) -> None:
    """Two waits of one task: between them a worker sends the other rows, which read the prompt cache that the first one wrote."""
    sent, run_id = len(cases.emulator.batches()), cases.start("primed")
    cases.held_by_triggerer("primed", run_id)
    slots = cases.slots()
    cases.airflow.until(
        lambda: "First row at the provider, ahead of the others: 0 of 20 rows done in 1 batch" in cases.stack.logs(), "a person is told"
    )
    cases.stack.provider_ends()
    cases.airflow.until(lambda: len(cases.emulator.batches()) == sent + 2, "the others are sent")
    cases.airflow.until(lambda: "At the provider: 1 of 20 rows done in 2 batches" in cases.stack.logs(), "a person is told")
    cases.until("primed", run_id, deferred=1)
    cases.stack.provider_ends()
    cases.until("primed", run_id, success=1)
    bill = cases.emulator.bill()[-20:]
    assert Counter((bool(entry.cache_write_tokens), bool(entry.cached_tokens)) for entry in bill) == {(True, False): 1, (False, True): 19}
    manifest = cases.xcom("primed", run_id)
    assert (manifest["counts"]["answered"], manifest["tokens"]["cached"]) == (20, sum(entry.cached_tokens for entry in bill))
    cases.note("one row goes ahead and writes the prompt cache", "success, after two waits", slots)


def test_with_depends_on_past_a_backfill_says_what_to_reprocess_and_takes_a_day_after_the_other(cases: Cases) -> None:
    cases.begin()
    days = ("2026-02-01T00:00:00Z", "2026-02-03T00:00:00Z")
    with pytest.raises(StackFailed, match="must set reprocess behavior"):
        cases.airflow.backfill("chained", *days)
    cases.airflow.backfill("chained", *days, reprocess_behavior="completed")
    for day in range(3):
        cases.until("chained", success=day, deferred=1)
        slots = cases.slots()
        cases.stack.provider_ends()
    cases.until("chained", success=3)
    cases.note(
        "`depends_on_past` in a Dag by dates, backfill of 3 days with reprocess *completed*", "success, a day after the other", slots
    )


def test_in_a_partitioned_dag_airflow_ignores_depends_on_past(cases: Cases) -> None:
    """Such runs have no logical date, by which it looks for the run before: apache/airflow#65578."""
    cases.begin()
    cases.airflow.backfill("unchained", "2026-02-01T00:00:00Z", "2026-02-03T00:00:00Z", reprocess_behavior="completed")
    cases.until("unchained", deferred=3)
    slots = cases.slots()
    cases.stack.provider_ends()
    cases.until("unchained", success=3)
    cases.note("`depends_on_past` in a partitioned Dag, backfill of 3 days with reprocess *completed*", "success, all days at once", slots)


def test_a_task_that_waits_finishes_what_it_sent_though_its_prompt_is_edited(cases: Cases) -> None:
    """As its Dag run began it: an edit alone buys nothing."""
    (cases.place / "prompt.md").write_text("before: {body}")
    run_id = cases.start("edited")
    cases.held_by_triggerer("edited", run_id)
    (cases.place / "prompt.md").write_text("after: {body}")
    slots, creates = cases.slots(), cases.stack.creates()
    cases.stack.provider_ends()
    cases.until("edited", run_id, success=1)
    assert cases.stack.creates() == creates
    cases.note("prompt edited while its batch is out", "success, with the answers to what was sent", slots)


def test_a_task_that_is_cleared_after_its_prompt_was_edited_brings_in_what_is_out_and_asks_again(cases: Cases) -> None:
    (cases.place / "prompt.md").write_text("before: {body}")
    run_id = cases.start("edited")
    cases.held_by_triggerer("edited", run_id)
    creates, cancels = cases.stack.creates(), cases.stack.cancels()
    (cases.place / "prompt.md").write_text("after: {body}")
    cases.stack.clear(run_id, "edited")
    cases.airflow.until(lambda: cases.airflow.tasks("edited", run_id)[0]["try_number"] == 2, "its next try")
    cases.until("edited", run_id, deferred=1)
    slots = cases.slots()
    assert cases.stack.creates() == creates, "what is out is waited for"
    cases.stack.provider_ends()
    cases.airflow.until(lambda: cases.stack.creates() == creates + 1, "the edited prompt is sent")
    cases.until("edited", run_id, deferred=1)
    cases.stack.provider_ends()
    cases.until("edited", run_id, success=1)
    assert cases.stack.cancels() == cancels
    cases.note("prompt edited while its batch is out, then cleared", "success, with the answers to the edited prompt", slots)


def test_a_task_that_succeeds_starts_what_is_below_it_by_the_trigger_rules(cases: Cases) -> None:
    run_id = cases.start("ruled")
    cases.held_by_triggerer("ruled", run_id)
    assert not any(cases.states("ruled", run_id, other).keys() - {None} for other in ("after", "alarm", "always"))
    slots = cases.slots()
    cases.stack.provider_ends()
    for task_id, state in {"label": "success", "after": "success", "alarm": "skipped", "always": "success"}.items():
        cases.until("ruled", run_id, task_id, **{state: 1})
    cases.airflow.until(lambda: "task succeeded" in cases.notes(run_id), "the callback has run")
    cases.note("trigger rules below a task that succeeds", "*all_success*, *all_done* run", slots)


def test_a_task_that_is_marked_failed_while_it_waits_starts_what_is_below_it_and_airflow_calls_the_dag_s_callback_alone(
    cases: Cases,
) -> None:
    """Airflow runs a task's own callbacks where the task runs, and this one runs nowhere."""
    run_id = cases.start("ruled")
    cases.held_by_triggerer("ruled", run_id)
    before, slots = cases.stack.cancels(), cases.slots()
    cases.stack.mark(run_id, "failed", "ruled")
    cases.airflow.until(lambda: cases.stack.cancels() == before + 1, "the provider is asked to cancel")
    for task_id, state in {"after": "upstream_failed", "alarm": "success", "always": "success"}.items():
        cases.until("ruled", run_id, task_id, **{state: 1})
    cases.airflow.until(lambda: "dag failed" in cases.notes(run_id), "the Dag's callback has run")
    assert "task failed" not in cases.notes(run_id)
    cases.note(
        "marked failed while deferred", "failed; *one_failed*, *all_done* and the Dag's `on_failure_callback` run, its own does not", slots
    )


def test_a_task_that_fails_by_itself_calls_its_own_callback(cases: Cases) -> None:
    """Here its job run is cancelled by `keld cancel`."""
    run_id = cases.start("ruled")
    cases.held_by_triggerer("ruled", run_id)
    before, slots = cases.stack.cancels(), cases.slots()
    with Keld(home=cases.stack.place / "keld", ledger_url=cases.airflow.environment["KELD_LEDGER_URL"]) as keld:
        job_run = keld.find("ruled", run_id)
        assert job_run is not None
        keld.cancel(job_run.id)
    cases.airflow.until(lambda: cases.stack.cancels() == before + 1, "the provider is asked to cancel")
    cases.stack.provider_ends()  # a batch is in `cancelling` for minutes of its clock
    cases.until("ruled", run_id, failed=1)
    cases.until("ruled", run_id, "alarm", success=1)
    cases.airflow.until(lambda: {"task failed", "dag failed"} <= {*cases.notes(run_id)}, "both callbacks have run")
    cases.note("`keld cancel` while deferred", "failed; its own `on_failure_callback` runs, too", slots)


@pytest.mark.parametrize("end", ["success", "failed"])
def test_what_was_set_up_is_torn_down_when_the_wait_is_over_however_it_ends(cases: Cases, end: str) -> None:
    run_id = cases.start("prepared")
    cases.held_by_triggerer("prepared", run_id)
    assert cases.notes(run_id) == ["set_up"], "nothing is torn down while it waits"
    slots = cases.slots()
    if end == "success":
        cases.stack.provider_ends()
    else:
        cases.stack.mark(run_id, "failed", "prepared")
    cases.until("prepared", run_id, "tear_down", success=1)
    assert cases.notes(run_id) == ["set_up", "tear_down"]
    cases.note(f"setup and teardown, the task ends as {end}", f"{end}; torn down after it", slots)


def test_a_task_that_is_marked_by_hand_before_a_triggerer_has_it_gets_its_batch_cancelled_by_the_next_one(cases: Cases) -> None:
    """No process has heard of it: the trigger is deleted before it ran."""
    cases.airflow.kill("triggerer")
    cases.begin()
    runs = {state: cases.airflow.trigger("prepared") for state in ("failed", "success")}
    for run_id in runs.values():
        cases.until("prepared", run_id, deferred=1)
    before, slots = cases.stack.cancels(), cases.slots()
    for state, run_id in runs.items():
        cases.stack.mark(run_id, state, "prepared")
        cases.until("prepared", run_id, "tear_down", success=1)
    assert cases.stack.cancels() == before, "nobody has heard of it"
    cases.airflow.start("triggerer")
    other = cases.airflow.trigger("ruled")
    cases.held_by_triggerer("ruled", other)
    took = cases.airflow.until(lambda: cases.stack.cancels() == before + 2, "the provider is asked to cancel both")
    print(f"\ncancelled {took:.1f} s after another task's trigger was there")
    cases.note("marked failed, and successful, before a triggerer has it", "as marked; cancelled by the next task or triggerer", slots)
    cases.stack.provider_ends()
    cases.until("ruled", other, success=1)


def test_no_log_and_no_table_of_airflow_tells_a_row_of_a_task_whatever_stood_beside_it(cases: Cases) -> None:
    """After all of the above, mapped tasks and callbacks among them."""
    assert told_of_secrets(cases.stack) == []
