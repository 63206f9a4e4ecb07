"""Span: the spans of an OpenTelemetry document (OTLP as JSON) -> one row for each call, with its resource's attributes.

A span of an agent repeats the tokens of its calls: only calls are rows, and of calls that contain each other the inner ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

_OPERATIONS = frozenset(("chat", "text_completion", "generate_content", "embeddings"))
_KINDS = frozenset(("LLM", "EMBEDDING"))
_ASKED = ("gen_ai.operation.name", "openinference.span.kind", "gen_ai.usage.prompt_tokens")  # what tells a call from another span
_MARKS = (*(f'"{word}"'.encode() for word in sorted(_OPERATIONS | _KINDS)), _ASKED[2].encode())  # a span with none of these is no call
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
    attributes: msgspec.Raw = msgspec.Raw(b"[]")  # decoded where the span may be a call
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


def _is_marked(text: bytes) -> bool:
    for mark in _MARKS:  # noqa: SIM110  `any` takes five times as long
        if mark in text:
            return True
    return False


_attributes = msgspec.json.Decoder(list[_Attribute]).decode


class Table:
    """The calls of documents as rows, each with the values of `names` in their order.

    Args:
        names: attributes that are wanted; then what a span itself has follows: `begun`, `ended`, `trace`, `span` and `succeeded`.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = (*dict.fromkeys((*names, *_ASKED)), "begun", "ended", "trace", "span", "succeeded")
        self._places = {name: place for place, name in enumerate(self.names[:-5])}
        self._operation, self._kind, self._tokens = (self._places[name] for name in _ASKED)

    def rows(self, document: Document) -> Iterator[list[Any]]:
        """The calls of a document."""
        calls: list[tuple[_Span, list[Any]]] = []
        for resource in document.resource_spans:
            shared = self._filled([None] * len(self._places), resource.resource.attributes if resource.resource is not None else ())
            for scope in resource.scope_spans:
                for span in scope.spans:
                    text = bytes(span.attributes)
                    if _is_marked(text) and self._is_call(row := self._filled(shared.copy(), _attributes(text))):
                        calls.append((span, row))
        parents = {span.parent_span_id for span, _ in calls} if len(calls) > 1 else ()
        for span, row in calls:
            if span.span_id not in parents:
                succeeded = span.status is None or span.status.code not in _FAILED
                yield [*row, span.start_time_unix_nano, span.end_time_unix_nano, span.trace_id, span.span_id, succeeded]

    def _filled(self, row: list[Any], attributes: Iterable[_Attribute]) -> list[Any]:
        place_of = self._places.get
        for one in attributes:
            if (place := place_of(one.key)) is not None:
                value = one.value
                found: Any = value.string_value
                if found is None and (found := value.int_value) is None:
                    found = value.plain()
                row[place] = found  # nearly all are texts and integers, and a call for each would be a fifth of the time
        return row

    def _is_call(self, row: list[Any]) -> bool:
        """True for a call; a span of the first generation has tokens, and neither an operation nor a kind."""
        operation, kind = row[self._operation], row[self._kind]
        return operation in _OPERATIONS or kind in _KINDS or (operation is None and kind is None and row[self._tokens] is not None)
