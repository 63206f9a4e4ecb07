"""Types: a value of every Arrow type goes in, is kept in the snapshot, and comes out of each sink, or is refused in words before."""

import csv
import json
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keld.job import Job
from keld.snapshot import take
from keld.table import open_table, read_parquet, try_sink, write_table
from keld.value import csv_texts, encode, jsonable, readable

U = UUID(int=7)
NANO = 1_793_527_200_123_456_789  # 2026-11-01 10:00 UTC and some
SPAN = pa.MonthDayNano([1, 2, 3_000_000_000])


def _extension(kind: Any, storage: Any) -> Callable[[], pa.Array]:
    return lambda: pa.ExtensionArray.from_storage(kind, storage)


def _of(values: list[Any], kind: pa.DataType) -> Callable[[], pa.Array]:
    return lambda: pa.array(values, type=kind)


def _run_ends() -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array(["a", None]))


def _union() -> pa.Array:
    return pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", None])])


# what goes in (a value, then null), and the value in a prompt, in CSV and in JSON (its digits as they are written)
TYPES: dict[str, tuple[Callable[[], pa.Array], str, str, str]] = {
    "bool": (_of([True, None], pa.bool_()), "True", "true", "true"),
    "int8": (_of([-1, None], pa.int8()), "-1", "-1", "-1"),
    "uint64": (_of([2**64 - 1, None], pa.uint64()), "18446744073709551615", "18446744073709551615", "18446744073709551615"),
    "float16": (_of([1.5, None], pa.float16()), "1.5", "1.5", "1.5"),
    "float32": (_of([1.5, None], pa.float32()), "1.5", "1.5", "1.5"),
    "float64": (_of([1e-9, None], pa.float64()), "1e-09", "1e-9", "1e-09"),
    "decimal32": (_of([Decimal("1.20"), None], pa.decimal32(5, 2)), "1.20", "1.20", "1.20"),
    "decimal128": (_of([Decimal("0.000000001"), None], pa.decimal128(18, 9)), "1E-9", "0.000000001", "1E-9"),
    "decimal256": (_of([Decimal("1" * 60), None], pa.decimal256(70, 2)), "1" * 60 + ".00", "1" * 60 + ".00", "1" * 60 + ".00"),
    "string": (_of(["ü\n", None], pa.string()), "ü\n", "ü\n", '"ü\\n"'),
    "large string": (_of(["x", None], pa.large_string()), "x", "x", '"x"'),
    "string view": (_of(["x", None], pa.string_view()), "x", "x", '"x"'),
    "binary": (_of([b"\xff\xfe", None], pa.binary()), "", "//4=", '"//4="'),
    "binary that is text": (_of([b"x", None], pa.binary_view()), "x", "eA==", '"eA=="'),
    "fixed binary": (_of([b"\xff\xfe", None], pa.binary(2)), "", "//4=", '"//4="'),
    "date32": (_of([date(2026, 11, 1), None], pa.date32()), "2026-11-01", "2026-11-01", '"2026-11-01"'),
    "date64": (_of([date(2026, 11, 1), None], pa.date64()), "2026-11-01", "2026-11-01", '"2026-11-01"'),
    "time32": (_of([time(10), None], pa.time32("ms")), "10:00:00", "10:00:00.000", '"10:00:00"'),
    "time64[ns]": (_of([36_000_000_000_001, None], pa.time64("ns")), "10:00:00.000000001", "10:00:00.000000001", '"10:00:00.000000001"'),
    "timestamp": (_of([datetime(2026, 11, 1, 10), None], pa.timestamp("us")), "2026-11-01 10:00:00", "2026-11-01 10:00:00.000000", '"2026-11-01T10:00:00"'),
    "timestamp in UTC": (_of([datetime(2026, 11, 1, 10, tzinfo=UTC), None], pa.timestamp("ms", "UTC")), "2026-11-01 10:00:00+00:00", "2026-11-01 10:00:00.000Z", '"2026-11-01T10:00:00Z"'),
    "nanoseconds in a zone": (
        _of([NANO, None], pa.timestamp("ns", "Europe/Berlin")),
        "2026-11-01 11:00:00.123456789+01:00", "2026-11-01 11:00:00.123456789+01:00", '"2026-11-01T11:00:00.123456789+01:00"',
    ),
    "duration": (_of([timedelta(days=1, microseconds=5), None], pa.duration("us")), "P1DT0.000005S", "P1DT0.000005S", '"P1DT0.000005S"'),
    "duration[ns]": (_of([-1, None], pa.duration("ns")), "-PT0.000000001S", "-PT0.000000001S", '"-PT0.000000001S"'),
    "interval": (_of([SPAN, None], pa.month_day_nano_interval()), "P1M2DT3S", "P1M2DT3S", '"P1M2DT3S"'),
    "null": (lambda: pa.nulls(2), "", "", "null"),
    "dictionary": (lambda: pa.array(["a", None]).dictionary_encode(), "a", "a", '"a"'),
    "run ends": (_run_ends, "a", "a", '"a"'),
    "list": (_of([[1, None], None], pa.list_(pa.int8())), "[1, None]", "[1,null]", "[1,null]"),
    "large list": (_of([["a"], None], pa.large_list(pa.large_string())), "['a']", '["a"]', '["a"]'),
    "nested list view": (_of([{"a": [1]}, None], pa.struct([("a", pa.list_view(pa.int64()))])), "{'a': [1]}", '{"a":[1]}', '{"a":[1]}'),
    "list view": (_of([["a"], None], pa.list_view(pa.string_view())), "['a']", '["a"]', '["a"]'),
    "large list view": (_of([[1], None], pa.large_list_view(pa.int64())), "[1]", "[1]", "[1]"),
    "fixed list": (_of([[1.5, 2.0], None], pa.list_(pa.float32(), 2)), "[1.5, 2.0]", "[1.5,2.0]", "[1.5,2.0]"),
    "struct": (_of([{"a": 1, "b": [NANO]}, None], pa.struct([("a", pa.int8()), ("b", pa.list_(pa.timestamp("ns")))])), "", '{"a":1,"b":["2026-11-01T10:00:00.123456789"]}', '{"a":1,"b":["2026-11-01T10:00:00.123456789"]}'),
    "struct without fields": (_of([{}, None], pa.struct([])), "{}", "{}", "{}"),
    "list of such": (_of([[{}], None], pa.list_(pa.struct([]))), "[{}]", "[{}]", "[{}]"),
    "map": (_of([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), "[('k', 1)]", '[["k",1]]', '[["k",1]]'),
    "list of intervals": (_of([[SPAN], None], pa.list_(pa.month_day_nano_interval())), '["P1M2DT3S"]', '["P1M2DT3S"]', '["P1M2DT3S"]'),
    "union": (_union, "", "1", "1"),
    "UUID": (_of([U.bytes, None], pa.uuid()), str(U), str(U), f'"{U}"'),
    "JSON": (_extension(pa.json_(), pa.array(['{"a":1.10}', None])), '{"a":1.10}', '{"a":1.10}', '{"a":1.10}'),
    "text in JSON": (_extension(pa.json_(), pa.array(['"a\\n"', None])), "a\n", "a\n", '"a\\n"'),
    "bool8": (_extension(pa.bool8(), pa.array([1, None], pa.int8())), "True", "true", "true"),
    "Postgres numeric": (_extension(pa.opaque(pa.string(), "numeric", "PostgreSQL"), pa.array(["1.10", None])), "1.10", "1.10", '"1.10"'),
    "tensor": (_extension(pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1.0, 2.5], None], pa.list_(pa.float32(), 2))), "[1.0, 2.5]", "[1.0,2.5]", "[1.0,2.5]"),
    "year 29349": (lambda: pa.array([10_000_000, None], pa.int32()).cast(pa.date32()), "29349-01-26", "29349-01-26", '"29349-01-26"'),
}  # fmt: skip


def _snapshot(folder: Path, column: pa.Array) -> list[pa.RecordBatch]:
    job = Job(name="labels", key="id", prompt="{x}", models="openai:m")
    take(job, open_table(pa.table({"id": [1, 2], "x": column})), folder / "snapshot.parquet")
    return list(read_parquet(folder / "snapshot.parquet"))


@pytest.mark.parametrize(("make", "prompt", "cell", "text"), TYPES.values(), ids=TYPES.keys())
def test_a_value_of_every_type_comes_out_of_every_sink(
    make: Callable[[], pa.Array], prompt: str, cell: str, text: str, tmp_path: Path
) -> None:
    """After all rows are paid is too late to find that a form has no such type."""
    column = make()
    batches = _snapshot(tmp_path, column)
    asked = [fragment for batch in batches for fragment in batch.column("keld_prompt").to_pylist()]
    assert asked[1] is None or column.null_count == 0
    if prompt:
        assert json.loads(asked[0]) == prompt
    plain = [batch.select(["id", "x"]) for batch in batches]
    for name in ("o.csv", "o.jsonl", "o.parquet"):
        try_sink(tmp_path / name, plain[0].schema)
        write_table(tmp_path / name, plain[0].schema, plain)
    with (tmp_path / "o.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "x"]
    assert rows[1][1] == cell
    line, last = (tmp_path / "o.jsonl").read_text().splitlines()
    assert line == f'{{"id":1,"x":{text}}}'
    assert json.loads(last)["x"] is None
    kept = pq.read_table(tmp_path / "o.parquet")
    assert kept.schema.field("x").type == plain[0].schema.field("x").type
    assert kept.equals(pa.Table.from_batches(plain))


@pytest.mark.parametrize("name", [name for name in TYPES if name not in ("float16", "null", "union", "year 29349")])
def test_what_is_written_is_read_by_a_reader_of_another_house(name: str, tmp_path: Path) -> None:
    """DuckDB shares no line with Arrow."""
    column = TYPES[name][0]()
    plain = [batch.select(["id", "x"]) for batch in _snapshot(tmp_path, column)]
    for sink in ("o.csv", "o.jsonl", "o.parquet"):
        write_table(tmp_path / sink, plain[0].schema, plain)
    assert duckdb.sql(f"select count(*), count(x) from read_parquet('{tmp_path}/o.parquet')").fetchall() == [(2, 1)]
    assert duckdb.sql(f"select x from read_csv('{tmp_path}/o.csv', all_varchar=true, header=true) order by id").fetchall() == [
        (TYPES[name][2],),
        (None,),
    ]
    assert duckdb.sql(f"select count(*), count(x) from read_json('{tmp_path}/o.jsonl', format='newline_delimited')").fetchall() == [(2, 1)]


def test_nanoseconds_look_the_same_where_pandas_is_not_installed() -> None:
    """pyarrow asks pandas for them; a prompt must not depend on what else is installed."""
    import subprocess
    import sys

    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'pandas': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "import pyarrow as pa; from keld.value import readable\n"
        f"print([str(v) for v in readable(pa.array([{NANO}, {NANO - 789}, {NANO - 123_456_789}], pa.timestamp('ns', 'Europe/Berlin')))])"
    )
    without = subprocess.check_output([sys.executable, "-c", code], text=True).strip()
    column = pa.array([NANO, NANO - 789, NANO - 123_456_789], pa.timestamp("ns", "Europe/Berlin"))
    assert without == str([str(value) for value in readable(column)])


def test_slices_and_nulls_of_nested_values_stay_where_they_are() -> None:
    """Arrow's parts know nothing of a slice."""
    kinds = pa.struct([("l", pa.list_(pa.duration("ns"))), ("m", pa.map_(pa.string(), pa.timestamp("ns")))])
    values = [None, {"l": [1], "m": [("a", 0)]}, {"l": None, "m": []}, {"l": [], "m": None}, {"l": [2, None], "m": [("b", 1), ("c", None)]}]
    column = pa.array(values, type=kinds)
    whole = [encode(value) for value in jsonable(column)]
    assert json.loads(whole[4]) == {"l": ["PT0.000000002S", None], "m": [["b", "1970-01-01T00:00:00.000000001"], ["c", None]]}
    for start in range(5):
        assert [encode(value) for value in jsonable(column.slice(start))] == whole[start:]
        assert csv_texts(column.slice(start)).to_pylist() == [None if line == b"null" else line.decode() for line in whole[start:]]
