"""What an answer must look like: schema -> columns, and a decoder that lets nothing else through."""

import base64
import copy
import dataclasses
import enum
import json
import pickle
import traceback
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional

import jsonschema  # type: ignore[import-untyped]  # its stubs are a package of their own
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator
from typing_extensions import TypedDict

from keld.errors import InvalidAnswer, SchemaError
from keld.schema import Embedding, OutputSchema, output_schema

TEXT, INT, FLOAT = pa.string(), pa.int64(), pa.float64()


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _decoded(schema: OutputSchema, *answers: str | bytes | None) -> list[dict[str, Any]]:
    decode = schema.decoder().decode
    batch = schema.to_arrow([None if answer is None else decode(answer) for answer in answers])
    batch.validate(full=True)
    return list(batch.to_pylist())


def _reason(schema: OutputSchema, answer: Any) -> str:
    with pytest.raises(InvalidAnswer) as caught:
        schema.decoder().decode(answer)
    return str(caught.value)


# ---- schema -> Arrow types


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, TEXT),
        ({"type": "string", "format": "date-time"}, TEXT),
        ({"type": "integer"}, INT),
        ({"type": "number"}, FLOAT),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": "null"}, TEXT),
        ({"type": ["string", "null"]}, TEXT),
        ({"type": ["integer", "number"]}, FLOAT),
        ({"type": ["integer", "string"]}, TEXT),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, INT),
        ({"anyOf": [{"type": "integer", "minimum": 5}, {"type": "number"}]}, FLOAT),
        ({"anyOf": [{"enum": ["a"]}, {"type": "string", "minLength": 3}]}, TEXT),
        ({"oneOf": [_object(a={"type": "string"}), _object(b={"type": "string"})]}, TEXT),
        ({"allOf": [{"type": "integer"}]}, INT),
        ({"enum": ["a", "b"]}, TEXT),
        ({"enum": ["a", None]}, TEXT),
        ({"enum": [1, 2]}, INT),
        ({"enum": [1, "a"]}, TEXT),
        ({"enum": [1.5, 2]}, FLOAT),
        ({"const": True}, pa.bool_()),
        ({"const": "x"}, TEXT),
        ({"type": "array", "items": {"type": "integer"}}, pa.list_(INT)),
        ({"type": "array", "items": {"type": ["number", "null"]}}, pa.list_(FLOAT)),
        ({"type": "array"}, TEXT),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 2, "minItems": 2, "maxItems": 2}, pa.list_(FLOAT)),
        ({"type": "array", "prefixItems": [{"type": "number"}, {}], "minItems": 2, "maxItems": 2}, TEXT),
        (_object(x={"type": "integer"}), pa.struct([("x", INT)])),
        ({"type": "array", "items": _object(x={"type": "integer"})}, pa.list_(pa.struct([("x", INT)]))),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, TEXT),
        ({"type": "object"}, TEXT),
        (_object(), TEXT),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": True}, TEXT),
        ({}, TEXT),
        (True, TEXT),
        ({"$ref": "#/$defs/n"}, INT),
        ({"$ref": "#/$defs/tree"}, pa.struct([("v", INT), ("kids", pa.list_(TEXT))])),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict | bool) else str(value)[:30],
)
def test_schema_gives_the_arrow_type(schema: Any, kind: pa.DataType) -> None:
    """The truth table of columns."""
    tree = _object(v={"type": "integer"}, kids={"type": "array", "items": {"$ref": "#/$defs/tree"}})
    top = {**_object(x=schema), "$defs": {"n": {"type": "integer"}, "tree": tree}}
    assert output_schema(top).columns == pa.schema([("x", kind)])


def test_text_and_embedding_have_one_column() -> None:
    """The two output types without a schema."""
    assert output_schema(str, prefix="p_").columns == pa.schema([("p_answer", TEXT)])
    assert output_schema(Embedding(3)).columns == pa.schema([("embedding", pa.list_(pa.float32(), 3))])
    assert output_schema(_object(a={"type": "string"}), prefix="p_").columns.names == ["p_a"]


@pytest.mark.parametrize(
    ("output_type", "says"),
    [
        (int, "top level must be an object"),
        (list[int], "give a Pydantic model class|Give a Pydantic model class"),
        (3, "Give a Pydantic model class"),
        ({"type": "array"}, "top level must be an object"),
        ({"type": "object"}, "top level must be an object"),
        ({"name": "label", "strict": True, "schema": _object(a={"type": "string"})}, "Give the `schema` in it alone"),
        (
            {"type": "json_schema", "json_schema": {"name": "label", "schema": _object(a={"type": "string"})}},
            "Give the `schema` in it alone",
        ),
        (_object(x=False), "allows no value"),
        (_object(x={"$ref": "#/$defs/none"}), "points to nothing"),
        (_object(x={"$ref": "https://example.com/x"}), "points outside"),
        ({**_object(x={"$ref": "#/$defs/a"}), "$defs": {"a": {"$ref": "#/$defs/a"}}}, "leads back to itself"),
        (_object(x={"type": "strnig"}), "JSON Schema does not know"),
        (_object(x={"type": "integer", "minimum": "3"}), "not a JSON Schema that Keld can read"),
        (_object(x={"type": "array", "items": 3}), "allows no value"),
        ({"type": "object", "properties": {'a"b': {"type": "string"}}}, "not a JSON Schema that Keld can read"),
        ({"title": object()}, "not a JSON Schema"),
    ],
)
def test_what_has_no_columns_is_refused_at_declaration(output_type: Any, says: str) -> None:
    """A mistake is found at import time, not in the night."""
    with pytest.raises(SchemaError, match=says):
        output_schema(output_type)


@pytest.mark.parametrize("dimensions", [0, -1, 65537, True, 1.0, "3"])
def test_embedding_dimensions_are_checked(dimensions: Any) -> None:
    """The column's type is made of them."""
    with pytest.raises(SchemaError, match="from 1 to 65536"):
        Embedding(dimensions)


def test_the_name_fits_the_providers_rule() -> None:
    """`[A-Za-z0-9_-]{1,64}`, else the request is refused."""
    assert output_schema({**_object(x={}), "title": "Ünder score/" + "x" * 99}).name == ("nder_score_" + "x" * 99)[:64]
    assert output_schema({**_object(x={}), "title": "雪"}).name == "answer"


# ---- Pydantic


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Part(BaseModel):
    label: str
    weight: float | None


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Label(BaseModel):
    model_config = ConfigDict(extra="forbid")
    category: Literal["billing", "bug"]
    urgency: Annotated[int, Field(ge=1, le=5)]
    colour: Colour
    level: Level
    note: str | None
    score: float = 0.5
    tags: Annotated[list[str], Field(max_length=3)]
    parts: list[Part]
    best: Optional[Part]  # noqa: UP045  # as users write it
    counts: dict[str, int]
    either: int | str
    tree: Node


ANSWER: dict[str, Any] = {
    "category": "bug",
    "urgency": 3,
    "colour": "red",
    "level": 2,
    "note": None,
    "score": 1,
    "tags": ["a", "b"],
    "parts": [{"label": "x", "weight": 1.5}, {"label": "y", "weight": None}],
    "best": {"label": "z", "weight": 2.0},
    "counts": {"a": 1},
    "either": "3",
    "tree": {"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}]},
}


def test_a_pydantic_model_round_trips() -> None:
    """Everything a model usually holds, in one."""
    schema = output_schema(Label)
    row = _decoded(schema, json.dumps(ANSWER))[0]
    assert schema.name == "Label"
    assert row.pop("counts") == '{"a": 1}'
    assert row.pop("either") == '"3"'
    tree = row.pop("tree")
    assert tree["value"] == 1
    assert [json.loads(child) for child in tree["children"]] == ANSWER["tree"]["children"]
    assert row == {name: ANSWER[name] for name in row}
    assert schema.columns.field("parts").type == pa.list_(pa.struct([("label", TEXT), ("weight", FLOAT)]))


def test_rows_without_an_answer_are_null() -> None:
    """Failed rows stand among the answered ones."""
    rows = _decoded(output_schema(Label), None, json.dumps(ANSWER), None)
    assert set(rows[0].values()) == set(rows[2].values()) == {None}
    assert rows[1]["best"] == ANSWER["best"]
    assert output_schema(Label).to_arrow([]).num_rows == 0
    assert _decoded(output_schema(str), "a", None) == [{"answer": "a"}, {"answer": None}]


def test_an_absent_optional_property_takes_its_default_or_is_null_and_its_null_is_not_allowed() -> None:
    """A default says what is meant where nothing is said; one that breaks the schema itself is told, and not applied."""

    class Part(BaseModel):
        tags: list[str] = Field(default_factory=list)
        best: Optional[Decimal] = None  # noqa: UP045  # as users write it
        price: Decimal = Decimal("1.50")
        colour: Colour = Colour.RED

    class Whole(BaseModel):
        part: Part = Part()
        lang: str = "en"
        score: float = 0.0

    schema = output_schema(Whole)
    part = {"tags": [], "best": None, "price": "1.50", "colour": "red"}
    assert _decoded(schema, '{"part": {}}', '{"score": 1, "part": {"tags": ["a"]}}', "{}")[:2] == [
        {"part": part, "lang": "en", "score": 0.0},
        {"part": part | {"tags": ["a"]}, "lang": "en", "score": 1.0},
    ]
    assert _decoded(OutputSchema.from_json(json.loads(json.dumps(schema.to_json()))), '{"part": {}}')[0]["part"] == part
    plain = output_schema({"type": "object", "properties": {"a": {"type": "integer", "default": 7}, "b": {"type": "integer"}}})
    assert _decoded(plain, "{}") == [{"a": 7, "b": None}]
    assert _reason(plain, '{"a": null}') == "Expected `int`, got `null` - at `$.a`"
    odd = output_schema({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}})
    assert _decoded(odd, "{}") == [{"a": None}]
    assert odd.unchecked == ("$.a: default (it breaks the schema, and is not applied)",)


def test_one_answers_default_is_not_anothers() -> None:
    """A list that is made once would be shared by all rows."""
    schema = output_schema({"type": "object", "properties": {"a": {"type": "array", "items": {}, "default": [1]}, "b": {"type": "string"}}})
    assert _decoded(schema, "{}", "{}") == [{"a": ["1"], "b": None}] * 2


def test_decimals_have_one_form() -> None:
    """As a number or as text, the same digits; the bounds hold for both."""

    class Price(BaseModel):
        x: Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]
        y: Optional[Decimal] = None  # noqa: UP045  # as users write it
        z: list[Decimal] = []

    schema = output_schema(Price)
    written = ["12.50", '"12.50"', '" 12.50 "', "0.10", '"1250"', "1e3", '"+5"', "12345678901234567890.123"]
    rows = _decoded(schema, *(f'{{"x": {text}, "y": {text}, "z": [{text}]}}' for text in written))
    digits = ["12.50", "12.50", "12.50", "0.10", "1250", "1000", "5", "12345678901234567890.123"]
    assert rows == [{"x": text, "y": text, "z": [text]} for text in digits]
    assert _decoded(schema, '{"x": 1, "y": null}') == [{"x": "1", "y": None, "z": []}]
    for text in ('"-5"', "-5", '"NaN"', '"Infinity"', '"five"', "true", "[]", '""', "1e400", '"1e999999999999"', "null"):
        assert "`$.x`" in _reason(schema, f'{{"x": {text}}}'), text
    either = output_schema(_object(x={"anyOf": [{"type": "number"}, {"type": "string"}]}))
    assert _decoded(either, '{"x": "12.50"}') == [{"x": '"12.50"'}], "a union that is no Decimal stays as the model wrote it"


FORMATS = {
    "date": ("2026-11-01", "2026-13-01"),
    "time": ("10:00:00Z", "25:00"),
    "date-time": ("2026-11-01T10:00:00Z", "yesterday"),
    "duration": ("P1DT2H", "P"),
    "email": ("a@example.com", "a at example.com"),
    "hostname": ("a-b.example.com", "-a_.."),
    "uri": ("https://example.com/x?y=1#z", "example.com"),
    "ipv4": ("192.0.2.1", "192.0.2.256"),
    "ipv6": ("2001:db8::1", "2001::db8::1"),
    "uuid": ("12345678-1234-4123-8123-123456789abc", "12345678"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_held(name: str) -> None:
    """Some providers do not take them; then nobody else would look."""
    schema = output_schema(
        _object(x={"type": "string", "format": name}, y={"anyOf": [{"type": "string", "format": name}, {"type": "null"}]})
    )
    good, bad = FORMATS[name]
    assert schema.unchecked == ()
    assert _decoded(schema, json.dumps({"x": good, "y": None}), json.dumps({"x": good, "y": good}))[1] == {"x": good, "y": good}
    assert _reason(schema, json.dumps({"x": bad, "y": None})) == f"Expected text of the format {name} - at `$.x`"


def test_dataclasses_and_typed_dicts_will_do() -> None:
    """Not everybody writes Pydantic."""

    @dataclasses.dataclass
    class Point:
        x: float

    Words = TypedDict("Words", {"a-b": str})  # a key that is no identifier
    assert output_schema(Point).columns == pa.schema([("x", FLOAT)])
    assert _decoded(output_schema(Words), '{"a-b": "c"}') == [{"a-b": "c"}]


def test_rules_nobody_checks_are_named() -> None:
    """We say honestly what was not held."""

    class Loose(BaseModel):
        tags: set[str]
        step: Annotated[float, Field(multiple_of=0.1)]

        @field_validator("step")
        @classmethod
        def no_zero(cls, value: float) -> float:
            return value

    schema = output_schema(Loose)
    assert schema.unchecked == ("$.tags: uniqueItems", "$.step: multipleOf", "validator Loose.no_zero")
    assert OutputSchema.from_json(schema.to_json()).unchecked == schema.unchecked
    assert output_schema(Label).unchecked == ()
    other = output_schema(_object(a={"type": "string", "format": "isbn", "minimum": 3}, b={"not": {"type": "string"}}))
    assert other.unchecked == ("$.a: format", "$.b: not")


# ---- what is refused, and how


SECRET = "hunter2"
BROKEN: list[tuple[str, Any, str]] = [
    ("urgency", 6, "`$.urgency`"),
    ("urgency", 0, "`$.urgency`"),
    ("urgency", "3", "`$.urgency`"),
    ("urgency", 2.5, "`$.urgency`"),
    ("urgency", True, "`$.urgency`"),
    ("category", SECRET, "`$.category`"),
    ("category", f"{SECRET} - at `$.{SECRET}`", "Not an allowed value"),
    ("category", None, "`$.category`"),
    ("colour", SECRET, "`$.colour`"),
    ("level", 3, "`$.level`"),
    ("score", SECRET, "`$.score`"),
    ("score", None, "`$.score`"),
    ("tags", [SECRET] * 4, "`$.tags`"),
    ("tags", [SECRET, 1], "`$.tags[1]`"),
    ("parts", [{"label": SECRET}], "`$.parts[0]`"),
    ("best", {"label": 1, "weight": None}, "`$.best.label`"),
    ("counts", {SECRET: "x"}, "`$.counts[...]`"),
    ("either", [SECRET], "`$.either`"),
    ("tree", {"value": 1, "children": [{"value": SECRET}]}, "Node.value`"),
    ("tree", {"value": 1, "children": [{"value": 1, "children": [{"value": SECRET}]}]}, "Node.value`"),
    (SECRET, 1, "A field the schema does not have"),
    (f"{SECRET}` - at `$.{SECRET}", 1, "A field the schema does not have - below `$`"),
    ("category", f"{SECRET}' - at `$.{SECRET}`", "Not an allowed value - below `$`"),
]


@pytest.mark.parametrize(("name", "value", "where"), BROKEN)
def test_one_broken_rule_is_named_by_path_and_never_by_value(name: str, value: Any, where: str) -> None:
    """Reasons go to logs and columns; answers may be private."""
    schema = output_schema(Label)
    reason = _reason(schema, json.dumps({**ANSWER, name: value}))
    assert where in reason
    assert SECRET not in reason
    try:
        schema.decoder().decode(json.dumps({**ANSWER, name: value}))
    except InvalidAnswer:
        assert SECRET not in "".join(traceback.format_exc().splitlines()[-3:])


@pytest.mark.parametrize("name", sorted(ANSWER.keys() - {"score"}))
def test_a_missing_property_is_named(name: str) -> None:
    """The commonest fault of a cut or lazy answer."""
    answer = {key: value for key, value in ANSWER.items() if key != name}
    assert _reason(output_schema(Label), json.dumps(answer)) == f"Object missing required field `{name}` - at `$`"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "null",
        "[]",
        "[" * 100_000,
        '{"x": ' + "[" * 50_000 + "]" * 50_000 + "}",
        '{"x": ' + '{"x":' * 50_000 + "1" + "}" * 50_000 + "}",
        '{"x": NaN}',
        '{"x": Infinity}',
        '{"x": 1e400}',
        '{"x": -1e400}',
        '{"x": "\\ud800"}',
        '{"x": "\ud800"}',
        b'{"x": "\xff"}',
        '{"x": 1, "x": 2}',
        '{"x": {"a": 1, "a": 2}}',
        '{"x": {"a": 1, "\\u0061": 2}}',
        '{"x": "a: b", "x" : 2}',
        '{"x": 1} {"x": 1}',
        '{"x": 1',
        "Here you are: {}",
        '```json\n{"x": 1, "x": 2}\n```',
        "```json\nno\n```",
        3,
        None,
    ],
    ids=lambda answer: repr(answer)[:30],
)
def test_odd_documents_are_invalid_answers_and_nothing_worse(answer: Any) -> None:
    """One answer must never take its block or its worker with it."""
    tree = {
        **_object(x={"$ref": "#/$defs/tree"}),
        "$defs": {"tree": {"type": "object", "properties": {"x": {"$ref": "#/$defs/tree"}}}},
    }
    for schema in (_object(x={}), _object(x={"type": "number"}), tree):
        assert _reason(output_schema(schema), answer)


@pytest.mark.parametrize("number", ["1" + "0" * 5000, str(2**63), str(-(2**63) - 1), "1e300"], ids=lambda number: f"{len(number)} digits")
def test_an_integer_outside_of_int64_is_refused(number: str) -> None:
    """Arrow would raise for the whole block."""
    assert "`$" in _reason(output_schema(_object(x={"type": "integer"})), f'{{"x": {number}}}')


def test_the_largest_and_smallest_integers_are_exact() -> None:
    """A float on the way would round them."""
    schema = output_schema(_object(x={"type": "integer"}))
    assert _decoded(schema, f'{{"x": {2**63 - 1}}}', f'{{"x": {-(2**63)}}}') == [{"x": 2**63 - 1}, {"x": -(2**63)}]


def test_an_integral_float_is_an_integer() -> None:
    """JSON Schema says so, and models write it."""
    nested = _object(x={"type": "integer"}, y={"type": "number"}, z={}, u={"type": ["integer", "string"]})
    row = _decoded(output_schema(nested), '{"x": 3.0, "y": 1.5, "z": [1e2], "u": 4.0}')[0]
    assert row == {"x": 3, "y": 1.5, "z": "[100]", "u": "4"}


@pytest.mark.parametrize("wrap", ["```json\n%s\n```", "```\n%s```", " \n```JSON\r\n%s\r\n```\n ", "\n\t%s \r\n"])
def test_a_fence_and_white_space_around_the_document_are_tolerated(wrap: str) -> None:
    """Models without structured output write them."""
    schema = output_schema(_object(x={"type": "string"}))
    for text in ("a: b", "```json", "{}"):
        assert _decoded(schema, wrap % json.dumps({"x": text})) == [{"x": text}]


def test_colons_in_texts_are_no_repeated_keys() -> None:
    """The cheap proof fails for them; the close look must not."""
    schema = output_schema(_object(x={"type": "string"}, y={}))
    text = 'see: "a": 1, "a": 2 \\'
    assert _decoded(schema, json.dumps({"x": text, "y": [{"a": text}, {"a": 1}]}))[0]["x"] == text


def test_json_text_is_kept_as_written() -> None:
    """A number through a float would lose digits."""
    schema = output_schema(_object(x={}))
    for text in ("1.10", "12345678901234567890123", '{"b": 1, "a": [ 2 ]}', '"\\u00e9"', "false"):
        assert _decoded(schema, f'{{"x": {text}}}') == [{"x": text}]
    assert _decoded(schema, '{"x": null}') == [{"x": None}]


def test_variants_are_checked() -> None:
    """JSON text is no free pass."""
    cat, dog = _object(kind={"const": "cat"}, lives={"type": "integer"}), _object(kind={"const": "dog"})
    schema = output_schema(_object(pet={"oneOf": [cat, dog]}, n={"oneOf": [{"type": "integer"}, {"minimum": 0, "type": "number"}]}))
    assert _decoded(schema, '{"pet": {"kind": "dog"}, "n": -1}') == [{"pet": '{"kind": "dog"}', "n": -1.0}]
    assert "0 of the 2 variants of oneOf - at `$.pet`" in _reason(schema, '{"pet": {"kind": "cat"}, "n": -1}')
    assert "2 of the 2 variants of oneOf - at `$.n`" in _reason(schema, '{"pet": {"kind": "dog"}, "n": 3}')
    both = output_schema(_object(x={"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 5}]}))
    assert _decoded(both, '{"x": 4}') == [{"x": 4}]
    assert "1 of the 2 variants of allOf" in _reason(both, '{"x": 6}')


# ---- generated documents, against the jsonschema library as the judge


def _text_rule(draw: Any) -> tuple[dict[str, Any], Any]:
    low = draw(st.integers(0, 3))
    rule = {"type": "string", "minLength": low, "maxLength": low + draw(st.integers(0, 3))}
    return rule, st.text(max_size=8)


def _integer_rule(draw: Any) -> tuple[dict[str, Any], Any]:
    low = draw(st.integers(-20, 20))
    rules = [
        {"minimum": low, "maximum": low + 10},
        {"exclusiveMinimum": low, "exclusiveMaximum": low + 3},
        {"minimum": low + 0.5, "exclusiveMinimum": low},
        {"multipleOf": draw(st.integers(1, 4))},
        {},
    ]
    return {"type": "integer", **draw(st.sampled_from(rules))}, st.integers(-30, 30) | st.floats(-30, 30)


def _number_rule(draw: Any) -> tuple[dict[str, Any], Any]:
    low = draw(st.floats(-20, 20, width=16))
    rules = [{"minimum": low}, {"exclusiveMaximum": low, "maximum": low + 1}, {"multipleOf": 2}, {}]
    return {"type": "number", **draw(st.sampled_from(rules))}, st.floats(-30, 30, width=16) | st.integers(-30, 30)


def _choice_rule(draw: Any) -> tuple[dict[str, Any], Any]:
    values = draw(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, unique=True))
    return {"enum": values}, st.sampled_from(["a", "b", "c", "d", None])


def _pattern_rule(draw: Any) -> tuple[dict[str, Any], Any]:
    return {"type": "string", "pattern": "^[ab]+$"}, st.text("abc", max_size=3)


@st.composite
def _rule_and_values(draw: Any, depth: int = 2) -> tuple[dict[str, Any], Any]:
    """A schema, and a strategy of values that keep or break it about as often."""
    leaves = [_text_rule, _integer_rule, _number_rule, _choice_rule, _pattern_rule]
    kind = draw(st.sampled_from([*leaves, "array", "object", "nullable", "map", "union"] if depth else leaves))
    if not isinstance(kind, str):
        rule, values = kind(draw)
        return rule, values | st.sampled_from([None, True, "x", 1, [], {}]) if draw(st.booleans()) else values
    rule, values = draw(_rule_and_values(depth - 1))
    match kind:
        case "array":
            size = {"minItems": draw(st.integers(0, 2)), "maxItems": draw(st.integers(2, 4))}
            return {"type": "array", "items": rule, **size}, st.lists(values, max_size=5)
        case "nullable":
            return {"anyOf": [rule, {"type": "null"}]}, values | st.none()
        case "map":
            return {"type": "object", "additionalProperties": rule, "maxProperties": 2}, st.dictionaries(
                st.text(max_size=2), values, max_size=3
            )
        case "union":
            other, others = draw(_rule_and_values(depth - 1))
            return {draw(st.sampled_from(["anyOf", "oneOf", "allOf"])): [rule, other]}, values | others
    rule, values = draw(_object_of(depth - 1))
    return rule, values


@st.composite
def _object_of(draw: Any, depth: int) -> tuple[dict[str, Any], Any]:
    parts = {name: draw(_rule_and_values(depth)) for name in draw(st.lists(st.sampled_from("abc"), min_size=1, unique=True))}
    required = draw(st.lists(st.sampled_from(sorted(parts)), unique=True))
    rule = {"type": "object", "properties": {name: part[0] for name, part in parts.items()}, "required": required}
    if draw(st.booleans()):
        rule["additionalProperties"] = False
    optional = {name: part[1] for name, part in parts.items()} | {"extra": st.integers()}
    return rule, st.fixed_dictionaries({}, optional=optional)


@st.composite
def _schema_and_answer(draw: Any) -> tuple[dict[str, Any], Any]:
    rule, values = draw(_object_of(2))
    return rule, draw(values)


@given(_schema_and_answer())
@settings(max_examples=400, deadline=None)
def test_the_decoder_agrees_with_jsonschema(case: tuple[dict[str, Any], Any]) -> None:
    """What the standard's judge accepts decodes, and what it refuses does not."""
    rule, answer = case
    schema = output_schema(rule)
    assert schema.unchecked == ()
    if jsonschema.Draft202012Validator(rule).is_valid(answer):
        row = _decoded(schema, json.dumps(answer))[0]
        assert {name for name, value in row.items() if value is not None} <= answer.keys()
    else:
        _reason(schema, json.dumps(answer))


@given(_schema_and_answer())
@settings(max_examples=300, deadline=None)
def test_a_schema_made_again_from_json_is_equal(case: tuple[dict[str, Any], Any]) -> None:
    """Another process reads the answers, without the user's class."""
    rule, answer = case
    before = copy.deepcopy(rule)
    schema = output_schema(rule, prefix="p_")
    again = OutputSchema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema == pickle.loads(pickle.dumps(schema))
    assert rule == before
    try:
        assert _decoded(schema, json.dumps(answer)) == _decoded(again, json.dumps(answer))
    except InvalidAnswer as error:
        assert _reason(again, json.dumps(answer)) == str(error)


def test_a_stored_schema_is_compiled_once_for_each_order_of_its_fields() -> None:
    """A job run reads its own some thirty times; the order of the fields is the order of the columns."""
    fields = {"a": {"type": "string"}, "b": {"type": "string"}}
    one = output_schema({"type": "object", "properties": fields}).to_json()
    other = output_schema({"type": "object", "properties": dict(reversed(fields.items()))}).to_json()
    assert OutputSchema.from_json(one) is OutputSchema.from_json(json.loads(json.dumps(one)))
    assert [OutputSchema.from_json(stored).columns.names for stored in (one, other)] == [["a", "b"], ["b", "a"]]


def test_all_kinds_are_made_again_from_json() -> None:
    """Text and vectors too."""
    for output_type in (str, Embedding(4), Label):
        schema = output_schema(output_type, prefix="x_")
        assert OutputSchema.from_json(schema.to_json()) == schema


# ---- text and vectors


def test_text_is_taken_as_it_is() -> None:
    """No trimming, no fence: the text is the answer."""
    schema = output_schema(str)
    for text in ("", " a\n", "```json\n{}\n```", "\0"):
        assert _decoded(schema, text) == [{"answer": text}]
    assert _decoded(schema, "雪".encode()) == [{"answer": "雪"}]
    for odd in ("\ud800", b"\xff", None, 3):
        assert _reason(schema, odd)


def test_a_vector_comes_as_numbers_text_or_base64() -> None:
    """Providers send each of them."""
    schema, vector = output_schema(Embedding(3)), [1.5, -2.0, 0.0]
    encoded = base64.b64encode(np.array(vector, dtype="<f4").tobytes())
    decode = schema.decoder().decode
    forms: list[Any] = [
        vector,
        tuple(vector),
        json.dumps(vector),
        json.dumps(vector).encode(),
        encoded,
        encoded.decode(),
    ]
    assert schema.to_arrow([*map(decode, forms), None]).to_pylist() == [
        *[{"embedding": vector}] * len(forms),
        {"embedding": None},
    ]


@pytest.mark.parametrize(
    "answer",
    [
        [1.0],
        [1.0] * 4,
        "[1, 2]",
        "[1, 2, NaN]",
        [1.0, 2.0, float("nan")],
        [1.0, 2.0, 1e39],
        "AAAA",
        "?",
        b"\xff",
        [[1.0]] * 3,
        None,
        "",
        ["a"] * 3,
        base64.b64encode(np.array([1, 2, np.inf], dtype="<f4").tobytes()).decode(),
    ],
    ids=lambda answer: repr(answer)[:30],
)
def test_a_vector_of_another_form_is_refused(answer: Any) -> None:
    """One short vector would shift all that follow."""
    assert _reason(output_schema(Embedding(3)), answer)
