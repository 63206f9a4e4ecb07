"""Mistral embeddings: a body of Mistral's /v1/embeddings -> unit vectors, the same for the same input."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import msgspec

from ..answer import Usage, tokens_in
from ..dialect import Conditions, Made
from ..error import ApiError
from .mistral_body import checked_lane, read
from .openai_body import quoted
from .openai_embeddings import vector

# docs.mistral.ai/capabilities/embeddings, Nov 2026: of mistral-embed, and of codestral-embed, which takes `output_dimension` up to 3,072.
_FIXED, _DEFAULT, _MOST = 1_024, 1_536, 3_072
# Of all texts of a request together, and how many these are: code 3210 (github.com/chroma-core/chroma/pull/5597, .../raphaelmansuy/edgequake-llm/pull/74).
_TOKENS, _INPUTS = 16_384, 512


class EmbeddingsBody(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    model: str
    input: str | list[str]
    metadata: Any = None
    output_dimension: int | None = None
    output_dtype: Literal["float", "int8", "uint8", "binary", "ubinary"] | None = None
    encoding_format: Literal["float", "base64"] | None = None


_embeddings = msgspec.json.Decoder(EmbeddingsBody)


@dataclass(frozen=True)
class MistralEmbeddings:
    """The dialect of embeddings."""

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked = read(_embeddings, body)
        lane = checked_lane(asked.model, conditions)
        inputs = [asked.input] if isinstance(asked.input, str) else asked.input
        if not inputs:
            raise ApiError(status=400, message="Input cannot be empty")
        tokens = sum(map(tokens_in, inputs))
        for what, count, most in (("inputs in request", len(inputs), _INPUTS), ("tokens overall", tokens, _TOKENS)):
            if count > most:
                raise ApiError(status=400, message=f"Too many {what}, split into more batches.", code="3210")
        dimensions = _dimensions(asked)
        items = ",".join(
            f'{{"object":"embedding","index":{index},"embedding":{vector(one, dimensions, asked.encoding_format)}}}'
            for index, one in enumerate(inputs)
        )
        name = sha256(body).hexdigest()
        usage = f'{{"prompt_tokens":{tokens},"total_tokens":{tokens},"completion_tokens":0}}'
        answer = f'{{"id":"{name[:32]}","object":"list","data":[{items}],"model":{quoted(asked.model).decode()},"usage":{usage}}}'
        return Made(answer, asked.model, lane, Usage(tokens, 0), tokens, name, len(inputs))


def _dimensions(asked: EmbeddingsBody) -> int:
    if asked.model.startswith("mistral-embed"):
        if asked.output_dimension is not None:
            raise ApiError(status=400, message="Parameter `output_dimension` is not supported for this model")
        return _FIXED
    wanted = asked.output_dimension or _DEFAULT
    if wanted > _MOST:
        raise ApiError(status=400, message=f"output_dimension must be less than or equal to {_MOST}")
    return wanted
