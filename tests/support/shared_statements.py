"""Shared statements: all databases of one kind have their SQL compiled once a test process, not once a ledger.

SQLAlchemy keeps compiled statements by engine and dialect, since a program has one database; a suite opens some thousand, and to compile
anew for each took two fifths of a test's time.  What a dialect learns at its first connection is the same for all our databases of one kind.
"""

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from keld.ledger import database
from keld.ledger.table import META


def sharing(make: Callable[..., sa.Engine]) -> Callable[..., sa.Engine]:
    """`make`, whose engines have one dialect and one cache for each kind of database."""
    first: dict[str, sa.Engine] = {}

    def shared(url: str, **more: Any) -> sa.Engine:
        engine = make(url, **more)
        other = first.setdefault(engine.dialect.name, engine)
        engine.dialect = engine.pool._dialect = other.dialect
        engine._compiled_cache = other._compiled_cache
        return engine

    return shared


def share(patch: pytest.MonkeyPatch) -> None:
    """From now on the ledgers of this process have one dialect, one cache and one text of the tables for each kind of database."""
    patch.setattr(database, "_engine", sharing(database._engine))
    patch.setattr(META, "create_all", creating(META))


def creating(tables: sa.MetaData) -> Callable[[sa.Connection | sa.Engine], None]:
    """What makes these tables; by a connection, in a database that has none of them, from SQL that is compiled once for each kind of database."""
    create_all = tables.create_all
    statements: dict[str, list[str]] = {}

    def create(db: sa.Connection | sa.Engine) -> None:
        if isinstance(db, sa.Engine):
            return create_all(db)
        if db.dialect.name not in statements:
            found: list[str] = []
            mock = sa.create_mock_engine(db.engine.url, lambda statement, *_: found.append(str(statement.compile(dialect=db.dialect))))
            create_all(mock, checkfirst=False)
            statements[db.dialect.name] = found
        for statement in statements[db.dialect.name]:
            db.exec_driver_sql(statement)

    return create
