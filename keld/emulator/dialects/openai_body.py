"""OpenAI body: what the bodies of chat completions and of responses have in common.

Messages and their tokens, marks for the prompt cache, the checks that all endpoints make, and complaints in the service's words.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Protocol, TypeVar

import msgspec

from ..answer import size_of, tokens_of
from ..cache import Piece, PromptCache, Use
from ..dialect import Conditions, Lane
from ..error import ApiError
from .openai_schema import refusal

_MESSAGE_TOKENS = 4
_LEAST_CACHED_TOKENS = 1024
_VERSION = re.compile(r"\bgpt-(\d+)(?:\.(\d+))?")

Body = TypeVar("Body")
quoted = msgspec.json.Encoder().encode


class Breakpoint(msgspec.Struct, gc=False):
    mode: Literal["explicit"]


class CacheOptions(msgspec.Struct, gc=False):
    mode: Literal["implicit", "explicit"] = "implicit"
    ttl: Literal["30m"] = "30m"


class Part(msgspec.Struct, gc=False):
    text: str = ""
    prompt_cache_breakpoint: Breakpoint | None = None


class Message(msgspec.Struct, gc=False):
    role: str = "user"
    content: str | list[Part] | None = None


class Cacheable(Protocol):
    """What the prompt cache reads of a body."""

    @property
    def model(self) -> str: ...

    @property
    def prompt_cache_options(self) -> CacheOptions | None: ...


# --- reading ----------------------------------------------------------------------------------------------------------


def read(decoder: "msgspec.json.Decoder[Body]", body: bytes) -> Body:
    """The body, typed.

    Raises:
        ApiError: it is no JSON, or a field is missing or of the wrong type.
    """
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(status=400, message="We could not parse the JSON body of your request.") from error


def _invalid(said: str) -> ApiError:
    """Msgspec's complaint in OpenAI's words."""
    if "missing required field `" in said:
        name = said.split("`")[1]
        message = f"Missing required parameter: '{name}'."
        return ApiError(status=400, message=message, param=name, code="missing_required_parameter")
    where = said.rpartition("`$.")[2].rstrip("`") if "`$." in said else None
    return ApiError(status=400, message=f"Invalid type: {said}", param=where, code="invalid_type")


def model_not_found(model: str) -> ApiError:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError(status=404, message=message, code="model_not_found")


def checked_lane(model: str, stream: bool | None, tier: str | None, conditions: Conditions) -> Lane:
    """The lane in which the request runs.

    Raises:
        ApiError: it cannot.
    """
    if stream:
        raise ApiError(status=400, message="Streaming is not supported here.", param="stream", code="unsupported_value")
    if conditions.fate == "model_not_found" or "does-not-exist" in model:
        raise model_not_found(model)
    if conditions.batch:
        return "batch"
    return "flex" if tier == "flex" and conditions.fate != "standard_tier" else "standard"


def check_schema(schema: bytes, name: str, strict: bool | None, *, responses: bool) -> None:
    """Raises:
    ApiError: structured outputs do not take the schema.
    """
    refused = refusal(schema, name, bool(strict), responses)
    if refused is not None:
        raise replace(refused)  # kept and shared: each raise takes a traceback of its own


# --- tokens and the prompt cache --------------------------------------------------------------------------------------


def messages_tokens(messages: list[Message]) -> int:
    total = 0
    for message in messages:
        content = message.content
        if isinstance(content, str):
            total += tokens_of(size_of(content))
        elif content is not None:
            total += tokens_of(sum(size_of(part.text) for part in content))
        total += _MESSAGE_TOKENS
    return total


def cached(asked: Cacheable, messages: list[Message], first: bytes, whole: int, cache: PromptCache, conditions: Conditions) -> Use:
    """What of a prompt comes from the cache, and goes there.  From gpt-5.6 on only what ends at a breakpoint, and a write is billed.

    Args:
        first: the part before the messages: schema, tools, instructions.
        whole: tokens of the whole prompt.
    """
    if whole < _LEAST_CACHED_TOKENS:
        return Use()
    version = _VERSION.search(asked.model)
    if version is None or (int(version[1]), int(version[2] or 0)) < (5, 6):
        prompt = b"".join([first, *(piece.content for piece in _pieces(messages))])
        return cache.unmarked(asked.model, prompt, conditions.at, miss=conditions.fate == "cache_miss")
    # Schema, tools and instructions come before the messages and cannot have a mark.
    pieces = [Piece(first, tokens_of(len(first))), *_pieces(messages)]
    if (asked.prompt_cache_options or CacheOptions()).mode == "implicit":
        pieces[-1] = pieces[-1]._replace(ttl="30m")
    return cache.marked(asked.model, pieces, _LEAST_CACHED_TOKENS, conditions)


def _pieces(messages: list[Message]) -> Iterator[Piece]:
    for message in messages:
        content = message.content
        parts = [Part(content)] if isinstance(content, str) else content or []
        size = tokens = 0
        for n, part in enumerate(parts):
            size += size_of(part.text)
            mark = "30m" if part.prompt_cache_breakpoint else None
            yield Piece(part.text.encode("utf-8", "surrogatepass"), tokens_of(size) - tokens + (0 if n else _MESSAGE_TOKENS), mark)
            tokens = tokens_of(size)
