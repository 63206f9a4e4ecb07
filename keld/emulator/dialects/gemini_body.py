"""Gemini body: what the request bodies of Gemini's models say, how they are read, and complaints about them in the service's words.

The service reads JSON as every Google API does: a field that its message does not have is refused, and a name may be written in camelCase or in
snake_case.  Messages as in ai.google.dev/api/generate-content and ai.google.dev/api/embeddings, and the types of google-genai 3.6, Nov 2026.
"""

import re
from typing import Any, TypeVar

import msgspec

from ..answer import ABSENT, size_of, tokens_of
from ..dialect import Conditions
from ..error import ApiError

_UNKNOWN = re.compile(r"unknown field `(\w+)`(?: - at `\$\.?(.*)`)?")
_SNAKE = re.compile(r"_([a-z])")
_NAMES_OF_USERS = frozenset(
    ("properties", "labels", "args", "response", "parameters", "$defs")
)  # objects whose keys are not the service's own
Read = TypeVar("Read")
quoted = msgspec.json.Encoder().encode


class Message(msgspec.Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    """The base of all messages."""


class Part(Message):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    inline_data: msgspec.Raw = ABSENT
    file_data: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT
    function_response: msgspec.Raw = ABSENT
    video_metadata: msgspec.Raw = ABSENT

    @property
    def is_empty(self) -> bool:
        return self.text is None and not any(map(bytes, (self.inline_data, self.file_data, self.function_call, self.function_response)))


class Content(Message):
    parts: list[Part] = []
    role: str | None = None


class ThinkingConfig(Message):
    include_thoughts: bool | None = None
    thinking_budget: int | None = None
    thinking_level: str | None = None


class GenerationConfig(Message):
    stop_sequences: list[str] | None = None
    response_mime_type: str | None = None
    response_schema: msgspec.Raw = ABSENT
    response_json_schema: msgspec.Raw = ABSENT
    response_modalities: list[str] | None = None
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_logprobs: bool | None = None
    logprobs: int | None = None
    thinking_config: ThinkingConfig | None = None
    media_resolution: str | None = None


class GenerateBody(Message):
    """A GenerateContentRequest; `labels` only at Vertex."""

    contents: list[Content] = []
    model: str | None = None
    system_instruction: Content | None = None
    generation_config: GenerationConfig | None = None
    safety_settings: msgspec.Raw = ABSENT
    tools: msgspec.Raw = ABSENT
    tool_config: msgspec.Raw = ABSENT
    cached_content: str | None = None
    service_tier: str | None = None
    labels: dict[str, str] | None = None


class EmbedBody(Message):
    """An EmbedContentRequest."""

    content: Content | None = None
    model: str | None = None
    task_type: str | None = None
    title: str | None = None
    output_dimensionality: int | None = None


def reader(kind: type[Read]) -> "msgspec.json.Decoder[Read]":
    return msgspec.json.Decoder(kind)


def read(decoder: "msgspec.json.Decoder[Read]", body: bytes) -> Read:
    """The body, typed.

    Raises:
        ApiError: it is no JSON, or a field is unknown or of the wrong type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        if "unknown field" not in str(error):
            raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid("Invalid JSON payload received. Expected a value.") from error
    try:
        return decoder.decode(msgspec.json.encode(_camel(msgspec.json.decode(body))))
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error


def invalid(message: str) -> ApiError:
    return ApiError(status=400, message=message, code="INVALID_ARGUMENT")


def check_model(model: str, method: str, conditions: Conditions) -> None:
    """Raises:
    ApiError: there is no such model, or it has no such method.
    """
    wrong = ("embedding" in model) != (method == "embedContent")
    if wrong or conditions.fate == "model_not_found" or "does-not-exist" in model:
        message = f"models/{model} is not found for API version v1beta, or is not supported for {method}. Call ListModels to see the available models."
        raise ApiError(status=404, message=message, code="NOT_FOUND")


def check_contents(contents: list[Content], where: str) -> None:
    """Raises:
    ApiError: there are none, or one of them says nothing.
    """
    if not contents:
        raise invalid(f"* {where}: contents is not specified\n")
    for n, content in enumerate(contents):
        if content.role not in (None, "", "user", "model", "function"):
            raise invalid("Please use a valid role: user, model.")
        if not content.parts:
            raise invalid(f"* {where}[{n}].parts: contents.parts must not be empty.\n")
        for m, part in enumerate(content.parts):
            if part.is_empty:
                raise invalid(f"* {where}[{n}].parts[{m}].data: required oneof field 'data' must have one initialized field\n")


def text_of(content: Content | None) -> str:
    return "" if content is None else "".join(part.text or "" for part in content.parts)


def tokens_of_content(content: Content | None) -> int:
    return tokens_of(size_of(text_of(content)))


def _camel(node: Any) -> Any:
    if isinstance(node, list):
        return [_camel(part) for part in node]
    if not isinstance(node, dict):
        return node
    return {
        _SNAKE.sub(lambda found: found[1].upper(), name): part if name in _NAMES_OF_USERS else _camel(part) for name, part in node.items()
    }


def _invalid(said: str) -> ApiError:
    """Msgspec's complaint in the service's words."""
    unknown = _UNKNOWN.search(said)
    if unknown is not None:
        at = f" at '{re.sub(r'([A-Z])', lambda upper: '_' + upper[1].lower(), unknown[2])}'" if unknown[2] else ""
        return invalid(f'Invalid JSON payload received. Unknown name "{unknown[1]}"{at}: Cannot find field.')
    return invalid(f"Invalid value: {said}")


class _Limit(msgspec.Struct, gc=False, rename="camel"):
    max_output_tokens: int | None = None


class _Head(msgspec.Struct, gc=False, rename="camel"):
    generation_config: _Limit | None = None


def most_output_tokens(body: bytes) -> int:
    """The limit of an answer that a request's body names; 0 if it names none, or cannot be read."""
    try:
        config = msgspec.json.decode(body, type=_Head).generation_config
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    return (config.max_output_tokens if config else None) or 0
