"""MLflow: traces as JSON (`Trace.to_json`, one a line or a list), each with its spans.

Names of mlflow-skinny 3.17.2 (29 Nov 2026).  A trace has the sum of its spans' tokens; only the spans are counted.  Attributes are JSON in texts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from keld.audit.chunk import opened
from keld.audit.format import Format, needs

_KINDS = frozenset(("CHAT_MODEL", "LLM", "EMBEDDING"))


def _plain(value: Any) -> Any:
    """An attribute: a document, or a word that is quoted as in JSON."""
    return opened(value.strip('"')) if isinstance(value, str) else value


def _rows(trace: Any) -> Iterator[Mapping[str, Any]]:
    info = trace.get("info") or {}
    about = (info.get("trace_metadata") or info.get("request_metadata") or {}) | (info.get("tags") or {})
    for span in (trace.get("data") or {}).get("spans") or ():
        attributes = {name: _plain(value) for name, value in (span.get("attributes") or {}).items()}
        usage = attributes.get("mlflow.chat.tokenUsage")
        if usage is None and attributes.get("mlflow.spanType") not in _KINDS:
            continue
        cost = attributes.get("mlflow.llm.cost")
        code = span.get("status_code") or (span.get("status") or {}).get("code")
        yield {**about, **span, **attributes, "usage": usage or {}, "cost": cost, "status_code": code}


FORMAT = Format(
    name="mlflow",
    title="MLflow traces",
    needs=needs("info data/spans"),
    unfold=_rows,
    names={
        "id": ("span_id", "context/span_id"),
        "at": ("start_time_unix_nano", "start_time"),
        "end": ("end_time_unix_nano", "end_time"),
        "provider": ("mlflow.llm.provider",),
        "model": ("mlflow.llm.model", "mlflow.chat.model"),
        "service": ("mlflow.source.name", "mlflow.trace.service"),
        "job": ("mlflow.traceName", "name"),
        "operation": ("mlflow.spanType",),
        "user": ("mlflow.trace.user",),
        "session": ("mlflow.trace.session",),
        "trace": ("trace_id", "context/trace_id"),
        "input": ("usage/input_tokens",),
        "output": ("usage/output_tokens",),
        "cached": ("usage/cache_read_input_tokens",),
        "written": ("usage/cache_creation_input_tokens",),
        "written_1h": ("usage/cache_creation_input_tokens_above_1hr",),
        "usd": ("cost/total_cost", "cost"),
        "status": ("status_code",),
    },
)
