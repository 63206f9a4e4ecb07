"""Database: the SQLite file or the Postgres behind a ledger's URL; transactions whose errors are explained in words.

Below `ledger`.  Every transaction of the ledger begins here, so that a full disk, a lost connection or a lock that is never
released becomes one `LedgerError`, without SQL, parameters, user or password in it.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from keld.errors import LedgerError
from keld.ledger.migration import NEWEST, made_later, migrate
from keld.ledger.table import META, VERSION

_MEMORY = "sqlite:///file:keld-{}?mode=memory&cache=shared&uri=true"
_LOGGED = slice(18, 20)  # the bytes of the header that say "write-ahead log" (sqlite.org/fileformat.html, 1.3)
_COPIES = 100  # of a file that changes while it is copied
_PATIENCE_S = 30.0  # for another process's transaction on the same SQLite file


class Database:
    """The database at an SQLAlchemy URL; the ledger's tables are made if missing, and those of an earlier version are upgraded.

    `made` is True where there was no ledger before.

    Args:
        in_memory: an empty one in its place, which is gone when it is closed; nothing is written at the URL.

    Raises:
        LedgerError: it cannot be opened or written, is of a later version, or lacks a part.
    """

    def __init__(self, url: str, *, in_memory: bool = False) -> None:
        self.url = url
        self._process = os.getpid()
        try:
            self._engine = _engine(_MEMORY.format(secrets.token_hex(8)) if in_memory else url, in_memory=in_memory)
            self.made = _open(self._engine, shown(url))
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError, ImportError, ValueError) as error:
            raise (_damaged if _is_damaged(error) else _closed)(url, error) from None

    def close(self) -> None:
        self._engine.dispose(
            close=os.getpid() == self._process
        )  # a forked process that closes its copy of a connection would end its parent's

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """One transaction for writing: all of it, or nothing.

        Raises:
            LedgerError: the disk is full, the database is gone, another process holds it locked.
            sqlalchemy.exc.IntegrityError: as the database raises it; the caller knows what it means.
        """
        with self._in_words("written"), _writing(self._engine) as db:
            yield db

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One transaction for reading.

        Raises:
            LedgerError: as `write`.
        """
        with self._in_words("read"), self._engine.connect() as db:
            if db.dialect.name == "sqlite":
                _run(db, "BEGIN")
            yield db

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        if os.getpid() != self._process:
            # A connection that two processes use carries the statements of both, in any order; so do those of the HTTP clients.
            raise LedgerError(
                f"This Keld was made in process {self._process}, from which this one, {os.getpid()}, was forked. Nothing was done here. "
                "Make a Keld in each process: its connections cannot be shared."
            )
        try:
            yield
        except sa.exc.IntegrityError:
            raise
        except (sa.exc.SQLAlchemyError, sqlite3.Error, OSError) as error:
            if _is_damaged(error):
                raise _damaged(self.url, error) from None
            raise LedgerError(
                f"The ledger at {shown(self.url)} could not be {what}: {_driver_message(error)}. What it had before is unchanged; a create that was "
                "sent and could not be recorded is looked for at the provider before anything is sent again. Repair the disk or the database, "
                "and run the same command again."
            ) from None


def is_missing(url: str) -> bool:
    """True if a ledger's URL names a file that does not exist, or a Postgres without its tables; False also if that cannot be asked."""
    try:
        parsed = sa.make_url(url)
        if parsed.get_backend_name() == "sqlite":
            path = _file_of(parsed)
            return path is not None and not path.exists()
        engine = _engine(url, in_memory=False)
    except (sa.exc.ArgumentError, ImportError, ValueError, LedgerError):
        return False  # opening it says what is wrong
    try:
        with engine.connect() as db:
            return not _tables(db)
    except sa.exc.SQLAlchemyError:
        return False
    finally:
        engine.dispose()


def rehearse(url: str) -> None:
    """Makes the tables of a ledger in a Postgres that has none yet, and takes them back in the same transaction.

    Raises:
        LedgerError: they cannot be made.
    """
    engine = _engine(url, in_memory=False)
    try:
        with engine.connect() as db:  # ends without a commit
            META.create_all(db)
    except sa.exc.SQLAlchemyError as error:
        raise _closed(url, error) from None
    finally:
        engine.dispose()


def shown(url: str) -> str:
    """A ledger's URL for people: without user, password and options, any of which may be secret."""
    if "://" not in url:
        return "a text that is not a URL"
    return url if url.startswith("sqlite") else re.sub(r"//.*@", "//***@", url).partition("?")[0]


def _engine(url: str, *, in_memory: bool) -> sa.Engine:
    parsed = sa.make_url(url)
    if "@" in (parsed.host or ""):
        raise LedgerError("KELD_LEDGER_URL has a user or password with an '@' in it. Write %40 for it, %3A for ':' and %2F for '/'.")
    if parsed.get_backend_name() == "postgresql":
        return sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            # A pooler such as PgBouncer lends one connection of the server to many clients, and each names its prepared statements alike: one
            # finds another's, or none (github.com/psycopg/psycopg/issues/1151).  Each read of ours ends in a rollback, after which none is kept anyway.
            connect_args={"prepare_threshold": None},
            # What the ledger's compare-and-swap is made for.  A database whose default is stricter would refuse one of two workers instead.
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            hide_parameters=True,
            json_deserializer=msgspec.json.decode,
        )
    if parsed.get_backend_name() != "sqlite":
        raise LedgerError(f"KELD_LEDGER_URL names {parsed.get_backend_name()!r}; a ledger is sqlite:///PATH or postgresql://...")
    path, how = _file_of(parsed), {"timeout": _PATIENCE_S, "check_same_thread": False}
    pool: dict[str, Any] = {}
    if in_memory:
        pool = {"poolclass": sa.QueuePool}  # threads share it, too; by default each thread would keep a connection
    elif path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (_may_write(path) and _may_write(path.parent)):
            pool = {"poolclass": sa.NullPool, "creator": partial(_to_read, path, how)}
    engine = sa.create_engine(parsed, connect_args=how, hide_parameters=True, json_deserializer=msgspec.json.decode, **pool)

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # each transaction begins by a statement of ours
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous=FULL")  # an intent must survive a power failure, not only the process
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _file_of(parsed: sa.URL) -> Path | None:
    """The file of an SQLite URL; None: it is in memory, or a URI with options of the user's own."""
    return None if not parsed.database or parsed.database.startswith((":", "file:")) else Path(parsed.database)


def _may_write(path: Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _to_read(path: Path, how: Mapping[str, Any]) -> sqlite3.Connection:
    """A connection to a file that this user may not write, or not in its directory.

    SQLite would make the files of the write-ahead log beside it, which fails, or belong to the reader and stand in the writers' way.  Where no writer
    has made them, the file itself is the whole ledger, and a copy of it in memory is read: a writer that comes meanwhile writes its pages into the
    file while they are read.
    """
    for _ in range(_COPIES):
        if _log_of(path).exists():
            break
        if (whole := _copy_of(path)) is not None:
            return _in_memory(whole, how)
    else:
        raise sqlite3.OperationalError(f"it was written each of {_COPIES} times that it was copied to be read; run the same command again")
    opened: sqlite3.Connection = sqlite3.connect(path.absolute().as_uri(), uri=True, **how)
    return opened


def _log_of(path: Path) -> Path:
    return Path(f"{path}-wal")


def _copy_of(path: Path) -> bytearray | None:
    """The bytes of a database file; None if a writer came while they were read: its log is there before it writes, and the time of the file changes."""
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        if _log_of(path).exists():
            return None
        copy = bytearray(file.read())
        after = os.stat(path)
    same = (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)
    return copy if same and len(copy) == before.st_size and not _log_of(path).exists() else None


def _in_memory(copy: bytearray, how: Mapping[str, Any]) -> sqlite3.Connection:
    """A connection that reads a copy of a database file, and writes nothing."""
    if len(copy) > _LOGGED.stop:
        copy[_LOGGED] = b"\1\1"  # of its header: a database in memory has no write-ahead log
    opened: sqlite3.Connection = sqlite3.connect(":memory:", **how)
    if copy:
        opened.deserialize(copy)
    opened.execute("PRAGMA query_only=ON")
    return opened


@contextmanager
def _writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    with engine.begin() as db:
        if db.dialect.name == "sqlite":
            _run(db, "BEGIN IMMEDIATE")  # a transaction that reads and then writes must not meet another writer in between
        yield db


def _run(db: sa.Connection, statement: str) -> None:
    """Runs a statement by the driver itself; a listener to SQLAlchemy's own event would slow down every statement."""
    db.connection.cursor().execute(statement)


def _write_ahead(connection: Any) -> None:
    """Turns the write-ahead log on; two workers may try at once, and SQLite does not wait for this lock as for others."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _open(engine: sa.Engine, where: str) -> bool:
    """True if the ledger was made just now; one of an earlier version is upgraded in one transaction, or stays as it was.

    One of this version is only read: who asks may have no right to write, and waits for no writer.
    """
    with engine.connect() as db:
        there = _tables(db)
        if there and _version(db, there, where) == NEWEST:
            return False
    with _writing(engine) as db:
        if engine.dialect.name == "postgresql":
            db.execute(sa.text("SELECT pg_advisory_xact_lock(4_215_064)"))  # two workers must not make the tables at the same time
        there = _tables(db)
        if not there:
            META.create_all(db)
            db.execute(sa.insert(VERSION).values(version=NEWEST))
            return True
        found = _version(db, there, where)
        if found < NEWEST:
            _upgrade(db, found, where)
    return False


def _tables(db: sa.Connection) -> set[str]:
    """The tables of the ledger that are there."""
    return set(sa.inspect(db).get_table_names()) & set(META.tables)


def _version(db: sa.Connection, there: set[str], where: str) -> int:
    """The version of a ledger with these tables.

    Raises:
        LedgerError: it is a later one, or the ledger lacks a part.
    """
    found = db.execute(sa.select(VERSION.c.version)).scalar_one_or_none() if VERSION.name in there else None
    if found is None:  # a table without its row is as good as none
        raise _incomplete(where, META.tables.keys() - (there - {VERSION.name}))
    if found > NEWEST:
        raise LedgerError(
            f"The ledger at {where} is of version {found}; this Keld knows versions up to {NEWEST}. Nothing was changed or sent. "
            "A later Keld has changed it: install that version here, too, or use another KELD_LEDGER_URL."
        )
    missing = META.tables.keys() - there - made_later(found)
    if missing and (missing := missing - _tables(db)):  # looked up again: another worker may have upgraded it in between
        raise _incomplete(where, missing)
    return int(found)


def _upgrade(db: sa.Connection, found: int, where: str) -> None:
    try:
        db.execute(sa.update(VERSION).values(version=migrate(db, found)))
    except sa.exc.SQLAlchemyError as error:
        raise LedgerError(
            f"The ledger at {where} could not be upgraded from version {found} to {NEWEST}: {_driver_message(error)}. It is unchanged, and the "
            "Keld that made it can still use it. Nothing was sent. Correct the cause (the rights, the disk), and try again."
        ) from None


def _incomplete(where: str, missing: Collection[str]) -> LedgerError:
    """A table of the ledger is missing, as after an interrupted restore or copy."""
    return LedgerError(
        f"The ledger at {where} is incomplete: it lacks {', '.join(sorted(missing))}. Nothing was changed or sent. Restore it from a backup; if "
        "there is none, move it away and run `keld reconcile --from-staging`, which rebuilds what staging has."
    )


def _is_damaged(error: Exception) -> bool:
    """True if the database itself reports that it is broken: a damaged file, a failing disk, a missing table."""
    cause = error if isinstance(error, sqlite3.Error) else getattr(error, "orig", None)
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR) or "no such table" in str(cause)
    return str(getattr(cause, "sqlstate", None)).startswith(("XX", "58", "42P01"))  # corrupted, a system fault, an undefined table


def _damaged(url: str, error: Exception) -> LedgerError:
    return LedgerError(
        f"The ledger at {shown(url)} is damaged: {_driver_message(error)}. Nothing more was sent, and its content may be lost. Restore it from "
        "a backup; if there is none, move it away. Then run `keld reconcile --from-staging`, which adds what staging has "
        "and the ledger has not, and the same command again."
    )


def _closed(url: str, error: Exception) -> LedgerError:
    return LedgerError(
        f"The ledger at {shown(url)} cannot be opened: {_driver_message(error)}. "
        "Nothing was sent. Check KELD_LEDGER_URL or KELD_HOME, the disk and the rights."
    )


def _driver_message(error: Exception) -> str:
    """The message of the driver or the disk; not that of an invalid URL, which quotes it."""
    if isinstance(error, sa.exc.ArgumentError | ValueError):
        return (
            "this is no URL of a ledger. Write sqlite:///PATH or postgresql://USER:PASSWORD@HOST:5432/NAME, with several hosts "
            "postgresql://USER:PASSWORD@/NAME?host=db-1:5432&host=db-2:5432"
        )
    cause = error if isinstance(error, OSError | ImportError | sqlite3.Error) else getattr(error, "orig", None)
    return next(iter(str(cause).splitlines()), "") if cause is not None else type(error).__name__
