"""Codec: the two ways between an answer and its columns; here those of text and of vectors, and in `compiler` those of objects."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from keld.errors import InvalidAnswer
from keld.schema.document import utf8
from keld.schema.node import Array, Decoded


class Decoder(msgspec.Struct, frozen=True):
    """`decode(answer)`: one answer as `to_arrow` takes it.

    Takes the model's text; for an embedding its list of floats, that list as JSON text, or base64 of little-endian
    float32.

    Raises:
        InvalidAnswer: the answer breaks the schema; the reason holds the path and the rule, never the value.
    """

    decode: Callable[[str | bytes | Sequence[float]], Decoded]


class Codec(msgspec.Struct, frozen=True):
    """The two ways between an answer and its columns."""

    decode: Callable[[str | bytes | Sequence[float]], Decoded]
    arrays: Callable[[Sequence[Decoded | None]], list[Array]]


def text_codec() -> Codec:
    def decode(answer: str | bytes | Sequence[float]) -> str:
        if isinstance(answer, bytes):
            return utf8(answer)
        if not isinstance(answer, str):
            raise InvalidAnswer("Expected text")
        try:
            answer.encode()  # a lone surrogate would fail later, in Arrow, and with it the whole block
        except UnicodeError:
            raise InvalidAnswer("The text is not valid Unicode (a lone surrogate)") from None
        return answer

    return Codec(decode, lambda decoded: [pa.array(decoded, type=pa.string())])


def embedding_codec(dimensions: int) -> Codec:
    def decode(answer: str | bytes | Sequence[float]) -> np.ndarray[Any, Any]:
        vector = _vector(answer)
        if vector.shape != (dimensions,):
            raise InvalidAnswer(f"Expected a vector of {dimensions} numbers, got {vector.size}")
        if not np.isfinite(vector).all():
            raise InvalidAnswer("Expected finite float32 numbers, got infinity or not-a-number")
        return vector

    def arrays(decoded: Sequence[Decoded | None]) -> list[Array]:
        missing = np.fromiter((vector is None for vector in decoded), dtype=bool, count=len(decoded))
        values = np.zeros((len(decoded), dimensions), dtype=np.float32)
        for position, vector in enumerate(decoded):
            if vector is not None:
                values[position] = vector
        return [pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), dimensions, mask=pa.array(missing))]

    return Codec(decode, arrays)


_floats = msgspec.json.Decoder(list[float])


def _vector(answer: str | bytes | Sequence[float]) -> np.ndarray[Any, Any]:
    try:
        if isinstance(answer, (str, bytes)):
            text = (utf8(answer) if isinstance(answer, bytes) else answer).strip()
            if not text.startswith("["):
                return np.frombuffer(base64.b64decode(text.strip('"'), validate=True), dtype="<f4")
            answer = _floats.decode(text)
        with np.errstate(over="ignore"):  # becomes infinite, which the check for finite numbers refuses
            return np.array(answer, dtype=np.float32)
    except (msgspec.MsgspecError, binascii.Error, ValueError, TypeError):
        raise InvalidAnswer("Expected a vector: a list of numbers, or base64 of little-endian float32") from None
