"""Ledger: a connection to Postgres -> the URL of a ledger in it, read as Airflow's own Postgres hook reads it.

Its extra may have the options of libpq (`sslmode`, `keepalives_idle`, ...) as text or numbers, and fields that are the hook's own.  Not by the connection's
URI: Airflow puts an extra with a number into it as one field of JSON, which no driver knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from airflow.providers.common.compat.sdk import AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Connection

_TYPES = ("postgres", "postgresql")
# How the hook makes a cursor or an engine, and names for ways to sign in that are off unless `iam` is true; no options of the driver.
_OF_HOOK = frozenset(
    ("cursor", "sqlalchemy_scheme", "sqlalchemy_query", "aws_conn_id", "azure_conn_id", "cluster-identifier", "workgroup-name", "iam")
)


def ledger_url(connection: Connection) -> str:
    """The URL of the database that a connection names.

    Raises:
        AirflowFailException: it is no connection to Postgres, or signs in by a token.
    """
    if connection.conn_type not in _TYPES:
        _refuse(connection, "is no Postgres connection, and only such a connection can hold a ledger.", "Correct ledger_conn_id.")
    from sqlalchemy import URL  # not needed while a Dag is parsed

    extra = connection.extra_dejson
    if str(extra.get("iam", "")).lower() in ("true", "1"):
        _refuse(connection, "signs in by a token of a cloud (iam), and Keld by a password.", "Give a connection with a password.")
    options = {name: value for name, value in extra.items() if name not in _OF_HOOK and value not in (None, "")}
    nested = next((name for name, value in options.items() if isinstance(value, dict | list)), None)
    if nested is not None:
        _refuse(connection, f"has a field {nested!r}, which is no option of Postgres.", "Remove it.")
    named = {name: _as_text(value) for name, value in options.items()}
    host = connection.host or None
    if host is not None and host.startswith("/"):  # the directory of a socket, which a URL has no place for
        named, host = named | {"host": host}, None
    url = URL.create(
        "postgresql", connection.login or None, connection.password or None, host, connection.port, connection.schema or None, named
    )
    return url.render_as_string(hide_password=False)


def _as_text(value: object) -> str:
    """An option as libpq has it: 1 and 0 for true and false."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _refuse(connection: Connection, what: str, advice: str) -> NoReturn:
    raise AirflowFailException(f"The connection {connection.conn_id} {what} Nothing was sent. {advice}")
