"""Text files: what stands in them is what is read, and what cannot be right is refused with its place and the way."""

import bz2
import csv
import gzip
import io
import json
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keld.errors import InvalidJob, SourceError
from keld.reading import _NAMES, _PLAIN, Reading
from keld.table import ROW_FAULT, Table, open_table, write_table
from keld.table.quote import Quotes

SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _open(folder: Path, name: str, data: str | bytes, **reading: Any) -> Table:
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return open_table(folder / name, reading=Reading(**reading))


def _rows(table: Table) -> list[dict[str, Any]]:
    return [row for batch in table.batches() for row in batch.to_pylist()]


def _values(table: Table) -> list[list[Any]]:
    return [list(row.values()) for row in _rows(table)]


# --- CSV: as it is written -------------------------------------------------------------------------------------------

AS_WRITTEN = [
    "007",
    "+493012345678",
    "12E5",
    "1.10",
    "4111111111111111111111",
    "true",
    "2026-11-01",
    "NA",
    "null",
    " a ",
    'a "b"',
    "2026-11-01T10:00:00+02:00",
]


def test_every_cell_of_a_csv_is_the_text_that_stands_there(tmp_path: Path) -> None:
    """Readers that guess make 7 of 007, 1200000.0 of 12E5 and 4.1e21 of a card's number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([[f"c{n}" for n in range(len(AS_WRITTEN))], AS_WRITTEN, AS_WRITTEN])
    assert _values(_open(tmp_path, "t.csv", buffer.getvalue())) == [AS_WRITTEN, AS_WRITTEN]


@SHARED
@given(
    rows=st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1, max_size=8), min_size=2, max_size=2),
        max_size=6,
    )
)
@example(rows=[['"', "a"], ['a"b', '""']])
def test_what_the_standard_library_writes_as_csv_is_read_as_it_was(rows: list[list[str]], tmp_path: Path) -> None:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([["a", "b"], *rows])
    assert _values(_open(tmp_path, "t.csv", buffer.getvalue())) == rows


def test_an_empty_field_is_null_and_one_in_quotes_is_an_empty_text(tmp_path: Path) -> None:
    """And so they are written back."""
    table = _open(tmp_path, "t.csv", 'id,body\n1,\n2,""\n')
    assert _values(table) == [["1", None], ["2", ""]]
    write_table(tmp_path / "o.csv", table.schema, table.batches())
    assert (tmp_path / "o.csv").read_text().splitlines()[1:] == ['"1",', '"2",""']


DECLARED: list[tuple[Any, str, Any]] = [
    ("decimal(12,2)", "1.5", Decimal("1.50")),
    ("numeric(5)", "42", Decimal("42")),
    ("int64", "-7", -7),
    ("float", "0.1", 0.1),
    ("bool", "TRUE", True),
    ("date", "2026-11-01", date(2026, 11, 1)),
    ("timestamp", "2026-11-01 10:00:00.000001", datetime(2026, 11, 1, 10, 0, 0, 1)),
    (pa.time64("us"), "10:00:01", time(10, 0, 1)),
    (pa.large_string(), "x", "x"),
    ("text", "007", "007"),
]


def test_each_type_that_is_valid_by_its_name_alone_is_a_type() -> None:
    """They are not looked up when a Dag is read; a wrong one would be found when the rows are."""
    names = [*_PLAIN, *_NAMES, "decimal(38,2)", " Numeric( 1 ) ", "decimal(5,10)"]
    assert set(Reading(types=dict(zip(names, names, strict=True))).column_types()) == set(names)
    for name in ("decimal(0)", "decimal(39,1)", "timestamp[days]"):
        with pytest.raises(InvalidJob, match="is not a type"):
            Reading(types={"x": name})


@pytest.mark.parametrize(("kind", "text", "value"), DECLARED, ids=[str(kind) for kind, *_ in DECLARED])
@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_declared_column_has_its_type(kind: Any, text: str, value: Any, name: str, tmp_path: Path) -> None:
    """Also where a text in JSON is declared a number, and a number a text."""
    data = f"id,x\n1,{text}\n2,\n" if name == "t.csv" else f'{{"id":"1","x":"{text}"}}\n{{"id":"2","x":null}}\n'
    assert _values(_open(tmp_path, name, data, types={"x": kind})) == [["1", value], ["2", None]]


@pytest.mark.parametrize(
    ("kind", "text"),
    [("int64", "1.5"), ("decimal(5,2)", "1.999"), ("date", "01.11.2026"), ("timestamp", "2026-11-01T10:00:00+02:00"), ("bool", "yes")],
)
def test_what_does_not_convert_is_told_with_row_and_column_not_value(kind: str, text: str, tmp_path: Path) -> None:
    """A value is private; the place is what the user can mend."""
    good = {"int64": "1", "decimal(5,2)": "1.99", "date": "2026-11-01", "timestamp": "2026-11-01 10:00", "bool": "true"}[kind]
    table = _open(tmp_path, "t.csv", "id,x\n" + f"1,{good}\n" * 40_000 + f"2,{text}\n", types={"x": kind})
    with pytest.raises(SourceError, match=r"row 40,002 \(the header is row 1\): column 'x' is declared") as caught:
        _rows(table)
    assert text not in str(caught.value)
    table = _open(tmp_path, "t.jsonl", f'{{"x":"{good}"}}\n\n{{"x":"{text}"}}\n', types={"x": kind})
    with pytest.raises(SourceError, match="line 3: column 'x' is declared"):
        _rows(table)


def test_a_type_is_declared_of_a_column_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match=r"'y'.*does not have \(it has 'x'\)"):
        _open(tmp_path, "t.csv", "x\n1\n", types={"y": "int64"})
    with pytest.raises(InvalidJob, match="itself has the type int64"):
        open_table(pa.table({"x": [1]}), reading=Reading(types={"x": "text"}))


@pytest.mark.parametrize("option", [{"encoding": "cp1252"}, {"delimiter": ";"}, {"quote": "'"}], ids=str)
@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "t.jsonl", "rows"])
def test_an_option_of_text_that_would_have_no_effect_is_refused(tmp_path: Path, name: str, option: dict[str, Any]) -> None:
    """Who gives it believes that the source is another one."""
    if name == "t.jsonl" and "encoding" in option:
        pytest.skip("JSON Lines has an encoding")
    table, path = pa.table({"x": ["1"]}), tmp_path / name
    match name:
        case "t.parquet":
            pq.write_table(table, path)
        case "t.arrow":
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
        case "t.jsonl":
            path.write_text('{"x": "1"}\n')
    source = table if name == "rows" else path
    with pytest.raises(InvalidJob, match=rf"{next(iter(option))}=.* no effect.*Nothing was sent"):
        open_table(source, reading=Reading(**option))


@pytest.mark.parametrize(
    "wrong",
    [
        {"types": {"x": "money"}},
        {"types": ["x"]},
        {"encoding": "klingon"},
        {"encoding": "rot13"},
        {"delimiter": ";;"},
        {"quote": "«"},
        {"quote": ",", "delimiter": ","},
    ],
)
def test_a_reading_that_cannot_be_is_refused_when_it_is_declared(wrong: dict[str, Any]) -> None:
    """In a Dag that is while it is read, not in the night."""
    with pytest.raises(InvalidJob, match=next(iter(wrong))):
        Reading(**wrong)


# --- encodings and dialects -------------------------------------------------------------------------------------------

WELL: dict[str, tuple[str, str | bytes, dict[str, Any]]] = {
    "UTF-8 with its mark": ("t.csv", "id,body\n1,ü\n".encode("utf-8-sig"), {}),
    "UTF-16 by its mark": ("t.csv", "id,body\n1,ü\n".encode("utf-16"), {}),
    "big-endian UTF-16": ("t.csv", b"\xfe\xff" + "id,body\n1,ü\n".encode("utf-16-be"), {}),
    "declared": ("t.csv", "id,body\n1,ü\n".encode("cp1252"), {"encoding": "cp1252"}),
    "semicolons": ("t.csv", "id;body\n1;ü\n", {"delimiter": ";"}),
    "Excel's first line": ("t.csv", "sep=;\nid;body\n1;ü\n", {"delimiter": ";"}),
    "tabs by the suffix": ("t.tsv", "id\tbody\n1\tü\n", {}),
    "tabs by the suffix, packed": ("t.tsv.bz2", bz2.compress("id\tbody\n1\tü\n".encode()), {}),
    "tabs by the other suffix": ("t.TAB", "id\tbody\n1\tü\n", {}),
    "other quotes": ("t.csv", "id,body\n1,'ü'\n", {"quote": "'"}),
    "carriage returns alone": ("t.csv", "id,body\r1,ü\r", {}),
    "a suffix in capitals": ("T.CSV.GZ", gzip.compress("id,body\n1,ü\n".encode()), {}),
    "packed, whatever its name": ("t.csv", gzip.compress("id,body\n1,ü\n".encode()), {}),
    "not packed, whatever its name": ("t.csv.gz", "id,body\n1,ü\n", {}),
    "UTF-16 of JSON Lines": ("t.jsonl", '{"id":"1","body":"ü"}\n'.encode("utf-16"), {}),
    "JSON Lines with a mark": ("t.jsonl", '{"id":"1","body":"ü"}\n'.encode("utf-8-sig"), {}),
}


@pytest.mark.parametrize(("name", "data", "reading"), WELL.values(), ids=WELL.keys())
def test_a_file_is_read_in_its_encoding_and_dialect(name: str, data: str | bytes, reading: dict[str, Any], tmp_path: Path) -> None:
    assert _rows(_open(tmp_path, name, data, **reading)) == [{"id": "1", "body": "ü"}]


ILL: dict[str, tuple[str, str | bytes, str]] = {
    "another encoding": ("t.csv", b"id,body\n1,x\n2,\xfc\n", r"line 3 is not UTF-8 \(at byte offset 14\).*encoding='cp1252'"),
    "another encoding of the header": ("t.csv", b"id,\xfc\n1,x\n", "line 1 is not UTF-8"),
    "another encoding of JSON Lines": ("t.jsonl", b'{"a":"x"}\n{"a":"\xfc"}\n', r"line 2 is not UTF-8 \(at byte offset 16\)"),
    "UTF-16 without a mark": ("t.csv", "id,body\n1,x\n".encode("utf-16-le"), "encoding='utf-16-le'"),
    "semicolons": ("t.csv", "id;body\n1;x\n", r"holds a semicolon.*delimiter=';'"),
    "tabs": ("t.csv", "id\tbody\n1\tx\n", r"holds a tab.*delimiter='\\t'"),
    "Excel's first line": ("t.csv", "sep=;\nid;body\n1;x\n", r"Excel's `sep=;`.*delimiter=';'"),
    "two columns of one name": ("t.csv", "a,b,a\n1,2,3\n", "two columns of the name 'a'"),
    "too many values": ("t.csv", "a,b\n1,2\n1,2,secret\n", "row 3 has 3 values, and the header names 2"),
    "too few values": ("t.csv", "a,b\n1,2\nsecret\n", "row 3 has 1 values"),
    "a quote that is not closed": ("t.csv", 'a,b\n1,"secret\n2,3\n', "line 2: a quote is opened here and never closed"),
    "the same in a large file": ("t.csv", 'a,b\n1,"secret\n' + "2,3\n" * 900_000, "line 2: a quote is opened here and never closed"),
    "text behind a closing quote": (
        "t.csv",
        'a,b\n1,"x\ny"\n2,"a \\"secret\\" b"\n',
        "line 4: a quoted field goes on after its closing quote",
    ),
    "a line that is no object": ("t.jsonl", '{"a":1}\n\n{"a":\n', "line 3 is not a JSON object"),
    "two objects in a line": ("t.jsonl", '{"a":1}\n{"a":2}{"a":3}\n', "line 2 is not a JSON object"),
    "an array": ("t.jsonl", '[{"a":1}]\n', "line 1 is not a JSON object"),
}


@pytest.mark.parametrize(("name", "data", "says"), ILL.values(), ids=ILL.keys())
def test_what_cannot_be_right_is_refused_with_its_place_and_the_way(name: str, data: str | bytes, says: str, tmp_path: Path) -> None:
    """Each was read as something else, silently, by a reader in wide use."""
    with pytest.raises(SourceError, match=says) as caught:
        _rows(_open(tmp_path, name, data))
    assert "Nothing was sent" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.csv.gz"])
@pytest.mark.parametrize("data", [b"", b"\n\r\n", gzip.compress(b"")], ids=["nothing", "blank lines", "packed"])
def test_a_file_without_anything_is_an_empty_partition(name: str, data: bytes, tmp_path: Path) -> None:
    """So exporters write a day without rows."""
    table = _open(tmp_path, name, data)
    assert (table.schema.names, table.rows, _rows(table)) == ([], 0, [])


@pytest.mark.parametrize("data", ["id,body\n", "id,body"])
def test_a_header_alone_is_an_empty_partition_with_columns(data: str, tmp_path: Path) -> None:
    table = _open(tmp_path, "t.csv", data)
    assert (table.schema.names, table.rows, _rows(table)) == (["id", "body"], 0, [])


@SHARED
@given(data=st.text('""",a\n', max_size=14), cuts=st.lists(st.integers(0, 14), max_size=3))
@example(data='a""', cuts=[2])
@example(data='"a""', cuts=[3])
def test_quotes_are_judged_as_a_strict_reader_judges_them(data: str, cuts: list[int]) -> None:
    """Wherever the blocks are cut."""
    quotes, start = Quotes('"', ","), 0
    for cut in [*sorted(cuts), len(data)]:
        quotes.feed(data[start:cut].encode())
        start = max(start, cut)
    quotes.end()
    try:
        list(csv.reader(io.StringIO(data, newline=""), strict=True))
        assert quotes.fault is None
    except csv.Error:
        assert quotes.fault is not None


# --- JSON Lines: every digit ------------------------------------------------------------------------------------------

NUMBERS = ["18446744073709551615", "123456789012345678901234567890", "1.10", "1e3", "12E5", "0.1", "-0.0", "1e-07", "3", "1e400"]


@pytest.mark.parametrize("first", NUMBERS)
@pytest.mark.parametrize("second", ["1", "2.5", "null", '"x"', "[1.50]", "{}", "true"])
def test_every_number_of_json_lines_comes_out_with_the_digits_it_was_written_with(first: str, second: str, tmp_path: Path) -> None:
    """Arrow makes doubles of the first, and of any beside a number with a point."""
    table = _open(tmp_path, "t.jsonl", f'{{"id":"a","x":{first}}}\n{{"id":"b","x":{second}}}\n')
    write_table(tmp_path / "o.jsonl", table.schema, table.batches())
    written = [json.loads(line, parse_float=str, parse_int=str)["x"] for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert written == [json.loads(text, parse_float=str, parse_int=str) for text in (first, second)]


PLAIN: dict[str, tuple[list[Any], pa.DataType]] = {
    "whole numbers": ([1, -(2**63)], pa.int64()),
    "doubles as Python writes them": ([0.1, 1e-07], pa.float64()),
    "texts": (["2026-11-01", "x"], pa.string()),
    "booleans": ([True, None], pa.bool_()),
    "lists": ([[1, 2], []], pa.list_(pa.int64())),
    "objects": ([{"a": [0.5]}, {"b": "x"}], pa.struct([("a", pa.list_(pa.float64())), ("b", pa.string())])),
    "nothing": ([None, None], pa.string()),
}


@pytest.mark.parametrize(("values", "kind"), PLAIN.values(), ids=PLAIN.keys())
def test_values_of_one_type_have_that_type(values: list[Any], kind: pa.DataType, tmp_path: Path) -> None:
    table = _open(tmp_path, "t.jsonl", "".join(json.dumps({"x": value}) + "\n" for value in values))
    assert table.schema.field("x").type == kind


def test_types_do_not_depend_on_which_lines_come_first(tmp_path: Path) -> None:
    """Those of the first 2 MB held for the rest, and a line far down stopped the job."""
    lines = [json.dumps({"id": n, "x": n, "body": "y" * 100}) for n in range(40_000)]
    table = _open(tmp_path, "t.jsonl", "\n".join([*lines, '{"id": 40000, "x": "late", "new": 1.10}']))
    assert [row["x"] for row in _rows(table)][-2:] == ["39999", '"late"']
    assert _rows(table)[-1]["new"] == "1.10"
    assert "'x' has values of several types" in table.notes[0]
    assert table.rows == 40_001


def test_a_lone_surrogate_costs_its_row(tmp_path: Path) -> None:
    """The others can be told, and are asked."""
    table = _open(tmp_path, "t.jsonl", '{"id":1,"body":"ok"}\n{"id":2,"body":"x\\ud83d"}\n')
    assert _rows(table) == [
        {"id": 1, "body": "ok", ROW_FAULT: None},
        {"id": 2, "body": None, ROW_FAULT: "line 2: 'body' holds a lone surrogate, which is no text"},
    ]


def test_a_line_of_many_megabytes_is_read(tmp_path: Path) -> None:
    """An image as base64 is one."""
    assert len(_rows(_open(tmp_path, "t.jsonl", json.dumps({"a": "x" * 5_000_000}) + '\n{"a":"y"}\n'))) == 2


@pytest.mark.parametrize("levels", [60, 300])
def test_a_value_that_is_nested_deeper_than_parquet_can_hold_is_kept_as_json(levels: int, tmp_path: Path) -> None:
    """A syntax tree is one; Parquet's reader ended with "schema too deeply nested", after the rows were staged."""
    value = "[" * levels + "1" + "]" * levels
    table = _open(tmp_path, "t.jsonl", f'{{"id":1,"tree":{value}}}\n')
    assert table.schema.field("tree").type == pa.json_(pa.string())
    assert _rows(table)[0]["tree"] == value


@pytest.mark.parametrize("levels", [600, 5_000, 50_000])
def test_a_line_that_is_nested_too_deeply_is_refused_and_does_not_end_the_process(levels: int, tmp_path: Path) -> None:
    """Arrow's reader counts no levels: a process that read ten thousand of them was killed by the system."""
    with pytest.raises(SourceError, match=r"line.* is nested too deeply. Nothing was sent"):
        _open(tmp_path, "t.jsonl", '{"id":1,"v":' + "[" * levels + "]" * levels + "}\n")


def test_a_line_with_many_objects_side_by_side_has_their_types(tmp_path: Path) -> None:
    """Depth is what is refused, not size."""
    table = _open(tmp_path, "t.jsonl", json.dumps({"id": 1, "turns": [{"role": "user"}] * 2_000}) + "\n")
    assert table.schema.field("turns").type == pa.list_(pa.struct([("role", pa.string())]))


# --- what people call a table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("magic", [b"SQLite format 3\0", b"PK\x03\x04", b"Obj\x01", b"ORC", b"12345678DUCK", b"\xd0\xcf\x11\xe0"])
def test_a_file_of_another_kind_is_named_whatever_it_is_called(magic: bytes, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"this is an? .*, which Keld does not read. Nothing was sent"):
        _open(tmp_path, "t.csv", magic + b"\0" * 32)


def test_a_spelling_of_feather_is_read(tmp_path: Path) -> None:
    table = pa.table({"id": [1, 2]})
    with pa.ipc.new_file(str(tmp_path / "t.feather"), table.schema) as file:
        file.write_table(table)
    assert _rows(open_table(tmp_path / "t.feather")) == table.to_pylist()
