"""Shared statements: all ledgers of one test process have their SQL compiled once, not once a ledger.

SQLAlchemy keeps compiled statements by engine and dialect, since a program has one database; a suite opens some thousand, and to compile
anew for each took two fifths of a test's time.  What a dialect learns at its first connection is the same for all our databases of one kind.
"""

import pytest
import sqlalchemy as sa

from keld.ledger import database
from keld.ledger.table import META


def share(patch: pytest.MonkeyPatch) -> None:
    """From now on the engines of this process have one dialect, one cache and one text of the tables for each kind of database."""
    make, create_all = database._engine, META.create_all
    first: dict[str, sa.Engine] = {}
    tables: dict[str, list[str]] = {}

    def shared(url: str) -> sa.Engine:
        engine = make(url)
        other = first.setdefault(engine.dialect.name, engine)
        engine.dialect = engine.pool._dialect = other.dialect
        engine._compiled_cache = other._compiled_cache
        return engine

    def create(db: sa.Connection) -> None:
        if db.dialect.name not in tables:
            found: list[str] = []
            mock = sa.create_mock_engine(db.engine.url, lambda statement, *_: found.append(str(statement.compile(dialect=db.dialect))))
            create_all(mock, checkfirst=False)
            tables[db.dialect.name] = found
        for statement in tables[db.dialect.name]:
            db.exec_driver_sql(statement)

    patch.setattr(database, "_engine", shared)
    patch.setattr(META, "create_all", create)
