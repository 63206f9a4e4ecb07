"""Documents made from a schema conform to it."""

import json
from typing import Any

import jsonschema
import pytest

from keld.emulator.dice import Dice
from keld.emulator.pattern import matching
from keld.emulator.schema import compile_schema

SCHEMAS: dict[str, dict[str, Any]] = {
    "numbers": {
        "type": "object",
        "properties": {
            "open": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            "step": {"type": "number", "minimum": 1, "maximum": 2, "multipleOf": 0.25},
            "below": {"type": "integer", "maximum": -5, "multipleOf": 5},
            "strict": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
        },
        "required": ["open", "step", "below", "strict"],
    },
    "strings": {
        "type": "array",
        "minItems": 9,
        "maxItems": 9,
        "prefixItems": [
            {"type": "string", "minLength": 50, "maxLength": 60},
            {"type": "string", "maxLength": 3},
            {"type": "string", "pattern": "^[A-Z]{2,4}-\\d{3}$"},
            {"type": "string", "pattern": "(red|green)|x+"},
            {"type": "string", "format": "date"},
            {"type": "string", "format": "date-time"},
            {"type": "string", "format": "email"},
            {"type": "string", "format": "uuid"},
            {"const": 'a "quoted" one'},
        ],
    },
    "nullable": {"type": "object", "properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]},
    "recursive": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                    "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
                },
                "required": ["name", "next", "children"],
                "additionalProperties": False,
            }
        },
    },
    "all_of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"enum": [1, "x", None]}}, "required": ["b"]},
        ]
    },
    "one_of": {"oneOf": [{"type": "boolean"}, {"type": "integer", "minimum": 7, "maximum": 9}]},
    "mapping": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 2},
    "unique": {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 3, "maxItems": 3, "uniqueItems": True},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_document_conforms(name: str) -> None:
    schema = SCHEMAS[name]
    make = compile_schema(json.dumps(schema).encode())
    checker = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for number in range(200):
        checker.validate(json.loads(make(Dice(number.to_bytes(32, "big")), 0)))


def test_pattern_without_a_constructive_reading_has_no_match() -> None:
    assert matching(r"^(?=ab)a\1$", lambda sides: 0) is None
