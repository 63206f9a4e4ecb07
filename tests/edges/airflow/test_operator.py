"""The operator, on a worker without a database: what each visit of a task does, what it buys, and what it leaves behind."""

import re
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keld import Job, Keld, SinkRefused
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import LATENCY_S, ROWS, RunContext, Worker, deserialised, job, serialised, since
from tests.support.ticket_job import fault

DAY: dict[str, Any] = {"partition_key": "2026-11-19", "partition_date": datetime(2026, 11, 19, tzinfo=UTC)}
MIDNIGHT = datetime(2026, 11, 19, tzinfo=UTC)
DATED: dict[str, Any] = {"logical_date": MIDNIGHT, "data_interval_start": MIDNIGHT, "data_interval_end": MIDNIGHT}
OTHER_RUN = DAY | {"run_id": "backfill__2026-11-19__again"}


def rows() -> list[dict[str, Any]]:
    return ROWS


def operator(**given: Any) -> Any:
    from keld_airflow import KeldBatchOperator

    asked: dict[str, Any] = {"task_id": "label", "job": job(), "source": rows}
    return KeldBatchOperator(**{**asked, **given})


def creates(provider: Emulator) -> int:
    return sum(call.method == "POST" and call.path == "/v1/batches" for call in provider.requests())


def resumed(worker: Worker, provider: Emulator, task: Any, sent: RunContext) -> RunContext:
    """The visits of a task after it was sent."""
    visit = sent
    for _ in range(5):
        provider.advance(LATENCY_S)
        visit = worker.run(task, event=visit.event, **DAY)
        if visit.state != "deferred":
            break
    return visit


# --- the way of a partition -------------------------------------------------------------------------------------------


def test_a_task_sends_waits_without_a_slot_and_hands_over(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """Two visits to a worker; nothing is remembered in between but the ledger."""
    task = operator(sink=f"{tmp_path}/labels/{{partition}}.parquet")
    sent = worker.until_sent(task, **DAY)
    assert (creates(provider), provider.bill()) == (1, [])
    provider.advance(LATENCY_S)
    ended = worker.run(task, event=sent.event, **DAY)
    assert ended.state == "success", ended.error
    assert ended.manifest["counts"] == {"answered": 5, "failed": 0, "quarantined": 0, "reused": 0, "unaskable": 0}
    assert ended.manifest["sink"] == f"{tmp_path}/labels/2026-11-19.parquet"
    assert pq.read_table(ended.manifest["sink"]).column("keld_outcome").to_pylist() == ["answered"] * 5
    assert len(provider.bill()) == 5


def test_another_output_prefix_renames_the_columns_and_buys_nothing(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """As a term of the task, for a day that is over and for one whose batch is out."""
    sink = f"{tmp_path}/{{partition}}.parquet"
    terms = {"name": "labels", "key": "id", "prompt": "Classify: {body}", "models": "openai:gpt-5-mini", "job": None, "sink": sink}
    sent = worker.until_sent(operator(**terms), **DAY)
    renamed = operator(**terms, output_prefix="{{ 'llm_' }}")
    ended = worker.through(renamed, provider, **OTHER_RUN)
    assert ended.state == "success", ended.error
    assert sent.trigger["job_run"] != ended.manifest["job_run"], "the first was finished as it was asked"
    assert (ended.manifest["counts"]["reused"], ended.manifest["cost_usd"], len(provider.bill())) == (5, "0", 5)
    assert pq.read_schema(tmp_path / "2026-11-19.parquet").names[:3] == ["id", "body", "llm_answer"]
    back = worker.run(operator(**terms), **OTHER_RUN)
    assert (back.state, len(provider.bill())) == ("success", 5), back.error
    assert pq.read_schema(tmp_path / "2026-11-19.parquet").names[:3] == ["id", "body", "answer"]


@since("3.3")
def test_while_a_task_waits_people_see_where_it_stands(worker: Worker, provider: Emulator) -> None:
    """In the UI, beside the task; the log says it once, and the asset event comes only at the end."""
    sent = worker.until_sent(operator(job=job(ceiling_usd="0.5")), **DAY)
    assert sent.shown["keld"].items() >= {"state": "open", "rows": 5, "batches": 1, "ceiling_usd": "0.5", "late": False}.items()
    assert sent.shown["keld"]["job_run"] == sent.trigger["job_run"]


@pytest.mark.wide
def test_the_manifest_stays_under_two_kilobytes_and_counts_the_cost_exactly(worker: Worker, provider: Emulator, home: Keld) -> None:
    """It lies in Airflow's database for every partition there ever was; forty batches make it no longer."""
    table = [{"id": n, "body": f"ticket {n}"} for n in range(40)]
    ended = worker.through(operator(job=job(max_shard_rows=1), source=lambda: table), provider, **DAY)
    [status] = home.statuses()
    assert ended.manifest["batches"] == 40
    assert ended.manifest["cost_usd"] == format(status.cost_usd.normalize(), "f")
    assert len(str(ended.manifest)) < 2_000


@since("3.2")
def test_a_source_that_is_a_path_is_rendered_and_a_function_is_given_what_it_names(
    worker: Worker, provider: Emulator, tmp_path: Path
) -> None:
    seen: list[str] = []

    def of_day(partition_key: str) -> Iterator[dict[str, Any]]:
        seen.append(partition_key)
        return iter(ROWS)

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "2026-11-19.parquet")
    first = worker.until_sent(operator(source=tmp_path / "{{ partition_key }}.parquet"), **DAY)
    second = worker.until_sent(operator(job=job(name="others"), source=of_day), **DAY)
    assert seen == ["2026-11-19"]
    assert first.rendered["source"] == f"{tmp_path}/2026-11-19.parquet"
    assert second.rendered["source"] is None


@since("3.2")
def test_object_storage_is_read_and_written_with_its_own_credentials(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """The name alone, which the ledger could keep, would not open it on another worker."""
    from airflow.sdk import ObjectStoragePath

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "in.parquet")
    sink = ObjectStoragePath(f"file://{tmp_path}/{{{{ partition_key }}}}.parquet")
    ended = worker.through(operator(source=ObjectStoragePath(f"file://{tmp_path}/in.parquet"), sink=sink), provider, **DAY)
    assert ended.state == "success", ended.error
    assert pq.read_table(tmp_path / "2026-11-19.parquet").num_rows == 5


def test_a_sink_in_the_home_directory_is_written_once(
    worker: Worker, provider: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`~` means the same to the task that sends and to the one that hands over."""

    def second_write(*_: object) -> str:
        raise AssertionError

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Keld, "write", second_write)
    ended = worker.through(operator(sink="~/labels.parquet"), provider, **DAY)
    assert ended.manifest["sink"] == f"{tmp_path}/labels.parquet"
    assert (tmp_path / "labels.parquet").exists()


@pytest.mark.parametrize("opened", [True, False])
def test_a_sink_that_nothing_can_write_is_refused_while_the_dag_is_parsed(tmp_path: Path, opened: bool) -> None:
    """Else the Dag looks well until its first run, at night."""
    from airflow.sdk import ObjectStoragePath

    sink = f"file://{tmp_path}/{{partition}}.xlsx"
    with pytest.raises(SinkRefused, match=r"label: sink=.*no writer for this suffix"):
        operator(sink=ObjectStoragePath(sink) if opened else sink)


@pytest.mark.parametrize("sink", ["{{ var.value.out }}", "out/{partition}.{{ params.form }}", "out.{% if params.wide %}csv{% endif %}"])
def test_a_suffix_that_is_still_to_be_rendered_is_judged_by_the_run(sink: str) -> None:
    operator(sink=sink)


def test_a_rendered_sink_is_refused_while_the_dag_is_parsed_where_its_suffix_is_known() -> None:
    with pytest.raises(SinkRefused):
        operator(sink="out/{{ var.value.place }}/{partition}.orc")


@since("3.2")
def test_a_sink_that_is_a_function_is_given_the_rows(worker: Worker, provider: Emulator) -> None:
    """For warehouses that are no path; it may name what it wants of the context, too."""
    got: dict[str, Any] = {}

    def load(reader: pa.RecordBatchReader, partition_key: str) -> None:
        got[partition_key] = reader.read_all().num_rows

    ended = worker.through(operator(sink=load), provider, **DAY)
    assert (got, ended.manifest["sink"]) == ({"2026-11-19": 5}, None)


def test_asset_events_tell_what_it_cost_and_how_it_ended(worker: Worker, provider: Emulator) -> None:
    from airflow.sdk import Asset

    ended = worker.through(operator(outlets=[Asset("labels", uri="s3://lake/labels")]), provider, **DAY)
    [event] = ended.assets
    assert event["extra"]["counts"]["answered"] == 5
    assert event["extra"].keys() >= {"cost_usd", "late", "sink", "rows", "partition"}


@since("3.3")
def test_an_outlet_that_is_a_reference_has_the_same_event_and_one_to_nothing_costs_no_task(
    worker: Worker, provider: Emulator, caplog: pytest.LogCaptureFixture
) -> None:
    """The answers are paid for, and where they belong, when Airflow is asked what is meant."""
    from airflow.sdk import Asset

    ended = worker.through(operator(outlets=[Asset.ref(name="labels"), Asset.ref(name="nowhere")]), provider, **DATED)
    assert [(event["dest_asset_key"]["uri"], event.get("partition_key")) for event in ended.assets] == [
        ("s3://lake/labels", "2026-11-19"),
        ("s3://lake/labels", None),
    ]
    assert ended.assets[0]["extra"]["counts"]["answered"] == 5
    assert "There is no event of AssetNameRef(name='nowhere')" in caplog.text


@since("3.3")
def test_a_region_of_a_mapped_task_has_an_asset_event_of_its_own(worker: Worker, provider: Emulator) -> None:
    """All mapped instances are in one run, whose key would else stand on each of their events."""
    from airflow.sdk import Asset

    task = operator(partition="eu|{{ partition_key }}", outlets=[Asset("labels", uri="s3://lake/labels")])
    ended = worker.through(task, provider, map_index=0, **DAY)
    assert ended.manifest["partition"] == "eu|2026-11-19"
    assert [event["partition_key"] for event in ended.assets] == ["eu|2026-11-19"]


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "nothing", [list, pa.table({}).to_pandas, lambda: pa.table({}), lambda: iter(())], ids=["list", "frame", "arrow", "iterator"]
)
def test_a_day_without_rows_may_be_said_without_columns(worker: Worker, provider: Emulator, tmp_path: Path, nothing: Any) -> None:
    """`[]` is what a query gives that found nothing; the columns that the job names are there, and fit those of other days."""
    ended = worker.run(operator(source=nothing, sink=f"{tmp_path}/{{partition}}.parquet"), **DAY)
    assert ended.state == "success", ended.error
    quiet = pq.read_table(ended.manifest["sink"]).schema
    assert quiet.names[:3] == ["id", "body", "answer"]
    busy = worker.through(operator(sink=f"{tmp_path}/{{partition}}.parquet"), provider, partition_key="2026-11-20")
    assert pa.unify_schemas([quiet, pq.read_schema(busy.manifest["sink"])]).field("id").type == pa.int64()


@pytest.mark.share(2)
@since("3.3")
@pytest.mark.parametrize(
    ("run", "given", "keys"),
    [
        (DAY, {}, [None]),  # the Dag run's own, which Airflow puts there
        (DAY, {"partition": "eu"}, ["eu"]),
        (DATED, {}, ["2026-11-19", None]),
        ({}, {"partition": "eu"}, ["eu", None]),
        ({}, {}, [None]),  # the whole table
    ],
)
def test_an_asset_event_has_the_job_runs_own_partition_key(
    worker: Worker, provider: Emulator, run: dict[str, Any], given: dict[str, Any], keys: list[str | None]
) -> None:
    """Dags scheduled on partitions follow only an event with a key, all others, in a run that has none, only one without."""
    from airflow.sdk import Asset

    ended = worker.through(operator(outlets=[Asset("labels", uri="s3://lake/labels")], **given), provider, **run)
    assert [event.get("partition_key") for event in ended.assets] == keys, "the one without a key last: it starts what follows"
    assert {event["extra"]["partition"] for event in ended.assets} == {ended.manifest["partition"]}


@pytest.mark.parametrize(
    "terms",
    [{}, {"probe": True}, {"accept": {"score": 1}, "models": ["openai:gpt-5-mini", "openai:gpt-5"]}, {"reuse": "never", "priority": "id"}],
    ids=["plain", "probe", "cascade", "priority"],
)
def test_a_day_without_rows_gives_a_table_without_rows(worker: Worker, provider: Emulator, tmp_path: Path, terms: dict[str, Any]) -> None:
    """Quiet days come; what is downstream wants its columns all the same."""
    empty = pa.table({"id": pa.array([], pa.int64()), "body": pa.array([], pa.string())})
    asked = job(output_type={"type": "object", "properties": {"score": {"type": "number"}}, "required": ["score"]}, **terms)
    ended = worker.run(operator(job=asked, source=lambda: empty, sink=f"{tmp_path}/{{partition}}.parquet"), **DAY)
    assert ended.state == "success", ended.error
    assert ended.manifest["counts"]["answered"] == creates(provider) == 0
    assert pq.read_table(ended.manifest["sink"]).schema.names[:3] == ["id", "body", "score"]


# --- asked again ------------------------------------------------------------------------------------------------------


def test_a_cleared_task_finds_its_batch_again(worker: Worker, provider: Emulator) -> None:
    """Airflow runs it from the beginning; what was sent is not sent again."""
    task = operator()
    worker.until_sent(task, **DAY)
    again = worker.until_sent(task, **DAY)
    assert again.trigger["found"] == "open"
    ended = worker.through(task, provider, **DAY)
    assert ended.state == "success", ended.error
    assert (creates(provider), len(provider.bill())) == (1, 5)


@pytest.mark.parametrize("run", [DAY, OTHER_RUN], ids=["clear", "another run"])
def test_a_finished_partition_costs_nothing_to_ask_again(worker: Worker, provider: Emulator, run: dict[str, Any]) -> None:
    """The identity is (job, partition): not the run, which a partitioned backfill makes anew, nor the task, which may be renamed."""
    worker.through(operator(), provider, **DAY)
    again = worker.run(operator(task_id="renamed"), **run)
    assert again.state == "success", again.error
    assert (creates(provider), len(provider.bill())) == (1, 5)


def test_a_table_that_changed_while_the_batch_was_under_way_is_asked_for_its_changed_row_only(worker: Worker, provider: Emulator) -> None:
    """Somebody mends the upstream and clears both: the batch that was under way asked what was there before."""
    table = [dict(row) for row in ROWS]
    task = operator(source=lambda: table)
    worker.until_sent(task, **DAY)
    table[3]["body"] = "mended"
    ended = worker.through(task, provider, **DAY)
    assert ended.state == "success", ended.error
    assert ended.manifest["counts"] == {"answered": 5, "failed": 0, "quarantined": 0, "reused": 4, "unaskable": 0}
    assert len(provider.bill()) == 6


@pytest.mark.parametrize("wait", [True, False])
def test_a_prompt_that_changed_while_a_batch_is_out_is_asked_after_it(
    worker: Worker, provider: Emulator, home: Keld, tmp_path: Path, wait: bool
) -> None:
    """What is out is paid for, so it is brought in; its answers are to the old question, and never handed over as the new one's."""
    old, new = job(prompt="Old: {body}"), job(prompt="New: {body}")
    sent = worker.until_sent(operator(job=old), **DAY)
    sink = f"{tmp_path}/{{partition}}.parquet"
    visit = worker.through(operator(job=new, wait=wait, sink=sink), provider, **DAY)
    assert visit.state == "success", visit.error
    assert visit.manifest["job_run"] != sent.trigger["job_run"]
    if not wait:
        from keld_airflow import KeldJobSensor

        visit = worker.through(KeldJobSensor(task_id="collect", job_run=visit.manifest), provider, **DAY)
    assert visit.manifest["outdated"] is None
    assert visit.manifest["counts"]["answered"] == 5
    assert home.status(sent.trigger["job_run"]).outdated == "the prompt"
    assert (creates(provider), len(provider.bill())) == (2, 10)


def test_a_job_of_another_task_that_asks_something_else_is_refused_and_a_renamed_task_is_not(worker: Worker, provider: Emulator) -> None:
    """Two Dags may have hit upon one name; neither must get the other's rows."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    worker.through(operator(), provider, **DAY)
    other = worker.run(operator(task_id="other", job=job(prompt="Other: {body}")), **DAY)
    assert isinstance(other.error, AirflowFailException)
    assert "airflow:dag.label" in str(other.error)
    assert worker.run(operator(task_id="renamed"), **DAY).state == "success"
    assert (creates(provider), len(provider.bill())) == (1, 5)


def test_how_a_text_file_is_read_can_be_declared(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """A column is text as it stands unless a type is declared; a file of a spreadsheet is in another encoding, and has semicolons."""
    (tmp_path / "2026-11-19.csv").write_bytes("id;body;amount\n007;Käse;1.10\n".encode("cp1252"))
    ended = worker.through(
        operator(
            source=f"{tmp_path}/{{partition}}.csv", sink=f"{tmp_path}/{{partition}}.parquet", types={"amount": "decimal(12,2)"},
            encoding="cp1252", delimiter=";",
        ),
        provider, **DAY,
    )  # fmt: skip
    assert ended.state == "success", ended.error
    [row] = pq.read_table(ended.manifest["sink"]).select(["id", "body", "amount"]).to_pylist()
    assert (row["id"], row["body"], str(row["amount"])) == ("007", "Käse", "1.10")


def test_rows_that_expired_are_asked_again_within_the_task(worker: Worker, provider: Emulator) -> None:
    """A further round is one more deferral, not a task that failed."""
    fault(provider, "life", "expire", done=0.6, after_s=60)
    ended = worker.through(operator(), provider, **DAY)
    assert ended.state == "success", ended.error
    assert ended.manifest["counts"]["answered"] == 5
    assert (creates(provider), len(provider.bill())) == (2, 5)


def test_a_wait_that_no_trigger_ended_goes_on_from_a_worker(worker: Worker, provider: Emulator) -> None:
    """Without a triggerer the scheduler ends the deferral; that is no failure, and takes no retry."""
    task = operator()
    worker.until_sent(task, **DAY)
    provider.advance(LATENCY_S)
    ended = worker.run(task, failed="Trigger timeout", **DAY)
    assert ended.state == "success", ended.error
    assert creates(provider) == 1


def test_a_trigger_that_broke_is_a_failure_which_airflow_retries(worker: Worker, provider: Emulator) -> None:
    """Going on from here would defer to what broke, at once and for ever."""
    task = operator()
    worker.until_sent(task, **DAY)
    assert worker.run(task, failed="Trigger failure", **DAY).state == "failed"


def test_what_a_killed_task_left_is_brought_in_by_the_next_and_the_rest_is_asked(worker: Worker, provider: Emulator, home: Keld) -> None:
    """Cancelled batches are paid as far as they got; nobody would fetch that otherwise."""
    sent = worker.until_sent(operator(), **DAY)
    home.cancel(sent.event["job_run"])
    ended = worker.through(operator(), provider, **DAY)
    assert ended.state == "success", ended.error
    assert ended.manifest["counts"]["answered"] == 5
    assert home.status(sent.event["job_run"]).state == "cancelled"
    assert len(provider.bill()) == 5


def test_a_job_run_that_was_cancelled_under_a_waiting_task_fails_it(worker: Worker, provider: Emulator, home: Keld) -> None:
    """Somebody wants it not to be bought: asking anew by itself would buy it all the same."""
    sent = worker.until_sent(operator(), **DAY)
    home.cancel(sent.event["job_run"])
    home.poll([sent.event["job_run"]])
    ended = resumed(worker, provider, operator(), sent)
    assert ended.state == "failed"
    assert "was cancelled" in str(ended.error)


# --- terms ------------------------------------------------------------------------------------------------------------


def test_the_deadline_wakes_the_trigger_and_bounds_the_wait(worker: Worker, provider: Emulator) -> None:
    """An instant for the trigger, which may be started anew; a span for the scheduler, which ends it before, while a rescue still fits."""
    sent = worker.until_sent(operator(job=job(deadline=timedelta(days=3650))), **DAY)
    assert sent.trigger["wake_at"] == (datetime(2026, 11, 20, tzinfo=UTC) + timedelta(days=3650)).isoformat()
    left = datetime.fromisoformat(sent.trigger["wake_at"]) - datetime.now(UTC)
    assert timedelta(0) < left - sent.message.trigger_timeout < timedelta(hours=1)


@since("3.3")
def test_what_airflow_shows_of_a_task_has_its_partition(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """While it waits and afterwards a person reads where the rows come from and go to; not `{partition}`."""
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "2026-11-19.parquet")
    task = operator(
        source=f"{tmp_path}/{{partition}}.parquet", sink=f"{tmp_path}/labels/{{partition}}.parquet", job=job(deadline=timedelta(hours=9))
    )
    sent = worker.until_sent(task, partition_key="2026-11-19")
    assert "0 of 5 rows done in 1 batch" in sent.shown["keld"]["progress"]
    assert sent.shown["keld"]["expected_at"] is not None and sent.shown["keld"]["escalates_at"] is not None
    assert next(iter(sent.shown["keld"])) == "progress", "the first lines are seen without scrolling"
    assert sent.shown["keld"]["sink"] == f"{tmp_path}/labels/2026-11-19.parquet"
    provider.advance(LATENCY_S)
    done = worker.run(task, event=sent.event, partition_key="2026-11-19")
    for visit in (sent, done):
        assert (visit.rendered["partition"], visit.rendered["source"]) == ("2026-11-19", f"{tmp_path}/2026-11-19.parquet")
        assert visit.rendered["sink"] == f"{tmp_path}/labels/2026-11-19.parquet"
    assert re.match(r"5 of 5 rows answered for \$0\.\d{4}", done.manifest["summary"])
    assert "progress" not in done.shown["keld"]


def test_without_any_triggerer_the_deadline_is_kept_all_the_same(
    worker: Worker, provider: Emulator, home: Keld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scheduler ends each wait when it is time to move on; the visit cancels the batch that hangs, the next asks in a faster lane."""
    fault(provider, "life", "stuck", done=0.4)
    monkeypatch.setattr("keld.environment.Keld", partial(Keld, clock=provider.now))
    task, run = operator(job=job(deadline=timedelta(hours=3))), {"logical_date": provider.now(), "data_interval_end": provider.now()}
    visit, waits = worker.until_sent(task, **run), []
    while visit.state == "deferred":
        waits.append(visit.message.trigger_timeout)
        provider.advance(waits[-1])
        visit = worker.run(task, failed="Trigger timeout", **run)
    assert visit.state == "success", visit.error
    assert waits[0] > timedelta(hours=2), "nobody hurries before it is time to"
    assert visit.manifest["late"] is False
    assert [batch.lane for batch in home.status(visit.manifest["job_run"]).batches] == ["batch", "flex"]
    assert len(provider.bill()) == 5


def test_a_deadline_that_has_passed_leaves_the_task_waiting_and_late(worker: Worker, provider: Emulator) -> None:
    """What is late is still wanted; people are told by the manifest, the event and Airflow's DeadlineAlert."""
    task = operator(job=job(deadline=timedelta(microseconds=1)))
    sent = worker.until_sent(task, **DAY)
    assert sent.trigger["wake_at"] is None
    ended = resumed(worker, provider, task, sent)
    assert ended.manifest["late"] is True


def test_too_few_answers_fail_the_task_and_a_clear_asks_only_for_those(worker: Worker, provider: Emulator) -> None:
    """Downstream must not build on a table that is half empty."""
    fault(provider, "rows", "refusal", fraction=0.4)
    ended = worker.through(operator(), provider, **DAY)
    assert ended.state == "failed"
    assert "3 of 5 rows answered" in str(ended.error)
    paid = len(provider.bill())
    provider.clear_faults()
    assert worker.through(operator(), provider, **DAY).state == "success"
    assert len(provider.bill()) == paid + 2


def test_a_refused_key_fails_for_good_with_what_to_do(worker: Worker, provider: Emulator) -> None:
    """A retry would be refused as well, and a wait would look like a slow provider."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    fault(provider, "any", "status", status=401, times=None)
    ended = worker.run(operator(), **DAY)
    assert isinstance(ended.error, AirflowFailException)
    assert "Check the key" in str(ended.error)


TWICE = [{"id": 1, "body": "a"}, {"id": 1, "body": "b"}]
FOR_GOOD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"source": lambda: TWICE}, DAY, "'id' is not unique"),
    ({"source": lambda: [{"id": None, "body": "a"}]}, DAY, "null in row 0"),
    ({"source": lambda: [{"id": 1}]}, DAY, "prompt names the column 'body'"),
    ({"source": lambda: [1]}, DAY, "a row is a int"),
    ({"job": job(output_type=set)}, DAY, "Nothing was sent"),
    ({"job": job(models="openai:nobody-knows-it", ceiling_usd=1)}, DAY, "no rate known"),
    ({"job": job(models="elsewhere:m")}, DAY, "names the account 'elsewhere'"),
    ({"job": job(deadline=datetime(2020, 1, 1, tzinfo=UTC))}, DAY, "has passed"),
    ({"sink": "out{{ '.xlsx' }}"}, DAY, "no writer for this suffix"),
    # A run that stands for no partition.
    ({"source": "in/{partition}.parquet"}, {}, "source='in/{partition}.parquet' wants a partition"),
    # Airflow refuses a partition key for a Dag that is not scheduled by partitions (HTTP 400), so that is no advice for such a Dag.
    (
        {"source": "in/{partition}.parquet"},
        {},
        "(in its trigger form under Advanced Options, or partition_key over REST), any other with a logical date",
    ),
    ({"sink": "out/{partition}.parquet"}, {}, "wants a partition, and this Dag run has none"),
    ({"source": "in/{{ partition_key }}.parquet"}, {}, "source wants {{ partition_key }}"),
    ({"sink": "out/{{ partition_key | lower }}/"}, {}, "with a partition key"),
    ({"source": "in/{{ ds }}.parquet"}, {}, "source wants {{ ds }}"),
    ({"source": "in/{{ partition_key | default('all') }}.parquet"}, {}, "source wants {{ partition_key }}"),  # it would be in/None.parquet
    ({"sink": "out/{{ dag_run.partition_key }}/"}, {}, "sink wants {{ partition_key }}"),
    ({"partition": "eu|{{ partition_key }}"}, {}, "partition wants {{ partition_key }}"),
    ({"partition": ""}, DAY, "was rendered as ''"),
    ({"partition": "{{ dag_run.conf.get('region') }}"}, DAY, "was rendered as 'None'"),
    ({"source": "in/{{ macros.ds_add(ds, 1) }}.parquet"}, {}, "'ds' is undefined"),
    pytest.param({"source": "in/{{ ds }}.parquet"}, DAY, "has a partition key, and no dates", marks=since("3.2")),
    ({"source": "in/{{ partition_key }}.parquet"}, DATED, "this Dag run has dates, and no partition key"),
    ({"sink": "out/{partition}.parquet"}, {"run_type": "asset_triggered"}, "Schedule the Dag by PartitionedAssetTimetable"),
]


@pytest.mark.share(2)
@pytest.mark.parametrize(("given", "run", "says"), FOR_GOOD)
def test_what_no_retry_mends_fails_at_once_for_good(
    worker: Worker, provider: Emulator, given: dict[str, Any], run: dict[str, Any], says: str
) -> None:
    """Retries would spend a night on it, and say the same each time."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    ended = worker.run(operator(**given), **run)
    assert isinstance(ended.error, AirflowFailException), ended.error
    assert (ended.state, says in str(ended.error), "Nothing was sent" in str(ended.error)) == (
        "failed", True, True,
    )  # fmt: skip
    assert provider.requests() == []


@pytest.mark.parametrize("path", ["in/{{ partition_key or ds }}.csv", "in/{{ partition_key | default('all', true) }}.csv"])
def test_a_template_that_says_what_else_is_no_slip(worker: Worker, provider: Emulator, tmp_path: Path, path: str) -> None:
    """`dag.test` knows no partition key, and a run by hand may stand for the whole table."""
    now = datetime(2026, 11, 19, tzinfo=UTC)
    for name in ("all", "2026-11-19"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{name}.csv").write_text("id,body\n1,a\n")
    worker.until_sent(operator(source=f"{tmp_path}/{path}"), logical_date=now, data_interval_start=now, data_interval_end=now)


def test_a_source_that_is_not_there_yet_is_tried_again(worker: Worker, provider: Emulator, tmp_path: Path) -> None:
    """What is upstream may be late."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    ended = worker.run(operator(source=f"{tmp_path}/{{partition}}.parquet"), **DAY)
    assert "no such file" in str(ended.error)
    assert not isinstance(ended.error, AirflowFailException)


def test_a_model_without_a_key_is_left_out_and_the_job_refused_where_no_other_is(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch, home: Keld, caplog: pytest.LogCaptureFixture
) -> None:
    """The error names what a person sees in Airflow, which is the connection."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    monkeypatch.delenv("OPENAI_API_KEY")
    asked = job(models=["openai:gpt-5-mini", "anthropic:claude-haiku-4-5"])
    sent = worker.until_sent(operator(job=asked), **DAY)
    assert [batch.provider for batch in home.status(sent.trigger["job_run"]).batches] == ["anthropic"]
    assert "account=openai No key for openai" in caplog.text
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    monkeypatch.setenv("AIRFLOW_CONN_KELD_DEFAULT", '{"conn_type": "keld", "extra": {"provider": "anthropic"}}')
    ended = worker.run(operator(job=asked), partition_key="2026-11-20")
    assert isinstance(ended.error, AirflowFailException)
    assert "the connection keld_default" in str(ended.error)
    assert creates(provider) == 0


def test_a_provider_that_is_down_while_results_are_due_is_waited_for(worker: Worker, provider: Emulator) -> None:
    """An outage of three hours would use up any number of retries."""
    sent = worker.until_sent(operator(), **DAY)
    provider.advance(LATENCY_S)
    fault(provider, "any", "status", status=503, times=None)
    assert worker.run(operator(), event=sent.event, **DAY).state == "deferred"
    provider.clear_faults()
    assert worker.run(operator(), event=sent.event, **DAY).state == "success"
    assert creates(provider) == 1


def test_a_ceiling_that_no_plan_fits_fails_for_good_and_sends_nothing(worker: Worker, provider: Emulator) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    ended = worker.run(operator(job=job(ceiling_usd="0.000001")), **DAY)
    assert isinstance(ended.error, AirflowFailException)
    assert provider.requests() == []


def test_every_term_of_a_job_is_an_argument_by_its_own_name() -> None:
    """A term that `keld` gains tomorrow must need no change here."""
    import inspect

    from keld_airflow import KeldBatchOperator

    known = set(inspect.signature(KeldBatchOperator.__init__).parameters)
    assert {field.name for field in fields(Job)} - {"params"} <= known
    assert "request_params" in known


def test_terms_may_stand_in_the_operator_or_in_the_default_args_of_the_dag() -> None:
    from airflow.sdk import DAG

    with DAG("tickets", schedule=None, default_args={"ceiling_usd": 40, "retries": 2}):
        task = operator(
            job=None, key="id", prompt="{body}", model="openai:gpt-5-mini", request_params={"temperature": 0}, deadline=timedelta(hours=6)
        )
    expected = Job(
        name="tickets.label", key="id", prompt="{body}", models="openai:gpt-5-mini", ceiling_usd=40, params={"temperature": 0},
        deadline=timedelta(hours=6),
    )  # fmt: skip
    assert task.job == expected


async def asynchronous(rows: Any = None, ds: Any = None) -> None:
    """As the tasks of Airflow 3.2 may be."""


def yielding(rows: Any) -> Any:
    yield from rows


def test_a_sink_that_was_only_begun_is_no_success(worker: Worker, provider: Emulator) -> None:
    """A coroutine that nobody awaits writes nothing; the task would be green, and its table empty."""
    ended = worker.through(operator(sink=lambda rows: asynchronous(rows, ds="later")), provider, **DAY)
    assert ended.state == "failed"
    assert "it has written nothing" in str(ended.error)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"job": None, "key": "id"}, "prompt, models missing"),
        ({"prompt": "{body}"}, "are given together with job="),
        ({"name": "another"}, r"dataclasses\.replace\(job, name=\.\.\.\)"),
        ({"schedule": "@daily"}, "is an argument of the DAG"),
        ({"source": ROWS}, "Airflow would store"),
        ({"source": pa.Table.from_pylist(ROWS)}, "Airflow would store"),
        ({"source": None}, "source is missing"),
        ({"sink": ["labels.parquet"]}, "sink is a list"),
        ({"sink": "s3://my_aws@lake/labels/{partition}.parquet"}, "names a connection"),
        ({"wait": False, "sink": print}, "give this one to the KeldJobSensor"),
        ({"job": job(prompt="As of {{ ds }}: {body}")}, "prompt holds {{ ds }}"),
        ({"job": job(system="Today is {{ logical_date | ds }}")}, "Jinja is not run"),
        ({"completion_rate": 99}, "from 0 to 1"),
        ({"window": 3600}, "not a timedelta"),
        ({"job": "labels"}, "job is a str"),
        ({"job": None, "key": "id", "prompt": "{body}", "model": "a:b", "models": ["a:c"]}, "Give one or the other"),
        ({"job": None, "key": "id", "prompt": "{body}", "model": "gpt-5-mini"}, "the form is 'provider:model'"),
        ({"sink": "out/{ds}.parquet"}, "has a field {ds}, which Keld does not fill"),
        ({"source": "in/{partitions}.parquet"}, "has a field {partitions}"),
        ({"source": "in/{partition}.parquet", "sink": "out.parquet"}, "overwrite the one before"),
        ({"partition": ["eu", "us"]}, r"Map over them: \.partial"),
        ({"params": {"temperature": 0}}, "Give request_params"),
        ({"llm_conn_id": "c"}, "Here it is keld_conn_id"),
        ({"job": None, "key": "id", "prompt": "{body}", "model": "openai:gpt-5-mini", "task_id": "2_label"}, "give another by name="),
        ({"deadline_hours": 9}, "Is deadline meant"),
        ({"source": "postgresql://u@h/db?table=t"}, "is a postgresql URL"),
        ({"job": None, "key": "id", "prompt": "{body}", "model": "openai:a", "tags": ["support"]}, "tags are an argument of the DAG"),
        ({"source": asynchronous}, "source is an asynchronous function"),
        ({"sink": asynchronous}, "sink is an asynchronous function"),
        ({"sink": partial(asynchronous, ds=None)}, "sink is an asynchronous function"),
        ({"sink": yielding}, "sink is a function that yields"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_while_the_dag_is_read(given: dict[str, Any], says: str) -> None:
    """Found when it is deployed, not in the night."""
    with pytest.raises(Exception, match=says):
        operator(**given)


def test_braces_that_are_no_jinja_are_a_prompt() -> None:
    """Answers are shown as JSON in many prompts."""
    asked = job(prompt='Answer {{"tasks": ["..."]}} or {{dsl}} for {body}', system='{"ds": 1} {{x}}')
    assert operator(job=asked).job == asked


def test_a_task_that_was_not_called_is_no_source() -> None:
    """A pair of brackets forgotten: on the worker it would make a task, not rows."""
    from airflow.sdk import task

    @task
    def tickets() -> list[dict[str, Any]]:
        return ROWS

    with pytest.raises(ValueError, match=r"Call it, tickets\(\)"):
        operator(source=tickets)


def test_a_ledger_in_a_file_is_refused_where_workers_are_on_many_hosts(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ledgers would buy everything twice."""
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor,CeleryExecutor")
    ended = worker.run(operator(), **DAY)
    assert "CeleryExecutor runs tasks on others" in str(ended.error)
    assert provider.requests() == []


# --- other forms ------------------------------------------------------------------------------------------------------


def test_sending_and_collecting_may_be_two_tasks(worker: Worker, provider: Emulator) -> None:
    from keld_airflow import KeldJobSensor

    sent = worker.run(operator(wait=False), **DAY)
    assert sent.state == "success", sent.error
    for left in (sent.manifest, sent.manifest["job_run"]):  # `label.output`, of a mapped task, too; or the id alone
        ended = worker.through(KeldJobSensor(task_id="collect", job_run=left), provider, **DAY)
        assert ended.state == "success", ended.error
        assert ended.manifest["counts"]["answered"] == 5
    assert creates(provider) == 1


@pytest.mark.parametrize("left", [None, {}, [{"job_run": "a"}], "nobody-knows-it"])
def test_a_sensor_that_was_given_no_job_run_says_what_to_give(worker: Worker, provider: Emulator, left: Any) -> None:
    """The task that sends was skipped, or is mapped, or has another ledger; no retry mends it."""
    from airflow.providers.common.compat.sdk import AirflowFailException

    from keld_airflow import KeldJobSensor

    ended = worker.run(KeldJobSensor(task_id="collect", job_run=left), **DAY)
    assert isinstance(ended.error, AirflowFailException), ended.error
    assert "KeldBatchOperator(wait=False)" in str(ended.error)


def test_a_sensor_that_fails_softly_is_skipped_for_a_failure_and_for_nothing_else(worker: Worker, provider: Emulator) -> None:
    """A wait that no triggerer ended is none: its answers are paid for."""
    from keld_airflow import KeldJobSensor

    assert worker.run(KeldJobSensor(task_id="collect", job_run="nobody-knows-it", soft_fail=True), **DAY).state == "skipped"
    sent = worker.run(operator(wait=False), **DAY)
    sensor = KeldJobSensor(task_id="collect", job_run=sent.manifest, soft_fail=True)
    worker.until_sent(sensor, **DAY)
    provider.advance(LATENCY_S)
    ended = worker.run(sensor, failed="Trigger timeout", **DAY)
    assert ended.state == "success", ended.error
    assert ended.manifest["counts"]["answered"] == 5


@since("3.2")
def test_the_decorator_takes_the_rows_that_its_function_gives(worker: Worker, provider: Emulator) -> None:
    from airflow.sdk import DAG, task

    calls: list[str] = []

    @task.keld_batch(job=job(), retries=2)
    def label(region: str, partition_key: str | None = None) -> list[dict[str, Any]]:
        calls.append(f"{region} {partition_key}")
        return ROWS

    with DAG("tickets", schedule=None) as dag:
        label("eu")
    ended = worker.through(dag.get_task("label"), provider, **DAY)
    assert ended.state == "success", ended.error
    assert calls == ["eu 2026-11-19"]


@pytest.mark.parametrize(("partition", "key"), [(7, "7"), (date(2026, 11, 19), "2026-11-19"), ("a/../b\nü", "a/../b\nü")])
def test_a_partition_is_whatever_has_a_text(worker: Worker, provider: Emulator, tmp_path: Path, partition: Any, key: str) -> None:
    """Upstream tasks give numbers and dates to map over."""
    ended = worker.through(operator(partition=partition, sink=f"{tmp_path}/{{partition}}.parquet"), provider, map_index=0, **DAY)
    assert ended.state == "success", ended.error
    assert ended.manifest["partition"] == key
    assert Path(ended.manifest["sink"]).parent == tmp_path


@pytest.mark.parametrize(("partition", "run"), [("{{ partition_key }}", {}), ("k" * 251, DAY)], ids=["none", "long"])
def test_a_partition_that_airflow_has_not_or_cannot_keep_is_refused_before_anything_is_sent(
    worker: Worker, provider: Emulator, partition: str, run: dict[str, Any]
) -> None:
    """Jinja writes "None" for the key of a run that has none; a key that no asset event takes would fail the task when all is paid."""
    from airflow.sdk import Asset

    ended = worker.run(operator(partition=partition, outlets=[Asset("labels", uri="s3://lake/labels")]), **run)
    assert "Nothing was sent" in str(ended.error)
    assert provider.requests() == []


@pytest.mark.parametrize(("mapped", "sends"), [({"source": ["a", "b"]}, False), ({"job": [job()]}, True), ({"name": ["a", "b"]}, True)])
def test_a_mapped_task_needs_a_partition_or_a_job_for_each(
    worker: Worker, provider: Emulator, mapped: dict[str, list[Any]], sends: bool
) -> None:
    """They would all be one job run: each after the other, and the one's rows where the other's belong."""
    from airflow.sdk import DAG

    from keld_airflow import KeldBatchOperator

    terms: dict[str, Any] = {} if "job" in mapped else {"key": "id", "prompt": "Classify: {body}", "model": "openai:gpt-5-mini"}
    with DAG("tickets", schedule=None) as dag:
        KeldBatchOperator.partial(task_id="label", **({} if "source" in mapped else {"source": rows}), **terms).expand(**mapped)
    task = dag.get_task("label").unmap({name: values[0] for name, values in mapped.items()})
    visit = worker.run(task, map_index=0, **DAY)
    assert (visit.state == "deferred", "partition of its own" not in str(visit.error)) == (sends, sends)
    assert bool(provider.requests()) is sends


@pytest.mark.parametrize("run", [pytest.param({}, id="without a key"), pytest.param(DAY, marks=since("3.2"), id="with a key")])
def test_a_mapped_partition_is_rendered_like_any_other(worker: Worker, provider: Emulator, home: Keld, run: dict[str, Any]) -> None:
    """Airflow renders mapped tasks by another way; "eu|None" would be bought once, and be every run's that has no key."""
    from airflow.sdk import DAG

    from keld_airflow import KeldBatchOperator

    with DAG("tickets", schedule=None) as dag:
        KeldBatchOperator.partial(task_id="label", job=job(), source=rows).expand(partition=["us", "eu|{{ partition_key }}"])
    visit = worker.run(dag.get_task("label"), map_index=1, **run)
    assert [status.partition for status in home.statuses()] == (["eu|2026-11-19"] if run else [])
    assert run or "partition wants {{ partition_key }}" in str(visit.error)


@pytest.mark.parametrize(
    "given",
    [
        {"name": "labels.{{ dag_run.run_id }}"},
        pytest.param({"partition": "{{ partition_key }}"}, marks=since("3.2")),
        {"partition": "all"},
    ],
)
def test_a_mapped_task_whose_name_or_partition_is_that_of_the_dag_run_is_refused(
    worker: Worker, provider: Emulator, given: dict[str, Any]
) -> None:
    """Each instance would take the job run of the one before for its own, changed job, and send again."""
    from airflow.sdk import DAG

    from keld_airflow import KeldBatchOperator

    with DAG("tickets", schedule=None) as dag:
        KeldBatchOperator.partial(
            **{"task_id": "label", "name": "labels", "key": "id", "prompt": "{body}", "source": lambda: ROWS, **given}
        ).expand(models=["openai:gpt-5-mini", "anthropic:claude-haiku-4-5"])
    visit = worker.run(dag.get_task("label"), map_index=1, **DAY)
    assert "all its instances would be one job run" in str(visit.error)
    assert provider.requests() == []


def test_a_partition_that_another_task_did_not_give_is_not_the_dag_runs_own(worker: Worker, provider: Emulator) -> None:
    task = operator(partition="{{ ti.xcom_pull('regions') }}")
    task.partition = None  # as an XCom, or Jinja's native types, leave it
    ended = worker.run(task, **DAY)
    assert "was rendered as 'None'" in str(ended.error)
    assert provider.requests() == []


def test_downstream_tasks_may_ask_for_one_fact_of_a_manifest(worker: Worker, provider: Emulator) -> None:
    """`label.output["cost_usd"]`, by Airflow's own argument."""
    from airflow.sdk import DAG, task

    @task.keld_batch(job=job(), multiple_outputs=True)
    def label() -> list[dict[str, Any]]:
        return ROWS

    with DAG("tickets", schedule=None) as dag:
        label()
    ended = worker.through(dag.get_task("label"), provider, **DAY)
    assert ended.xcoms["cost_usd"] == ended.manifest["cost_usd"] != "0"


def test_two_tasks_that_are_one_job_run_each_get_their_own_rows_in_their_own_place(
    worker: Worker, provider: Emulator, tmp_path: Path
) -> None:
    """A copy of a Dag, say, with another sink: the later one leads the output there, and the first must not end without any."""
    tables = {name: pa.table({"id": [n, n + 1], "body": [f"{name} {n}", f"{name} {n + 1}"]}) for n, name in ((10, "a"), (20, "b"))}
    tasks = [operator(task_id=name, source=lambda t=t: t, sink=f"{tmp_path}/{name}.parquet") for name, t in tables.items()]
    visits = [worker.until_sent(task, **DAY) for task in tasks]
    for _ in range(2):
        provider.advance(LATENCY_S)
        visits = [v if v.state == "success" else worker.run(task, event=v.event, **DAY) for task, v in zip(tasks, visits, strict=True)]
    assert [visit.manifest["sink"] for visit in visits] == [f"{tmp_path}/a.parquet", f"{tmp_path}/b.parquet"]
    assert [pq.read_table(tmp_path / f"{name}.parquet").column("id").to_pylist() for name in tables] == [[10, 11], [20, 21]]
    assert len(provider.bill()) == 4


def test_mapped_tasks_are_read_and_unmapped_with_their_terms(worker: Worker, provider: Emulator) -> None:
    from airflow.sdk import DAG

    from keld_airflow import KeldBatchOperator

    with DAG("tickets", schedule=None) as dag:
        KeldBatchOperator.partial(
            task_id="label", key="id", name="labels", prompt="Classify: {body}", model="openai:gpt-5-mini",
            map_index_template="{{ task.partition }}",
        ).expand(source=["a.parquet", "b.parquet"])  # fmt: skip
    unmapped = dag.get_task("label").unmap({"source": "b.parquet"})
    assert (unmapped.source, unmapped.job) == ("b.parquet", job())


# --- what Airflow keeps -----------------------------------------------------------------------------------------------


def test_nothing_that_airflow_keeps_tells_a_row_a_prompt_an_answer_or_a_key(
    worker: Worker, provider: Emulator, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Keld
) -> None:
    """XComs, rendered fields, triggers, events, and all that is logged on the way."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY-KEY")
    asked = job(system="CANARY-SYSTEM", prompt="CANARY-PROMPT {body}")
    visits = [worker.until_sent(operator(job=asked), **DAY)]
    provider.advance(LATENCY_S)
    visits.append(worker.run(operator(job=asked), event=visits[0].event, **DAY))
    [answer] = set(home.read(visits[0].event["job_run"]).read_all().column("answer").to_pylist()[:1])
    kept = "".join(visit.kept for visit in visits) + repr(asked) + "".join(capfd.readouterr())
    assert visits[1].state == "success"
    assert [secret for secret in ("CANARY", str(answer)) if secret in kept] == []


def test_the_dag_that_airflow_stores_tells_no_prompt_of_a_job_and_reads_the_same_each_time() -> None:
    """A prompt may come from a file; and a text that differs with each reading would be a new version of the Dag each time."""
    from airflow.sdk import DAG, task

    from keld_airflow import KeldBatchOperator

    asked = job(prompt="CANARY {body}", system="CANARY")
    with DAG("tickets", schedule=None, default_args={"job": asked}) as dag:
        KeldBatchOperator(task_id="plain", source=rows, sink=print)
        KeldBatchOperator.partial(task_id="mapped", source=rows, sink=print, job=asked).expand(partition=["eu"])

        @task.keld_batch(job=asked, partition="{{ task.op_kwargs.region }}")
        def decorated(region: str) -> list[dict[str, Any]]:
            return ROWS

        decorated.expand(region=["eu"])
    stored = serialised(dag)
    assert "tickets" in str(deserialised(stored))
    assert [sign for sign in ("CANARY", " at 0x") if sign in str(stored)] == []


@pytest.mark.share(2)
@pytest.mark.parametrize("table", [pa.Table.from_pylist(ROWS).to_pandas(), ROWS], ids=["frame", "list"])
def test_rows_that_another_task_gave_are_not_among_the_rendered_fields(worker: Worker, provider: Emulator, table: Any) -> None:
    """An XCom backend may keep them in a bucket; the rendered fields are in Airflow's database."""
    from airflow.sdk import DAG, task

    from keld_airflow import KeldBatchOperator

    @task
    def table_of() -> Any: ...

    @task.keld_batch(job=job(name="positional"))
    def label(first: Any, region: str) -> Any:
        assert region == "eu"
        return first

    with DAG("tickets", schedule=None) as dag:
        label(table, region="eu")
        KeldBatchOperator.partial(task_id="mapped", job=job(name="mapped"), partition="{{ ti.map_index }}").expand(source=table_of())
    given = operator(source=rows)
    given.source_function = None
    given.source = table  # as rendering does
    mapped = dag.get_task("mapped").unmap({"source": table})
    for asked in (given, mapped, dag.get_task("label")):
        ended = worker.through(asked, provider, **DAY)
        assert ended.state == "success", ended.error
        assert "CANARY" not in ended.kept
    assert ended.rendered["op_kwargs"] == {"region": "eu"}
