"""Several sources as one table: one part in memory at a time, one schema, nothing left behind."""

import gc
import tempfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from keld import Parts, SourceError
from keld.table import open_table


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_parts_of_any_kind_follow_each_other_with_one_schema(scratch: Path) -> None:
    """A column without a value in one part, or not yet in it, or narrower, is what files of a directory have, too."""
    parts = Parts(
        {
            "2026-11-01|a/b": lambda: pd.DataFrame({"id": [1, 2], "body": ["x", None]}),
            "empty": lambda: [],
            "null": lambda: pd.DataFrame({"id": pd.array([3], dtype="int8"), "body": [None], "more": [1.5]}),
            "arrow": lambda: pa.table({"id": [4], "body": ["y"]}),
        }
    )
    table = open_table(parts)
    assert table.rows == 4
    rows = pa.Table.from_batches(table.batches()).to_pylist()
    assert [row["id"] for row in rows] == [1, 2, 3, 4]
    assert [row["body"] for row in rows] == ["x", None, None, "y"]
    assert [row["more"] for row in rows] == [None, None, 1.5, None]


def test_each_part_is_loaded_once_and_let_go_before_the_next_and_no_file_is_left(scratch: Path) -> None:
    """A month of large partitions need not fit into memory together."""
    alive: list[int] = []

    class Frame:
        def __init__(self, n: int) -> None:
            self.n = n
            alive.append(n)

        def __arrow_c_stream__(self, schema: object = None) -> object:
            assert alive == [self.n]
            return pa.table({"id": [self.n]}).__arrow_c_stream__(schema)

        def __del__(self) -> None:
            alive.remove(self.n)

    table = open_table(Parts({str(n): lambda n=n: Frame(n) for n in range(5)}))
    assert [row["id"] for batch in table.batches() for row in batch.to_pylist()] == [*range(5)]
    assert [*scratch.iterdir()] != []
    del table
    gc.collect()
    assert [*scratch.iterdir()] == []


def test_parts_whose_columns_no_type_holds_are_named_by_part(scratch: Path) -> None:
    with pytest.raises(SourceError, match=r"^tue: mixed schemas: column 'id' is string here and int64 in mon, .* Nothing was sent"):
        open_table(Parts({"mon": lambda: [{"id": 1}], "tue": lambda: [{"id": "x"}]}))
