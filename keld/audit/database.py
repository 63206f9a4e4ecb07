"""Database: LiteLLM's spend logs directly from its Postgres, in blocks; no column with a prompt or an answer is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from keld.audit.chunk import Rows, top
from keld.audit.formats.litellm import TABLE
from keld.audit.piece import Piece, piece
from keld.audit.reader import paths_of
from keld.errors import SourceError, SourceUnavailable

_TABLE = "LiteLLM_SpendLogs"
_ROWS = 20_000
_SCHEMES = ("postgres", "postgresql", "postgresql+psycopg")


def is_database(log: str) -> bool:
    return urlsplit(log).scheme in _SCHEMES


def read_database(url: str) -> Iterator[Piece]:
    """The calls of the table.

    Raises:
        SourceUnavailable: the database cannot be reached, or has no such table.
        SourceError: it is no table of LiteLLM's.
    """
    from sqlalchemy import URL, Column, MetaData, Table, create_engine, inspect, make_url, select
    from sqlalchemy.exc import SQLAlchemyError

    address: URL = make_url(url).set(drivername="postgresql+psycopg")
    where = address.render_as_string(hide_password=True)
    try:
        engine = create_engine(address)
        there = {column["name"]: column["type"] for column in inspect(engine).get_columns(_TABLE)}
        wanted = [name for name in dict.fromkeys(top(path) for path in paths_of(TABLE)) if name in there]
        if not {"startTime", "model"} <= set(wanted):
            raise SourceError(f"{where}: the table {_TABLE} lacks startTime or model.", source=where)
        table = Table(_TABLE, MetaData(), *(Column(name, there[name]) for name in wanted))
        with engine.connect().execution_options(stream_results=True, yield_per=_ROWS) as connection:
            for block in connection.execute(select(table)).mappings().partitions(_ROWS):
                yield piece(Rows([dict(row) for row in block]), TABLE, bad=0, bytes_read=0)
    except (SQLAlchemyError, ImportError) as error:
        reason = type(error).__name__ if isinstance(error, SQLAlchemyError) else "it needs pip install 'keld[postgres]'"
        raise SourceUnavailable(f"{where}: {_TABLE} cannot be read ({reason}).", source=where) from None
