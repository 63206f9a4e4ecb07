"""OpenAI schema: how an output schema is asked for; what strict mode takes of JSON Schema, and what is sent where it takes none.

The documentation is developers.openai.com/api/docs/guides/structured-outputs, "Supported schemas", read in Nov 2026; what it leaves open is
what people were answered by the service.  Where the two differ, the one that takes less is held to: what is not sent is told in the
description, and checked in every answer by our decoder.

- Keywords are an allow-list: `minLength` was refused in Dec 2025 (github.com/coder/mux/pull/1220), `uniqueItems` in Sep 2026
  (github.com/mastra-ai/mastra/issues/23321), so were `default`, `oneOf`, `propertyNames`; `uri` is no valid format
  (github.com/tailcallhq/forgecode/issues/2974).
- Look-around in a pattern is refused with strict mode and without ("regex lookaround is not supported", github.com/vercel/ai/pull/21037, Sep 2026).
- A `$ref` has nothing beside it, every value has a type, an enum is of one type, and the objects of an `anyOf` begin with different keys.
- Sizes are those since July 2025.  A level is an edge: a property or a list's items ("11 levels of nesting exceeds limit of 10").
"""

from __future__ import annotations

import re
from typing import Any

from keld.errors import SchemaError
from keld.providers.base import Fit
from keld.request import Question
from keld.schema import OutputSchema, Subset, inlined

_NUMBER = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
# Characters, classes, groups without names or assertions, and counts: what every engine reads alike.
_PLAIN_PATTERN = re.compile(
    r"""(?:
        [^\\()\[\]{}?*+]                                                     # a character, an anchor, an alternative
      | \\(?:[dDwWsSnrtfv]|[^A-Za-z0-9]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4})      # an escape
      | \[\^?(?:[^\\\[\]]|\\(?:[dDwWsSnrtfv]|[^A-Za-z0-9]|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}))+\]
      | \((?:\?:|(?!\?)) | \)
      | [?*+] | \{\d+(?:,\d*)?\}
    )*""",
    re.VERBOSE,
)
STRICT = Subset(
    whose="OpenAI's strict mode",
    rules={
        "string": frozenset(("pattern", "format")),
        "integer": _NUMBER,
        "number": _NUMBER,
        "array": frozenset(("minItems", "maxItems")),
    },
    formats=frozenset(("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")),
    pattern=lambda pattern: _PLAIN_PATTERN.fullmatch(pattern) is not None,
    type_lists=True,
    recursion=True,
    levels=10,
    properties=5_000,
    characters=120_000,
    values=1_000,
    long_enum=(250, 15_000),
)
# Models that know no JSON Schema: those before gpt-4o-2024-08-06.
_WITHOUT = re.compile(r"(?:gpt-3\.5|gpt-4(?:-|$)|gpt-4o-2024-05-13|o1-(?:preview|mini))")


def schema_format(output: OutputSchema) -> dict[str, Any]:
    """`name`, `strict` and `schema`, as `response_format` and `text.format` hold them."""
    assert output.json_schema is not None, "of an object"
    try:
        return {"name": output.name, "strict": True, "schema": output.strict_json_schema(STRICT)}
    except SchemaError:  # the model is only told; every answer is checked by us anyway
        return {"name": output.name, "strict": False, "schema": _loosened(inlined(output.json_schema, output.json_schema))}


def why_loose(output: OutputSchema) -> str | None:
    """Why strict mode has no form of the schema, in words; None where it has."""
    try:
        output.strict_json_schema(STRICT)
    except SchemaError as error:
        return str(error)
    return None


def fit(question: Question, model: str) -> Fit:
    """Whether a model can answer in this form at all, and whether in strict mode."""
    output = OutputSchema.from_json(question.output)
    if output.kind == "object" and _WITHOUT.match(model):
        return Fit(obstacle=f"{model} knows no JSON Schema; use a model from gpt-4o on, or output_type=str")
    loose = why_loose(output) if output.kind == "object" else None
    return Fit(note=None if loose is None else f"asked without strict mode, and Keld checks each answer itself. The reason: {loose}")


def _loosened(part: Any) -> Any:
    """Without what is refused outside of strict mode, too: look-around, and a list that says nothing of its items."""
    if isinstance(part, list):
        return [_loosened(item) for item in part]
    if not isinstance(part, dict):
        return part
    made = {key: _loosened(value) for key, value in part.items() if key != "pattern" or not isinstance(value, str) or STRICT.pattern(value)}
    return made | {"items": {}} if made.get("type") == "array" and "items" not in made else made
