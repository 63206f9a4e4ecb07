"""Writer: calls as each tool logs them, one function a format; what a format has no room for is not written."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.audit.workload import BEGIN, Call

_EPOCH = BEGIN.timestamp()


def _lines(rows: Iterable[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _table(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _iso(call: Call, *, end: bool = False) -> str:
    return f"{call.ended if end else call.began:%Y-%m-%dT%H:%M:%S.%f}Z"


def litellm_rows(calls: list[Call]) -> list[dict[str, Any]]:
    return [
        {
            "request_id": f"c{number}", "call_type": "acompletion", "api_key": "88dc28", "spend": 0.0005, "prompt_tokens": call.input,
            "completion_tokens": call.output, "startTime": _iso(call), "endTime": _iso(call, end=True),
            "completionStartTime": f"{call.began + (call.ended - call.began) / 3:%Y-%m-%dT%H:%M:%S.%f}Z" if call.streamed else None,
            "model": call.model, "custom_llm_provider": "openai", "end_user": call.user, "session_id": call.session or None,
            "request_tags": [call.job] if call.job else [], "status": "success",
            "metadata": {"user_api_key_alias": call.service, "usage_object": {"prompt_tokens_details": {"cached_tokens": call.cached}}},
        }
        for number, call in enumerate(calls)
    ]  # fmt: skip


def litellm(calls: list[Call]) -> bytes:
    return _lines(litellm_rows(calls))


def litellm_csv(calls: list[Call]) -> bytes:
    return _table([row | {name: json.dumps(row[name]) for name in ("metadata", "request_tags")} for row in litellm_rows(calls)])


def litellm_payload(calls: list[Call]) -> bytes:
    return _lines(
        {
            "id": f"c{number}", "trace_id": call.trace or f"t{number}", "call_type": "acompletion", "stream": call.streamed, "response_cost": 0.0005,
            "status": "success", "startTime": _EPOCH + call.at, "endTime": _EPOCH + call.end, "model": call.model, "custom_llm_provider": "openai",
            "prompt_tokens": call.input, "completion_tokens": call.output, "end_user": call.user, "request_tags": [call.job] if call.job else [],
            "session_id": call.session, "messages": None,
            "metadata": {"user_api_key_alias": call.service, "usage_object": {"prompt_tokens_details": {"cached_tokens": call.cached}}},
        }
        for number, call in enumerate(calls)
    )  # fmt: skip


def _langfuse_rows(calls: list[Call]) -> list[dict[str, Any]]:
    rows = [
        {
            "id": f"o{number}", "trace_id": call.trace or f"t{number}", "type": "GENERATION", "start_time": f"{call.began:%Y-%m-%d %H:%M:%S.%f}",
            "end_time": f"{call.ended:%Y-%m-%d %H:%M:%S.%f}", "provided_model_name": call.model, "trace_name": call.job,
            "environment": call.service, "total_cost": 0.0005, "time_to_first_token": 0.8 if call.streamed else None, "user_id": call.user or None,
            "session_id": call.session or None, "parent_observation_id": "", "level": "DEFAULT",
            "usage_details": {"input": call.input - call.cached, "input_cached_tokens": call.cached, "output": call.output},
        }
        for number, call in enumerate(calls)
    ]  # fmt: skip
    return [*rows, rows[0] | {"id": "span", "type": "SPAN"}]


def langfuse(calls: list[Call]) -> bytes:
    return _lines(_langfuse_rows(calls))


def langfuse_parquet(calls: list[Call]) -> bytes:
    rows = [row | {"usage_details": json.dumps(row["usage_details"])} for row in _langfuse_rows(calls)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def helicone(calls: list[Call]) -> bytes:
    return _lines(
        {
            "response_id": f"r{number}", "request_created_at": _iso(call), "delay_ms": round((call.end - call.at) * 1e3, 3), "provider": "OPENAI",
            "request_model": call.model, "response_status": 200, "prompt_tokens": call.input, "completion_tokens": call.output,
            "prompt_cache_read_tokens": call.cached, "time_to_first_token": 700 if call.streamed else None, "request_user_id": call.user or None,
            "request_properties": {"app": call.service, "job": call.job, "Helicone-Session-Id": call.session}, "cost": 0.0005,
        }
        for number, call in enumerate(calls)
    )  # fmt: skip


def helicone_csv(calls: list[Call]) -> bytes:
    """The columns that the export asks for; JSON in a cell has its quotes doubled twice."""
    rows = []
    for number, call in enumerate(calls):
        properties = json.dumps({"app": call.service, "job": call.job, "Helicone-Session-Id": call.session})
        rows.append(
            {
                "response_id": f"r{number}", "response_created_at": _iso(call, end=True), "response_status": 200, "request_created_at": _iso(call),
                "request_body": json.dumps({"stream": call.streamed}).replace('"', '""'), "request_properties": properties.replace('"', '""'),
                "request_user_id": call.user, "model": call.model, "prompt_tokens": call.input, "completion_tokens": call.output,
                "latency": round((call.end - call.at) * 1e3), "cost": 0.0005,
            }
        )  # fmt: skip
    return _table(rows)


def openrouter(calls: list[Call]) -> bytes:
    return _table(
        [
            {
                "generation_id": f"gen-{number}", "created_at": f"{call.began:%Y-%m-%d %H:%M:%S.%f}", "cost_total": 0.0005, "cost_cache": 0,
                "tokens_prompt": call.input, "tokens_completion": call.output, "tokens_cached": call.cached, "model_permaslug": f"openai/{call.model}",
                "provider_name": "OpenAI", "variant": "standard", "streamed": str(call.streamed).lower(), "user": call.user,
                "finish_reason_normalized": "stop", "generation_time_ms": round((call.end - call.at) * 1e3, 3), "api_key_name": call.service,
                "app_name": call.job,
            }
            for number, call in enumerate(calls)
        ]
    )  # fmt: skip


def portkey(calls: list[Call]) -> bytes:
    return _lines(
        {
            "id": f"p{number}", "trace_id": call.trace or f"t{number}", "created_at": _iso(call), "ai_org": "openai", "ai_model": call.model,
            "req_units": call.input, "res_units": call.output, "cost": 0.05, "response_time": round((call.end - call.at) * 1e3, 3),
            "response_status_code": 200, "request": {"stream": call.streamed}, "prompt_slug": call.job,
            "metadata": {"service": call.service, "_user": call.user, "session_id": call.session},
        }
        for number, call in enumerate(calls)
    )  # fmt: skip


def bedrock(calls: list[Call]) -> bytes:
    return _lines(
        {
            "schemaType": "ModelInvocationLog", "timestamp": _iso(call), "accountId": "000000000000", "region": "us-east-1",
            "identity": {"arn": f"arn:aws:sts::000000000000:assumed-role/{call.service}"}, "requestId": f"r{number}",
            "operation": "ConverseStream" if call.streamed else "Converse", "modelId": "anthropic.claude-haiku-4-5-20251001-v1:0",
            "input": {"inputTokenCount": call.input - call.cached, "cacheReadInputTokenCount": call.cached},
            "output": {"outputTokenCount": call.output, "outputBodyJson": {"metrics": {"latencyMs": round((call.end - call.at) * 1000)}}},
            "requestMetadata": {"job": call.job},
        }
        for number, call in enumerate(calls)
    )  # fmt: skip


def bedrock_bucket(calls: list[Call], folder: Path) -> None:
    """A bucket as Bedrock writes it: packed files an hour, large bodies beside, and the object that tests the permission."""
    logs = folder / "AWSLogs" / "000000000000" / "BedrockModelInvocationLogs"
    hours: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        hours[f"{call.began:%Y/%m/%d/%H}"].append(call)
    for hour, of_hour in hours.items():
        place = logs / "us-east-1" / hour
        (place / "data").mkdir(parents=True)
        (place / f"{of_hour[0].began:%Y%m%dT%H%M%S}000Z_{len(of_hour)}.json.gz").write_bytes(gzip.compress(bedrock(of_hour)))
        (place / "data" / "r1_input.json.gz").write_bytes(gzip.compress(b'{"messages": [{"role": "user", "content": "secret"}]}'))
    test = {"schemaType": "ModelInvocationLog", "timestamp": _iso(calls[0]), "accountId": "000000000000", "region": "us-east-1"}
    (logs / "amazon-bedrock-logs-permission-check").write_text(json.dumps(test))


def _attribute(name: str, value: Any) -> dict[str, Any]:
    kind = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}[type(value)]
    return {"key": name, "value": {kind: str(value) if type(value) is int else value}}


def otlp(calls: list[Call], *, old: bool = False) -> bytes:
    """Spans of a chat inside of one of an agent, which repeats its tokens; `old`: names of an earlier generation of the convention."""
    provider, tokens_in, tokens_out, cached = ("system", "prompt_tokens", "completion_tokens", "cache_read_input_tokens") if old else (
        "provider.name", "input_tokens", "output_tokens", "cache_read.input_tokens",
    )  # fmt: skip

    def spans(number: int, call: Call) -> list[dict[str, Any]]:
        times = {
            "startTimeUnixNano": str(round((_EPOCH + call.at) * 1e6) * 1_000),
            "endTimeUnixNano": str(round((_EPOCH + call.end) * 1e6) * 1_000),
        }
        usage = {f"gen_ai.usage.{tokens_in}": call.input, f"gen_ai.usage.{tokens_out}": call.output, f"gen_ai.usage.{cached}": call.cached}
        chat = usage | {
            "gen_ai.operation.name": "chat", f"gen_ai.{provider}": "openai", "gen_ai.request.model": call.model, "gen_ai.request.stream": call.streamed,
            "user.id": call.user, "gen_ai.conversation.id": call.session, "gen_ai.agent.name": call.job,
        }  # fmt: skip
        agent = usage | {"gen_ai.operation.name": "invoke_agent"}
        trace = call.trace or f"{number:032x}"
        return [
            times | {"traceId": trace, "spanId": f"{number:015x}{kind}", "parentSpanId": parent, "name": kind, "kind": 1, "status": {},
                     "attributes": [_attribute(name, value) for name, value in attributes.items()]}
            for kind, parent, attributes in (("a", "", agent), ("c", f"{number:015x}a", chat))
        ]  # fmt: skip

    return _lines(
        {
            "resourceSpans": [
                {
                    "resource": {"attributes": [_attribute("service.name", call.service)]},
                    "scopeSpans": [{"scope": {"name": "x"}, "spans": spans(number, call)}],
                }
            ]
        }
        for number, call in enumerate(calls)
    )


def openinference(calls: list[Call]) -> bytes:
    return _table(
        [
            {
                "name": call.job, "span_kind": "LLM", "start_time": _iso(call), "end_time": _iso(call, end=True), "status_code": "OK",
                "context.trace_id": call.trace or f"t{number}", "context.span_id": f"s{number}", "parent_id": "", "attributes.llm.model_name": call.model, "attributes.llm.provider": "openai",
                "attributes.llm.token_count.prompt": call.input, "attributes.llm.token_count.completion": call.output,
                "attributes.llm.token_count.prompt_details.cache_read": call.cached, "attributes.session.id": call.session,
                "attributes.user.id": call.user, "attributes.metadata": json.dumps({"service": call.service}),
            }
            for number, call in enumerate(calls)
        ]
    )  # fmt: skip


def mlflow(calls: list[Call]) -> bytes:
    def trace(number: int, call: Call) -> dict[str, Any]:
        usage = {"input_tokens": call.input, "output_tokens": call.output, "cache_read_input_tokens": call.cached}
        attributes = {
            "mlflow.spanType": '"CHAT_MODEL"', "mlflow.llm.model": json.dumps(call.model), "mlflow.llm.provider": '"openai"',
            "mlflow.chat.tokenUsage": json.dumps(usage),
        }  # fmt: skip
        metadata = {
            "mlflow.trace.user": call.user,
            "mlflow.trace.session": call.session,
            "mlflow.source.name": call.service,
            "mlflow.trace.tokenUsage": json.dumps(usage),
        }
        span = {
            "trace_id": f"t{number}", "span_id": f"s{number}", "parent_span_id": f"r{number}", "name": "chat", "attributes": attributes, "status": {"code": "STATUS_CODE_OK"},
            "start_time_unix_nano": round((_EPOCH + call.at) * 1e6) * 1_000, "end_time_unix_nano": round((_EPOCH + call.end) * 1e6) * 1_000,
        }  # fmt: skip
        root = span | {"span_id": f"r{number}", "parent_span_id": None, "name": "agent", "attributes": {"mlflow.spanType": '"AGENT"'}}
        return {
            "info": {"trace_id": f"t{number}", "trace_metadata": metadata, "tags": {"mlflow.traceName": call.job}},
            "data": {"spans": [root, span]},
        }

    return _lines(trace(number, call) for number, call in enumerate(calls))


def pairs(calls: list[Call]) -> bytes:
    return _lines(
        {
            "request": {"model": call.model, "stream": call.streamed, "messages": [{"role": "system", "content": f"You are {call.service}."}, {"role": "user", "content": "secret"}]},
            "response": {"id": f"chatcmpl-{number}", "usage": {"prompt_tokens": call.input, "completion_tokens": call.output, "prompt_tokens_details": {"cached_tokens": call.cached}}},
            "started_at": _iso(call), "ended_at": _iso(call, end=True), "user": call.user, "session": call.session, "service": call.service, "job": call.job,
        }
        for number, call in enumerate(calls)
    )  # fmt: skip


def _buckets(calls: list[Call], width: int) -> dict[int, dict[tuple[str, str], list[int]]]:
    found: dict[int, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0, 0]))
    for call in calls:
        counts = found[int(_EPOCH + call.at) // width * width][call.service, call.model]
        for position, value in enumerate((call.input, call.cached, call.output, 1)):
            counts[position] += value
    return found


def openai_usage(calls: list[Call], width: int = 60) -> bytes:
    data = [
        {
            "object": "bucket", "start_time": start, "end_time": start + width,
            "results": [
                {"object": "organization.usage.completions.result", "input_tokens": tokens_in, "input_cached_tokens": cached, "output_tokens": out,
                 "num_model_requests": requests, "project_id": "proj_a", "api_key_id": service, "model": model, "batch": False, "user_id": None}
                for (service, model), (tokens_in, cached, out, requests) in results.items()
            ],
        }
        for start, results in _buckets(calls, width).items()
    ]  # fmt: skip
    return json.dumps({"object": "page", "data": data, "has_more": False, "next_page": None}, indent=1).encode()


def openai_csv(calls: list[Call]) -> bytes:
    return _table(
        [
            {
                "start_time": start, "end_time": start + 60, "start_time_iso": "", "end_time_iso": "", "project_id": "proj_a", "api_key_id": service,
                "model": model, "batch": "False", "num_model_requests": requests, "input_tokens": tokens_in, "input_cached_tokens": cached, "output_tokens": out,
            }
            for start, results in _buckets(calls, 60).items()
            for (service, model), (tokens_in, cached, out, requests) in results.items()
        ]
    )  # fmt: skip


def anthropic_usage(calls: list[Call]) -> bytes:
    def result(service: str, counts: list[int]) -> dict[str, Any]:
        return {
            "uncached_input_tokens": counts[0] - counts[1], "cache_read_input_tokens": counts[1], "output_tokens": counts[2], "api_key_id": service,
            "cache_creation": {"ephemeral_1h_input_tokens": 0, "ephemeral_5m_input_tokens": 0}, "model": "claude-haiku-4-5", "service_tier": "standard",
        }  # fmt: skip

    data = [
        {
            "starting_at": f"{_utc(start)}", "ending_at": f"{_utc(start + 60)}",
            "results": [result(service, counts) for (service, _), counts in results.items()],
        }
        for start, results in _buckets(calls, 60).items()
    ]  # fmt: skip
    return json.dumps({"data": data, "has_more": False, "next_page": None}).encode()


def _utc(seconds: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def anthropic_csv(calls: list[Call]) -> bytes:
    return _table(
        [
            {
                "usage_date_utc": _utc(start)[:10], "model_version": "claude-haiku-4-5", "api_key": service, "workspace": "Default", "usage_type": "standard",
                "context_window": "≤ 200k", "usage_input_tokens_no_cache": counts[0] - counts[1], "usage_input_tokens_cache_write_5m": 0,
                "usage_input_tokens_cache_write_1h": 0, "usage_input_tokens_cache_read": counts[1], "usage_output_tokens": counts[2],
            }
            for start, results in _buckets(calls, 86_400).items()
            for (service, _), counts in results.items()
        ]
    )  # fmt: skip


def anthropic_cost_csv(calls: list[Call]) -> bytes:
    """A row for each kind of token, under the name that the console gives the model."""
    return _table(
        [
            {
                "usage_date_utc": _utc(start)[:10], "model": "Claude Haiku 4.5", "workspace": "Default", "api_key": service, "usage_type": "standard",
                "context_window": "≤ 200k", "token_type": kind, "cost_usd": f"{tokens * price / 1e6:.6f}", "list_price_usd": price, "cost_type": "token",
                "inference_geo": "not_available", "speed": "",
            }
            for start, results in _buckets(calls, 86_400).items()
            for (service, _), counts in results.items()
            for kind, tokens, price in (
                ("input_no_cache", counts[0] - counts[1], 1), ("input_cache_read", counts[1], 0.1), ("output", counts[2], 5),
            )
        ]
    )  # fmt: skip


def focus(calls: list[Call]) -> bytes:
    """Rows of a cloud's bill by the hour; a part of it is in batches, and a part is no model at all."""
    rows = [
        {
            "ChargePeriodStart": _utc(start), "ChargePeriodEnd": _utc(start + 3_600), "BilledCost": f"{counts[0] / 1e6:.6f}",
            "EffectiveCost": f"{counts[0] / 1e6:.6f}", "ChargeCategory": "Usage", "ServiceCategory": "AI and Machine Learning", "ServiceName": "Models",
            "ServiceProviderName": "Amazon", "SubAccountName": service, "SkuId": "anthropic.claude-haiku-4-5",
            "SkuMeter": "Batch input tokens" if service == "classify" else "Input tokens", "ChargeDescription": "tokens", "Tags": "{}",
        }
        for start, results in _buckets(calls, 3_600).items()
        for (service, _), counts in results.items()
    ]  # fmt: skip
    return _table([*rows, rows[0] | {"ServiceCategory": "Storage"}, rows[0] | {"ChargeCategory": "Tax"}])


def cur(calls: list[Call]) -> bytes:
    """The same as AWS's own report."""
    rows = [
        {
            "line_item_usage_start_date": _utc(start), "line_item_usage_end_date": _utc(start + 3_600), "line_item_product_code": "AmazonBedrock",
            "line_item_line_item_type": "Usage", "line_item_unblended_cost": f"{counts[0] / 1e6:.6f}", "line_item_iam_principal": service,
            "line_item_usage_type": "USE1-ClaudeHaiku4.5-input-tokens" + ("-batch" if service == "classify" else ""),
            "line_item_operation": "InvokeModelInference", "line_item_usage_account_id": "000000000000",
        }
        for start, results in _buckets(calls, 3_600).items()
        for (service, _), counts in results.items()
    ]  # fmt: skip
    return _table([*rows, rows[0] | {"line_item_product_code": "AmazonS3"}])


CALLS: dict[str, tuple[str, Callable[[list[Call]], bytes]]] = {
    "litellm.jsonl": ("litellm", litellm), "litellm.csv": ("litellm", litellm_csv), "payload.jsonl": ("litellm_payload", litellm_payload),
    "langfuse.jsonl": ("langfuse", langfuse), "langfuse.parquet": ("langfuse", langfuse_parquet), "helicone.jsonl": ("helicone", helicone), "helicone.csv": ("helicone", helicone_csv),
    "openrouter.csv": ("openrouter", openrouter), "portkey.jsonl": ("portkey", portkey), "bedrock.json": ("bedrock", bedrock),
    "otlp.jsonl": ("otlp", otlp), "otlp_old.jsonl": ("otlp", lambda calls: otlp(calls, old=True)), "phoenix.csv": ("openinference", openinference),
    "mlflow.jsonl": ("mlflow", mlflow), "pairs.jsonl": ("pairs", pairs),
}  # fmt: skip
BUCKETS: dict[str, tuple[str, Callable[[list[Call]], bytes]]] = {
    "usage.json": ("openai_usage", openai_usage), "dashboard.csv": ("openai_csv", openai_csv), "report.json": ("anthropic_usage", anthropic_usage),
    "console.csv": ("anthropic_csv", anthropic_csv),
}  # fmt: skip
BILLS: dict[str, tuple[str, Callable[[list[Call]], bytes]]] = {"focus.csv": ("focus", focus), "cur.csv": ("cur", cur)}
NO_CACHE = ("portkey.jsonl", "helicone.csv")  # the format has no cached tokens
