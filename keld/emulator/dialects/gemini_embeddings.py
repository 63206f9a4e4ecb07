"""Gemini embeddings: a body of embedContent -> a vector, the same for the same text."""

from dataclasses import dataclass, replace
from hashlib import sha256

import msgspec

from ..answer import Usage
from ..dialect import Conditions, Lane, Made
from .gemini_body import EmbedBody, check_contents, check_model, invalid, read, reader, text_of, tokens_of_content
from .openai_embeddings import vector

_MOST_DIMENSIONS = 3_072
_TASKS = frozenset((
    "TASK_TYPE_UNSPECIFIED", "RETRIEVAL_QUERY", "RETRIEVAL_DOCUMENT", "SEMANTIC_SIMILARITY", "CLASSIFICATION", "CLUSTERING",
    "QUESTION_ANSWERING", "FACT_VERIFICATION", "CODE_RETRIEVAL_QUERY",
))  # fmt: skip
_body = reader(EmbedBody)


@dataclass(frozen=True)
class Embed:
    """The dialect of embedContent for one model."""

    model: str = ""

    def of(self, model: str) -> "Embed":
        return replace(self, model=model)

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked = read(_body, body)
        check_model(self.model, "embedContent", conditions)
        check_contents([] if asked.content is None else [asked.content], "EmbedContentRequest.content")
        if asked.task_type is not None and asked.task_type not in _TASKS:
            raise invalid(
                f"Invalid value at 'task_type' (type.googleapis.com/google.ai.generativelanguage.v1beta.TaskType), \"{asked.task_type}\""
            )
        dimensions = asked.output_dimensionality or _MOST_DIMENSIONS
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise invalid(f"* EmbedContentRequest.output_dimensionality: must be in the range [1, {_MOST_DIMENSIONS}].\n")
        tokens = tokens_of_content(asked.content)
        # A row of a batch says its tokens as a 64-bit integer, so as a text; a call of its own as every model does.
        said = f'"tokenCount":"{tokens}"' if conditions.batch else f'"usageMetadata":{{"promptTokenCount":{tokens}}}'
        answer = f'{{"embedding":{{"values":{vector(text_of(asked.content), dimensions, None)}}},{said}}}'
        lane: Lane = "batch" if conditions.batch else "standard"
        return Made(answer, self.model, lane, Usage(tokens, 0), tokens, sha256(body).hexdigest())


class _Many(msgspec.Struct, gc=False):
    requests: list[msgspec.Raw]


_many = reader(_Many)


@dataclass(frozen=True)
class EmbedMany:
    """The dialect of batchEmbedContents: several requests in one call, all of one model."""

    model: str = ""

    def of(self, model: str) -> "EmbedMany":
        return replace(self, model=model)

    def make(self, body: bytes, conditions: Conditions) -> Made:
        asked, one = read(_many, body), Embed(self.model)
        if not asked.requests:
            raise invalid("* BatchEmbedContentsRequest.requests: requests is not specified\n")
        made = [one.make(bytes(request), conditions) for request in asked.requests]
        tokens = sum(each.usage.input for each in made)
        embeddings = ",".join(each.body[len('{"embedding":') : each.body.rindex(',"usageMetadata"')] for each in made)
        answer = f'{{"embeddings":[{embeddings}],"usageMetadata":{{"promptTokenCount":{tokens}}}}}'
        return Made(answer, self.model, "standard", Usage(tokens, 0), tokens, sha256(body).hexdigest())
