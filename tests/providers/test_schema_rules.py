"""What each service takes of JSON Schema: it refuses the schema as it is, and takes what Keld makes of it; or Keld names the field first.

The words of the refusals are the services' own, as people quoted them; the emulator's rules and Keld's share no line.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic import Field as F

from keld import Account
from keld.emulator import Emulator
from keld.emulator.dialects.anthropic_schema import refusal as anthropic_refusal
from keld.emulator.dialects.openai_schema import refusal as openai_refusal
from keld.errors import InvalidAnswer
from keld.providers.dialects import anthropic_schema, openai_schema
from keld.providers.provider import connect
from keld.request import Question
from keld.schema import JsonSchema, OutputSchema, output_schema

TEXT, NUMBER = {"type": "string"}, {"type": "number"}


def closed(**properties: Any) -> JsonSchema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def nest(levels: int) -> JsonSchema:
    return TEXT if levels == 0 else closed(a=nest(levels - 1))


@dataclass(frozen=True)
class Rule:
    """A schema of field `x` (or a whole one), what a service says to it, and what Keld does at that service.

    `openai`, `anthropic`: words of the refusal of the schema as it is; None: it is taken.  `strict`: whether Keld has a strict form for OpenAI.
    `named`: words in which Keld says, before anything is sent, why Anthropic cannot be asked; None: it can.
    """

    x: Any = None
    whole: JsonSchema | None = None
    defs: JsonSchema | None = None
    openai: str | None = None
    anthropic: str | None = None
    strict: bool = True
    named: str | None = None
    unheld: str = "never said"  # what our decoder may find in an answer besides, since the service was not asked to hold it

    @cached_property
    def schema(self) -> JsonSchema:
        made = closed(x=self.x) if self.whole is None else self.whole
        return made | ({"$defs": self.defs} if self.defs else {})


NODE = {"node": closed(value={"type": "integer"}, kids={"type": "array", "items": {"$ref": "#/$defs/node"}})}
CAT, DOG = closed(kind={"type": "string", "const": "cat"}, lives=NUMBER), closed(kind={"type": "string", "const": "dog"}, breed=TEXT)
RULES = {
    "plain": Rule(TEXT),
    "an enum without a type": Rule({"enum": ["a", "b"]}, openai="schema must have a 'type' key"),
    "an enum of several types": Rule({"type": ["string", "integer"], "enum": ["a", 1]}, openai="enum values must be of the same type", anthropic="enum"),
    "an enum with null": Rule({"type": ["string", "null"], "enum": ["a", None]}, anthropic="beside a list of types"),
    "an enum of objects": Rule({"enum": [{"a": 1}, {"a": 2}]}, openai="'type' key", anthropic="Complex types within enums", strict=False, named="`$.x` has an enum of objects"),
    "a thousand and more enum values": Rule({"type": "string", "enum": [f"v{n}" for n in range(1_001)]}, openai="1001 enum values exceeds limit of 1000", strict=False),
    "long enum values": Rule({"type": "string", "enum": [f"{n:060}" for n in range(251)]}, openai="exceeds limit of 15000", strict=False),
    "bounds of a number": Rule({"type": "integer", "minimum": 1, "maximum": 5}, anthropic="For 'integer' type, properties maximum, minimum are not supported"),
    "a step": Rule({"type": "number", "multipleOf": 2}, anthropic="For 'number' type, property 'multipleOf' is not supported"),
    "lengths of a text": Rule({"type": "string", "minLength": 3, "maxLength": 40}, openai="In context=('properties', 'x'), 'minLength' is not permitted.", anthropic="maxLength, minLength are not supported"),
    "a pattern": Rule({"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}),
    "a pattern with look-ahead": Rule({"type": "string", "pattern": "^(?=.*[a-z])[a-z0-9]+$"}, openai="regex lookaround is not supported. Found at $.properties.x.pattern.", anthropic="regex feature"),
    "a pattern with a back reference": Rule({"type": "string", "pattern": r"^([a-z])\1$"}, anthropic="regex feature"),
    "the format uri": Rule({"type": "string", "format": "uri"}, openai="In context=('properties', 'x'), 'uri' is not a valid format."),
    "a format of nobody's": Rule({"type": "string", "format": "isbn"}, openai="'isbn' is not a valid format", anthropic="format 'isbn' is not supported"),
    "the format date-time": Rule({"type": "string", "format": "date-time"}),
    "sizes of a list": Rule({"type": "array", "items": TEXT, "minItems": 2, "maxItems": 3}, anthropic="For 'array' type, property 'maxItems' is not supported"),
    "at least two items": Rule({"type": "array", "items": TEXT, "minItems": 2}, anthropic="'minItems' values other than 0 or 1 are not supported"),
    "unique items": Rule({"type": "array", "items": TEXT, "uniqueItems": True}, openai="'uniqueItems' is not permitted", anthropic="'uniqueItems' is not supported"),
    "a tuple": Rule({"type": "array", "prefixItems": [NUMBER, NUMBER], "minItems": 2, "maxItems": 2}, openai="'prefixItems' is not permitted", anthropic="maxItems, prefixItems are not supported"),
    "a tuple of several types": Rule({"type": "array", "prefixItems": [NUMBER, TEXT], "minItems": 2, "maxItems": 2}, openai="'prefixItems'", anthropic="prefixItems", unheld="Expected `"),
    "a tuple with more items behind it": Rule({"type": "array", "prefixItems": [NUMBER], "items": TEXT}, openai="'prefixItems'", anthropic="prefixItems"),
    "a tuple that ends": Rule({"type": "array", "prefixItems": [NUMBER, NUMBER], "items": False}, openai="'prefixItems'", anthropic="prefixItems"),
    "a tuple with anything behind it": Rule({"type": "array", "prefixItems": [NUMBER], "minItems": 2}, openai="'prefixItems'", anthropic="prefixItems", strict=False, named="`$.x` is a list of anything"),
    "a list of anything": Rule({"type": "array", "items": {}}, openai="schema must have a 'type' key", anthropic="'None' is not supported", strict=False, named="`$.x` is a list of anything"),
    "a list that says nothing of its items": Rule({"type": "array"}, openai="array schema missing items", strict=False, named="`$.x` is a list of anything"),
    "anything": Rule({}, openai="schema must have a 'type' key", anthropic="'None' is not supported", strict=False, named="`$.x` has no type"),
    "a map": Rule({"type": "object", "additionalProperties": NUMBER}, openai="'additionalProperties' is required to be supplied and to be false", anthropic="'additionalProperties: object' is not supported", strict=False, named="`$.x` is a map with free keys"),
    "an open object": Rule({"type": "object", "properties": {"a": TEXT}, "required": ["a"]}, openai="'additionalProperties' is required", anthropic="must be explicitly set to false"),
    "an optional property": Rule(whole=closed(x=TEXT) | {"required": []}, openai="including every key in properties. Missing 'x'."),
    "a default": Rule({"type": "string", "default": "en"}, openai="'default' is not permitted"),
    "a list of types": Rule({"type": ["string", "null"]}),
    "an object or null, as a list of types": Rule({"type": ["object", "null"], "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False}),
    "anyOf": Rule({"anyOf": [TEXT, {"type": "null"}]}),
    "oneOf": Rule({"oneOf": [CAT, DOG]}, openai="'oneOf' is not permitted", anthropic="'oneOf' is not supported"),
    "tagged objects": Rule({"anyOf": [CAT, DOG]}),
    "tagged objects whose tag is last": Rule({"anyOf": [closed(n=NUMBER, kind={"type": "string", "const": "a"}), closed(n=TEXT, kind={"type": "string", "const": "b"})]}, openai="must not share identical first keys"),
    "objects that begin alike": Rule({"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}]}, defs={"a": closed(n=NUMBER, a=TEXT), "b": closed(n=NUMBER, b=TEXT)}, openai="must not share identical first keys"),
    "objects that nothing tells apart": Rule({"anyOf": [closed(n=NUMBER), closed(n=TEXT)]}, openai="must not share identical first keys", strict=False),
    "allOf": Rule({"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 5}]}, openai="'allOf' is not permitted", anthropic="minimum"),
    "allOf with a reference": Rule({"allOf": [{"$ref": "#/$defs/a"}, closed(b=TEXT)]}, defs={"a": closed(a=NUMBER)}, openai="'allOf' is not permitted", anthropic="'allOf' with '$ref' is not supported"),
    "not": Rule({"type": "string", "not": {"const": "x"}}, openai="'not' is not permitted", anthropic="'not' is not supported"),
    "free keys by name": Rule({"type": "object", "propertyNames": {"maxLength": 3}, "properties": {"a": TEXT}, "required": ["a"], "additionalProperties": False}, openai="'propertyNames' is not permitted", anthropic="'propertyNames' is not supported"),
    "a reference": Rule({"$ref": "#/$defs/a"}, defs={"a": closed(a=NUMBER)}),
    "a reference with a description": Rule({"$ref": "#/$defs/a", "description": "this one"}, defs={"a": closed(a=NUMBER)}, openai="$ref cannot have keywords {'description'}"),
    "recursion": Rule({"$ref": "#/$defs/node"}, defs=NODE, anthropic="Circular reference detected in schema definitions: node -> node", named="`$.x` refers to itself"),
    "recursion at the top": Rule(whole={"$ref": "#/$defs/node"}, defs=NODE, openai="""got 'type: "None"'""", anthropic="Circular reference", named="`$.kids[...]` refers to itself"),
    "ten levels": Rule(nest(9)),
    "eleven levels": Rule(nest(10), openai="11 levels of nesting exceeds limit of 10", strict=False),
    "5,001 properties": Rule(whole=closed(**{f"p{n}": {"type": "boolean"} for n in range(5_001)}), openai="5001 parameters exceeds limit of 5000", strict=False),
    "names that are too long together": Rule(whole=closed(**{f"{'n' * 120}{n}": {"type": "boolean"} for n in range(1_000)}), openai="exceeds limit of 120000", strict=False),
    "25 optional properties": Rule(whole=closed(**{f"p{n}": TEXT for n in range(25)}) | {"required": []}, openai="Missing 'p0'", anthropic="too many optional parameters (25)"),
    "17 that may be null": Rule(whole=closed(**{f"p{n}": {"type": ["string", "null"]} for n in range(17)}), anthropic="(17 parameters with type arrays or anyOf)", named="17 fields may be null or of several types (`$.p0`"),
    "16 that may be null": Rule(whole=closed(**{f"p{n}": {"type": ["string", "null"]} for n in range(16)})),
}  # fmt: skip


class Services:
    """Both services, by their own SDKs and by Keld's encoders."""

    def __init__(self, emulator: Emulator) -> None:
        self.openai = openai.OpenAI(base_url=emulator.openai_url, api_key=emulator.api_key, max_retries=0)
        self.anthropic = anthropic.Anthropic(base_url=emulator.anthropic_url, api_key=emulator.api_key, max_retries=0)

    def chat(self, schema: JsonSchema) -> str:
        form: Any = {"type": "json_schema", "json_schema": {"name": "raw", "strict": True, "schema": schema}}
        made = self.openai.chat.completions.create(model="gpt-5-mini", messages=[{"role": "user", "content": "hi"}], response_format=form)
        return made.choices[0].message.content or ""

    def message(self, schema: JsonSchema) -> str:
        form: Any = {"format": {"type": "json_schema", "schema": schema}}
        asked: Any = {
            "model": "claude-haiku-4-5",
            "max_tokens": 100_000,
            "messages": [{"role": "user", "content": "hi"}],
            "output_config": form,
        }
        made = self.anthropic.messages.with_raw_response.create(**asked, timeout=60)
        return str(json.loads(made.http_response.content)["content"][0]["text"])

    def ask(self, vendor: str, output: OutputSchema) -> tuple[dict[str, Any], str]:
        """What Keld sends, and the answer to it."""
        model = {"openai": "gpt-5-mini", "anthropic": "claude-haiku-4-5"}[vendor]
        question = Question(system=None, output=output.to_json(), max_output_tokens=100_000)
        line = json.loads(connect(vendor, Account(kind=vendor)).encoder(question, model, "a" * 10).line(0, b'"hi"'))
        if vendor == "anthropic":
            schema = line["params"]["output_config"]["format"]["schema"]
            return {"schema": schema}, self.message(schema)
        form = line["body"]["response_format"]["json_schema"]
        made = self.openai.chat.completions.create(**line["body"])
        return form, made.choices[0].message.content or ""


@pytest.fixture
def services(emulator: Emulator) -> Services:
    return Services(emulator)


@pytest.mark.parametrize("name", RULES)
def test_openai_refuses_the_schema_as_it_is_and_takes_what_keld_sends(services: Services, name: str) -> None:
    """A refusal is of every row, minutes after the create."""
    rule, output = RULES[name], output_schema(RULES[name].schema)
    if rule.openai is None:
        services.chat(rule.schema)
    else:
        with pytest.raises(openai.BadRequestError) as caught:
            services.chat(rule.schema)
        error = caught.value.body
        assert isinstance(error, dict)
        assert rule.openai in error["message"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "response_format")
    form, answer = services.ask("openai", output)
    assert form["strict"] is rule.strict
    if rule.strict:
        assert takes(output, answer, rule.unheld), answer


@pytest.mark.parametrize("name", RULES)
def test_anthropic_refuses_the_schema_as_it_is_and_takes_what_keld_sends_or_keld_names_the_field(services: Services, name: str) -> None:
    """It has no mode that only tells the model, so what has no form is told before anything is sent."""
    rule, output = RULES[name], output_schema(RULES[name].schema)
    if rule.anthropic is None:
        services.message(rule.schema)
    else:
        with pytest.raises(anthropic.BadRequestError) as caught:
            services.message(rule.schema)
        error = caught.value.body
        assert isinstance(error, dict)
        assert error["error"]["type"] == "invalid_request_error"
        assert rule.anthropic in error["error"]["message"]
    question = Question(system=None, output=output.to_json())
    obstacle = connect("anthropic", Account(kind="anthropic")).fit(question, "claude-haiku-4-5").obstacle
    if rule.named is not None:
        assert obstacle is not None
        assert rule.named in obstacle
        return
    assert obstacle is None
    assert takes(output, services.ask("anthropic", output)[1], rule.unheld)


def takes(output: OutputSchema, answer: str, unheld: str) -> bool:
    """Whether our decoder reads an answer, or finds in it no other fault than one of a rule that the service was not asked to hold."""
    try:
        output.decoder().decode(answer)
    except InvalidAnswer as error:
        held = ("`int` >=", "`int` <=", "multiple", "length", "matching regex", "of the format", "variants of", unheld)
        return any(word in str(error) for word in held)
    return True


def test_what_is_left_out_is_told_in_the_description(services: Services) -> None:
    """The model might keep to it; a broken rule is asked, and paid for, again."""

    class Link(BaseModel):
        url: str = F(description="where it is", min_length=3, json_schema_extra={"format": "uri"})
        stars: int = F(ge=1, le=5)

    sent, _ = services.ask("openai", output_schema(Link))
    assert sent["schema"]["properties"]["url"]["description"] == 'where it is\n\n{format: "uri", minLength: 3}'
    assert sent["schema"]["properties"]["stars"] == {"type": "integer", "minimum": 1, "maximum": 5, "title": "Stars"}
    sent, _ = services.ask("anthropic", output_schema(Link))
    assert sent["schema"]["properties"]["stars"]["description"] == "{maximum: 5, minimum: 1}"


def test_the_items_behind_a_short_tuple_have_a_type_of_their_own(services: Services) -> None:
    """A form in which all items have the type of the first one would forbid every answer that the schema allows."""
    after = {"type": "array", "prefixItems": [NUMBER], "items": TEXT}
    sent, _ = services.ask("openai", output_schema(closed(after=after, ends=after | {"items": False}, pair=after | {"maxItems": 1})))
    forms = sent["schema"]["properties"]
    assert forms["after"]["items"] == {"anyOf": [NUMBER, TEXT]}
    assert forms["after"]["description"] == '{prefixItems: [{"type":"number"}], items: {"type":"string"}}'
    assert forms["ends"]["items"] == NUMBER
    assert forms["ends"]["description"] == '{prefixItems: [{"type":"number"}], items: false}'
    assert (forms["pair"]["items"], "description" in forms["pair"]) == (NUMBER, False)


def test_the_strict_form_is_that_of_openais_sdk(services: Services) -> None:
    """The SDK's own function is what the service's documentation names."""
    from openai.lib._pydantic import to_strict_json_schema

    class Part(BaseModel):
        label: str
        weight: float | None

    class Node(BaseModel):
        value: int
        children: list["Node"] = []

    class Strict(BaseModel):
        part: Part
        parts: list[Part] = F(description="all of them")
        best: Part | None = None
        tree: Node

    expected = to_strict_json_schema(Strict)
    del expected["$defs"]["Node"]["properties"]["children"]["default"]  # the SDK leaves defaults other than None
    output = output_schema(Strict)
    before = json.dumps(output.json_schema)
    assert services.ask("openai", output)[0]["schema"] == expected
    assert json.dumps(output.json_schema) == before


def test_outside_of_strict_mode_nothing_is_sent_that_is_refused_there_too(services: Services) -> None:
    """A map has no strict form; the look-ahead beside it, and a reference at the top, would be refused all the same."""
    inner = {
        "type": "object",
        "properties": {"m": {"type": "object"}, "l": {"type": "array"}, "p": {"type": "string", "pattern": "^(?!a)"}},
    }
    form, _ = services.ask("openai", output_schema({"$ref": "#/$defs/a", "$defs": {"a": inner}}))
    assert (form["strict"], form["schema"]["type"]) == (False, "object")
    assert form["schema"]["properties"] == {"m": {"type": "object"}, "l": {"type": "array", "items": {}}, "p": {"type": "string"}}


@pytest.mark.parametrize(
    ("vendor", "model"), [("anthropic", "claude-3-haiku-20240307"), ("openai", "gpt-4-turbo"), ("openai", "gpt-3.5-turbo")]
)
def test_a_model_without_structured_output_is_told_by_its_name(vendor: str, model: str) -> None:
    question = Question(system=None, output=output_schema(closed(x=TEXT)).to_json())
    provider = connect(vendor, Account(kind=vendor))
    assert model in (provider.fit(question, model).obstacle or "")
    assert provider.fit(Question(system=None, output=output_schema(str).to_json()), model).obstacle is None


# --- any schema -------------------------------------------------------------------------------------------------------

KEYWORDS: dict[str, list[JsonSchema]] = {
    "string": [
        {"minLength": 2}, {"maxLength": 9}, {"pattern": "^[a-z]+$"}, {"pattern": "(?i)^(?!x)a"}, {"pattern": r"\\bword\\b"}, {"format": "uri"}, {"format": "date"},
        {"format": "odd"}, {"enum": ["a", "b"]}, {"const": "a"}, {"default": "a"}, {"not": {"const": "b"}}, {"examples": ["x"]}, {"x-note": 1},
    ],
    "integer": [{"minimum": 1}, {"exclusiveMaximum": 9}, {"multipleOf": 2}, {"enum": [1, 2]}, {"const": 3}, {"default": 1}],
    "number": [{"maximum": 1.5}, {"enum": [1, 1.5]}, {"multipleOf": 0.1}],
    "boolean": [{"const": True}, {"enum": [True, False]}],
    "array": [{"minItems": 1}, {"minItems": 3}, {"maxItems": 2}, {"uniqueItems": True}, {"contains": {"type": "string"}}],
    "object": [{"additionalProperties": True}, {"additionalProperties": False}, {"minProperties": 1}, {"propertyNames": {"maxLength": 3}}, {"patternProperties": {"^a": {}}}],
}  # fmt: skip
NAMES = ["a", "b", "kind", "n"]


@st.composite
def schemas(draw: Any, depth: int = 3) -> JsonSchema:
    """Any mixture of what people write, references and what no service takes included."""
    shapes = ["string", "integer", "number", "boolean", "null", "mixed", "ref"]
    shape = draw(
        st.sampled_from(shapes + (["array", "tuple", "object", "object", "union", "types", "all", "map", "anything"] if depth else []))
    )
    said = draw(st.sampled_from([{}, {"description": "said"}, {"title": "T"}]))
    inner = schemas(depth - 1)
    match shape:
        case "mixed":
            return {"enum": draw(st.sampled_from([["a", 1], [None, "a"], [True, "x", None], [1, 2.5, None]]))} | said
        case "ref":
            return {"$ref": draw(st.sampled_from(["#/$defs/leaf", "#/$defs/node", "#/$defs/loop"]))} | said
        case "array":
            return {"type": "array", "items": draw(inner)} | draw(st.sampled_from([{}, *KEYWORDS["array"]])) | said
        case "tuple":
            return {"type": "array", "prefixItems": draw(st.lists(inner, min_size=1, max_size=2)), "minItems": 2, "maxItems": 2}
        case "object":
            names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
            required = draw(st.lists(st.sampled_from(names), unique=True))
            made = {"type": "object", "properties": {name: draw(inner) for name in names}, "required": required}
            return made | draw(st.sampled_from([{}, *KEYWORDS["object"]])) | said
        case "union":
            return {draw(st.sampled_from(["anyOf", "oneOf"])): draw(st.lists(inner, min_size=1, max_size=3))} | said
        case "types":
            kinds = draw(st.lists(st.sampled_from(["string", "integer", "object", "array", "null"]), min_size=1, unique=True))
            return {"type": kinds, "minLength": 1, "items": {"type": "string"}, "properties": {"a": {"type": "string"}}} | said
        case "all":
            return {"allOf": draw(st.lists(inner, min_size=1, max_size=2))} | said
        case "map":
            return {"type": "object", "additionalProperties": draw(inner)}
        case "anything":
            return {}
    return {"type": shape} | draw(st.sampled_from([{}, *KEYWORDS.get(shape, [])])) | said


DEFS = {
    "leaf": {"type": "string", "minLength": 1},
    "node": {"type": "object", "properties": {"value": {"$ref": "#/$defs/leaf", "description": "it"}, "kind": {"const": "node"}}},
    "loop": {"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/loop"}}}},
}


TAGGED, UNTAGGED = {"$ref": "#/$defs/node"}, {"type": "object", "properties": {"kind": {"type": "string"}}, "required": []}


@given(st.dictionaries(st.sampled_from(NAMES), schemas(), min_size=1))
@example({"a": {"type": "array", "prefixItems": [TAGGED, UNTAGGED], "minItems": 2, "maxItems": 2}})
@example({"a": {"anyOf": [UNTAGGED, TAGGED]}})
@settings(max_examples=150, deadline=None)
def test_of_any_schema_a_service_takes_what_keld_sends_or_keld_says_which_field_it_is(properties: dict[str, JsonSchema]) -> None:
    """The services' rules, as the emulator has them, are the judge."""
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1], "$defs": DEFS}
    output = output_schema(schema)
    sent = openai_schema.schema_format(output)
    assert openai_refusal(json.dumps(sent["schema"]).encode(), sent["name"], sent["strict"], False) is None
    said = openai_schema.why_loose(output)
    assert (said is None) is sent["strict"]
    obstacle = anthropic_schema.obstacle(output, "claude-haiku-4-5")
    if obstacle is None:
        config = anthropic_schema.schema_format(output)["output_config"]
        assert anthropic_refusal(json.dumps(config["format"]["schema"]).encode(), "claude-haiku-4-5") is None
    for told in filter(None, (said, obstacle)):
        assert "`$." in told or "The output schema has" in told
