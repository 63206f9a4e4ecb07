"""Lake tables and directories: the rows that stand, no others; and part files that differ as part files do."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from upath import UPath

from keld.errors import SourceError
from keld.reading import Reading
from keld.table import open_table


def _rows(source: Any, partition: str | None = None, **reading: Any) -> list[dict[str, Any]]:
    return [row for batch in open_table(source, partition=partition, reading=Reading(**reading)).batches() for row in batch.to_pylist()]


# --- Delta ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    """Rows 1, 3 (`a b`), 4 (`o'b/x`) and 5 (no day); row 2 was deleted, and its file still lies there."""
    table = pa.table({"id": [1, 2, 3, 4, 5], "day": ["a b", "a b", "a b", "o'b/x", None]})
    write_deltalake(tmp_path / "t", table, partition_by=["day"])
    DeltaTable(tmp_path / "t").delete("id = 2")
    return tmp_path / "t"


def test_a_delta_table_is_read_as_its_log_says(delta: Path) -> None:
    """Read as plain files, the removed row would be sent, and rewritten ones twice."""
    assert len(list(delta.rglob("*.parquet"))) > 3
    assert sorted(row["id"] for row in _rows(delta)) == [1, 3, 4, 5]
    assert "Delta version 1" in open_table(delta).description


@pytest.mark.parametrize(("partition", "ids"), [("a b", [1, 3]), ("o'b/x", [4]), ("__HIVE_DEFAULT_PARTITION__", [5])])
def test_a_partition_of_a_delta_table_is_read_as_its_log_says(partition: str, ids: list[int], delta: Path) -> None:
    assert [row["id"] for row in _rows(f"{delta}/day={{partition}}", partition)] == ids


def test_a_delta_table_is_pinned_when_it_is_opened(delta: Path) -> None:
    """Written again between the plan and the snapshot, it gives what was planned."""
    table = open_table(delta)
    write_deltalake(delta, pa.table({"id": [6], "day": ["z"]}), mode="append")
    assert sum(batch.num_rows for batch in table.batches()) == 4
    assert len(_rows(delta)) == 5


def test_rows_of_a_delta_table_come_in_the_same_order_each_time(tmp_path: Path) -> None:
    """A retried snapshot must be the same file."""
    for n in range(8):
        write_deltalake(tmp_path / "t", pa.table({"id": range(n * 20_000, (n + 1) * 20_000)}), mode="append")
    first = [row["id"] for row in _rows(tmp_path / "t")]
    assert sorted(first) == list(range(160_000))
    assert all([row["id"] for row in _rows(tmp_path / "t")] == first for _ in range(2))


def test_a_date_partition_of_a_delta_table_is_found(tmp_path: Path) -> None:
    days = pa.array(["2026-11-01", "2026-11-02"]).cast(pa.date32())
    write_deltalake(tmp_path / "t", pa.table({"id": [1, 2], "day": days}), partition_by=["day"])
    assert [row["id"] for row in _rows(f"{tmp_path}/t/day={{partition}}", "2026-11-02")] == [2]


def test_a_file_of_a_delta_table_is_refused(delta: Path) -> None:
    file = next(path for path in delta.rglob("*.parquet"))
    with pytest.raises(SourceError, match=r"a file inside of the Delta table .*Give the table's directory"):
        open_table(file)


def test_without_its_library_a_delta_table_is_refused_with_the_way(delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    for place in (delta, delta / "day=a%20b"):
        with pytest.raises(SourceError, match=r"Nothing was sent.*pip install 'keld\[delta\]'"):
            open_table(place)


# --- others -----------------------------------------------------------------------------------------------------------

SIGNS = {
    "Iceberg": ["metadata/v1.metadata.json", "data/day=1/p.parquet"],
    "Hudi": [".hoodie/hoodie.properties", "day=1/p.parquet"],
    "Lance": ["_versions/1.manifest", "data/p.parquet"],
    "Paimon": ["snapshot/LATEST", "schema/schema-0", "manifest/m", "day=1/p.parquet"],
}


@pytest.mark.parametrize(("kind", "files"), SIGNS.items(), ids=SIGNS.keys())
def test_a_table_of_another_kind_is_refused_also_from_inside(kind: str, files: list[str], tmp_path: Path) -> None:
    """What lies there is not what the table holds."""
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": [1]}), tmp_path / name)
    for place in (tmp_path, (tmp_path / files[-1]).parent, tmp_path / files[-1]):
        with pytest.raises(SourceError, match=f"a table of {kind}.*Nothing was sent"):
            open_table(place)


# --- directories ------------------------------------------------------------------------------------------------------


def _column(values: list[Any], kind: pa.DataType) -> pa.Table:
    return pa.table({"id": [str(n) for n in range(len(values))], "x": pa.array(values, kind)})


ALIKE: dict[str, tuple[pa.Table, pa.Table, pa.DataType, list[Any]]] = {
    "no value in one file": (_column([None], pa.null()), _column(["a"], pa.string()), pa.string(), [None, "a"]),
    "a wider integer": (_column([1], pa.int32()), _column([2**40], pa.int64()), pa.int64(), [1, 2**40]),
    "an unsigned one of fewer bits": (_column([1], pa.uint32()), _column([-1], pa.int64()), pa.int64(), [1, -1]),
    "a wider float": (_column([0.5], pa.float32()), _column([0.25], pa.float64()), pa.float64(), [0.5, 0.25]),
    "wider decimals": (_column([Decimal("1.5")], pa.decimal128(5, 1)), _column([Decimal("2.25")], pa.decimal128(12, 2)), pa.decimal128(12, 2), [Decimal("1.50"), Decimal("2.25")]),
    "a finer unit": (_column([1], pa.timestamp("us")), _column([1], pa.timestamp("ns")), pa.timestamp("ns"), None),
    "categories": (_column(["a"], pa.dictionary(pa.int8(), pa.string())), _column(["b"], pa.large_string()), pa.string(), ["a", "b"]),
    "an added column": (pa.table({"id": ["0"]}), _column(["a"], pa.string()), pa.string(), [None, "a"]),
    "a column that was dropped": (_column(["a"], pa.string()), pa.table({"id": ["0"]}), pa.string(), ["a", None]),
    "an added field": (_column([{"a": 1}], pa.struct([("a", pa.int32())])), _column([{"a": 2, "b": "x"}], pa.struct([("a", pa.int64()), ("b", pa.string())])), pa.struct([("a", pa.int64()), ("b", pa.string())]), [{"a": 1, "b": None}, {"a": 2, "b": "x"}]),
    "lists of both": (_column([[1]], pa.list_(pa.int32())), _column([[2]], pa.large_list(pa.int64())), pa.list_(pa.int64()), [[1], [2]]),
}  # fmt: skip


@pytest.mark.parametrize(("first", "second", "kind", "values"), ALIKE.values(), ids=ALIKE.keys())
def test_part_files_that_one_type_holds_unchanged_are_one_table(
    first: pa.Table, second: pa.Table, kind: pa.DataType, values: list[Any] | None, tmp_path: Path
) -> None:
    pq.write_table(first, tmp_path / "0.parquet")
    pq.write_table(second, tmp_path / "1.parquet")
    table = open_table(tmp_path)
    assert table.schema.field("x").type == kind
    found = [value for batch in table.batches() for value in batch.column(1).to_pylist()]
    assert values is None or found == values


UNLIKE = {
    "text and numbers": (pa.string(), pa.int64()),
    "a double of 64-bit integers": (pa.int64(), pa.float64()),
    "unsigned and signed of 64 bits": (pa.uint64(), pa.int64()),
    "bytes and text": (pa.binary(), pa.string()),
    "two zones": (pa.timestamp("us", "UTC"), pa.timestamp("us")),
    "decimals without room": (pa.decimal128(38, 0), pa.decimal128(38, 10)),
    "fields of two types": (pa.struct([("a", pa.int64())]), pa.struct([("a", pa.string())])),
}


@pytest.mark.parametrize(("one", "other"), UNLIKE.values(), ids=UNLIKE.keys())
def test_part_files_that_no_type_holds_unchanged_are_refused_by_name(one: pa.DataType, other: pa.DataType, tmp_path: Path) -> None:
    """Arrow's permissive rules make doubles of ids."""
    for number, kind in enumerate((one, other)):
        pq.write_table(_column([None], kind), tmp_path / f"{number}.parquet")
    with pytest.raises(SourceError, match=r"1\.parquet: mixed schemas: column 'x' is .*0\.parquet"):
        open_table(tmp_path)


def test_json_lines_of_several_files_have_the_types_of_all(tmp_path: Path) -> None:
    for number, value in enumerate(["null", "1", "2.5", '"x"']):
        (tmp_path / f"{number}.jsonl").write_text(f'{{"id":{number},"x":{value}}}\n')
    (tmp_path / "4.jsonl").write_text("")
    assert [row["x"] for row in _rows(tmp_path)] == [None, "1", "2.5", '"x"']


@pytest.mark.parametrize("folder", ["region=eu west", "region=eu%20west"])
@pytest.mark.parametrize("memory", [False, True])
def test_a_hive_directory_is_found_however_its_name_is_quoted(folder: str, memory: bool, tmp_path: Path) -> None:
    """Spark, Arrow and Hive each quote another set of characters."""
    root = UPath(f"memory://{tmp_path}") if memory else tmp_path
    (root / folder).mkdir(parents=True)
    pq.write_table(pa.table({"id": [1]}), tmp_path / "p.parquet")
    (root / folder / "p.parquet").write_bytes((tmp_path / "p.parquet").read_bytes())
    assert _rows(f"{root}/region={{partition}}", "eu west") == [{"id": 1}]
    with pytest.raises(SourceError, match="no such file"):
        open_table(f"{root}/region={{partition}}", partition="eu%20west")  # another key


def test_a_hive_column_has_its_declared_type(tmp_path: Path) -> None:
    for hour in ("07", "08"):
        (tmp_path / f"hour={hour}").mkdir()
        pq.write_table(pa.table({"id": [1]}), tmp_path / f"hour={hour}" / "p.parquet")
    assert [row["hour"] for row in _rows(tmp_path)] == ["07", "08"]
    assert [row["hour"] for row in _rows(tmp_path, types={"hour": "int64"})] == [7, 8]
    (tmp_path / "hour=x").mkdir()
    pq.write_table(pa.table({"id": [1]}), tmp_path / "hour=x" / "p.parquet")
    with pytest.raises(SourceError, match=r"its directory: column 'hour' is declared int64"):
        _rows(tmp_path, types={"hour": "int64"})


def test_a_pattern_or_a_list_of_paths_is_one_table(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"part {number}.csv").write_text(f"id\n{number}\n")
    (tmp_path / ".part 9.csv").write_text("id\n9\n")
    assert [row["id"] for row in _rows(f"{tmp_path}/part*.csv")] == ["0", "1", "2"]
    assert [row["id"] for row in _rows(f"{tmp_path}/{{partition}} [12].csv", "part")] == ["1", "2"]
    assert [row["id"] for row in _rows([tmp_path / "part 2.csv", f"{tmp_path}/part {{partition}}.csv"], "0")] == ["2", "0"]
