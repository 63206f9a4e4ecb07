"""Odd: files as spreadsheets, databases, shells and half-finished copies leave them: each gives the right numbers, or a sentence that says what to do."""

import codecs
import csv
import doctest
import gzip
import io
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keld import SourceError
from keld.audit import Audit, examine, money, provider, written
from keld.audit.view import notes
from tests.audit.workload import month, nightly
from tests.audit.writer import _lines, bedrock, litellm_rows

NOW = datetime(2026, 11, 30, tzinfo=UTC)
CALLS = month(5, groups={"classify": nightly})
ROWS = [row | {"prompt_tokens": 2_000, "completion_tokens": 500, "spend": 0.0125} for row in litellm_rows(CALLS)]
COUNTED = (len(ROWS), 2_000 * len(ROWS), 500 * len(ROWS), 0.0125 * len(ROWS))
Row = dict[str, Any]


def _audit(path: Path, form: str | None = None) -> Audit:
    return examine([str(path)], now=NOW, form=form)


def _sums(audit: Audit) -> tuple[int, int, int, float]:
    tokens = [counts for one in audit.findings for counts in one.group.tokens.values()]
    usd = sum(sum(one.group.logged_usd.values()) for one in audit.findings)
    return (
        sum(one.group.calls for one in audit.findings),
        sum(int(one[0]) for one in tokens),
        sum(int(one[4]) for one in tokens),
        round(usd, 6),
    )


def _read(tmp_path: Path, text: bytes, form: str | None = None) -> Audit:
    (tmp_path / "log").write_bytes(text)
    return _audit(tmp_path / "log", form)


def _table(rows: list[Row], delimiter: str = ",", comma: bool = False) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(rows[0])
    for row in rows:
        cells = [json.dumps(value) if isinstance(value, dict | list) else value for value in row.values()]
        writer.writerow([str(cell).replace(".", ",") if comma and isinstance(cell, float) else cell for cell in cells])
    return text.getvalue()


def _each(change: Callable[[Row], Row]) -> list[Row]:
    return [row | change(row) for row in ROWS]


def _times(pattern: str) -> list[Row]:
    return _each(lambda row: {name: datetime.fromisoformat(row[name]).strftime(pattern) for name in ("startTime", "endTime")})


def _pairs_of_lines(text: bytes) -> bytes:
    lines = text.splitlines()
    return b"\n".join(one + two for one, two in zip(lines[::2], lines[1::2], strict=True))


TEXT = _lines(ROWS)
SHAPES = {
    "a page": json.dumps({"data": ROWS, "total": len(ROWS), "page": 1}).encode(),
    "a page a line": b"".join(json.dumps({"data": ROWS[at : at + 100], "meta": {}}).encode() + b"\n" for at in range(0, len(ROWS), 100)),
    "an array a line": b"".join(json.dumps(ROWS[at : at + 100]).encode() + b"\n" for at in range(0, len(ROWS), 100)),
    "a line of an array each": b"[\n" + TEXT.replace(b"}\n", b"},\n")[:-2] + b"\n]\n",
    "objects over many lines": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "two objects a line": _pairs_of_lines(TEXT),
    "no line ends": TEXT.replace(b"\n", b""),
    "a comma after each": TEXT.replace(b"}\n", b"},\n"),
    "only carriage returns": TEXT.replace(b"\n", b"\r"),
    "record separators": TEXT.replace(b'{"request_id', b'\x1e{"request_id'),
    "UTF-16": TEXT.decode().encode("utf-16"),
    "UTF-16, the larger byte first": codecs.BOM_UTF16_BE + TEXT.decode().encode("utf-16-be"),
    "UTF-16 without a mark": TEXT.decode().encode("utf-16-le"),
    "UTF-16, packed": gzip.compress(TEXT.decode().encode("utf-16")),
    "documents in texts": _lines(_each(lambda row: {"metadata": json.dumps(row["metadata"]), "request_tags": json.dumps(row["request_tags"])})),
    "texts in texts": _lines(_each(lambda row: {"metadata": json.dumps(json.dumps(row["metadata"]))})),
    "dicts as Python writes them": _lines(_each(lambda row: {"metadata": repr(row["metadata"])})),
    "costs in dollars": _lines(_each(lambda row: {"spend": "$0.0125"})),
    "costs with a unit": _lines(_each(lambda row: {"spend": "0.0125 USD"})),
    "costs with a decimal comma": _lines(_each(lambda row: {"spend": "0,0125"})),
    "tokens in groups": _lines(_each(lambda row: {"prompt_tokens": "2,000", "completion_tokens": "500"})),
    "tokens in groups with points": _lines(_each(lambda row: {"prompt_tokens": "2.000", "completion_tokens": "500"})),
    "a NaN in each line": _lines(_each(lambda row: {"response_ms": float("nan")})),
    "epochs in s": _lines(_each(lambda row: {"startTime": datetime.fromisoformat(row["startTime"]).timestamp()})),
    "epochs in ns, as texts": _lines(_each(lambda row: {"startTime": str(round(datetime.fromisoformat(row["startTime"]).timestamp() * 1e9))})),
    "dates with points": _lines(_times("%d.%m.%Y %H:%M:%S")),
    "dates with the month first": _lines(_times("%m/%d/%Y %H:%M:%S")),
    "dates with the day first": _lines(_times("%d/%m/%Y %H:%M:%S")),
    "dates with AM and PM": _lines(_times("%m/%d/%Y, %I:%M:%S %p")),
    "dates of mails": _lines(_times("%a, %d %b %Y %H:%M:%S GMT")),
    "dates with slashes": _lines(_times("%Y/%m/%d %H:%M:%S")),
    "small letters in ISO 8601": _lines(_times("%Y-%m-%dt%H:%M:%Sz")),
    "a German spreadsheet": codecs.BOM_UTF8 + _table(_times("%d.%m.%Y %H:%M"), ";", comma=True).encode(),
    "a spreadsheet that says its mark": codecs.BOM_UTF8 + b"sep=;\r\n" + _table(ROWS, ";", comma=True).encode(),
    "Unicode text of a spreadsheet": _table(ROWS, "\t").encode("utf-16"),
    "a table with bars": _table(ROWS, "|").encode(),
    "not in UTF-8": _table(_each(lambda row: {"end_user": "Müller"})).encode("cp1252"),
    "names in small letters": _table(ROWS).replace("startTime", "starttime").replace("endTime", "endtime").encode(),
    "spaces around names": _table(ROWS).replace(",startTime,", ", startTime ,", 1).encode(),
    "a psql footer": (_table(ROWS) + f"({len(ROWS)} rows)\r\n").encode(),
}  # fmt: skip


@pytest.mark.share(2)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_log_loses_no_call_token_or_cent_in_the_shape_that_others_give_it(shape: str, tmp_path: Path) -> None:
    audit = _read(tmp_path, SHAPES[shape])
    assert _sums(audit) == pytest.approx(COUNTED)
    assert {one.key.service for one in audit.findings} == {"classify"}
    assert audit.days == pytest.approx(28, abs=0.1)
    assert audit.bad == (1 if "footer" in shape else 0)


def test_columns_in_capitals_are_the_same_columns(tmp_path: Path) -> None:
    """A warehouse changes the case of names."""
    table = pa.Table.from_pylist(
        [{name.upper(): json.dumps(value) if isinstance(value, dict | list) else value for name, value in row.items()} for row in ROWS]
    )
    pq.write_table(table, tmp_path / "log.parquet")
    assert _sums(_audit(tmp_path / "log.parquet")) == pytest.approx(COUNTED)


def test_a_page_is_read_by_a_mapping_too(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('[names]\nat = "when"\nmodel = "llm"\ninput = "in"\n')
    calls = [{"when": 1_793_000_000 + number, "llm": "gpt-5-mini", "in": 10} for number in range(5)]
    assert _sums(_read(tmp_path, json.dumps({"items": calls}).encode(), str(tmp_path / "m.toml")))[:2] == (5, 50)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (b"PK\x03\x04" + bytes(200), "unpack it, or save its sheet as CSV"),
        (b"\xfd7zXZ\x00" + bytes(200), "unpack it"),
        (b"SQLite format 3\x00" + bytes(200), "export its table"),
        (gzip.compress(TEXT)[:-500], "its end is missing"),
        (gzip.compress(TEXT)[:-4], "its end is missing"),
    ],
    ids=["zip", "xz", "sqlite", "cut", "without its last bytes"],
)
def test_what_is_no_log_is_refused_with_what_to_do(text: bytes, advice: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=advice):
        _read(tmp_path, text)


def test_a_pipe_is_refused_before_anything_is_taken_from_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match="save it to a file"):
        _audit(tmp_path / "pipe")


def test_a_date_that_may_be_read_in_two_ways_is_not_read_and_told(tmp_path: Path) -> None:
    audit = _read(tmp_path, _lines([ROWS[0] | {"startTime": "10/5/2026 02:00"}]))
    assert (_sums(audit)[0], audit.bad) == (0, 1)
    assert any("whether the day or the month is first" in note for note in notes(audit))


@pytest.mark.parametrize("tokens", [-5, 10**30, None, "many", float("inf")], ids=["negative", "huge", "null", "a word", "infinite"])
def test_an_impossible_count_is_none(tokens: object, tmp_path: Path) -> None:
    assert _sums(_read(tmp_path, _lines([ROWS[0] | {"prompt_tokens": tokens}, *ROWS[1:]])))[:2] == (len(ROWS), 2_000 * (len(ROWS) - 1))


def test_calls_without_a_model_are_told_and_not_priced(tmp_path: Path) -> None:
    audit = _read(tmp_path, _lines([row | {"model": None} for row in ROWS]))
    assert list(audit.not_counted) == ["the log does not name the model"]


def test_the_costs_of_openais_api_are_those_of_its_models(tmp_path: Path) -> None:
    day = 86_400
    page = {
        "object": "page",
        "data": [
            {"object": "bucket", "start_time": 1_793_000_000 + at * day, "end_time": 1_793_000_000 + (at + 1) * day, "results": [
                {"object": "organization.costs.result", "amount": {"value": "1.5", "currency": "usd"}, "line_item": "gpt-4.1-2025-04-14, input"},
            ]}
            for at in range(10)
        ],
    }  # fmt: skip
    audit = _read(tmp_path, json.dumps(page).encode())
    assert _sums(audit)[3] == 15
    assert {one.key.model for one in audit.findings} == {"gpt-4.1-2025-04-14"}


def test_a_period_without_a_call_is_no_call(tmp_path: Path) -> None:
    """The dashboard's CSV has four columns of it."""
    text = b"start_time,end_time,start_time_iso,end_time_iso\n1793000000,1793086400,2026-10-26T05:33:20Z,2026-10-27T05:33:20Z\n"
    audit = _read(tmp_path, text)
    assert (audit.sources[0].calls, audit.sources[0].other, audit.findings) == (0, 1, ())


def test_bedrocks_input_is_without_its_cache_and_its_latency_is_the_length_of_a_call(tmp_path: Path) -> None:
    audit = _read(tmp_path, bedrock(CALLS))
    (found,) = audit.findings
    assert "ends of calls" not in found.evidence.missing
    rows = [json.loads(line) | {"output": {"outputTokenCount": 1}} for line in bedrock(CALLS).splitlines()]
    assert "ends of calls" in _read(tmp_path, _lines(rows)).findings[0].evidence.missing


def _langfuse(number: int, **more: Any) -> Row:
    at = datetime.fromtimestamp(1_793_000_000 + 60 * number, UTC).isoformat()
    end = datetime.fromtimestamp(1_793_000_003 + 60 * number, UTC).isoformat()
    return {
        "id": f"o{number}",
        "traceId": f"t{number}",
        "type": "GENERATION",
        "name": "chat",
        "startTime": at,
        "endTime": end,
        "model": "gpt-4.1",
    } | more


def _bedrock(number: int) -> Row:
    return {
        "schemaType": "ModelInvocationLog", "timestamp": f"2026-10-26T02:00:{number:02d}Z", "accountId": "0", "region": "us-east-1", "requestId": f"r{number}",
        "operation": "InvokeModel", "modelId": "amazon.nova-lite-v1:0", "input": {"inputTokenCount": 10}, "output": {"outputTokenCount": 5},
    }  # fmt: skip


USAGE = {"input": 10, "output": 5, "total": 15, "unit": "TOKENS"}
FROM_SERVICES = {
    "a trace of Langfuse's API, with its observations": [
        {"id": f"t{number}", "userId": f"u{number}", "totalCost": 9, "observations": [_langfuse(number, usage=USAGE)]} for number in range(5)
    ],
    "observations of Langfuse's API": {"data": [_langfuse(number, usageDetails={"input_tokens": 10, "output_tokens": 5}) for number in range(5)], "meta": {}},
    "Langfuse's older export": [_langfuse(number, promptTokens=10, completionTokens=5) for number in range(5)],
    "aws logs filter-log-events": {"events": [{"eventId": "1", "timestamp": 1, "message": json.dumps(_bedrock(number))} for number in range(5)]},
    "aws logs ... --query events[*].message": [json.dumps(_bedrock(number)) for number in range(5)],
    "a subscription of CloudWatch": {"messageType": "DATA_MESSAGE", "logEvents": [{"id": "1", "message": json.dumps(_bedrock(number))} for number in range(5)]},
    "a search in Elastic": {"hits": {"total": 5}, "docs": [{"_index": "llm", "_source": _bedrock(number)} for number in range(5)]},
    "rows of LiteLLM's dashboard": {
        "data": [
            {"request_id": f"q{number}", "api_key": "k", "spend": "0.1", "prompt_tokens": 10, "completion_tokens": 5, "model": "gpt-4.1", "metadata": "{}",
             "startTime": f"2026-10-26 02:00:{number:02d}", "endTime": f"2026-10-26 02:00:{number:02d}.5", "completionStartTime": None}
            for number in range(5)
        ],
        "total": 5,
    },
}  # fmt: skip


@pytest.mark.parametrize("lines", [False, True], ids=["a document", "lines"])
@pytest.mark.parametrize("service", FROM_SERVICES)
def test_what_a_service_wraps_around_calls_is_looked_into(service: str, lines: bool, tmp_path: Path) -> None:
    found = FROM_SERVICES[service]
    audit = _read(tmp_path, _lines(found if isinstance(found, list) else [found]) if lines else json.dumps(found, indent=1).encode())
    assert _sums(audit)[:3] == (5, 50, 25)
    assert audit.bad == 0
    if "trace" in service:
        assert [len(one.group.users) for one in audit.findings] == [5]


def test_what_a_proxy_answered_from_its_own_cache_costs_nothing(tmp_path: Path) -> None:
    """It has tokens all the same."""
    rows = [row | {"cache_hit": "True" if number % 2 else "False"} for number, row in enumerate(ROWS)]
    audit = _read(tmp_path, _lines(rows))
    assert (audit.sources[0].calls, audit.sources[0].other) == (len(ROWS) // 2, len(ROWS) // 2)


def test_another_version_of_a_client_is_no_other_group(tmp_path: Path) -> None:
    """LiteLLM puts it among the tags."""
    tags = [["nightly", "User-Agent: OpenAI", f"User-Agent: OpenAI/Python 2.{number % 3}"] for number in range(len(ROWS))]
    audit = _read(tmp_path, _lines([row | {"request_tags": tag} for row, tag in zip(ROWS, tags, strict=True)]))
    assert [one.key.job for one in audit.findings] == ["nightly"]


@pytest.mark.parametrize(("hours", "days"), [(1, 30.0), (24, 30.0)])
def test_buckets_without_an_end_are_as_wide_as_they_are_apart(hours: int, days: float, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('buckets = true\n[names]\nat = "at"\nmodel = "model"\ninput = "in"\n')
    rows = [{"at": 1_793_000_000 + 3_600 * hours * number, "model": "gpt-5-mini", "in": 10} for number in range(720 // hours)]
    assert _read(tmp_path, _lines(rows), str(tmp_path / "m.toml")).days == days


def test_half_a_character_a_number_without_end_and_a_broken_row_cost_themselves_only(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Found by changing bytes and values of the logs of all formats."""
    half = TEXT + json.dumps(ROWS[0] | {"request_id": "half", "end_user": "x\ud800", "startTime": 1e300}).encode() + b"\n"
    half += json.dumps(ROWS[0] | {"request_id": "user", "end_user": "x\ud800"}).encode() + b"\n"
    audit = _read(tmp_path, half)
    assert (_sums(audit)[0], audit.bad) == (len(ROWS) + 1, 1)
    audit = _read(tmp_path, _table(ROWS).encode() + b"one,\xff\x97,three\r\n")
    assert (_sums(audit)[0], audit.bad) == (len(ROWS), 1)
    assert capfd.readouterr().err == ""


def test_in_a_directory_what_is_no_log_is_passed_over_and_told_and_named_it_is_refused(tmp_path: Path) -> None:
    """Langfuse exports scores beside observations; a bucket has a README."""
    (tmp_path / "a.jsonl").write_bytes(TEXT)
    (tmp_path / "README.md").write_text("# Logs\nof our gateway, by day\n")
    (tmp_path / "scores.jsonl").write_text('{"id": "s", "score": 1}\n')
    audit = _audit(tmp_path)
    assert _sums(audit) == pytest.approx(COUNTED)
    assert [one.where for one in audit.sources if "passed over" in one.title] == ["README.md", "scores.jsonl"]
    with pytest.raises(SourceError, match="README"):
        examine([str(tmp_path), str(tmp_path / "README.md")], now=NOW)
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(SourceError, match="none of the formats"):
        _audit(tmp_path)


def test_what_openrouter_passed_on_could_be_asked_in_batches_at_the_models_maker(tmp_path: Path) -> None:
    """It sells none itself; a call that was free saves nothing."""
    header = "generation_id,created_at,cost_total,tokens_prompt,tokens_completion,model_permaslug\n"
    models = ["openai/gpt-4.1", "anthropic/claude-sonnet-4.5", "openai/gpt-4.1:free", "deepseek/deepseek-v4.1"]
    rows = [f"gen-{number},2026-10-26 02:00:{number:02d}.5,0.01,1000,100,{model}\n" for number, model in enumerate(models)]
    audit = _read(tmp_path, (header + "".join(rows)).encode())
    assert {f"{one.key.provider}:{one.key.model}": isinstance(one.bill, str) for one in audit.findings} == {
        "openai:gpt-4.1": False,
        "anthropic:claude-sonnet-4-5": False,
        "openrouter:openai/gpt-4.1:free": True,
        "openrouter:deepseek/deepseek-v4.1": True,
    }


@pytest.mark.parametrize("module", [written, provider, money], ids=lambda module: module.__name__)
def test_the_examples_in_the_code_are_true(module: ModuleType) -> None:
    assert doctest.testmod(module).failed == 0
