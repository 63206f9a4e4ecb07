"""Document: an answer's text -> its value, or an InvalidAnswer that names the path and the rule, never the value."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from keld.errors import InvalidAnswer
from keld.schema.node import Decoded, Node, Reader

_FENCE = re.compile(r"\s*```(?:json)?[ \t]*\r?\n(.*?)\s*```\s*", re.DOTALL | re.IGNORECASE)
_KEY_END = re.compile(r'"\s*:')


def utf8(answer: bytes) -> str:
    try:
        return str(answer, "utf-8")
    except UnicodeError:
        raise InvalidAnswer("The text is not valid UTF-8") from None


def object_decoder(root: Node) -> Callable[[str | bytes | Sequence[float]], Decoded]:
    # The path of a valid answer is written here without calling the functions below: nearly every row takes it.
    parse, settle, least = msgspec.json.Decoder(root.wire).decode, root.settle, root.least
    read = reader(root, "$")

    def decode(answer: str | bytes | Sequence[float]) -> Decoded:
        if isinstance(answer, bytes):
            answer = utf8(answer)
        if not isinstance(answer, str):
            raise InvalidAnswer("Expected text that holds a JSON object")
        try:
            try:
                value = parse(answer)
            except (msgspec.MsgspecError, UnicodeError):
                value = None
            if value is None:
                value = _read_plain_or_fenced(read, answer)
            elif settle is not None:
                value = settle(value)
            # With as many colons as required members no key occurs twice.  Only if this cheap check fails, the answer is parsed again.
            if answer.count(":") != least and _repeats_a_key(answer, least):
                raise InvalidAnswer("An object has a key twice, so that its value is ambiguous")
        except RecursionError:
            raise InvalidAnswer("The JSON is nested too deeply") from None
        return value

    return decode


def _read_plain_or_fenced(read: Reader, answer: str) -> Decoded:
    # Models without structured output wrap the document in a ```json block.  No other repair is tried.
    fenced = _FENCE.fullmatch(answer)
    return read(fenced[1] if fenced else answer)


def _repeats_a_key(answer: str, least: int) -> bool:
    if len(_KEY_END.findall(answer)) <= least:  # every member has one; a text with colons rarely has one
        return False
    repeated = False

    def look(members: list[tuple[str, Any]]) -> None:
        nonlocal repeated
        repeated = repeated or len(dict(members)) < len(members)

    fenced = _FENCE.fullmatch(answer)
    document = fenced[1] if fenced else answer
    # Numbers do not matter here, and Python refuses an int of more than 4,300 digits: only the length is used.
    json.loads(document, object_pairs_hook=look, parse_int=len, parse_float=len, strict=False)
    return repeated


def reader(node: Node, at: str) -> Reader:
    """A function that reads a whole document as `node`; it raises InvalidAnswer, with a path under `at`, or RecursionError; nothing else."""
    decode = msgspec.json.Decoder(node.wire).decode
    settle = node.settle

    def read(text: str | bytes) -> Any:
        # Always `from None`: msgspec's own message may quote the answer, and a traceback would print it.
        try:
            value = decode(text)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise InvalidAnswer(_reason(str(error), at)) from None
            value = _read_integral(decode, text, at)
        except (msgspec.DecodeError, UnicodeError):
            raise InvalidAnswer(f"Not valid JSON, or cut off - at `{at}`") from None
        return value if settle is None or value is None else settle(value)

    return read


def _read_integral(decode: Reader, text: str | bytes, at: str) -> Any:
    """The value read again with `3.0` as an integer: JSON Schema accepts it as one, msgspec does not."""
    try:
        return decode(msgspec.json.encode(_integral(msgspec.json.decode(text))))
    except msgspec.ValidationError as error:
        raise InvalidAnswer(_reason(str(error), at)) from None
    except (msgspec.MsgspecError, OverflowError, UnicodeError):
        raise InvalidAnswer(f"Integer value out of range - at `{at}`") from None


def _integral(value: Any) -> Any:
    match value:
        case float() if abs(value) < 2**63 and value == int(value):
            return int(value)
        case list():
            return [_integral(item) for item in value]
        case dict():
            return {key: _integral(item) for key, item in value.items()}
    return value


_SAYS_NO_VALUE = ("Expected `", "Object missing required field `", "Number out of range", "Integer value out of range")
# A quoted value could look like a path: one that holds a backtick is reported without a path.
_NOT_ALLOWED = re.compile(r"Invalid enum value (?:'[^`]*'|-?\d+) - at `\$([^`]*)`", re.DOTALL)


def _reason(message: str, at: str) -> str:
    """msgspec's message without the answer's values, its path put under `at`."""
    if message.startswith(_SAYS_NO_VALUE):
        rule, _, path = message.rpartition(" - at `$")
        return f"{rule} - at `{at}{path}" if rule else f"{message} - at `{at}`"
    if message.startswith("Invalid enum value"):
        found = _NOT_ALLOWED.fullmatch(message)
        return f"Not one of the allowed values - at `{at}{found[1]}`" if found else f"Not an allowed value - below `{at}`"
    if message.startswith("Object contains unknown field"):
        return f"A field the schema does not have - below `{at}`"
    return f"Does not fit the schema - below `{at}`"
