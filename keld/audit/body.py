"""Body: what the body of a request says, whichever API it is of: the wish for JSON, tools, the beginning of the prompt.

A fingerprint of the beginning is all that is kept of a prompt; a whole `Body` is made only of the few requests a hand-over looks at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

_PARAMETERS = ("temperature", "top_p", "seed")
_LIMITS = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_BEGINNING = 200  # characters of a prompt without a system prompt, by which calls of one template are known


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """One request.

    Args:
        system: the instruction; None: there is none.
        user: the first message of the user.
        schema: what the answer must look like, as JSON Schema; None: any text.
        parameters: of those that a Job may have.
    """

    system: str | None
    user: str
    schema: dict[str, Any] | None
    parameters: dict[str, Any]
    output_limit: int | None
    tools: bool
    image_url: bool


def read(request: Mapping[str, Any]) -> Body:
    """A request of OpenAI's (chat, responses) or Anthropic's API."""
    limit = next((request[name] for name in _LIMITS if isinstance(request.get(name), int)), None)
    return Body(
        system=_system(request),
        user=_user(request),
        schema=_schema(request),
        parameters={name: request[name] for name in _PARAMETERS if isinstance(request.get(name), int | float)},
        output_limit=limit,
        tools=bool(request.get("tools") or request.get("functions")) and not _forced(request),
        image_url=any(_is_image_url(part) for part in _parts(request)),
    )


def fingerprint(request: Any) -> str:
    """A hash of the system prompt, or of how the prompt begins; "" if there is none."""
    request = as_request(request)
    if request is None:
        return ""
    text = _system(request) or _user(request)[:_BEGINNING]
    return blake2b(text.encode("utf-8", "replace"), digest_size=6).hexdigest() if text else ""


def streamed(request: Any) -> bool | None:
    found = request.get("stream") if isinstance(request, Mapping) else None
    return found if isinstance(found, bool) else None


def as_request(logged: Any) -> Mapping[str, Any] | None:
    """What is logged as a request: a body, or only its messages."""
    match logged:
        case {"body": Mapping() as body}:
            return body
        case Mapping():
            return logged
        case [{"role": _}, *_]:
            return {"messages": logged}
        case str() if logged:
            return {"messages": [{"role": "user", "content": logged}]}
        case _:
            return None


def _messages(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = request.get("messages") or request.get("input") or ()
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    return [message for message in found if isinstance(message, Mapping)] if isinstance(found, list) else []


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""


def _system(request: Mapping[str, Any]) -> str | None:
    given = _text(request.get("system") or request.get("instructions"))
    said = [_text(message.get("content")) for message in _messages(request) if message.get("role") in ("system", "developer")]
    return given or next((text for text in said if text), None)


def _user(request: Mapping[str, Any]) -> str:
    return next((_text(message.get("content")) for message in _messages(request) if message.get("role") == "user"), "")


def _schema(request: Mapping[str, Any]) -> dict[str, Any] | None:
    match request:
        case {"response_format": {"json_schema": {"schema": dict() as schema}}}:
            return schema
        case {"text": {"format": {"schema": dict() as schema}}} | {"output_config": {"format": {"schema": dict() as schema}}}:
            return schema
        case {"output_format": {"schema": dict() as schema}}:
            return schema
        case {"tools": [{"input_schema": dict() as schema}], "tool_choice": {"type": "tool"}}:
            return schema
        case _:
            return None


def _forced(request: Mapping[str, Any]) -> bool:
    """True if the one tool is only a way to ask for JSON."""
    return isinstance(request.get("tool_choice"), Mapping) and len(request.get("tools") or ()) == 1


def _parts(request: Mapping[str, Any]) -> Iterator[Any]:
    for message in _messages(request):
        if isinstance(content := message.get("content"), list):
            yield from content


def _is_image_url(part: Any) -> bool:
    match part:
        case {"image_url": {"url": str() as url}} | {"image_url": str() as url} | {"source": {"url": str() as url}}:
            return url.startswith("http")
        case _:
            return False
