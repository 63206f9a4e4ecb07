"""Partitions in and out: every kind of source gives the same rows, every sink is absent or complete."""

import datetime as dt
import gzip
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from upath import UPath

from keld.errors import SinkError, SourceError, StagingError
from keld.reading import Reading
from keld.table import ROW_FAULT, ParquetSink, Table, open_table, read_parquet, write_table

ROWS: list[dict[str, Any]] = [
    {"id": 1, "body": "plain", "weight": 1.5},
    {"id": 2, "body": 'quotes " and\nlines, commas', "weight": None},
    {"id": 3, "body": None, "weight": -2.25},
    {"id": 4, "body": "", "weight": 0.0},
    {"id": 5, "body": "雪 🙂 Ж NA null", "weight": 1e-9},
]
SCHEMA = pa.schema([("id", pa.int64()), ("body", pa.string()), ("weight", pa.float64())])
TYPED = Reading(types=SCHEMA)  # of CSV, which says no types itself


def _rows(table: Table) -> list[dict[str, Any]]:
    return [row for batch in table.batches() for row in batch.to_pylist()]


def _arrow() -> pa.Table:
    return pa.Table.from_pylist(ROWS, schema=SCHEMA)


def _parquet(folder: Path) -> Any:
    pq.write_table(_arrow(), folder / "t.parquet")
    return folder / "t.parquet"


def _csv(folder: Path) -> Any:
    pyarrow.csv.write_csv(_arrow(), folder / "t.csv")
    return str(folder / "t.csv")


def _csv_gz(folder: Path) -> Any:
    pyarrow.csv.write_csv(_arrow(), folder / "t.csv")
    (folder / "t.csv.gz").write_bytes(gzip.compress((folder / "t.csv").read_bytes()))
    return folder / "t.csv.gz"


def _jsonl(folder: Path) -> Any:
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return UPath(folder / "t.jsonl")


def _ndjson_gz(folder: Path) -> Any:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    (folder / "t.ndjson.gz").write_bytes(gzip.compress(lines.encode()))
    return f"file://{folder}/t.ndjson.gz"


def _directory(folder: Path) -> Any:
    for number, part in enumerate((ROWS[:2], ROWS[2:])):
        pq.write_table(pa.Table.from_pylist(part, schema=SCHEMA), folder / f"{number}.parquet")
    (folder / ".hidden.parquet").write_bytes(b"in the making")
    (folder / "_SUCCESS").write_bytes(b"")
    return f"{folder}/"


def _memory(folder: Path) -> Any:
    path = UPath(f"memory://{folder}/t.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_parquet(folder).read_bytes())
    return str(path)


def _pandas(folder: Path) -> Any:
    import pandas as pd

    return pd.DataFrame({"id": [1, 2, 3, 4, 5], **{name: pd.Series([row[name] for row in ROWS]) for name in ("body", "weight")}})


def _pandas_named_index(folder: Path) -> Any:
    return _pandas(folder).set_index("id")


def _polars(folder: Path) -> Any:
    import polars as pl

    return pl.DataFrame(ROWS)


def _polars_categories(folder: Path) -> Any:
    import polars as pl

    return pl.DataFrame(ROWS, schema_overrides={"body": pl.Categorical})


def _lazy(folder: Path) -> Any:
    return _polars(folder).lazy()


def _lazy_scan(folder: Path) -> Any:
    import polars as pl

    return pl.scan_parquet(_parquet(folder)).filter(pl.col("id") > 0)


def _views(folder: Path) -> Any:
    kinds = pa.schema([("id", pa.int64()), ("body", pa.string_view()), ("weight", pa.float64())])
    return pa.Table.from_pylist(ROWS, schema=kinds)


def _large_dictionary(folder: Path) -> Any:
    body = pa.array([row["body"] for row in ROWS], type=pa.large_string()).dictionary_encode()
    return _arrow().set_column(1, "body", body)


class _Capsule:
    """What any library that speaks Arrow's C stream looks like."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return _arrow().__arrow_c_stream__(requested_schema)


SOURCES: list[Callable[[Path], Any]] = [
    *(_parquet, _csv, _csv_gz, _jsonl, _ndjson_gz, _directory, _memory, _pandas, _pandas_named_index, _polars),
    *(_polars_categories, _lazy, _lazy_scan, _views, _large_dictionary),
]
ARROW: dict[str, Callable[[Path], Any]] = {
    "table": lambda folder: _arrow(),
    "batch": lambda folder: _arrow().to_batches()[0],
    "reader": lambda folder: _arrow().to_reader(),
    "dataset": lambda folder: pyarrow.dataset.dataset(_parquet(folder)),
    "capsule": lambda folder: _Capsule(),
    "dicts": lambda folder: iter(ROWS),
}


@pytest.mark.parametrize("make", [*SOURCES, *ARROW.values()], ids=[*(f.__name__[1:] for f in SOURCES), *ARROW])
def test_every_source_gives_the_same_rows(make: Callable[[Path], Any], tmp_path: Path) -> None:
    """A job must not care how its partition is kept."""
    table = open_table(make(tmp_path), reading=TYPED)
    assert table.schema.names == SCHEMA.names
    assert table.schema.types == SCHEMA.types
    assert table.rows in (None, len(ROWS))
    assert _rows(table) == ROWS


@pytest.mark.parametrize("make", [_parquet, _csv, _jsonl, _lazy, _polars, _pandas], ids=lambda f: f.__name__[1:])
def test_a_table_can_be_read_again(make: Callable[[Path], Any], tmp_path: Path) -> None:
    """A retried snapshot reads its source anew."""
    table = open_table(make(tmp_path), reading=TYPED)
    assert _rows(table) == _rows(table) == ROWS


def test_a_reader_says_that_it_is_spent() -> None:
    """Silence here would be an empty partition."""
    table = open_table(_arrow().to_reader())
    assert _rows(table) == ROWS
    with pytest.raises(SourceError, match="only once"):
        _rows(table)


def test_importing_does_not_bring_pandas_or_polars() -> None:
    """Either costs 0.2..0.4 s, and the user may have neither."""
    code = "import sys, keld.table, keld.schema; print({'pandas', 'polars', 'fsspec', 'pydantic'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code]) == b"set()\n"


# ---- what is wrong with a source


@pytest.mark.share(3)
@pytest.mark.parametrize(
    ("uri", "package", "extra"),
    [("s3://b/t.parquet", "s3fs", "s3"), ("gs://b/t.parquet", "gcsfs", "gcs"), ("az://b/t.parquet", "adlfs", "adlfs")],
)
def test_a_file_system_that_is_not_installed_is_told_by_what_installs_it(uri: str, package: str, extra: str) -> None:
    """fsspec names its own package, which has another name than the extra that the guides name."""
    code = f"""
import sys
sys.modules[{package!r}] = None
from keld import SourceError
from keld.table import open_table
try:
    open_table({uri!r})
except SourceError as told:
    print(told)
"""
    assert f"pip install 'keld[{extra}]'" in subprocess.check_output([sys.executable, "-c", code], text=True)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The path is what the user can mend."""
    for name in ("no.parquet", "no.csv", "no.jsonl", "no"):
        with pytest.raises(SourceError, match=rf"{name}: no such file.*Nothing was sent"):
            open_table(tmp_path / name)
    there = tmp_path / "there.parquet"
    pq.write_table(pa.table({"id": [1]}), there)
    for paths in ([str(there), f"{tmp_path}/gone.parquet"], [UPath(f"{tmp_path}/gone.parquet")]):
        with pytest.raises(SourceError, match=r"gone\.parquet: no such file.*Nothing was sent"):
            open_table(paths)


@pytest.mark.parametrize("source", [None, "", " ", lambda: None])
def test_nothing_is_no_source_and_not_the_directory_one_is_in(source: Any) -> None:
    """What a function gives that forgot to return, and a template that came out empty."""
    with pytest.raises(SourceError, match=r"neither rows nor a path.*Nothing was sent"):
        open_table(source)


def test_a_pattern_that_matches_nothing_is_named(tmp_path: Path) -> None:
    """An upstream that wrote nothing is a fault to show, not an empty partition."""
    with pytest.raises(SourceError, match="no file matches this pattern"):
        open_table(f"{tmp_path}/*.parquet")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    """Truncated uploads happen."""
    (tmp_path / "bad.parquet").write_bytes(_parquet(tmp_path).read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"bad\.parquet: cannot be read"):
        open_table(tmp_path / "bad.parquet")


def test_an_empty_directory_is_no_empty_partition(tmp_path: Path) -> None:
    """An upstream that wrote nothing is a fault to show, not a job of zero rows."""
    with pytest.raises(SourceError, match="no Parquet, CSV or JSONL file"):
        open_table(tmp_path)


def test_mixed_schemas_are_refused_before_reading(tmp_path: Path) -> None:
    """Found in the last file only, it would stop a job half sent."""
    pq.write_table(pa.table({"id": [1], "x": [1]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [1], "x": ["1"]}), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match=r"b\.parquet: mixed schemas: column 'x' is string here and int64"):
        open_table(tmp_path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """A prompt could not say which it means."""
    (tmp_path / "t.csv").write_text("a,a\n1,2\n")
    with pytest.raises(SourceError, match="two columns of the name 'a'"):
        open_table(tmp_path / "t.csv")


def test_hive_directories_become_columns(tmp_path: Path) -> None:
    """Writers leave the partition's columns out of the files."""
    for day in ("2026-11-19", "2026-11-20"):
        (tmp_path / f"day={day}" / "team=a%2Fb").mkdir(parents=True)
        pq.write_table(pa.table({"id": [1]}), tmp_path / f"day={day}" / "team=a%2Fb" / "x.parquet")
    table = open_table(tmp_path)
    assert table.rows == 2
    assert _rows(table) == [{"id": 1, "day": day, "team": "a/b"} for day in ("2026-11-19", "2026-11-20")]


def test_jsonl_strings_stay_strings(tmp_path: Path) -> None:
    """Arrow makes times of them, and a prompt would show another text than the file."""
    (tmp_path / "t.jsonl").write_text('{"t": "2026-11-20", "n": {"t": "2026-11-20", "u": null}}\n')
    assert _rows(open_table(tmp_path / "t.jsonl")) == [{"t": "2026-11-20", "n": {"t": "2026-11-20", "u": None}}]


def test_a_row_of_csv_larger_than_a_block_says_what_to_do(tmp_path: Path) -> None:
    """Arrow speaks of straddling."""
    (tmp_path / "t.csv").write_text(f"a,b\n1,{'x' * 5_000_000}\n")
    with pytest.raises(SourceError, match=r"larger than 2 MB.*Give the table as Parquet"):
        _rows(open_table(tmp_path / "t.csv"))


@pytest.mark.parametrize("name", ["t.parquet", "t.xlsx"])
def test_an_empty_file_that_has_no_columns_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SourceError, match=r"Give|Check"):
        open_table(tmp_path / name)


class _Named(NamedTuple):
    id: int
    body: str | None


@dataclass
class _Data:
    id: int
    body: str | None


class _Model(BaseModel):
    id: int
    body: str | None


def _of_sqlite() -> list[Any]:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    return database.execute("select 1 as id, 'a' as body union all select 2, null").fetchall()


def _of_sqlalchemy() -> Any:
    return sa.create_engine("sqlite://").connect().execute(sa.text("select 1 as id, 'a' as body union all select 2, null"))


OBJECTS: dict[str, Callable[[], Any]] = {
    "named tuples": lambda: [_Named(1, "a"), _Named(2, None)],
    "dataclasses": lambda: [_Data(1, "a"), _Data(2, None)],
    "Pydantic objects": lambda: (_Model(id=n, body=body) for n, body in ((1, "a"), (2, None))),
    "rows of sqlite3": _of_sqlite,
    "rows of SQLAlchemy": _of_sqlalchemy,
    "a dict of lists": lambda: {"id": [1, 2], "body": ["a", None]},
    "a dict of arrays": lambda: {"id": np.array([1, 2]), "body": pa.array(["a", None])},
}


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS.keys())
def test_rows_are_whatever_has_named_fields(make: Callable[[], Any]) -> None:
    assert _rows(open_table(make())) == [{"id": 1, "body": "a"}, {"id": 2, "body": None}]


def test_no_rows_are_an_empty_partition() -> None:
    """An upstream that found nothing has nothing to say of its columns."""
    assert (open_table([]).rows, _rows(open_table([])), open_table([]).schema.names) == (0, [], [])


@pytest.mark.parametrize("values", [{"id": 1}, {"id": "text"}, {"id": [1, 2], "body": ["a"]}])
def test_a_dict_of_other_things_is_no_table(values: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="Nothing was sent"):
        open_table(values)


def test_whole_numbers_beyond_64_bits_are_exact() -> None:
    """Python counts further than Arrow."""
    import pandas as pd

    for source in ([{"id": 2**70}, {"id": None}], pd.DataFrame({"id": [2**70, None]}, dtype=object)):
        assert _rows(open_table(source)) == [{"id": Decimal(2**70)}, {"id": None}]


def test_a_lone_surrogate_in_a_frame_costs_its_row() -> None:
    import pandas as pd

    rows = {"id": ["a", "b"], "body": ["x\ud83d", "y"]}
    for source in (pd.DataFrame(rows, dtype=object), rows):
        assert [row["body"] for row in _rows(open_table(source))] == [None, "y"]
        assert [row[ROW_FAULT] is None for row in _rows(open_table(source))] == [False, True]


def test_rows_of_several_types_are_refused_by_column() -> None:
    """Arrow's message names no column."""
    with pytest.raises(SourceError, match="column 'x'"):
        open_table([{"x": 1}, {"x": "one"}])
    with pytest.raises(SourceError, match="a row is a int, whose fields have no names"):
        open_table([1, 2])
    with pytest.raises(SourceError, match="is not a table"):
        open_table(3)


# ---- memory


def _blocks_bounded(table: Table) -> int:
    blocks = list(table.batches())
    assert all(block.nbytes <= 4 << 20 or block.num_rows == 1 for block in blocks)
    assert all(block.num_rows <= 16_384 for block in blocks)
    return sum(block.num_rows for block in blocks)


def test_blocks_are_cut_by_bytes_whatever_the_row_groups(tmp_path: Path) -> None:
    """1,000-row blocks of 100 KB rows cost a gigabyte."""
    path = tmp_path / "t.parquet"
    body = ["x" * (100 if number < 15_000 else 20_000) for number in range(17_000)]
    pq.write_table(pa.table({"id": range(17_000), "body": body}), path, row_group_size=17_000, use_dictionary=False)
    assert _blocks_bounded(open_table(path)) == 17_000
    assert _blocks_bounded(open_table(pq.read_table(path))) == 17_000


def test_a_repeated_long_text_does_not_fool_the_cut(tmp_path: Path) -> None:
    """In the file it is one dictionary entry and the rows weigh nothing; in memory each has 100 KB."""
    path = tmp_path / "t.parquet"
    column = pa.array(["x" * 100_000, "y"]).take(pa.array([0, 1] * 1_000))
    pq.write_table(pa.table({"body": column}), path)
    assert path.stat().st_size < 100_000
    sizes = [batch.nbytes for batch in read_parquet(path)]
    assert max(sizes) <= 8 << 20
    assert _blocks_bounded(open_table(path)) == 2_000
    assert _blocks_bounded(open_table(pa.table({"body": column.dictionary_encode()}))) == 2_000


def test_row_order_is_kept_when_the_block_size_changes(tmp_path: Path) -> None:
    """Positions are the rows' identity in custom_ids."""
    path = tmp_path / "t.parquet"
    sizes = [10] * 30_000 + [50_000] * 300 + [10] * 5_000
    pq.write_table(pa.table({"id": range(len(sizes)), "b": ["x" * size for size in sizes]}), path, use_dictionary=False)
    ids = [value for batch in open_table(path).batches() for value in batch.column(0).to_pylist()]
    assert ids == list(range(len(sizes)))


@given(start=st.integers(0, 130), stop=st.one_of(st.none(), st.integers(0, 130)), group=st.integers(1, 120))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_parquet_gives_exactly_the_range(start: int, stop: int | None, group: int, tmp_path: Path) -> None:
    """A shard encodes its own rows, neither its neighbour's nor one less."""
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"id": range(100), "other": ["x"] * 100}), path, row_group_size=group)
    batches = list(read_parquet(path, ["id"], start, stop))
    assert all(batch.schema.names == ["id"] for batch in batches)
    assert [value for batch in batches for value in batch.column(0).to_pylist()] == list(range(100))[start:stop]


# ---- partition keys in paths


@given(key=st.text(max_size=400))
@example(key="../../etc/passwd")
@example(key="..")
@example(key="a/b\\c\0d")
@example(key="")
@example(key="%2e%2e%2f")
@example(key="2026.11")
@example(key="\ud800")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_key_stays_one_segment_below_the_root(key: str, tmp_path: Path) -> None:
    """Keys come from users and upstreams; one that climbs writes over somebody else's files."""
    root = tmp_path / "root"
    for sink in (f"{root}/{{partition}}.parquet", f"{root}/", f"file://{root}/{{partition}}.parquet"):
        written = Path(write_table(sink, SCHEMA, _arrow().to_batches(), partition=key).uri)
        assert written.parent == root
        assert written.resolve() == written
        assert len(written.name) <= 200
        assert not written.name.startswith(".")
    assert sorted(path for path in tmp_path.iterdir()) == [root]
    assert open_table(f"{root}/{{partition}}.parquet", partition=key).rows == len(ROWS)


@given(keys=st.sets(st.text(max_size=200), min_size=2, max_size=2))
@example(keys={"a/b", "a%2Fb"})
@example(keys={".x", "%2Ex"})
@example(keys={"x" * 300, "x" * 301})
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_two_keys_never_share_a_file(keys: set[str], tmp_path: Path) -> None:
    """One partition would silently replace the other."""
    uris = {write_table(tmp_path, SCHEMA, [], partition=key).uri for key in keys}
    assert len(uris) == 2


def test_a_path_that_asks_for_a_partition_gets_one(tmp_path: Path) -> None:
    """A file named "{partition}" is never meant."""
    with pytest.raises(SourceError, match="needs a partition"):
        open_table(f"{tmp_path}/{{partition}}.parquet")
    with pytest.raises(SinkError, match="needs a partition"):
        write_table(f"{tmp_path}/{{partition}}.parquet", SCHEMA, [])


# ---- out


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl", "ndjson"])
@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_what_is_written_is_read_back(suffix: str, scheme: str, tmp_path: Path) -> None:
    """Null, empty and quoted text are three things in every format."""
    written = write_table(f"{scheme}{tmp_path}/new/dir/{{partition}}.{suffix}", SCHEMA, _arrow().to_batches(), partition="p q")
    assert written.rows == len(ROWS)
    table = open_table(written.uri, reading=TYPED)
    assert table.schema.types == SCHEMA.types
    assert _rows(table) == ROWS


def test_written_tells_the_digest_of_the_file(tmp_path: Path) -> None:
    """A manifest with a wrong digest is worse than none."""
    import hashlib

    for name in ("t.parquet", "t.csv", "t.jsonl"):
        written = write_table(tmp_path / name, SCHEMA, _arrow().to_batches())
        data = (tmp_path / name).read_bytes()
        assert (written.size_bytes, written.sha256) == (len(data), hashlib.sha256(data).hexdigest())


ODD = pa.table(
    {
        "cost": pa.array([Decimal("0.000000001"), None], type=pa.decimal128(18, 9)),
        "at": pa.array([dt.datetime(2026, 11, 20, 9, tzinfo=dt.UTC), None], type=pa.timestamp("us", "UTC")),
        "nano": pa.array([1, None], type=pa.timestamp("ns")),
        "day": pa.array([dt.date(2026, 11, 20), None]),
        "raw": pa.array([b"\xff\x00", None]),
        "tags": pa.array([["a", 'b"'], None]),
        "deep": pa.array([{"x": [{"y": Decimal("1.50")}]}, None]),
        "kind": pa.array(["a", None]).dictionary_encode(),
        "vector": pa.array([[1.0, 2.0], None], type=pa.list_(pa.float32(), 2)),
    }
)


def test_csv_holds_nested_values_as_json_and_decimals_in_plain_digits(tmp_path: Path) -> None:
    """CSV has no nesting, and "1E-9" is no amount that a person reads."""
    write_table(tmp_path / "t.csv", ODD.schema, ODD.to_batches())
    row = _rows(open_table(tmp_path / "t.csv"))[0]
    assert (tmp_path / "t.csv").read_text().splitlines()[1].startswith('"0.000000001"')
    assert json.loads(row["tags"]) == ["a", 'b"']
    assert json.loads(row["deep"]) == {"x": [{"y": 1.5}]}
    assert json.loads(row["vector"]) == [1.0, 2.0]
    assert row["at"] == "2026-11-20 09:00:00.000000Z"
    assert row["raw"] == "/wA="
    assert all(value is None for value in _rows(open_table(tmp_path / "t.csv"))[1].values())


def test_jsonl_holds_nested_values_and_every_digit(tmp_path: Path) -> None:
    """A float on the way would round money."""
    write_table(tmp_path / "t.jsonl", ODD.schema, ODD.to_batches())
    first, second = (json.loads(line, parse_float=Decimal) for line in (tmp_path / "t.jsonl").read_text().splitlines())
    assert first["cost"] == Decimal("0.000000001")
    assert first["deep"] == {"x": [{"y": Decimal("1.50")}]}
    assert first["at"] == "2026-11-20T09:00:00Z"
    assert first["nano"].endswith("00:00:00.000000001")
    assert first["day"] == "2026-11-20"
    assert set(second.values()) == {None}


def test_a_directory_sink_names_the_file_after_the_partition(tmp_path: Path) -> None:
    """So that partitions lie side by side."""
    assert write_table(f"{tmp_path}/a", SCHEMA, []).uri == f"{tmp_path}/a/part.parquet"
    assert write_table(f"{tmp_path}/b.d/", SCHEMA, [], partition="k").uri == f"{tmp_path}/b.d/k.parquet"
    assert write_table(f"{tmp_path}/{{partition}}", SCHEMA, [], partition="1.5").uri == f"{tmp_path}/1.5/1.5.parquet"
    with pytest.raises(SinkError, match="no writer for this suffix"):
        write_table(tmp_path / "t.xlsx", SCHEMA, [])


def test_a_tsv_that_is_written_is_one_that_is_read(tmp_path: Path) -> None:
    write_table(tmp_path / "t.tsv", SCHEMA, _arrow().to_batches())
    assert (tmp_path / "t.tsv").read_text().startswith('"id"\t"body"\t"weight"\n')
    assert _rows(open_table(tmp_path / "t.tsv", reading=TYPED)) == ROWS


FRAMES = {
    "an index that is a column, too": (pd.DataFrame({"id": [1], "body": ["x"]}).set_index("id", drop=False), None),
    "one of a frame that was filtered and merged": (pd.DataFrame({"id": [1, 2], "body": ["x", "y"]}, index=[0, 0])[:1], None),
    "an index of a column's name that differs": (pd.DataFrame({"id": [1]}, index=pd.Index([2], name="id")), "'id' that differ"),
    "two columns of one name": (pd.DataFrame([[1, 2]], columns=["id", "id"]), "two columns of the name 'id'"),
    "a series": (pd.Series([1], name="id"), "a pandas Series is not a table"),
}


@pytest.mark.parametrize(("frame", "fault"), FRAMES.values(), ids=FRAMES.keys())
def test_a_pandas_frame_as_people_have_them_is_read_or_refused_in_words(frame: Any, fault: str | None) -> None:
    if fault is None:
        assert _rows(open_table(frame)) == [{"id": 1, "body": "x"}]
    else:
        with pytest.raises(SourceError, match=f"{fault}.*Nothing was sent"):
            open_table(frame)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_polars_frame_with_a_type_that_arrow_does_not_have_is_refused_in_words(lazy: bool) -> None:
    """It ended with `ArrowInvalid: Invalid or unsupported format string: '_pli128'`."""
    import polars as pl

    frame = pl.DataFrame({"id": [1]}, schema={"id": pl.Int128})
    with pytest.raises(SourceError, match=r"a type that Arrow does not have.*Nothing was sent"):
        open_table(frame.lazy() if lazy else frame)


def test_a_lazy_polars_frame_that_cannot_be_computed_is_refused_without_its_rows(tmp_path: Path) -> None:
    """A CSV file with a row too many is found when the rows are read, and the message of Polars may quote it."""
    import polars as pl

    (tmp_path / "t.csv").write_text("id,body\n1,a\n2,secret,b\n")
    for frame in (
        pl.scan_csv(tmp_path / "t.csv"),
        pl.scan_csv(tmp_path / "t.csv").select("nope"),
        pl.LazyFrame({"id": ["secret"]}).cast(pl.Int64),
    ):
        with pytest.raises(SourceError, match=r"it cannot be computed \(\w+\)\. Nothing was sent") as refused:
            _rows(open_table(frame))
        assert "secret" not in str(refused.value)


def test_a_row_that_arrow_cannot_read_is_told_by_its_number_and_not_quoted(tmp_path: Path) -> None:
    """A dataset of CSV is read by Arrow, whose message ends with the row; an error stands in logs."""
    (tmp_path / "t.csv").write_text("id,body\n" + "1,some text\n" * 200_000 + "2,secret,b\n")
    table = open_table(pyarrow.dataset.dataset(tmp_path / "t.csv", format="csv"))
    with pytest.raises(SourceError, match=r"row 200,002 of CSV cannot be read\. Repair the source") as refused:
        list(table.batches())
    assert "secret" not in str(refused.value)


def test_a_sparse_pandas_column_is_read() -> None:
    """Of `get_dummies(sparse=True)`; pyarrow takes none."""
    frame = pd.DataFrame({"id": [1, 2], "flag": pd.arrays.SparseArray([0, 1])})
    assert _rows(open_table(frame)) == [{"id": 1, "flag": 0}, {"id": 2, "flag": 1}]


@pytest.mark.parametrize("kind", [pa.timestamp("us", "Mars/Olympus"), pa.list_(pa.timestamp("ns", "UTC+02:00"))])
def test_a_time_zone_that_this_machine_does_not_know_is_refused_before_anything_is_sent(kind: pa.DataType) -> None:
    """Of .NET's names, or where tzdata is not installed: an instant could be shown in no prompt and written to no text file, which was found when all was paid."""
    with pytest.raises(SourceError, match=r"column 'at' is in the time zone .*Nothing was sent"):
        open_table(pa.table({"id": [1], "at": pa.nulls(1, kind)}))


def test_a_period_of_pandas_is_its_text_and_not_its_number() -> None:
    """Arrow has no such type; the number that pandas stores, months since 1970, would stand in the prompt."""
    months = pd.PeriodIndex(["2026-01", pd.NaT], freq="M")
    assert _rows(open_table(pd.DataFrame({"id": [1, 2], "month": months}))) == [{"id": 1, "month": "2026-01"}, {"id": 2, "month": None}]


# ---- absent or complete


def _stops_in_the_middle() -> Iterator[pa.RecordBatch]:
    yield from _arrow().to_batches()
    raise RuntimeError("the answers ran out")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_an_exception_in_the_middle_leaves_what_was_there(name: str, scheme: str, tmp_path: Path) -> None:
    """Downstream reads whatever has the right name."""
    target = UPath(f"{scheme}{tmp_path}/{name}")
    with pytest.raises(RuntimeError, match="ran out"):
        write_table(str(target), SCHEMA, _stops_in_the_middle())
    assert not target.exists()
    write_table(str(target), SCHEMA, _arrow().to_batches())
    before = target.read_bytes()
    with pytest.raises(RuntimeError, match="ran out"):
        write_table(str(target), SCHEMA, _stops_in_the_middle())
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == [name]


def test_nothing_has_the_name_before_the_end(tmp_path: Path) -> None:
    """A reader may look at any moment, and a kill may come at any moment."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield from _arrow().to_batches()
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())

    write_table(tmp_path / "t.parquet", SCHEMA, batches())
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount here: needs root")
    yield place
    subprocess.run(["umount", place], check=True)


def _noise(rows: int) -> pa.Table:
    return pa.table({"noise": [os.urandom(1000) for _ in range(rows)]})


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_a_full_disk_is_named_and_loses_nothing(name: str, tiny_disk: Path) -> None:
    """The answers are paid for; only the copy is missing."""
    write_table(tiny_disk / name, SCHEMA, _arrow().to_batches())
    before = (tiny_disk / name).read_bytes()
    noise = _noise(5_000)
    with pytest.raises(SinkError, match=r"No space left on device \(ENOSPC\).*safe in staging"):
        write_table(tiny_disk / name, noise.schema, noise.to_batches(max_chunksize=100))
    assert (tiny_disk / name).read_bytes() == before
    assert [path.name for path in tiny_disk.iterdir()] == [name]


def test_a_full_disk_leaves_no_half_staging_file(tiny_disk: Path) -> None:
    """A staging file that is there is taken to be whole."""
    noise = _noise(5_000)
    with pytest.raises(StagingError, match="ENOSPC"), ParquetSink(tiny_disk / "s.parquet", noise.schema) as sink:
        for batch in noise.to_batches():
            sink.write(batch)
    assert list(tiny_disk.iterdir()) == []


def test_a_file_over_the_size_limit_is_named(tmp_path: Path) -> None:
    """A quota says EFBIG, not ENOSPC; the same promise holds."""
    code = (
        "import resource, signal, sys, os, pyarrow as pa\n"
        "from keld.table import write_table\n"
        "from keld.errors import SinkError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "table = pa.table({'noise': [os.urandom(1000) for _ in range(5000)]})\n"
        "try: write_table(sys.argv[1], table.schema, table.to_batches())\n"
        "except SinkError as error: sys.exit(0 if 'EFBIG' in str(error) else str(error))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "t.parquet"], check=False, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """Here a directory has the name, as a mistyped sink would."""
    (tmp_path / "t.parquet").mkdir()
    with pytest.raises(SinkError, match=r"t\.parquet: cannot be written"):
        write_table(tmp_path / "t.parquet", SCHEMA, _arrow().to_batches())
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_broken_staging_is_not_called_a_source(tmp_path: Path) -> None:
    """ "Nothing was sent" would be a lie there: the answers may be paid for."""
    for name in ("none.parquet", "bad.parquet"):
        (tmp_path / "bad.parquet").write_bytes(b"PAR1")
        with pytest.raises(StagingError, match=f"{name}: staging cannot be read") as caught:
            list(read_parquet(tmp_path / name))
        assert "Nothing was sent" not in str(caught.value)


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    """What the writer holds, and what a reader of our staging must skip."""
    schema = pa.schema([("x", pa.int64())])
    with ParquetSink(tmp_path / "s.parquet", schema) as sink:
        for start in range(0, 400_000, 10_000):
            sink.write(pa.record_batch({"x": pa.array(range(start, start + 10_000))}))
    metadata = pq.read_metadata(tmp_path / "s.parquet")
    assert metadata.num_rows == 400_000
    assert max(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)) <= 131_072


@pytest.mark.wide
@pytest.mark.long
def test_reading_a_million_rows_stays_flat(tmp_path: Path) -> None:
    """One row group of 400 MB; measured 150 MB with imports, against 487 MB with Arrow's defaults."""
    path = tmp_path / "t.parquet"
    body = pa.array([os.urandom(200).hex() for _ in range(1_000)]).take(pa.array(list(range(1_000)) * 1_000))
    pq.write_table(pa.table({"id": range(1_000_000), "body": body}), path, row_group_size=1_000_000, use_dictionary=False)
    code = (
        "import sys; from keld.table import open_table\n"
        "rows = sum(batch.num_rows for batch in open_table(sys.argv[1]).batches())\n"
        # Not ru_maxrss: a child begins with its parent's.
        "print(rows, next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    rows, peak_kb = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True).stdout.split()
    assert int(rows) == 1_000_000
    assert int(peak_kb) < 250 * 1024
