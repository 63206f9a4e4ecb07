"""Converse schema: how an output schema is sent to a model on Amazon Bedrock, and which models take one.

The documentation is docs.aws.amazon.com/bedrock/latest/userguide/structured-output.html, read 29 Nov 2026.  Its subset is Anthropic's (closed
objects, no bounds of numbers or lengths, `minItems` of 0 and 1, no recursion, no external reference) for every model, so the same form is sent.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec

from keld.errors import SchemaError
from keld.providers.base import NO_EMBEDDINGS, Fit
from keld.providers.dialects.anthropic_schema import STRUCTURED
from keld.schema import OutputSchema

SUBSET = replace(STRUCTURED, whose="Bedrock's structured output")
# Models without structured output on Bedrock: those of Meta, Cohere and AI21, and Amazon's Titan.
_WITHOUT = re.compile(r"(?:^|[./])(?:(?:meta|cohere|ai21)\.|amazon\.titan)")
# Not in the list of that page, and yet reported to take it (github.com/graniet/llm/pull/126, June 2026).
_UNLISTED = re.compile(r"amazon\.nova")


def schema_format(output: OutputSchema) -> dict[str, Any]:
    """`outputConfig` of a request; the schema in it is a text.

    Raises:
        SchemaError: the schema has no form that is accepted; the message names the field.
    """
    if output.kind != "object":
        return {}
    schema = msgspec.json.encode(output.strict_json_schema(SUBSET)).decode()
    definition = {"name": output.name, "schema": schema}
    return {"outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": definition}}}}


def fit(output: OutputSchema, model: str) -> Fit:
    """Whether a model can give this output at all, and a note if that is not documented."""
    if output.kind == "embedding":
        return Fit(obstacle=NO_EMBEDDINGS.format(whose="bedrock"))
    if output.kind == "object" and _WITHOUT.search(model):
        return Fit(
            obstacle=f"{model} has no structured output on Bedrock; use a model that has, e.g. Claude or gpt-oss, or output_type=str"
        )
    try:
        schema_format(output)
    except SchemaError as error:
        return Fit(obstacle=str(error))
    unlisted = output.kind == "object" and _UNLISTED.search(model) is not None
    return Fit(
        note=f"AWS does not list {model} among the models with structured output; each answer is still checked" if unlisted else None
    )
