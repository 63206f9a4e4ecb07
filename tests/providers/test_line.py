"""Result lines that are damaged: what can be read of them is kept."""

import msgspec

from keld.providers.line import lines_of


class Line(msgspec.Struct):
    label: str
    answer: dict[str, int] | None = None


def test_a_line_of_which_only_the_id_can_be_read_keeps_its_id() -> None:
    """The field that holds the id has another name at each kind of provider."""
    block = b'{"label": "a", "answer": {"n": 1}}\n{"label": "b", "answer": "not an object"}\n{"answer": "no id"}\n'
    assert lines_of(block, Line, "label") == [Line("a", {"n": 1}), Line("b")]
