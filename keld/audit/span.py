"""Span: the spans of an OpenTelemetry document (OTLP as JSON) -> one flat row for each call, with its resource's attributes.

A span of an agent repeats the tokens of its calls: only calls are rows, and of calls that contain each other the inner ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

_OPERATIONS = frozenset(("chat", "text_completion", "generate_content", "embeddings"))
_KINDS = frozenset(("LLM", "EMBEDDING"))
_ASKED = ("gen_ai.operation.name", "openinference.span.kind", "gen_ai.usage.prompt_tokens")  # what tells a call from another span
_FAILED = (2, "STATUS_CODE_ERROR")


class _Value(msgspec.Struct, gc=False, rename="camel"):
    """The one value of an attribute; integers are texts in OTLP's JSON."""

    string_value: str | None = None
    int_value: str | int | None = None
    bool_value: bool | None = None
    double_value: float | str | None = None
    array_value: dict[str, Any] | None = None

    def plain(self) -> Any:
        if self.array_value is not None:
            return [one.get("stringValue") for one in self.array_value.get("values", ())]
        return next((one for one in (self.string_value, self.int_value, self.bool_value, self.double_value) if one is not None), None)


class _Attribute(msgspec.Struct, gc=False):
    key: str = ""
    value: _Value = msgspec.field(default_factory=_Value)


class _Status(msgspec.Struct, gc=False):
    code: int | str | None = None


class _Span(msgspec.Struct, gc=False, rename="camel"):
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    start_time_unix_nano: str | int | None = None
    end_time_unix_nano: str | int | None = None
    attributes: list[_Attribute] = msgspec.field(default_factory=list)
    status: _Status | None = None


class _Scope(msgspec.Struct, gc=False):
    spans: list[_Span] = msgspec.field(default_factory=list)


class _About(msgspec.Struct, gc=False):
    attributes: list[_Attribute] = msgspec.field(default_factory=list)


class _Resource(msgspec.Struct, gc=False, rename="camel"):
    resource: _About | None = None
    scope_spans: list[_Scope] = msgspec.field(default_factory=list)


class Document(msgspec.Struct, gc=False, rename="camel"):
    """A document, of which only what is read is decoded."""

    resource_spans: list[_Resource] = msgspec.field(default_factory=list)


def _attributes(given: list[_Attribute], asked: frozenset[str]) -> dict[str, Any]:
    return {one.key: one.value.plain() for one in given if one.key in asked}


def _is_call(span: Mapping[str, Any]) -> bool:
    """True for a call; a span of the first generation has tokens, and neither an operation nor a kind."""
    operation, kind = span.get("gen_ai.operation.name"), span.get("openinference.span.kind")
    return operation in _OPERATIONS or kind in _KINDS or (operation is None and kind is None and "gen_ai.usage.prompt_tokens" in span)


def rows(document: Document, wanted: Collection[str]) -> Iterator[Mapping[str, Any]]:
    """The calls of a document; of their attributes those in `wanted`."""
    asked = frozenset((*wanted, *_ASKED))
    calls: list[tuple[_Span, dict[str, Any]]] = []
    for resource in document.resource_spans:
        shared = _attributes(resource.resource.attributes, asked) if resource.resource is not None else {}
        for scope in resource.scope_spans:
            spans = ((span, shared | _attributes(span.attributes, asked)) for span in scope.spans)
            calls += [(span, call) for span, call in spans if _is_call(call)]
    parents = {span.parent_span_id for span, _ in calls}
    for span, call in calls:
        if span.span_id not in parents:
            call["begun"], call["ended"], call["trace"] = span.start_time_unix_nano, span.end_time_unix_nano, span.trace_id
            call["succeeded"] = span.status is None or span.status.code not in _FAILED
            yield call
