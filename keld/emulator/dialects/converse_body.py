"""Converse body: what a Converse body says, how many tokens it has, and complaints about it in the service's words.

Wire: botocore 1.43's service model of bedrock-runtime, Nov 2026.  A field that is not in it is refused, as is a block with no or two contents.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Literal

import msgspec

from ..answer import ABSENT, size_of, tokens_of
from ..cache import Piece
from ..error import ApiError

MESSAGE_TOKENS = 4
_MOST_MARKS = 4  # docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html, Nov 2026


class _Strict(msgspec.Struct, gc=False, forbid_unknown_fields=True, rename="camel"):
    pass


class CachePoint(_Strict):
    type: Literal["default"]
    ttl: Literal["5m", "1h"] = "5m"


class Block(_Strict):
    text: str | None = None
    cache_point: CachePoint | None = None
    image: msgspec.Raw = ABSENT
    document: msgspec.Raw = ABSENT


class Message(_Strict):
    role: Literal["user", "assistant"]
    content: list[Block]


class Inference(_Strict):
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop_sequences: list[str] | None = None


class JsonSchema(_Strict):
    schema: str
    name: str | None = None
    description: str | None = None


class Structure(_Strict):
    json_schema: JsonSchema


class TextFormat(_Strict):
    type: Literal["json_schema"]
    structure: Structure


class OutputConfig(_Strict):
    text_format: TextFormat | None = None
    effort: str | None = None


class Tier(_Strict):
    type: Literal["priority", "default", "flex", "reserved"]


class ConverseBody(_Strict):
    messages: list[Message]
    system: list[Block] | None = None
    inference_config: Inference | None = None
    output_config: OutputConfig | None = None
    service_tier: Tier | None = None
    tool_config: msgspec.Raw = ABSENT
    guardrail_config: msgspec.Raw = ABSENT
    additional_model_request_fields: msgspec.Raw = ABSENT
    additional_model_response_field_paths: list[str] | None = None
    request_metadata: dict[str, str] | None = None
    performance_config: msgspec.Raw = ABSENT
    prompt_variables: msgspec.Raw = ABSENT


_decoder = msgspec.json.Decoder(ConverseBody)


def read(body: bytes) -> ConverseBody:
    """The body, typed and checked.

    Raises:
        ApiError: it is no JSON, or the service would refuse it whatever the model.
    """
    try:
        asked = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(f"Malformed input request: {_said(str(error))}, please reformat your input and try again.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(status=400, message="The request body is not valid JSON", code="SerializationException") from error
    _check_messages(asked)
    _check_inference(asked.inference_config or Inference())
    return asked


def invalid(message: str) -> ApiError:
    return ApiError(status=400, message=message, code="ValidationException")


def schema_of(asked: ConverseBody) -> bytes | None:
    """The JSON Schema of the answer, a text in the body."""
    form = asked.output_config.text_format if asked.output_config else None
    return form.structure.json_schema.schema.encode() if form else None


def pieces(asked: ConverseBody, first: bytes) -> Iterator[Piece]:
    """The prompt in the order in which it is cached: tools and schema, the system prompt, the messages; a mark belongs to the text before it."""
    yield Piece(first, tokens_of(len(first)))
    yield from _parts(asked.system or [], 0)
    for message in asked.messages:
        yield from _parts(message.content, MESSAGE_TOKENS)


def _parts(blocks: list[Block], more_tokens: int) -> Iterator[Piece]:
    for n, block in enumerate(blocks):
        if block.cache_point is not None:
            continue
        mark = blocks[n + 1].cache_point if n + 1 < len(blocks) else None
        content = block.text.encode("utf-8", "surrogatepass") if block.text is not None else bytes(block.image) + bytes(block.document)
        size = size_of(block.text) if block.text is not None else len(content)
        yield Piece(content, tokens_of(size) + (0 if n else more_tokens), mark.ttl if mark else None)


def _check_messages(asked: ConverseBody) -> None:
    if not asked.messages or asked.messages[0].role != "user":
        raise invalid("A conversation must start with a user message. Try again with a conversation that starts with a user message.")
    if any(one.role == other.role for one, other in pairwise(asked.messages)):
        raise invalid("A conversation must alternate between user and assistant roles.")
    places = [("system", asked.system or []), *((f"messages.{n}.content", message.content) for n, message in enumerate(asked.messages))]
    for where, blocks in places:
        if where != "system" and not blocks:
            raise invalid(
                f"The content field in the Message object at {where.removesuffix('.content')} is empty. Add a ContentBlock object."
            )
        for n, block in enumerate(blocks):
            _check_block(block, f"{where}.{n}")
    marks = sum(block.cache_point is not None for _, blocks in places for block in blocks)
    if marks > _MOST_MARKS:
        raise invalid(f"The model returned the following errors: A maximum of {_MOST_MARKS} cache points may be provided. Found {marks}.")


def _check_block(block: Block, where: str) -> None:
    given = [block.text is not None, block.cache_point is not None, bool(bytes(block.image)), bool(bytes(block.document))]
    if sum(given) != 1:
        raise invalid(f"Malformed input request: #/{where.replace('.', '/')}: exactly one member of a union must be set.")
    if block.text is not None and not block.text.strip():
        raise invalid(f"The text field in the ContentBlock object at {where} is blank. Add text to the text field, and try again.")


def _check_inference(config: Inference) -> None:
    for name, value, least, most in (
        ("maxTokens", config.max_tokens, 1, None),
        ("temperature", config.temperature, 0, 1),
        ("topP", config.top_p, 0, 1),
    ):
        if value is not None and (value < least or (most is not None and value > most)):
            bound = f"less than or equal to {most}" if value >= least else f"greater than or equal to {least}"
            raise invalid(
                f"1 validation error detected: Value '{value}' at 'inferenceConfig.{name}' failed to satisfy constraint: "
                f"Member must have value {bound}"
            )


def _said(said: str) -> str:
    """Msgspec's complaint in the service's words."""
    if "unknown field `" in said:
        return f"extraneous key [{said.split('`')[1]}] is not permitted"
    if "missing required field `" in said:
        return f"required key [{said.split('`')[1]}] not found"
    return said
