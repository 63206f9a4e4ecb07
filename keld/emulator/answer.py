"""Answer: what the emulated model says, and its tokens.

A dialect -> **`answer`** -> the dialect's body.  The same body bytes get the same answer; with a schema it
conforms.  A user's responder may replace it.  Tokens are bytes / 4, which is close enough for English and, more
important, can be computed by a test.
"""

import threading
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from .dice import Dice
from .error import ApiError
from .scalar import Maker
from .schema import compile_schema

Responder = Callable[[dict[str, Any]], str | dict[str, Any]]
"""The request's body -> the text of the answer, or an object that is sent as JSON."""

Finish = Literal["stop", "length", "refusal"]
Twist = Literal["refusal", "length", "invalid"]
"""How a fault changes an answer, which is paid anyway."""

ABSENT = msgspec.Raw()
"""The default of a part kept as it came: msgspec does not keep `Raw | None` raw."""

_SCHEMAS_KEPT = 4096
_REFUSAL = "I'm sorry, I can't help with that."
_INVALID = '{"keld_emulator":"this is not what the schema asked for"}'


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer; `input` is everything read, cached or not: each dialect subtracts as its service does."""

    input: int
    output: int
    cached: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    reasoning: int = 0


class Ask(msgspec.Struct, frozen=True, gc=False):
    """What an answer is made from."""

    digest: bytes
    body: bytes
    input_tokens: int
    schema: bytes | None = None
    max_tokens: int | None = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    text: str
    finish: Finish
    output_tokens: int


class Answerer:
    """Answers asks; keeps the compiled schemas, since a partition's rows share one."""

    def __init__(self, responder: Responder | None = None) -> None:
        self._responder = responder
        self._makers: dict[bytes, Maker] = {}
        self._lock = threading.Lock()

    def answer(self, ask: Ask, twist: Twist | None = None) -> Answer:
        if twist == "refusal":
            return Answer(_REFUSAL, "refusal", tokens_in(_REFUSAL))
        text = _INVALID if twist == "invalid" else self._text(ask)
        output_tokens = tokens_in(text)
        most = max(1, output_tokens // 2) if twist == "length" else ask.max_tokens
        if twist == "length" or (most is not None and most < output_tokens):
            return Answer(_cut(text, most or 1), "length", most or 1)
        return Answer(text, "stop", output_tokens)

    def _text(self, ask: Ask) -> str:
        if self._responder is not None:
            try:
                said = self._responder(msgspec.json.decode(ask.body))
            except Exception as error:
                raise ApiError(status=500, message=f"the responder failed: {error!r}") from error
            return said if isinstance(said, str) else msgspec.json.encode(said).decode()
        dice = Dice(ask.digest)
        if ask.schema is not None:
            return self._maker(ask.schema)(dice, 0)
        return f"{dice.words(6 + dice.roll(8)).capitalize()}."

    def _maker(self, schema: bytes) -> Maker:
        maker = self._makers.get(schema)
        if maker is None:
            try:
                maker = compile_schema(schema)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise ApiError(status=400, message=f"Invalid schema: {error}", code="invalid_json_schema") from error
            with self._lock:
                if len(self._makers) >= _SCHEMAS_KEPT:
                    self._makers.clear()
                self._makers[schema] = maker
        return maker


def present(raw: msgspec.Raw) -> bytes | None:
    """The bytes of a part that was kept as it came; None where it was absent or null."""
    part = bytes(raw)
    return None if part in (b"", b"null") else part


def size_of(text: str) -> int:
    """Bytes of `text` in UTF-8."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def tokens_of(size_bytes: int) -> int:
    return -(-size_bytes // 4)


def tokens_in(text: str) -> int:
    return -(-(len(text) if text.isascii() else size_of(text)) // 4)


def _cut(text: str, max_tokens: int) -> str:
    # Fewer tokens than the text has are fewer bytes than it has: so a cut JSON document is never complete by accident.
    return text.encode("utf-8", "surrogatepass")[: max_tokens * 4].decode("utf-8", "ignore")
