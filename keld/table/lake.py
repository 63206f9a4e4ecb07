"""Lake: tables whose files may hold rows that are not theirs: Delta is read by its log, others are recognised and refused.

The directory of such a table also has rows that were removed, and rows of commits that failed: read as plain files, they would be sent and
paid.  The same holds for a path inside of one (a partition's directory, a file).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from keld.errors import SourceError
from keld.table.block import Table, plain_schema, table_of
from keld.table.place import Place

NULL_KEY = "__HIVE_DEFAULT_PARTITION__"  # as Hive writes it
_REFUSED = {
    "Iceberg": "Read it through its catalog and give the rows, e.g. source=lambda: catalog.load_table('ns.table').scan(...).to_arrow_batch_reader().",
    "Hudi": "Read it by an engine that knows it, and give the rows or a Parquet file.",
    "Lance": "Give the dataset itself: source=lance.dataset(path).",
    "Paimon": "Read it by an engine that knows it, and give the rows or a Parquet file.",
}


@dataclass(frozen=True, slots=True)
class Lake:
    """A lake table and its kind, at `root`."""

    kind: str
    root: Place


def lake_at(place: Place) -> Lake | None:
    """The lake table that a path is, or is inside of; None if there is none."""
    if (found := _kind(place)) is not None:
        return Lake(found, place)
    above = place
    # Upwards, while the names are those of a table's inner directories; a file's own name is not checked.
    while above.path.strip("/.") and (above is place or "=" in above.name or above.name == "data"):
        above = above.parent
        if (found := _kind(above)) is not None:
            return Lake(found, above)
    return None


def _kind(place: Place) -> str | None:
    """The kind of lake table at a path, found by fixed names, not by a listing: an object store may hold a million files beside this one."""
    if _has(place, "_delta_log"):
        return "Delta"
    if _has(place, ".hoodie"):
        return "Hudi"
    if _has(place, "_versions") and _has(place, "data"):
        return "Lance"
    if _has(place, "snapshot") and _has(place, "schema") and _has(place, "manifest"):
        return "Paimon"
    if _has(place, "metadata"):
        inner = place.child("metadata").names()
        if "version-hint.text" in inner or any(name.endswith(".metadata.json") for name in inner):
            return "Iceberg"
    return None


def _has(place: Place, name: str) -> bool:
    try:
        return place.child(name).exists()
    except Exception:  # noqa: BLE001  # one who may read a file may lack the right to see others; every file system has its own error for that
        return False


def open_lake(lake: Lake, place: Place) -> Table:
    """The rows of a Delta table, or of the one partition of it whose directory `place` is.

    Raises:
        SourceError: it is of another kind, or the needed package is not installed; says what to do.
    """
    if lake.kind != "Delta":
        inside = "" if lake.root == place else f" inside of {lake.root.uri}"
        raise SourceError(
            f"{place.uri}: these are files of a table of {lake.kind}{inside}, and only its metadata says which rows are valid. "
            f"Nothing was sent. {_REFUSED[lake.kind]}",
            source=place.uri,
        )
    try:
        from deltalake import DeltaTable
    except ImportError:
        raise SourceError(
            f"{place.uri}: files of a Delta table, and only its log says which rows are valid. Nothing was sent. "
            "To read it by its log: pip install 'keld[delta]'.",
            source=place.uri,
        ) from None
    uri = lake.root.path if lake.root.fs is None else lake.root.uri
    table = DeltaTable(uri, storage_options=_storage_options(lake.root))
    where = _predicate(lake, place, table)
    schema = plain_schema(_rows(table, f"{where} limit 0").schema, place.uri)

    def blocks() -> Iterator[pa.RecordBatch]:
        return iter(_rows(table, where))  # of the version that was opened, even if others were committed since

    return table_of(schema, None, f"{place.uri} (Delta version {table.version()})", blocks)


def _rows(table: Any, where: str) -> pa.RecordBatchReader:
    from deltalake import QueryBuilder

    query = QueryBuilder()
    query.execute("set datafusion.execution.target_partitions = 1")  # else the order of the rows would differ between runs
    query.register("rows", table)
    return pa.RecordBatchReader.from_stream(query.execute(f'select * from "rows" {where}'))  # noqa: S608  # `_predicate` quotes all of it


def _predicate(lake: Lake, place: Place, table: Any) -> str:
    """The SQL condition for the rows below `place`, from the names of its directories."""
    parts = lake.root.parts_to(place)
    if not parts:
        return ""
    kinds = {column.name: column.type for column in pa.schema(table.schema())}
    keys = [part.partition("=") for part in parts]
    columns = table.metadata().partition_columns
    if not all(mark and name in columns for name, mark, _ in keys):
        raise SourceError(
            f"{place.uri}: a file inside of the Delta table {lake.root.uri}, and only its log says which rows are valid. Nothing was sent. "
            "Give the table's directory, or that of a partition.",
            source=place.uri,
        )
    return "where " + " and ".join(_equals(place, name, kinds[name], unquote(value)) for name, _, value in keys)


def _equals(place: Place, name: str, kind: pa.DataType, value: str) -> str:
    column, types = '"' + name.replace('"', '""') + '"', pa.types
    text = "'" + value.replace("'", "''") + "'"
    if value == NULL_KEY:
        return f"{column} is null"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return f"{column} = {text}"
    if types.is_integer(kind) or types.is_date(kind) or types.is_boolean(kind):
        return f"{column} = cast({text} as {'date' if types.is_date(kind) else 'boolean' if types.is_boolean(kind) else 'bigint'})"
    raise SourceError(
        f"{place.uri}: the Delta table is partitioned by {name!r} of type {kind}, which a path cannot give exactly. Nothing was sent. "
        "Give the rows: source=DeltaTable(...).scan(...).",
        source=place.uri,
    )


def _storage_options(root: Place) -> dict[str, str] | None:
    """The storage options of an S3 file system that has credentials of its own; None: those of the environment are used."""
    given = getattr(root.fs, "storage_options", None) or {}
    client = given.get("client_kwargs") or {}
    endpoint = given.get("endpoint_url") or client.get("endpoint_url")
    found = {
        "AWS_ACCESS_KEY_ID": given.get("key"),
        "AWS_SECRET_ACCESS_KEY": given.get("secret"),
        "AWS_SESSION_TOKEN": given.get("token"),
        "AWS_REGION": client.get("region_name"),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true" if endpoint and endpoint.startswith("http:") else None,
    }
    return {name: str(value) for name, value in found.items() if value} or None
