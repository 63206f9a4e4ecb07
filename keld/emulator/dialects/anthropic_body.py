"""Anthropic body: what a Messages body says, how many tokens it has, and complaints about it in the service's words."""

from collections.abc import Callable
from typing import Literal

import msgspec

from ..answer import ABSENT, present, size_of, tokens_of
from ..error import ApiError

MESSAGE_TOKENS = 4


class CacheControl(msgspec.Struct, gc=False):
    type: Literal["ephemeral"] = "ephemeral"
    ttl: Literal["5m", "1h"] = "5m"


class Block(msgspec.Struct, gc=False):
    text: str = ""
    cache_control: CacheControl | None = None


class Message(msgspec.Struct, gc=False):
    role: str
    content: str | list[Block]


class Format(msgspec.Struct, gc=False):
    type: str
    schema: msgspec.Raw = ABSENT


class OutputConfig(msgspec.Struct, gc=False):
    format: Format | None = None


class MessagesBody(msgspec.Struct, gc=False):
    model: str
    max_tokens: int
    messages: list[Message]
    system: str | list[Block] | None = None
    output_config: OutputConfig | None = None
    stream: bool | None = None
    temperature: float | None = None
    cache_control: CacheControl | None = None
    tools: msgspec.Raw = ABSENT


class CountBody(msgspec.Struct, gc=False):
    model: str
    messages: list[Message]
    system: str | list[Block] | None = None
    tools: msgspec.Raw = ABSENT
    output_config: OutputConfig | None = None


_messages = msgspec.json.Decoder(MessagesBody)
_count = msgspec.json.Decoder(CountBody)


def read(body: bytes) -> MessagesBody:
    """The body, typed.

    Raises:
        ApiError: it is no JSON, or a field is missing or of the wrong type.
    """
    try:
        return _messages.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(status=400, message="The request body is not valid JSON") from error


def count_tokens(body: bytes) -> int:
    """Input tokens of a count_tokens body.

    Raises:
        ApiError: it cannot be read.
    """
    try:
        asked = _count.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _invalid(str(error)) from error
    schema = schema_of(asked.output_config)
    return input_tokens(asked.system, asked.messages, len(schema or b"") + len(present(asked.tools) or b""))


def schema_of(config: OutputConfig | None) -> bytes | None:
    form = config.format if config else None
    return present(form.schema) if form else None


def input_tokens(system: str | list[Block] | None, messages: list[Message], extra_bytes: int) -> int:
    total = tokens_of(_text_bytes(system)) + tokens_of(extra_bytes)
    for message in messages:
        total += tokens_of(_text_bytes(message.content)) + MESSAGE_TOKENS
    return total


def _invalid(said: str) -> ApiError:
    """Msgspec's complaint in Anthropic's words."""
    path = said.rpartition("`$.")[2].rstrip("`") + "." if "`$." in said else ""
    if "missing required field `" in said:
        return ApiError(status=400, message=f"{path}{said.split('`')[1]}: Field required")
    return ApiError(status=400, message=f"{path.rstrip('.') or 'body'}: Input is invalid: {said.partition(' - ')[0]}")


def _text_bytes(content: str | list[Block] | None) -> int:
    if content is None:
        return 0
    return size_of(content) if isinstance(content, str) else sum(size_of(block.text) for block in content)


class _Head(msgspec.Struct, gc=False):
    anthropic_version: str | None = None
    model: str | None = None


_head = msgspec.json.Decoder(_Head)


def hosted(body: bytes, model: str, version: str, is_version: Callable[[str], object]) -> bytes:
    """A body as a cloud takes it, which names the version of the API and no model -> one with that model, as Anthropic takes it.

    Args:
        version: the one that a complaint names.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError: it is no JSON object.
        ApiError: its version or its model is refused.
    """
    head = _head.decode(body)
    if head.model is not None:
        raise ApiError(status=400, message="model: Extra inputs are not permitted")
    if head.anthropic_version is None:
        raise ApiError(status=400, message="anthropic_version: Field required")
    if not is_version(head.anthropic_version):
        raise ApiError(status=400, message=f"anthropic_version: Input should be '{version}'")
    return b'{"model":%b,' % msgspec.json.encode(model) + body.lstrip()[1:]
