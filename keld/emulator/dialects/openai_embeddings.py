"""OpenAI embeddings: a body of /v1/embeddings -> unit vectors, the same for the same input."""

import base64
import math
from array import array
from dataclasses import dataclass
from hashlib import sha256, shake_128

import msgspec

from ..answer import Usage, tokens_in
from ..dialect import Conditions, Made
from ..error import ApiError
from .openai_body import checked_lane, quoted, read

_DEFAULT_DIMENSIONS = 1536
# platform.openai.com/docs/api-reference/embeddings/create, Nov 2026: of one text, of all texts of a request together, and how many these are.
_TEXT_TOKENS, _REQUEST_TOKENS, _INPUTS = 8_192, 300_000, 2_048


class EmbeddingsBody(msgspec.Struct, gc=False):
    model: str
    input: str | list[str | int | list[int]]
    dimensions: int | None = None
    encoding_format: str | None = None


_embeddings = msgspec.json.Decoder(EmbeddingsBody)


@dataclass(frozen=True)
class Embeddings:
    """The dialect of embeddings."""

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked = read(_embeddings, body)
        lane = checked_lane(asked.model, None, None, conditions)
        inputs = _inputs(asked.input)
        sizes = _checked_sizes(inputs)
        dimensions = asked.dimensions or _DEFAULT_DIMENSIONS
        items = ",".join(
            f'{{"object":"embedding","index":{index},"embedding":{vector(one, dimensions, asked.encoding_format)}}}'
            for index, one in enumerate(inputs)
        )
        tokens = sum(sizes)
        usage = f'"usage":{{"prompt_tokens":{tokens},"total_tokens":{tokens}}}'
        answer = f'{{"object":"list","data":[{items}],"model":{quoted(asked.model).decode()},{usage}}}'
        return Made(answer, asked.model, lane, Usage(tokens, 0), tokens, sha256(body).hexdigest(), len(inputs))


def _checked_sizes(inputs: list[str | list[int]]) -> list[int]:
    """The tokens of each text.

    Raises:
        ApiError: there is none, or one or all together are too long.
    """
    if not inputs or not all(inputs):
        code = "empty_string" if inputs else "empty_array"
        raise ApiError(status=400, message=f"Invalid 'input': {code.replace('_', ' ')}.", param="input", code=code)
    if len(inputs) > _INPUTS:
        raise ApiError(status=400, message=f"Invalid 'input': array too long. Expected at most {_INPUTS} items.", param="input")
    sizes = [len(one) if isinstance(one, list) else tokens_in(one) for one in inputs]
    if max(sizes) > _TEXT_TOKENS:
        said = f"This model's maximum context length is {_TEXT_TOKENS} tokens, however you requested {max(sizes)} tokens."
        raise ApiError(status=400, message=said, param="input", code="context_length_exceeded")
    if sum(sizes) > _REQUEST_TOKENS:
        raise ApiError(
            status=400, message=f"Requested {sum(sizes)} tokens, max {_REQUEST_TOKENS} tokens per request", code="max_tokens_per_request"
        )
    return sizes


def count_inputs(body: bytes) -> int:
    """Inputs in an embeddings body; 0 where it cannot be read, which its own row will say."""
    try:
        return len(_inputs(_embeddings.decode(body).input))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0


def _inputs(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    numbers = [one for one in given if isinstance(one, int)]
    if numbers:
        return [numbers]
    return [one for one in given if not isinstance(one, int)]


def vector(text: str | list[int], dimensions: int, encoding: str | None) -> str:
    """A unit vector drawn from the input, as JSON."""
    seed = quoted(text)
    raw = array("h", shake_128(seed).digest(2 * dimensions))
    norm = math.sqrt(sum(value * value for value in raw)) or 1.0
    values = [value / norm for value in raw]
    if encoding == "base64":
        return f'"{base64.b64encode(array("f", values).tobytes()).decode()}"'
    return msgspec.json.encode(values).decode()
