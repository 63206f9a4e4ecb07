"""Tables in an object store, over real HTTP: the same rows as from a file, and an object that is absent or complete."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner
from upath import UPath

from keld.cli import app
from keld.errors import SourceError
from keld.table import Table, open_table, write_table
from tests.support.audit_result import write_result
from tests.unit.test_table import ROWS, SCHEMA, TYPED


def _rows(table: Table) -> list[dict[str, Any]]:
    return [row for batch in table.batches() for row in batch.to_pylist()]


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, Any]]:
    """An S3 on loopback with a bucket "bkt"; what UPath needs to reach it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "k", "secret": "s", "endpoint_url": f"http://{host}:{port}"}
    UPath("s3://bkt", **options).fs.mkdir("bkt")
    yield options
    server.stop()


@pytest.mark.share(3)
@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_s3_round_trip(name: str, s3: dict[str, Any]) -> None:
    """The output root of a real deployment."""
    sink = UPath(f"s3://bkt/{name[2:]}/{{partition}}/{name}", **s3)
    written = write_table(sink, SCHEMA, pa.Table.from_pylist(ROWS, schema=SCHEMA).to_batches(), partition="../2026 11/19")
    assert written.uri == f"s3://bkt/{name[2:]}/%2E.%2F2026%2011%2F19/{name}"
    table = open_table(sink, partition="../2026 11/19", reading=TYPED)
    assert _rows(table) == ROWS
    assert _rows(open_table(UPath(f"s3://bkt/{name[2:]}", **s3), reading=TYPED)) == ROWS


@pytest.mark.share(2)
@pytest.mark.parametrize("rows", [10, 30_000], ids=["one put", "multipart"])
def test_s3_object_is_absent_or_complete(rows: int, s3: dict[str, Any]) -> None:
    """An object that appears on close must not appear on failure; nor may parts be left to be paid for."""
    noise = pa.table({"noise": [os.urandom(1000) for _ in range(rows)]})
    target = UPath(f"s3://bkt/abort/{rows}.parquet", **s3)

    def stops() -> Iterator[pa.RecordBatch]:
        for _ in range(3):
            yield from noise.to_batches()
        raise RuntimeError("the answers ran out")

    with pytest.raises(RuntimeError, match="ran out"):
        write_table(target, noise.schema, stops())
    target.fs.invalidate_cache()
    assert not target.exists()
    assert target.fs.list_multipart_uploads("bkt") == []
    write_table(target, noise.schema, noise.to_batches())
    assert open_table(target).rows == rows


def test_s3_delta_is_read_as_its_log_says(s3: dict[str, Any]) -> None:
    """With the credentials that the path was opened with."""
    from deltalake import DeltaTable, write_deltalake

    options = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": s3["endpoint_url"]}
    options |= {"AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1", "AWS_S3_ALLOW_UNSAFE_RENAME": "true"}
    write_deltalake("s3://bkt/delta", pa.table({"id": [1, 2], "day": ["a b", "c"]}), partition_by=["day"], storage_options=options)
    DeltaTable("s3://bkt/delta", storage_options=options).delete("id = 2")
    assert _rows(open_table(UPath("s3://bkt/delta", **s3))) == [{"id": 1, "day": "a b"}]
    assert _rows(open_table(UPath("s3://bkt/delta/day={partition}", **s3), partition="a b")) == [{"id": 1, "day": "a b"}]


def test_s3_missing_object_is_named(s3: dict[str, Any]) -> None:
    """The same words as for a local file."""
    with pytest.raises(SourceError, match=r"s3://bkt/no\.parquet: no such file"):
        open_table(UPath("s3://bkt/no.parquet", **s3))


def test_s3_logs_are_audited_and_the_report_is_written_beside_them(
    s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their URIs alone, as on a command line; credentials are the environment's."""
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "k"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_ENDPOINT_URL", s3["endpoint_url"]),
        ("KELD_HOME", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    result = write_result(tmp_path)
    UPath("s3://bkt/logs/a/spend.jsonl.gz", **s3).write_bytes(gzip.compress((tmp_path / "spend.jsonl").read_bytes()))
    found = CliRunner().invoke(app, ["audit", "s3://bkt/logs", "--json"])
    assert json.loads(found.stdout)["groups"] == json.loads(result.read_text())["groups"]
    UPath("s3://bkt/audit.json", **s3).write_text(found.stdout)
    written = CliRunner().invoke(app, ["report", "--html", "s3://bkt/keld.html", "--audit", "s3://bkt/audit.json"])
    assert "Written: s3://bkt/keld.html" in written.output
    assert "What could still wait" in UPath("s3://bkt/keld.html", **s3).read_text()
