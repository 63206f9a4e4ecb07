"""Reading: what each tool logs becomes the same calls; a bad line costs that line; what is no log is refused with what is missing."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keld import InvalidJob, SourceError, SourceUnavailable
from keld.audit import Audit, Waits, examine
from keld.audit.format import FIELDS
from keld.audit.formats import FORMATS
from tests.audit.workload import Call, conversations, month, nightly
from tests.audit.writer import BUCKETS, CALLS, NO_CACHE, _lines, anthropic_csv, litellm, litellm_rows, openai_usage

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
