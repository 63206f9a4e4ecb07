"""Gemini's dialects: the body of a request, what `responseSchema` takes, and how an answer is read; the emulator's rules are the judge."""

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keld.emulator.answer import Answerer
from keld.emulator.cache import PromptCache
from keld.emulator.dialect import Conditions
from keld.emulator.dialects.gemini_embeddings import Embed
from keld.emulator.dialects.gemini_generate import Generate
from keld.emulator.dialects.gemini_schema import json_schema
from keld.emulator.dice import Dice
from keld.emulator.error import ApiError
from keld.emulator.rule import RowFate
from keld.emulator.schema import compile_schema
from keld.errors import SchemaError
from keld.outcome import Outcome
from keld.price import Lane
from keld.providers.dialects.gemini_answer import Body, errored
from keld.providers.dialects.gemini_embeddings import GeminiEmbeddings
from keld.providers.dialects.gemini_generate import GeminiGenerate
from keld.providers.dialects.gemini_schema import schema_format
from keld.request import Question
from keld.schema import Embedding, JsonSchema, output_schema
from tests.providers.test_schema_rules import DEFS, NAMES, RULES, schemas, takes

FLASH = "gemini-2.5-flash"
GENERATE, EMBED = GeminiGenerate(), GeminiEmbeddings()
# What Gemini takes of the rules' schemas, where it differs from "a form is found": the words in which Keld names the field.
NAMED = {
    "an enum of objects": "`$.x` has an enum of objects",
    "a list of anything": "`$.x` is a list of anything",
    "a list that says nothing of its items": "`$.x` is a list of anything",
    "a tuple with anything behind it": "`$.x` is a list of anything",
    "anything": "`$.x` has no type",
    "a map": "`$.x` is a map with free keys",
    "recursion": "`$.x` refers to itself",
    "recursion at the top": "`$.kids[...]` refers to itself",
}


def asked(output: Any = str, **more: Any) -> Question:
    return Question(**{"system": None, "output": output_schema(output).to_json(), "max_output_tokens": 100} | more)


def filled(question: Question, fragment: bytes, model: str = FLASH) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(GENERATE.template(question, model, None).fill(fragment))
    return made


def answered(
    question: Question, model: str = FLASH, *, batch: bool = False, fate: RowFate | None = None, lane: Lane = Lane.STANDARD
) -> str:
    """The emulator's answer to what Keld sends."""
    body = GENERATE.in_lane(GENERATE.template(question, model, None).fill(b'"hi"'), lane)
    return Generate(Answerer(), PromptCache(), model).make(body, Conditions(0.0, batch, fate)).body


def judged(body: Any, status: int = 200) -> Any:
    return GENERATE.judge("id", status, msgspec.json.decode(body if isinstance(body, str) else json.dumps(body), type=Body))


# --- requests -----------------------------------------------------------------------------------------------------------


def test_a_prompt_with_a_system_prompt_is_a_user_content_beside_the_instruction() -> None:
    body = filled(asked(system="Be brief."), b'"hi"')
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "generationConfig": {"maxOutputTokens": 100},
    }


def test_a_conversation_becomes_contents_and_its_system_messages_follow_the_shared_ones() -> None:
    messages = [
        {"role": "system", "content": "Own."},
        {"role": "user", "content": [{"type": "text", "text": "a\u2028b"}, {"inlineData": {"mimeType": "image/png", "data": "AA=="}}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "parts": [{"text": "d"}]},
    ]
    raw = GENERATE.template(asked(system="Shared."), FLASH, None).fill(json.dumps(messages).encode())
    assert "\u2028".encode() not in raw, "one line to every reader"
    body = json.loads(raw)
    assert body["systemInstruction"] == {"parts": [{"text": "Shared."}, {"text": "Own."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "a\u2028b"}, {"inlineData": {"mimeType": "image/png", "data": "AA=="}}]},
        {"role": "model", "parts": [{"text": "c"}]},
        {"role": "user", "parts": [{"text": "d"}]},
    ]


def test_params_in_the_words_of_other_families_are_sent_in_geminis() -> None:
    """The same job may ask models of several kinds."""
    params = {"temperature": 0, "top_p": 0.5, "stop": "END", "generationConfig": {"topK": 3}, "safetySettings": []}
    body = filled(asked(params=params), b'"hi"')
    assert body["generationConfig"] == {"temperature": 0, "topP": 0.5, "stopSequences": ["END"], "topK": 3, "maxOutputTokens": 100}
    assert body["safetySettings"] == []


def test_params_cannot_change_the_length_or_form_of_answers() -> None:
    assert "maxOutputTokens, responseSchema" in (
        GENERATE.fit(asked(params={"generationConfig": {"responseSchema": {}, "maxOutputTokens": 9}}), FLASH).obstacle or ""
    )
    assert {"maxOutputTokens", "candidateCount", "serviceTier", "contents"} <= GENERATE.own_params


@pytest.mark.parametrize(("dialect", "model"), [(GENERATE, "gemini-embedding-001"), (EMBED, FLASH)])
def test_a_model_of_the_other_sort_is_told_by_its_name(dialect: Any, model: str) -> None:
    assert model in (dialect.fit(asked(Embedding(dimensions=8) if dialect is EMBED else str), model).obstacle or "")


# --- schemas ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_gemini_takes_what_keld_sends_or_keld_names_the_field(name: str) -> None:
    rule, output = RULES[name], output_schema(RULES[name].schema)
    question = asked(rule.schema, max_output_tokens=60_000)
    obstacle = GENERATE.fit(question, FLASH).obstacle
    if name in NAMED:
        assert NAMED[name] in (obstacle or "")
        return
    assert obstacle is None
    reply = judged(answered(question))
    assert reply.outcome is Outcome.ANSWERED
    assert takes(output, reply.content, rule.unheld), reply.content


@given(st.dictionaries(st.sampled_from(NAMES), schemas(), min_size=1))
@settings(max_examples=150, deadline=None)
def test_of_any_schema_what_is_sent_is_taken_and_allows_every_answer_that_the_schema_allows(properties: dict[str, JsonSchema]) -> None:
    """What is sent may ask for less than the schema, never for something else: an answer that fits must not be made impossible."""
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1], "$defs": DEFS}
    try:
        sent = schema_format(output_schema(schema))["responseSchema"]
    except SchemaError as error:
        assert "`$." in str(error)
        return
    allowed = json_schema(json.dumps(sent).encode())
    assert not isinstance(allowed, ApiError), allowed
    if "prefixItems" in json.dumps(schema):
        return  # `Subset` asks for items of the named types also where more items may follow
    text = compile_schema(json.dumps(schema).encode())(Dice(b"\x07" * 32), 0)
    if jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)):  # the emulator's maker knows not all keywords
        jsonschema.validate(json.loads(text), json.loads(allowed))


def test_the_message_has_capital_types_inlined_definitions_and_the_order_of_the_fields() -> None:
    schema = {
        "type": "object",
        "properties": {
            "why": {"type": ["string", "null"], "maxLength": 9},
            "stars": {"enum": [1, 2, 3]},
            "kind": {"$ref": "#/$defs/kind"},
            "tags": {"type": "array", "items": {"$ref": "#/$defs/kind"}, "maxItems": 4},
        },
        "required": ["why", "kind"],
        "$defs": {"kind": {"type": "string", "enum": ["a", "b"], "description": "which"}},
    }
    kind = {"type": "STRING", "enum": ["a", "b"], "description": "which"}
    assert schema_format(output_schema(schema)) == {
        "responseMimeType": "application/json",
        "responseSchema": {
            "type": "OBJECT",
            "properties": {
                "why": {"type": "STRING", "nullable": True, "description": "{maxLength: 9}"},
                "stars": {"type": "INTEGER", "minimum": 1, "maximum": 3, "description": "One of: 1, 2, 3"},
                "kind": kind,
                "tags": {"type": "ARRAY", "items": kind, "maxItems": 4},
            },
            "propertyOrdering": ["why", "stars", "kind", "tags"],
            "required": ["why", "kind"],
        },
    }


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "additionalProperties": False}, 'Unknown name "additionalProperties"'),
        ({"type": "INTEGER", "enum": ["1"]}, "enum: only allowed for STRING type"),
        ({"type": "STRING", "enum": [""]}, "enum[0]: cannot be empty"),
        ({"type": "STRING", "format": "uri"}, "only 'enum' and 'date-time' are supported for STRING type"),
        ({"type": "OBJECT"}, "properties: should be non-empty for OBJECT type"),
        ({"type": "ARRAY"}, "items: missing field"),
        ({"type": "OBJECT", "properties": {"a": {"type": "STRING"}}, "required": ["b"]}, "required[0]: property is not defined"),
        ({"$ref": "#/$defs/a"}, 'Unknown name "$ref"'),
    ],
)
def test_the_emulator_refuses_in_the_services_words(schema: JsonSchema, words: str) -> None:
    body = {
        "contents": [{"parts": [{"text": "hi"}]}],
        "generationConfig": {"responseMimeType": "application/json", "responseSchema": schema},
    }
    with pytest.raises(ApiError) as caught:
        Generate(Answerer(), PromptCache(), FLASH).make(json.dumps(body).encode(), Conditions(0.0, True))
    assert (caught.value.status, caught.value.code) == (400, "INVALID_ARGUMENT")
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"parts": []}]}, "contents.parts must not be empty"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "a"}]}]}, "Please use a valid role: user, model."),
        ({"messages": []}, 'Unknown name "messages"'),
        (
            {"contents": [{"parts": [{"text": "a"}]}], "generationConfig": {"max_tokens": 4}},
            "Unknown name \"maxTokens\" at 'generation_config'",
        ),
        ({"contents": [{"parts": [{"text": "a"}]}], "labels": {"a": "b"}}, 'Unknown name "labels"'),
    ],
)
def test_the_emulator_reads_a_body_as_strictly_as_the_service(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError) as caught:
        Generate(Answerer(), PromptCache(), FLASH).make(json.dumps(body).encode(), Conditions(0.0, False))
    assert words in caught.value.message


def test_snake_case_is_read_too() -> None:
    body = {
        "contents": [{"parts": [{"text": "hi"}]}],
        "generation_config": {"max_output_tokens": 50},
        "system_instruction": {"parts": [{"text": "s"}]},
    }
    made = Generate(Answerer(), PromptCache(), FLASH).make(json.dumps(body).encode(), Conditions(0.0, False))
    assert json.loads(made.body)["candidates"][0]["finishReason"] == "STOP"


# --- answers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [True, False])
def test_usage_is_what_the_emulator_bills_thoughts_included(batch: bool) -> None:
    question = asked(system="x" * 8_000)
    body = GENERATE.template(question, FLASH, None).fill(b'"hi"')
    dialect = Generate(Answerer(), PromptCache(), FLASH)
    dialect.make(body, Conditions(0.0, batch))
    made = dialect.make(body, Conditions(1.0, batch))
    reply = judged(made.body)
    assert (reply.input_tokens, reply.cached_tokens, reply.output_tokens) == (made.usage.input, made.usage.cached, made.usage.output)
    assert made.usage.cached > 1_000
    assert made.usage.reasoning > 0
    assert reply.model == FLASH


@pytest.mark.parametrize(
    ("body", "outcome", "words"),
    [
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, Outcome.REFUSED, "the prompt was blocked (PROHIBITED_CONTENT)"),
        ({"candidates": [{"finishReason": "SAFETY"}]}, Outcome.REFUSED, "the answer was blocked (SAFETY)"),
        ({"candidates": [{"finishReason": "RECITATION"}]}, Outcome.REFUSED, "RECITATION"),
        (
            {"candidates": [{"finishReason": "MAX_TOKENS", "content": {"parts": [{"text": "a"}]}}]},
            Outcome.INVALID,
            "cut off at max_output_tokens",
        ),
        ({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}, Outcome.INVALID, "stopped for MALFORMED_FUNCTION_CALL"),
        ({"candidates": [{"finishReason": "STOP", "content": {"role": "model"}}]}, Outcome.INVALID, "an answer without content"),
        ({"candidates": []}, Outcome.INVALID, "an answer without content"),
        ({}, Outcome.INVALID, "an answer without content"),
    ],
)
def test_an_answer_that_is_no_answer_says_why_and_is_paid(body: dict[str, Any], outcome: Outcome, words: str) -> None:
    reply = judged(body | {"usageMetadata": {"promptTokenCount": 7, "thoughtsTokenCount": 2}})
    assert reply.outcome is outcome
    assert words in (reply.error or "")
    assert (reply.input_tokens, reply.output_tokens) == (7, 2)


def test_thoughts_and_tool_prompts_are_no_part_of_the_text_and_are_paid() -> None:
    parts = [{"text": "let me see", "thought": True}, {"text": "a"}, {"text": "b"}]
    usage = {"promptTokenCount": 5, "toolUsePromptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 4, "serviceTier": "FLEX"}
    reply = judged({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}], "usageMetadata": usage})
    assert (reply.content, reply.input_tokens, reply.output_tokens, reply.tier) == ("ab", 8, 6, "flex")


@pytest.mark.parametrize("fate", ["refusal", "length", "invalid"])
def test_the_emulators_faults_are_read_as_what_they_are(fate: RowFate) -> None:
    schema = {"type": "object", "properties": {"label": {"type": "string", "enum": ["a", "b"]}}, "required": ["label"]}
    seen = {judged(answered(asked(schema, system=str(n)), fate=fate)).outcome for n in range(6)}
    assert seen == {Outcome.REFUSED} if fate == "refusal" else {Outcome.INVALID} if fate == "length" else {Outcome.ANSWERED}


@pytest.mark.parametrize(
    ("error", "status", "words", "again"),
    [
        ({"code": 400, "status": "INVALID_ARGUMENT", "message": "no"}, 400, "INVALID_ARGUMENT: no", False),
        ({"code": 503, "status": "UNAVAILABLE", "message": "busy"}, 503, "UNAVAILABLE: busy", True),
        ({"code": 13, "message": "inside"}, 0, "INTERNAL: inside", True),
        ({"code": 3, "message": "bad"}, 0, "INVALID_ARGUMENT: bad", False),
        ({"code": 429, "message": "slow"}, 0, "RESOURCE_EXHAUSTED: slow", True),
        (None, 0, "no reason given", True),
    ],
)
def test_an_error_is_named_by_its_word_and_asked_again_only_where_that_may_help(error: Any, status: int, words: str, again: bool) -> None:
    reply = errored("id", status, error)
    assert (reply.outcome, reply.retryable) == (Outcome.ERRORED, again)
    assert words in (reply.error or "")


@pytest.mark.parametrize("batch", [True, False])
def test_an_embedding_is_read_with_its_tokens_in_a_batch_and_alone(batch: bool) -> None:
    """A row of a batch says its tokens in another field, and as a text."""
    question = asked(Embedding(dimensions=8), params={"taskType": "CLUSTERING"})
    body = EMBED.template(question, "gemini-embedding-001", None).fill(b'"some words to embed"')
    made = Embed("gemini-embedding-001").make(body, Conditions(0.0, batch))
    reply = judged(made.body)
    assert reply.outcome is Outcome.ANSWERED
    assert len(reply.content) == 8
    assert reply.input_tokens == made.usage.input > 0


def test_flex_is_a_field_of_the_body_and_the_tier_that_served_is_told() -> None:
    assert judged(answered(asked(), lane=Lane.FLEX)).tier == "flex"
    assert judged(answered(asked(), lane=Lane.FLEX, fate="standard_tier")).tier == "standard"
