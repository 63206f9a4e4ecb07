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


def test_a_number_with_thousands_of_digits_costs_its_field_and_not_its_line() -> None:
    """Python refuses to make an integer of more than 4,300 digits."""
    block = b'{"label": "a", "other": NaN, "answer": {"n": 1}, "count": 1%b}\n{"label": "b"}\n' % (b"0" * 5_000)
    assert lines_of(block, Line, "label") == [Line("a", {"n": 1}), Line("b")]
