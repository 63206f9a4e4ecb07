"""Anthropic schema: how an output schema is sent, and which JSON Schema structured outputs accept.

The documentation is platform.claude.com/docs/en/build-with-claude/structured-outputs, "JSON Schema limitations", read in Nov 2026, and the
vendor's own `transform_schema` (anthropic 2.11).  There is no mode without enforcement: a schema that is not accepted is refused before it is sent.

- No bounds of numbers, lengths or lists except `minItems` of 0 and 1; patterns are documented for simple cases, but the SDK never sends one,
  so we send none.  What is left out is written into the description and checked by our decoder.
- Objects are closed, so there are no maps: an open one compiles to "no keys", and every answer is `{}`.
- No recursion ("Circular reference detected in schema definitions"), no value without a type, plain values in enums only; an enum beside a
  list of types was refused, so it is sent alone, as in the SDK.
- At most 24 optional parameters and 16 with `anyOf` or a list of types ("Schemas contains too many ...", quoted in github.com/vercel/ai and
  others, 2026).  "The compiled grammar is too large" has no documented measure: only the service can say.
"""

from __future__ import annotations

import re
from typing import Any

from keld.errors import SchemaError
from keld.schema import OutputSchema, Subset

STRUCTURED = Subset(
    whose="Anthropic's structured output",
    rules={"string": frozenset(("format",)), "array": frozenset(("minItems",))},
    formats=frozenset(("date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid")),
    most_min_items=1,
    all_required=False,
    typed_literals=False,
    first_keys_differ=False,
    optional=24,
    unions=16,
)
# Models from 4.5 on (and Opus 4.1) have structured outputs; these do not.
_WITHOUT = re.compile(r"claude-(?:\d|instant|v\d|(?:opus|sonnet)-4-(?:0\b|20))")


def schema_format(output: OutputSchema) -> dict[str, Any]:
    """`output_config` of a request.

    Raises:
        SchemaError: the schema has no form that is accepted; the message names the field.
    """
    if output.kind != "object":
        return {}
    return {"output_config": {"format": {"type": "json_schema", "schema": output.strict_json_schema(STRUCTURED)}}}


def obstacle(output: OutputSchema, model: str) -> str | None:
    """Why a model cannot give this output, for people; None if it can."""
    if output.kind == "object" and _WITHOUT.search(model):  # clouds put their own words before the name
        return f"{model} has no structured output; use a model from 4.5 on, or output_type=str"
    try:
        schema_format(output)
    except SchemaError as error:
        return str(error)
    return None
