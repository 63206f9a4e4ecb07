"""Prompts: rows rendered and escaped, whole columns at once or row by row, always to the same bytes."""

import json
import traceback
from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld.errors import InvalidJob, SourceError, SourceUnavailable
from keld.job import Column, Job, PerRow
from keld.prompt import Asked, Prompts, check_columns, renderer
from keld.request import one_line


def _rows(prompts: Prompts) -> list[Asked]:
    return [Asked(*row) for row in zip(*(column.to_pylist() for column in prompts), strict=True)]


def _ask(prompt: Any, table: pa.Table) -> list[Asked]:
    render = renderer(prompt)
    return [asked for batch in table.to_batches() for asked in _rows(render(batch))]


def _texts(prompt: Any, **columns: Any) -> list[Any]:
    """The prompts as JSON values; the reason where a row cannot be asked."""
    return [asked.error if asked.fragment is None else json.loads(asked.fragment) for asked in _ask(prompt, pa.table(columns))]


# --- templates --------------------------------------------------------------------------------------------------------

TEMPLATES: list[tuple[str, dict[str, Any]]] = [
    ("Classify: {body}", {"body": "hello"}),
    ("{a} and {b} and {a}", {"a": "x", "b": "y"}),
    ('{{"literal": "{body}"}}', {"body": "x"}),
    ("100 % of {body}%s %d %%", {"body": "50 %"}),
    ("{price:.2f} {price:>10} {body!r}", {"price": 1.005, "body": "it's"}),
    ("{n:,} {n:05d}", {"n": 1234}),
    ("{day:%d.%m.%Y} 100%", {"day": date(2026, 11, 19)}),
    ("{at}", {"at": datetime(2026, 11, 19, 8)}),
    ("{usd}", {"usd": Decimal("1.10")}),
    ("{tags} {flag}", {"tags": ["a", "b"], "flag": True}),
    ("{body} ", {"body": "."}),
    ("{body}", {"body": '"quotes" \\ back\n\u2028line \x00 雪 🙂'}),
    ("{a column}", {"a column": "spaces"}),
]


@pytest.mark.parametrize(("template", "row"), TEMPLATES, ids=[template for template, _ in TEMPLATES])
def test_a_template_says_what_str_format_says(template: str, row: dict[str, Any]) -> None:
    columns = {name: [value] for name, value in row.items()}
    assert _texts(template, **columns) == [template.format(**row)]


@given(
    template=st.lists(st.sampled_from(["{a}", "{b}", "{{", "}}", "%", "%s", '"', "\\", "雪", " "]), min_size=1, max_size=8).map("".join),
    rows=st.lists(st.tuples(st.text(max_size=9), st.integers(-9, 9)), min_size=1, max_size=4),
)
def test_any_template_over_any_text_says_what_str_format_says(template: str, rows: list[tuple[str, int]]) -> None:
    template += "{a}"
    formatted = [template.format(a=text, b=n) for text, n in rows]
    expected = [text if text.strip() else "the prompt is empty" for text in formatted]
    assert _texts(template, a=[text for text, _ in rows], b=[n for _, n in rows]) == expected


def test_a_column_whose_name_has_a_dot_is_that_column() -> None:
    """`str.format` would look for an attribute; a table has columns."""
    assert _texts("{a.b} {a.b:>3} {c[0]!s}", **{"a.b": ["x"], "c[0]": ["y"]}) == ["x   x y"]


def test_a_null_in_a_prompts_column_leaves_only_that_row_unasked() -> None:
    assert _texts("{a} {b}", a=["x", None, "z"], b=["1", "2", None]) == ["x 1", "column a is null", "column b is null"]


def test_what_stands_for_a_null_can_be_said() -> None:
    """For all columns or for some; a format for numbers leaves it as it is."""
    rows = pa.record_batch({"a": ["x", None], "n": pa.array([None, 1.5])})

    def texts(template: str, missing: Any) -> list[Any]:
        return [one.error or json.loads(one.fragment or b"") for one in _rows(renderer(template, missing)(rows))]

    assert texts("{a}|{n:.2f}", "?") == ["x|?", "?|1.50"]
    assert texts("{a}|{n}", "") == ["x|", "|1.5"]
    assert texts("{a!r:>4}|{n:>5}", "null") == [" 'x'|null", "null|  1.5"]
    assert texts("{a}|{n:.1f}", {"n": "unknown"}) == ["x|unknown", "column a is null"]
    assert texts("{a}|{n:.1f}", {}) == ["column n is null", "column a is null"]
    assert texts("{a}", "") == ["x", "the prompt is empty"]


def test_bytes_are_the_text_they_hold() -> None:
    """Parquet of Hive and Impala has text without the mark that it is text (apache/arrow#1830); nobody asks about b'...'."""
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())):
        column = (
            pa.array([b"hello \xe9\x9b\xaa", b"\xff", None], pa.binary()).cast(kind)
            if kind != pa.binary_view()
            else pa.array([b"hello \xe9\x9b\xaa", b"\xff", None], kind)
        )
        assert _texts("{body}", body=column) == ["hello 雪", "column body is not valid UTF-8", "column body is null"], kind
        assert _texts(Column("body"), body=column)[:2] == ["hello 雪", "column body is not valid UTF-8"], kind
    assert _texts("{body}", body=pa.array([b"ab"], pa.binary(2))) == ["ab"]
    nested = pa.array([{"a": [b"x"]}, {"a": [b"\xff"]}], pa.struct([("a", pa.list_(pa.binary()))]))
    assert _texts("{body}", body=nested) == ["{'a': ['x']}", "column body is not valid UTF-8"]


def test_a_format_that_does_not_fit_one_value_is_that_rows_fault_only() -> None:
    texts = _texts("{n:d}", n=pa.array([1.5, 2.0]))
    assert all(text.startswith("prompt template: Unknown format code 'd'") for text in texts)


def test_text_that_is_not_utf8_leaves_only_that_row_unasked() -> None:
    raw = pa.array([b"good", b"\xff\xfe", b"fine", None], type=pa.binary())
    column = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    assert _texts("{body}", body=column) == ["good", "column body is not valid UTF-8", "fine", "column body is null"]


@pytest.mark.parametrize(
    "prompt", ["{body}", Column("body"), lambda batch: batch["body"].to_pylist()], ids=["template", "column", "function"]
)
def test_an_empty_prompt_leaves_only_its_row_unasked(prompt: Any) -> None:
    """Anthropic refuses a text without a character that shows, OpenAI an empty input of an embedding; other models make something up, and bill it."""
    asked = _ask(prompt, pa.table({"body": ["", " \n\t", "0"]}))
    assert [one.error for one in asked] == ["the prompt is empty", "the prompt is empty", None]


def test_a_lone_surrogate_leaves_only_that_row_unasked() -> None:
    texts = _texts(lambda batch: ["fine", "\ud800"], a=[1, 2])
    assert texts[0] == "fine"
    assert "lone surrogate" in texts[1]


# --- escapes ----------------------------------------------------------------------------------------------------------

# Quotes, backslashes, control characters with a short escape and without, what some readers take for a line's end, two to four bytes a character.
ODD_TEXT = st.text(
    st.one_of(
        st.sampled_from('"\\\n\r\t\b\f\0\x1f\x7f\x85\u2028\u2029\u00c2\u2026\u20a8 aé雪🙂'), st.characters(exclude_categories=["Cs"])
    ),
    max_size=12,
)


@given(
    rows=st.lists(st.tuples(st.one_of(st.none(), ODD_TEXT), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))), max_size=12),
    cut=st.integers(0, 3),
)
def test_columns_at_once_give_the_bytes_of_row_by_row(rows: list[tuple[str | None, int | None]], cut: int) -> None:
    """The fingerprints of paid answers were taken of these bytes: with another escape every row would be paid again."""
    columns = {"a": pa.array([text for text, _ in rows], pa.string()), "n": pa.array([n for _, n in rows], pa.int64())}
    table = pa.record_batch(columns).slice(cut)
    found = _rows(renderer('50 % "{a}"\u2028{n}/{a}')(table))
    expected = [
        Asked(None, f"column {'a' if text is None else 'n'} is null")
        if text is None or n is None
        else Asked(one_line(f'50 % "{text}"\u2028{n}/{text}'))
        for text, n in rows[cut:]
    ]
    assert found == expected


@given(texts=st.lists(ODD_TEXT, min_size=1, max_size=8))
@pytest.mark.parametrize("prompt", ["{a}", Column("a")], ids=["template", "column"])
def test_a_text_of_spaces_alone_is_no_prompt_and_any_other_is_its_bytes(prompt: Any, texts: list[str]) -> None:
    found = _ask(prompt, pa.table({"a": pa.array(texts, pa.string())}))
    assert found == [Asked(one_line(text)) if text.strip() else Asked(None, "the prompt is empty") for text in texts]


@given(raw=st.lists(st.one_of(st.binary(max_size=6), ODD_TEXT.map(str.encode)), max_size=8))
def test_a_row_that_is_not_utf8_changes_no_other(raw: list[bytes]) -> None:
    kept = pa.array(raw, type=pa.binary())
    found = _ask("x{a}", pa.table({"a": pa.Array.from_buffers(pa.string(), len(raw), kept.buffers())}))
    for value, asked in zip(raw, found, strict=True):
        try:
            assert asked == Asked(one_line(f"x{value.decode()}"))
        except UnicodeDecodeError:
            assert asked == Asked(None, "column a is not valid UTF-8")


# --- columns and functions --------------------------------------------------------------------------------------------

MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "雪"}]


def test_a_text_column_is_one_message() -> None:
    assert _texts(Column("p"), p=["hello", None]) == ["hello", "column p is null"]


def test_a_list_column_is_a_conversation() -> None:
    assert _texts(Column("p"), p=[MESSAGES]) == [MESSAGES]


def test_nulls_in_a_messages_struct_are_left_out() -> None:
    """Arrow gives every message every field; providers reject nulls they do not know."""
    assert _texts(Column("p"), p=[[{"role": "user", "content": "x", "name": None}, {"role": "user", "content": "y", "name": "n"}]]) == [
        [{"role": "user", "content": "x"}, {"role": "user", "content": "y", "name": "n"}]
    ]


def test_nulls_are_left_out_at_any_depth_but_not_of_what_a_tool_was_called_with() -> None:
    """A part of a message is a struct, too; the arguments of a call are somebody's own words."""
    part = pa.struct(
        [("type", pa.string()), ("text", pa.string()), ("image_url", pa.struct([("url", pa.string()), ("detail", pa.string())]))]
    )
    message = pa.struct([("role", pa.string()), ("content", pa.list_(part))])
    parts = [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "u"}}]
    assert _texts(Column("p"), p=pa.array([[{"role": "user", "content": parts}]], pa.list_(message))) == [
        [{"role": "user", "content": parts}]
    ]
    call = [{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "w", "input": {"city": None}}]}]
    assert _texts(lambda batch: [call], a=[1]) == [call]


def test_a_message_that_calls_tools_needs_no_content() -> None:
    """As OpenAI's own conversations have it (mistralai/mistral-common#324)."""
    calls = [{"id": "c", "type": "function", "function": {"name": "w", "arguments": "{}"}}]
    said = [{"role": "assistant", "content": None, "tool_calls": calls}, {"role": "tool", "tool_call_id": "c", "content": "sunny"}]
    sent = [{"role": "assistant", "tool_calls": calls}, said[1]]
    assert _texts(Column("p", json=True), p=[json.dumps(said)]) == [sent]
    assert _texts(lambda batch: [said], a=[1]) == [sent]


def test_a_conversation_as_json_text_is_that_conversation() -> None:
    assert _texts(Column("p", json=True), p=[json.dumps(MESSAGES)]) == [MESSAGES]


BAD_CONVERSATIONS: list[tuple[str, str]] = [
    ("not json", "not JSON"),
    ("{}", "not a JSON array"),
    ('"text"', "not a JSON array"),
    ("[]", "empty"),
    ("[1]", "role or content"),
    ('[{"role": "user"}]', "role or content"),
    ('[{"content": "x"}]', "role or content"),
    ('[{"role": "", "content": "x"}]', "role or content"),
    ('[{"role": "user", "content": null}]', "role or content"),
    ("[" * 100_000, "not JSON"),
]


@pytest.mark.parametrize(("text", "why"), BAD_CONVERSATIONS, ids=[text[:30] for text, _ in BAD_CONVERSATIONS])
def test_a_bad_conversation_is_its_rows_fault_only(text: str, why: str) -> None:
    first, second = _texts(Column("p", json=True), p=[text, json.dumps(MESSAGES)])
    assert why in first
    assert second == MESSAGES


FUNCTIONS: list[Callable[[pa.RecordBatch], Any]] = [
    lambda batch: [f"n={n}" for n in batch.column("a").to_pylist()],
    lambda batch: (f"n={n}" for n in batch.column("a").to_pylist()),
    lambda batch: pa.array([f"n={n}" for n in batch.column("a").to_pylist()]),
    lambda batch: pa.chunked_array([[f"n={n}"] for n in batch.column("a").to_pylist()]),
]


@pytest.mark.parametrize("function", FUNCTIONS, ids=["list", "generator", "array", "chunked array"])
def test_a_function_gives_one_prompt_a_row(function: Callable[[pa.RecordBatch], Any]) -> None:
    assert _texts(function, a=[1, 2]) == ["n=1", "n=2"]


def test_a_function_may_leave_rows_out_with_none() -> None:
    assert _texts(lambda batch: ["x", None], a=[1, 2]) == ["x", "the prompt function returned None"]


def test_a_function_that_fails_is_told_by_its_line_and_not_by_its_words() -> None:
    """What it raises may quote a row: a KeyError is nothing else."""

    def lookup(batch: pa.RecordBatch) -> list[str]:
        return [{"x": "y"}[text] for text in batch.column("a").to_pylist()]

    quoted = "".join(("CAN", "ARY"))  # whole in no line of this file, which a traceback shows
    for function, why in (
        (lookup, rf"KeyError, in {__file__}, line \d+"),
        (lambda batch: None, "TypeError, since it returned no sequence"),
    ):
        with pytest.raises(SourceUnavailable, match=f"The prompt function failed: {why}") as told:
            _texts(function, a=[quoted])
        assert quoted not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("made", ["ab", b"ab", {"x": 1, "y": 2}, {"x", "y"}])
def test_a_function_that_returns_no_list_is_refused_though_its_parts_are_as_many_as_the_rows(made: Any) -> None:
    """The letters of one text would be sent as so many prompts, and paid."""
    with pytest.raises(SourceError, match=rf"returned one {type(made).__name__} for 2 rows. Nothing was sent"):
        _texts(lambda batch: made, a=[1, 2])


def test_a_function_of_one_row_gets_every_column_as_a_template_shows_it() -> None:
    """One conversion a column and block, not one a cell; a value is the same in both kinds of prompts."""
    rows: list[dict[str, Any]] = []

    def ask(row: dict[str, Any]) -> Any:
        rows.append(row)
        return None if row["a"] is None else MESSAGES if row["a"] == 1 else f"{row['a']} {row['b']}"

    stamps = pa.array([0, 1, None], type=pa.timestamp("ns", "UTC"))
    prompts = _texts(PerRow(ask), a=[1, 2, None], b=stamps)
    assert prompts[0] == MESSAGES
    assert prompts[1] == _texts("{a} {b}", a=[2], b=stamps[1:2])[0]
    assert prompts[2] == "the prompt function returned None"
    assert [type(row) for row in rows] == [dict] * 3 and rows[2] == {"a": None, "b": None}


def test_a_row_that_is_no_text_is_not_given_to_a_function_and_says_why() -> None:
    broken = pa.array([b"\xff", b"ok"]).view(pa.string())
    assert _texts(PerRow(lambda row: row["b"]), a=[None, None], b=broken) == ["column b is not valid UTF-8", "ok"]


@pytest.mark.parametrize("prompt", ["async def ask(row): return ''", "def ask(row): yield ''"])
def test_a_function_of_one_row_that_returns_no_prompt_is_refused_when_the_job_is_declared(prompt: str) -> None:
    """It would give an object for each row, and no row would be asked."""
    made: dict[str, Any] = {}
    exec(prompt, made)
    with pytest.raises(InvalidJob, match=r"the prompt function (yields|is asynchronous); give one that returns"):
        Job(name="j", key="a", prompt=PerRow(made["ask"]), models="openai:gpt-5-mini")


def test_a_row_that_a_format_does_not_fit_says_which_code_and_which_type() -> None:
    assert _texts("{a:d}", a=[1.5]) == ["prompt template: Unknown format code 'd' for object of type 'float'"]


def test_a_column_whose_name_begins_with_a_digit_is_a_column() -> None:
    assert _texts("{2024_sales}", **{"2024_sales": [7]}) == ["7"]


@pytest.mark.parametrize("terms", [{"prompt": "\ud83d {a}"}, {"system": "\ud83d"}, {"system": 5}])
def test_a_text_that_no_provider_takes_is_refused_when_the_job_is_declared(terms: dict[str, Any]) -> None:
    with pytest.raises(InvalidJob, match=f"{next(iter(terms))} (holds a lone surrogate|is a int)"):
        Job(**{"name": "j", "key": "a", "prompt": "{a}", "models": "openai:gpt-5-mini", **terms})


def test_a_function_may_give_conversations() -> None:
    assert _texts(lambda batch: [MESSAGES, [{"role": "user"}]], a=[1, 2]) == [MESSAGES, "a message lacks its role or content"]


class Safe(str):
    """As template engines have it: even `str()` of it is one of its own (msgspec#289)."""

    def __str__(self) -> str:
        return self


ODD: list[tuple[Any, Any]] = [
    (np.str_("x"), "x"),
    (Safe("x"), "x"),
    (b"x", "x"),
    (b"\xff", "the prompt is not valid UTF-8"),
    (np.array([{"role": Safe("user"), "content": np.str_("x")}], dtype=object), [{"role": "user", "content": "x"}]),
    (({"role": "user", "content": "x", "n": np.int64(3), "f": np.float64(0.5), "v": np.array([1, 2])},), [{"role": "user", "content": "x", "n": 3, "f": 0.5, "v": [1, 2]}]),
    (float("nan"), "the prompt function returned None"),
    (pd.NA, "the prompt function returned None"),
    (pd.NaT, "the prompt function returned None"),
    ([{"role": "user", "content": object()}], "a message cannot be written as JSON"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "text"), ODD, ids=[repr(prompt)[:40] for prompt, _ in ODD])
def test_text_of_any_class_is_text(prompt: Any, text: Any) -> None:
    """What numpy, pandas and template engines hand over."""
    assert _texts(lambda batch: [prompt], a=[1]) == [text]


def test_a_conversation_that_holds_itself_is_its_rows_fault_only() -> None:
    circle: list[Any] = [{"role": "user"}]
    circle[0]["content"] = circle
    assert _texts(lambda batch: [circle, "x"], a=[1, 2]) == ["the prompt holds itself", "x"]


@pytest.mark.parametrize("prompt", [5, np.int64(5), True, {"role": "user", "content": "x"}])
def test_a_function_that_gives_something_else_is_refused(prompt: Any) -> None:
    """As the outcome of every row it was a partition that finished, passed its checks, and had asked nothing."""
    with pytest.raises(SourceError, match=f"returned a {type(prompt).__name__}. Nothing was sent"):
        _texts(lambda batch: ["x", prompt], a=[1, 2])


def test_a_function_that_looks_for_a_column_that_is_not_there_is_told_those_that_are() -> None:
    with pytest.raises(SourceError, match=r"KeyError.* has the columns 'a', 'b'"):
        _texts(PerRow(lambda row: row["body"]), a=[1], b=["secret"])


@pytest.mark.parametrize("prompts", [[], ["one"], ["one", "two", "three"]])
def test_a_function_with_another_number_of_prompts_is_refused(prompts: Sequence[str]) -> None:
    with pytest.raises(SourceError, match=f"{len(prompts)} prompts for 2 rows"):
        _texts(lambda batch: prompts, a=[1, 2])


# --- the table's columns ----------------------------------------------------------------------------------------------


def _job(**terms: Any) -> Job:
    return Job(**{"name": "labels", "key": "id", "prompt": "{body}", "models": "openai:gpt-5-mini", **terms})


@pytest.mark.parametrize(
    ("terms", "columns", "says"),
    [
        ({"key": "nope"}, ["id", "body"], "key names the column 'nope'.*'id', 'body'"),
        ({"prompt": "{nope}"}, ["id", "body"], "prompt names the column 'nope'"),
        ({"prompt": Column("nope")}, ["id", "body"], "prompt names the column 'nope'"),
        ({}, ["id", "body", "keld_outcome"], "keld_outcome"),
        ({}, ["id", "body", "x", "x"], "same name: x"),
    ],
)
def test_a_table_that_does_not_fit_the_declaration_is_refused(terms: dict[str, Any], columns: list[str], says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        check_columns(_job(**terms), pa.schema([(name, pa.string()) for name in columns]))
    assert "Nothing was sent" in str(caught.value)


def test_a_function_may_use_any_columns() -> None:
    check_columns(_job(prompt=lambda batch: []), pa.schema([("id", pa.int64())]))
