"""Packs: which rows share a request, and how its answer is divided among them."""

from typing import Any

import pytest

from keld.providers.dialects.openai_embeddings import OpenAIEmbeddings
from keld.providers.pack import Pack, packed, packs
from keld.spread import shares


def grouped(fragments: list[bytes], most: Pack) -> list[list[int]]:
    return [[position for position, _ in group] for group in packs(iter(enumerate(fragments)), most)]


def test_a_request_is_bounded_by_rows_and_by_bytes() -> None:
    assert grouped([b'"a"'] * 5, Pack(rows=2, fragment_bytes=100)) == [[0, 1], [2, 3], [4]]
    assert grouped([b'"a"'] * 5, Pack(rows=9, fragment_bytes=9)) == [[0, 1, 2], [3, 4]]
    assert grouped([b'"a"', b'"' + b"x" * 50 + b'"', b'"b"'], Pack(rows=9, fragment_bytes=9)) == [[0], [1], [2]]


def test_a_conversation_goes_alone_and_so_does_every_row_by_default() -> None:
    assert grouped([b'"a"', b'[{"role":"user"}]', b'"b"'], Pack(rows=9, fragment_bytes=99)) == [[0], [1], [2]]
    assert grouped([b'"a"'] * 3, Pack()) == [[0], [1], [2]]


def test_the_fragment_of_many_rows_is_a_list() -> None:
    assert packed([(0, b'"a"')]) == b'"a"'
    assert packed([(0, b'"a"'), (7, b'"b"')]) == b'["a","b"]'


@pytest.mark.parametrize(("total", "weights"), [(10, [1, 1, 1]), (7, [5, 1, 1]), (0, [3, 4]), (1, [1] * 9), (1_000_003, [7, 11, 13])])
def test_shares_add_up_to_the_whole(total: int, weights: list[int]) -> None:
    found = shares(total, weights)
    assert sum(found) == total
    assert all(abs(part - total * weight / sum(weights)) <= 1 for part, weight in zip(found, weights, strict=True))


def answer(*indices: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "embedding": f"v{n}"} | ({} if n is None else {"index": n}) for n in indices]
    return {"model": "m", "data": data, "usage": {"prompt_tokens": 10, "total_tokens": 10}}


def test_vectors_go_to_their_rows_whatever_their_order() -> None:
    parts = OpenAIEmbeddings().divided(answer(2, 0, 1), [1, 1, 2])
    assert parts is not None
    assert [part["data"][0]["embedding"] for part in parts] == ["v0", "v1", "v2"]
    assert sum(part["usage"]["prompt_tokens"] for part in parts) == 10


def test_a_usage_that_is_no_object_costs_no_vector() -> None:
    parts = OpenAIEmbeddings().divided(answer(0, 1) | {"usage": [10]}, [1, 1])
    assert [part["usage"] for part in parts or ()] == [{}, {}]


@pytest.mark.parametrize("body", [answer(0, 1), answer(0, 0, 1), answer(0, 1, 5), {"data": None}, {"error": {}}, []], ids=str)
def test_an_answer_without_one_part_for_each_row_is_not_divided(body: Any) -> None:
    """Its rows are asked again, each half by itself: a vector must never go to another row."""
    assert OpenAIEmbeddings().divided(body, [1, 1, 1]) is None


def test_a_row_that_is_set_apart_goes_alone() -> None:
    rows = iter(enumerate([b'"a"'] * 5))
    assert [[position for position, _ in group] for group in packs(rows, Pack(rows=9, fragment_bytes=99), {2})] == [[0, 1], [2], [3, 4]]
