"""Requests: ids that come back, fingerprints that tell what was asked."""

import json
import re
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from keld.request import (
    Question,
    custom_id,
    fingerprint,
    pack_of,
    position_of,
    positions_of,
    row_fingerprint,
    shard_named,
)
from keld.schema import output_schema

NONCES = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=10, max_size=10)


# --- custom_id --------------------------------------------------------------------------------------------------------


@given(nonce=NONCES, position=st.integers(0, 10**15 - 1))
def test_a_custom_id_gives_its_position_back(nonce: str, position: int) -> None:
    assert position_of(custom_id(nonce, position), nonce) == position


@given(nonce=NONCES, position=st.integers(0, 10**15 - 1))
def test_a_plain_custom_id_is_letters_and_digits_and_gives_its_position_back(nonce: str, position: int) -> None:
    made = custom_id(nonce, position, plain=True)
    assert made.isalnum()
    assert (position_of(made, nonce), shard_named(made)) == (position, nonce)


@given(nonce=NONCES, position=st.integers(0, 10**15 - 1))
def test_every_provider_takes_a_custom_id(nonce: str, position: int) -> None:
    made = custom_id(nonce, position)
    assert len(made) <= 64
    assert all(char.isascii() and (char.isalnum() or char in "_-") for char in made)


@given(text=st.one_of(st.text(), st.from_regex(r"[a-z0-9]{10}-[0-9]{8}")), nonce=NONCES)
def test_an_id_of_another_nonce_has_no_position(text: str, nonce: str) -> None:
    assert text.startswith(nonce) or position_of(text, nonce) is None


@pytest.mark.parametrize(
    "odd", ["", "abcdefghij", "abcdefghij-", "abcdefghij-1", "abcdefghij-00000001\n", "abcdefghij--0000001", " abcdefghij-00000001"]
)
def test_a_mangled_id_has_no_position(odd: str) -> None:
    assert position_of(odd, "abcdefghij") is None


# --- fingerprints -----------------------------------------------------------------------------------------------------

QUESTION = Question(system="s", output={"kind": "text"}, params={"temperature": 0}, max_output_tokens=10)


def test_a_question_is_read_back_as_it_was() -> None:
    assert Question.from_json(QUESTION.to_json()) == QUESTION


@pytest.mark.parametrize(
    "other",
    [
        Question(system="t", output={"kind": "text"}, params={"temperature": 0}, max_output_tokens=10),
        Question(system=None, output={"kind": "text"}, params={"temperature": 0}, max_output_tokens=10),
        Question(system="s", output={"kind": "object"}, params={"temperature": 0}, max_output_tokens=10),
        Question(system="s", output={"kind": "text"}, params={"temperature": 1}, max_output_tokens=10),
        Question(system="s", output={"kind": "text"}, params={"temperature": 0}, max_output_tokens=11),
        Question(system="s", output={"kind": "text"}, params={"temperature": 0}, max_output_tokens=10, endpoint="/v1/responses"),
    ],
    ids=["system", "no system", "schema", "params", "length", "endpoint"],
)
def test_whatever_decides_an_answer_changes_the_fingerprint(other: Question) -> None:
    assert fingerprint(other, ["a:b"]) != fingerprint(QUESTION, ["a:b"])


def test_an_unchanged_question_keeps_its_fingerprint_from_version_to_version() -> None:
    """As 4ccca51 made it: with another, every partition that is run again would be paid again."""
    schema = {"type": "object", "properties": {"a": {"type": "string", "default": "x", "format": "uri"}}, "required": []}
    asked = Question(system=None, output=output_schema(schema).to_json())
    assert fingerprint(asked, ["openai:gpt-5-mini"]) == "f6a8674b8044bdc8d5ac135b63860b8b4a46d44f6a2683ebb2233e78ee869301"


def test_how_an_answer_is_read_is_no_part_of_the_fingerprint() -> None:
    """Which text is a Decimal, and what an empty list stands for: nothing of it is asked."""

    class Hinted(BaseModel):
        price: Decimal
        tags: list[str] = Field(default_factory=list)

    output = output_schema(Hinted).to_json()
    bare = {name: part for name, part in output.items() if name != "hints"}
    assert bare != output
    assert fingerprint(Question(system=None, output=output), ["a:b"]) == fingerprint(Question(system=None, output=bare), ["a:b"])


def test_other_models_are_another_fingerprint() -> None:
    assert fingerprint(QUESTION, ["a:b"]) != fingerprint(QUESTION, ["a:b", "c:d"])


@given(st.lists(st.text(max_size=20), min_size=2, max_size=2, unique=True))
def test_other_prompts_have_other_fingerprints_of_16_bytes(prompts: list[str]) -> None:
    first, second = (row_fingerprint(json.dumps(prompt).encode()) for prompt in prompts)
    assert first != second
    assert len(first) == len(second) == 16


# --- ids of many rows -------------------------------------------------------------------------------------------------


@given(position=st.integers(0, 10**9), rows=st.integers(2, 2_048), plain=st.booleans())
def test_the_id_of_a_request_of_many_rows_says_the_first_one_and_how_many(position: int, rows: int, plain: bool) -> None:
    """Whoever collects it needs to know nothing else of how the rows were packed, also after an upgrade that packs otherwise."""
    made = custom_id("abcdefghix", position, plain=plain, rows=rows)
    assert pack_of(made, "abcdefghix") == (position, rows)
    assert (position_of(made, "abcdefghix"), shard_named(made)) == (None, "abcdefghix")
    assert pack_of(custom_id("abcdefghix", position, plain=plain), "abcdefghix") is None
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", made)


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["n-0000000" + c for c in "1 _x٣²-"]),
            st.text(max_size=14),
            st.integers(0, 10**15 - 1).map(lambda n: custom_id("n", n)),
        )
    )
)
@example(["n-00000001", "n-0000000٢"])
@example(["n-0000000_", "n-00000001"])
@example(["n-000000001", "n-0000001"])
def test_the_positions_of_many_ids_are_those_of_each(ids: list[str]) -> None:
    found = [position_of(one, "n") for one in ids]
    assert positions_of(ids, "n").tolist() == [-1 if position is None else position for position in found]
