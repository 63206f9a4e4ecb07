"""Reading: what each tool logs becomes the same calls; a bad line costs that line; what is no log is refused with what is missing."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keld import InvalidJob, SourceError, SourceUnavailable
from keld.audit import Audit, Waits, examine
from keld.audit.format import FIELDS
from keld.audit.formats import FORMATS
from tests.audit.workload import Call, conversations, month, nightly
from tests.audit.writer import (
    BILLS,
    BUCKETS,
    CALLS,
    NO_CACHE,
    _lines,
    anthropic_cost_csv,
    anthropic_csv,
    bedrock_bucket,
    litellm,
    litellm_rows,
    openai_usage,
)

NOW = datetime(2026, 11, 30, tzinfo=UTC)
CALLS_OF_TWO = [replace(call, cached=300) for call in month(3, groups={"chat": conversations, "classify": nightly})]


def _audit(*logs: Path, form: str | None = None) -> Audit:
    return examine([str(log) for log in logs], now=NOW, form=form)


def _sums(audit: Audit) -> tuple[int, int, int]:
    tokens = [counts for one in audit.findings for counts in one.group.tokens.values()]
    return sum(int(one[0]) for one in tokens), sum(int(one[1]) for one in tokens), sum(int(one[4]) for one in tokens)


def _expected(calls: list[Call]) -> tuple[int, int, int]:
    return sum(call.input for call in calls), sum(call.cached for call in calls), sum(call.output for call in calls)


@pytest.mark.parametrize("name", CALLS)
def test_each_format_is_known_by_its_content_and_gives_every_call_with_its_tokens(name: str, tmp_path: Path) -> None:
    form, write = CALLS[name]
    log = tmp_path / "log"  # without a suffix
    log.write_bytes(write(CALLS_OF_TWO))
    audit = _audit(log)
    assert [(one.title, one.calls, one.bad) for one in audit.sources] == [(FORMATS[form].title, len(CALLS_OF_TWO), 0)]
    tokens_in, cached, out = _sums(audit)
    assert (tokens_in, out) == (_expected(CALLS_OF_TWO)[0], _expected(CALLS_OF_TWO)[2])
    assert cached == (0 if name in NO_CACHE else _expected(CALLS_OF_TWO)[1])
    verdicts = {one.waits for one in audit.findings}
    assert Waits.YES in verdicts  # it streams, or its people are named, in each of them
    if "ends of calls" not in FORMATS[form].lacks():
        assert Waits.NO in verdicts


@pytest.mark.parametrize("name", BUCKETS)
def test_each_kind_of_buckets_gives_the_sums_of_its_calls(name: str, tmp_path: Path) -> None:
    form, write = BUCKETS[name]
    log = tmp_path / "log"
    log.write_bytes(write(CALLS_OF_TWO))
    audit = _audit(log)
    assert audit.sources[0].title == FORMATS[form].title
    assert _sums(audit) == _expected(CALLS_OF_TWO)
    assert Waits.YES not in {one.waits for one in audit.findings}


@pytest.mark.parametrize("name", BILLS)
def test_a_bill_says_what_is_in_batches_today_and_nothing_of_who_waits(name: str, tmp_path: Path) -> None:
    form, write = BILLS[name]
    log = tmp_path / "log"
    log.write_bytes(write(CALLS_OF_TWO))
    audit = _audit(log)
    assert audit.sources[0].title == FORMATS[form].title
    assert {one.key.service: one.waits for one in audit.findings} == {"classify": Waits.ALREADY, "chat": Waits.ASK}
    billed = sum(call.input for call in CALLS_OF_TWO) / 1e6  # not what is tax, or another service
    assert float(audit.usd(Waits.ALREADY) + audit.usd(Waits.ASK)) / audit.factor == pytest.approx(billed, rel=1e-3)


def test_the_costs_of_the_console_are_those_of_a_model_though_it_is_named_for_people(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(anthropic_cost_csv(CALLS_OF_TWO))
    audit = _audit(tmp_path / "log")
    assert audit.sources[0].title == FORMATS["anthropic_cost_csv"].title
    assert {(one.key.model, one.waits) for one in audit.findings} == {("claude-haiku-4-5", Waits.ASK)}
    tokens_in, cached, out = _expected(CALLS_OF_TWO)
    paid = (tokens_in - cached) * 1e-6 + cached * 1e-7 + out * 5e-6
    assert float(audit.usd(Waits.ASK)) / audit.factor == pytest.approx(paid, rel=1e-3)


def test_a_bucket_of_bedrock_is_read_without_the_bodies_beside(tmp_path: Path) -> None:
    bedrock_bucket(CALLS_OF_TWO, tmp_path)
    audit = _audit(tmp_path)
    assert _sums(audit) == _expected(CALLS_OF_TWO)
    assert audit.bad == 0


def test_litellms_own_table_is_read_from_its_postgres(postgres: Callable[[], str], tmp_path: Path) -> None:
    """As its migrations make it: times without a zone, in UTC; JSON in jsonb."""
    url = postgres()
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    rows = [
        row | {name: json.dumps(row[name]) for name in ("metadata", "request_tags")} | {"messages": json.dumps("secret")}
        for row in litellm_rows(CALLS_OF_TWO)
    ]
    with engine.begin() as db:
        db.execute(sa.text(SPEND_LOGS))
        names = list(rows[0])
        values = ", ".join(f"CAST(:{name} AS jsonb)" if name in ("metadata", "request_tags", "messages") else f":{name}" for name in names)
        quoted = ", ".join(f'"{name}"' for name in names)
        db.execute(sa.text("SET timezone = 'Asia/Tokyo'"))
        db.execute(sa.text(f'INSERT INTO "LiteLLM_SpendLogs" ({quoted}) VALUES ({values})'), [row | _naive(row) for row in rows])
    engine.dispose()
    audit = examine([url], now=NOW)
    (tmp_path / "log").write_bytes(litellm(CALLS_OF_TWO))
    as_file = _audit(tmp_path / "log")
    assert _sums(audit) == _expected(CALLS_OF_TWO)
    assert [one.title for one in audit.sources] == ["LiteLLM spend logs"]
    said = [{(one.key, one.waits, one.evidence.waits, one.evidence.free) for one in found.findings} for found in (audit, as_file)]
    assert said[0] == said[1]
    assert url not in json.dumps(audit.to_json())


def _naive(row: dict[str, Any]) -> dict[str, Any]:
    """Its instants as Prisma writes them, in UTC without a zone."""
    return {name: None if row[name] is None else row[name].rstrip("Z") for name in ("startTime", "endTime", "completionStartTime")}


SPEND_LOGS = """
CREATE TABLE "LiteLLM_SpendLogs" (
  request_id TEXT PRIMARY KEY, call_type TEXT NOT NULL, api_key TEXT NOT NULL DEFAULT '', spend DOUBLE PRECISION NOT NULL DEFAULT 0,
  total_tokens INTEGER NOT NULL DEFAULT 0, prompt_tokens INTEGER NOT NULL DEFAULT 0, completion_tokens INTEGER NOT NULL DEFAULT 0,
  "startTime" TIMESTAMP(3) NOT NULL, "endTime" TIMESTAMP(3) NOT NULL, "completionStartTime" TIMESTAMP(3), request_duration_ms INTEGER,
  model TEXT NOT NULL DEFAULT '', model_id TEXT DEFAULT '', model_group TEXT DEFAULT '', custom_llm_provider TEXT DEFAULT '', api_base TEXT DEFAULT '',
  "user" TEXT DEFAULT '', metadata JSONB DEFAULT '{}', cache_hit TEXT DEFAULT '', cache_key TEXT DEFAULT '', request_tags JSONB DEFAULT '[]', team_id TEXT,
  organization_id TEXT, end_user TEXT, requester_ip_address TEXT, messages JSONB DEFAULT '{}', response JSONB DEFAULT '{}', session_id TEXT, status TEXT,
  mcp_namespaced_tool_name TEXT, agent_id TEXT, proxy_server_request JSONB DEFAULT '{}', litellm_call_id TEXT
)"""


def test_a_database_that_is_none_of_litellms_is_refused_without_its_password(postgres: Callable[[], str]) -> None:
    with pytest.raises(SourceUnavailable) as refused:
        examine([postgres()], now=NOW)
    assert "LiteLLM_SpendLogs" in str(refused.value)
    with pytest.raises(SourceUnavailable) as unreachable:
        examine(["postgresql://me:hunter2@127.0.0.1:1/spend"], now=NOW)
    assert "hunter2" not in str(unreachable.value)


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "change", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n"), gzip.compress], ids=["bom", "crlf", "gz"]
)
@pytest.mark.parametrize("name", ["litellm.jsonl", "litellm.csv", "otlp.jsonl", "usage.json"])
def test_a_file_that_another_system_wrote_loses_no_call(name: str, change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    _, write = (CALLS | BUCKETS)[name]
    (tmp_path / "log").write_bytes(change(write(CALLS_OF_TWO)))
    audit = _audit(tmp_path / "log")
    assert (_sums(audit), audit.bad) == (_expected(CALLS_OF_TWO), 0)


def test_an_empty_file_is_said_to_be_empty_and_one_that_was_cut_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "empty.gz").write_bytes(gzip.compress(b""))
    assert [(one.title, one.calls) for one in _audit(tmp_path).sources] == [("empty", 0), ("empty", 0)]
    (tmp_path / "cut.gz").write_bytes(gzip.compress(litellm(CALLS_OF_TWO))[:-2_000])
    with pytest.raises(SourceError, match=r"cut\.gz"):
        _audit(tmp_path)


def test_lines_of_any_length_are_read(tmp_path: Path) -> None:
    """A log with bodies may have a document in a line, the first one included."""
    rows = [row | {"messages": "x" * 9_000_000 if number in (0, 7) else ""} for number, row in enumerate(litellm_rows(CALLS_OF_TWO))]
    (tmp_path / "log").write_bytes(_lines(rows))
    audit = _audit(tmp_path / "log")
    assert (_sums(audit), audit.bad) == (_expected(CALLS_OF_TWO), 0)


def test_instants_with_offsets_are_the_same_instants(tmp_path: Path) -> None:
    """Also where lines differ."""
    zones = [timezone(timedelta(hours=hours)) for hours in (0, 2, -7)] + [timezone(timedelta(hours=5, minutes=30))]
    rows = litellm_rows(CALLS_OF_TWO)
    moved = [
        row | {name: datetime.fromisoformat(row[name]).astimezone(zones[number % 4]).isoformat() for name in ("startTime", "endTime")}
        for number, row in enumerate(rows)
    ]
    (tmp_path / "a").write_bytes(_lines(rows))
    (tmp_path / "b").write_bytes(_lines(moved))
    found = [sorted(one.group.columns()[0].tolist() for one in _audit(tmp_path / name).findings) for name in "ab"]
    assert found[0] == found[1]


def test_calls_without_tokens_or_with_a_negative_cost_are_counted_and_save_nothing(tmp_path: Path) -> None:
    """Refused calls have no tokens; a proxy books credits as a cost below zero."""
    uncached = [replace(call, cached=0) for call in CALLS_OF_TWO]
    rows = [row | {"prompt_tokens": 0, "completion_tokens": 0, "spend": -1.0} for row in litellm_rows(uncached)]
    (tmp_path / "log").write_bytes(_lines(rows))
    audit = _audit(tmp_path / "log")
    assert audit.free_usd == 0
    assert {one.net for one in audit.findings} == {None}
    assert sum(one.group.calls for one in audit.findings) == len(CALLS_OF_TWO)


def test_labels_in_a_cell_of_csv_are_the_same_labels(tmp_path: Path) -> None:
    """A list in JSON, which a table can only hold as a text."""
    calls = [replace(call, job="nightly") for call in CALLS_OF_TWO]
    for name in ("litellm.jsonl", "litellm.csv"):
        (tmp_path / name).write_bytes(CALLS[name][1](calls))
        assert {one.key.job for one in _audit(tmp_path / name).findings} == {"nightly"}


def test_what_people_wrote_is_no_name(tmp_path: Path) -> None:
    """A tag, or the key of a document, may be a prompt."""
    prompt = "Summarise what the patient Rosa told us about her illness on the telephone last night"
    rows = [row | {"request_tags": [prompt]} for row in litellm_rows(CALLS_OF_TWO)]
    (tmp_path / "log").write_bytes(_lines(rows))
    assert "Rosa" not in json.dumps(_audit(tmp_path / "log").to_json())
    (tmp_path / "log").write_text(json.dumps({prompt: {"answer": 1}}) + "\n")
    with pytest.raises(SourceError) as refused:
        _audit(tmp_path / "log")
    assert "illness" not in str(refused.value)


def test_spans_that_are_no_calls_are_passed_over_and_a_broken_line_is_counted(tmp_path: Path) -> None:
    """Most spans of a service are of its database and its HTTP server."""
    other = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"t","spanId":"s","name":"SELECT","startTimeUnixNano":"1"}]}]}]}\n'
    lines = CALLS["otlp.jsonl"][1](CALLS_OF_TWO).splitlines(keepends=True)
    (tmp_path / "log").write_bytes(b"".join(part for line in lines for part in (line, other)) + other[:50])
    audit = _audit(tmp_path / "log")
    assert (_sums(audit), audit.bad) == (_expected(CALLS_OF_TWO), 1)


def test_a_directory_may_hold_several_formats_and_packed_files(tmp_path: Path) -> None:
    half = len(CALLS_OF_TWO) // 2
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(litellm(CALLS_OF_TWO[:half])))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "usage.json").write_bytes(openai_usage(CALLS_OF_TWO[half:]))
    audit = _audit(tmp_path)
    assert {one.title for one in audit.sources} == {"LiteLLM spend logs", "OpenAI usage API"}
    assert _sums(audit) == _expected(CALLS_OF_TWO)
    assert _sums(_audit(tmp_path / "*.gz")) == _expected(CALLS_OF_TWO[:half])


def test_a_line_that_cannot_be_read_costs_that_line(tmp_path: Path) -> None:
    lines = litellm(CALLS_OF_TWO).splitlines(keepends=True)
    odd = json.dumps(litellm_rows(CALLS_OF_TWO[:1])[0] | {"startTime": "yesterday"}).encode() + b"\n"
    (tmp_path / "log").write_bytes(b"".join([b'{"half a line\n', *lines, b"\xff\xfe\n", odd, lines[0][:40]]))
    source = _audit(tmp_path / "log").sources[0]
    assert (source.calls, source.bad) == (len(CALLS_OF_TWO), 4)


def test_a_ragged_line_of_csv_costs_that_line(tmp_path: Path) -> None:
    text = CALLS["openrouter.csv"][1](CALLS_OF_TWO).decode()
    (tmp_path / "log").write_text(text + "one,two\r\n")
    source = _audit(tmp_path / "log").sources[0]
    assert (source.calls, source.bad) == (len(CALLS_OF_TWO), 1)


def test_json_in_one_document_is_read_like_lines(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(json.dumps(litellm_rows(CALLS_OF_TWO), indent=1))
    assert _sums(_audit(tmp_path / "log")) == _expected(CALLS_OF_TWO)


def test_a_file_of_no_known_format_is_refused_with_its_columns_and_the_way_to_map_it(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("ts,llm,ms\n1,gpt-5-mini,3\n")
    with pytest.raises(SourceError) as refused:
        _audit(tmp_path / "log.csv")
    assert "llm, ms, ts" in str(refused.value)
    assert "mapping.toml" in str(refused.value)
    with pytest.raises(SourceUnavailable):
        _audit(tmp_path / "nowhere")


def test_a_mapping_reads_any_table(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "ts,llm,ms,who,in,out\n1793000000,openai/gpt-5-mini,300,ann,10,5\n1793000001000,openai/gpt-5-mini,,bob,10,5\n"
    )
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        'title = "our gateway"\n[names]\nat = "ts"\nmodel = "llm"\nduration_ms = "ms"\nuser = "who"\ninput = "in"\noutput = "out"\n'
    )
    audit = _audit(tmp_path / "log.csv", form=str(mapping))
    assert audit.sources[0].title == "our gateway"
    (found,) = audit.findings
    assert (found.key.provider, found.key.model, found.group.calls, len(found.group.users)) == ("openai", "gpt-5-mini", 2, 2)
    assert audit.days < 1  # a number of seconds and one of milliseconds


@pytest.mark.parametrize("text", ["[names]\nmodel = 'm'\n", "[names]\nat = 't'\nwhen = 'x'\n", "[nams]\n", "no toml"])
def test_a_mapping_that_is_not_valid_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(InvalidJob):
        _audit(tmp_path, form=str(tmp_path / "m.toml"))


@pytest.mark.parametrize("form", FORMATS.values(), ids=lambda form: form.name)
def test_a_format_names_only_fields_of_a_record(form: object) -> None:
    assert set(form.names) <= set(FIELDS)  # type: ignore[attr-defined]
    assert "at" in form.names  # type: ignore[attr-defined]


def test_an_opentelemetry_span_of_an_agent_is_not_counted_again(tmp_path: Path) -> None:
    """Its tokens are those of the calls within."""
    (tmp_path / "log").write_bytes(CALLS["otlp.jsonl"][1](CALLS_OF_TWO[:50]))
    assert _sums(_audit(tmp_path / "log")) == _expected(CALLS_OF_TWO[:50])


def test_the_file_exporter_of_opentelemetry_is_read(tmp_path: Path) -> None:
    """Its own encoder made this line, not a writer of ours."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.common.trace_encoder")
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "tagger"}))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5-mini",
        "gen_ai.usage.input_tokens": 640,
        "gen_ai.usage.output_tokens": 25,
    }
    with provider.get_tracer("x").start_as_current_span("chat gpt-5-mini", attributes=attributes):  # type: ignore[arg-type]
        pass
    (tmp_path / "log").write_text(json.dumps(MessageToDict(encode_spans(memory.get_finished_spans()))) + "\n")
    audit = _audit(tmp_path / "log")
    assert _sums(audit) == (640, 0, 25)
    assert audit.findings[0].key.service == "tagger"


def test_calls_in_the_batch_lane_are_counted_as_done_and_not_as_a_saving(tmp_path: Path) -> None:
    rows = [row | {"call_type": "aretrieve_batch"} for row in litellm_rows(CALLS_OF_TWO)]
    (tmp_path / "log").write_bytes(_lines(rows))
    audit = _audit(tmp_path / "log")
    assert {one.waits for one in audit.findings} == {Waits.ALREADY}
    assert audit.free_usd == 0
    assert audit.usd(Waits.ALREADY) > 0


@pytest.mark.parametrize(("chat_too", "a_day"), [(False, "0.3"), (True, "0.47")], ids=["all", "some"])
def test_what_is_in_batches_already_is_priced_by_the_list_where_the_log_has_no_costs(tmp_path: Path, chat_too: bool, a_day: str) -> None:
    """A day of OpenAI's usage API with `group_by=batch`: 2,000,000 tokens in and 50,000 out at half of $0.25 and $2.00; beside it, or not, 200,000 in,
    800,000 cached ($0.025) and 50,000 out in the standard lane.
    """
    every = {
        "object": "organization.usage.completions.result",
        "model": "gpt-5-mini-2025-08-07",
        "project_id": "proj_1",
        "num_model_requests": 500,
    }
    batch = every | {"input_tokens": 2_000_000, "output_tokens": 50_000, "input_cached_tokens": 0, "batch": True}
    chat = every | {"input_tokens": 1_000_000, "output_tokens": 50_000, "input_cached_tokens": 800_000, "batch": False}
    begins = [int(datetime(2026, 10, day, tzinfo=UTC).timestamp()) for day in range(1, 31)]
    found = [chat, batch] if chat_too else [batch]
    buckets = [{"object": "bucket", "start_time": at, "end_time": at + 86_400, "results": found} for at in begins]
    (tmp_path / "usage.json").write_text(json.dumps({"object": "page", "data": buckets, "has_more": False}))
    audit = _audit(tmp_path / "usage.json")
    assert sum(float(one.usd) for one in audit.findings) / audit.factor == pytest.approx(30 * float(a_day))
    assert {one.waits for one in audit.findings} == {Waits.ASK if chat_too else Waits.ALREADY}


def test_tags_with_an_id_in_them_are_one_group(tmp_path: Path) -> None:
    """Else every call is a group of its own, and nothing can be said of it."""
    rows = [row | {"request_tags": [f"ticket:{number % 900}x{number % 7}"]} for number, row in enumerate(litellm_rows(CALLS_OF_TWO))]
    (tmp_path / "log").write_bytes(_lines(rows))
    audit = _audit(tmp_path / "log")
    assert {one.key.job for one in audit.findings} == {"*"}
    assert _sums(audit) == _expected(CALLS_OF_TWO)


def test_the_days_of_a_console_file_decide_nothing(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(anthropic_csv(CALLS_OF_TWO))
    assert {one.waits for one in _audit(tmp_path / "log").findings} == {Waits.ASK}


def test_the_command_loads_no_sdk() -> None:
    code = (
        "import sys, keld.audit; print([name for name in ('openai', 'anthropic', 'sqlalchemy', 'httpx2', 'pandas') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
