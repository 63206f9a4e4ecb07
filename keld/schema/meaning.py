"""Meaning: what the user's declaration says of the columns of an answer, in words for people: their descriptions and rules.

Beside the decoder, which checks the rules: here they are only told, to whoever looks at the table later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from keld.schema.node import JsonSchema
from keld.schema.output import output_schema
from keld.schema.reference import inlined, merged

_NAMED_MOST = 12  # of the values of an enumeration


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerColumn:
    """A column of an answer.

    Args:
        description: the user's own; None if there is none.
        rules: e.g. `from 1 to 5`, `one of billing, bug`.
    """

    name: str
    description: str | None = None
    rules: tuple[str, ...] = ()


def answer_columns(output_type: object, prefix: str = "") -> tuple[AnswerColumn, ...]:
    """The columns of the answers of a job with this `output_type` and `output_prefix`.

    Raises:
        SchemaError: it has no form as columns.
    """
    schema = output_schema(output_type, prefix=prefix)
    if schema.json_schema is None:
        what = "The answer of the model." if schema.kind == "text" else f"The embedding: {schema.dimensions:,} numbers."
        return tuple(AnswerColumn(name=name, description=what) for name in schema.columns.names)
    root = schema.json_schema
    properties = merged(inlined(root, root), root).get("properties", {})
    return tuple(_column(name, properties.get(name.removeprefix(prefix), {}), root) for name in schema.columns.names)


def _column(name: str, declared: JsonSchema, root: JsonSchema) -> AnswerColumn:
    rules = tuple(dict.fromkeys(_rules(merged(inlined(declared, root), root), root)))
    described = declared.get("description") or inlined(declared, root).get("description")
    return AnswerColumn(name=name, description=described, rules=rules)


def _rules(node: JsonSchema, root: JsonSchema) -> Iterator[str]:
    """The rules of a value; of one that may be null, those of the value that is not."""
    for variant in node.get("anyOf") or node.get("oneOf") or ():
        if variant.get("type") != "null":
            yield from _rules(merged(inlined(variant, root), root), root)
    if "const" in node:
        yield f"always {node['const']}"
    if node.get("enum"):
        named = [str(value) for value in node["enum"] if value is not None]
        more = f" and {len(named) - _NAMED_MOST:,} more" if len(named) > _NAMED_MOST else ""
        yield f"one of {', '.join(named[:_NAMED_MOST])}{more}"
    yield from _between(node.get("minimum"), node.get("maximum"), "")
    if "exclusiveMinimum" in node:
        yield f"above {node['exclusiveMinimum']}"
    if "exclusiveMaximum" in node:
        yield f"below {node['exclusiveMaximum']}"
    if "multipleOf" in node:
        yield f"a multiple of {node['multipleOf']}"
    yield from _between(node.get("minLength"), node.get("maxLength"), " characters")
    yield from _between(node.get("minItems"), node.get("maxItems"), " items")
    if "pattern" in node:
        yield f"matches {node['pattern']}"
    if "format" in node:
        yield str(node["format"])


def _between(least: Any, most: Any, unit: str) -> Iterator[str]:
    if least is not None and most is not None:
        yield f"{least}{unit}" if least == most else f"from {least} to {most}{unit}"
    elif least is not None:
        yield f"at least {least}{unit}"
    elif most is not None:
        yield f"at most {most}{unit}"
