"""Hook: an Airflow connection -> a `keld.Keld`: the provider accounts from connections, the rest from `[keld]` in Airflow's configuration.

A key stays where Airflow keeps it: `keld` is handed a function that gives it.  Where there is no connection of the default name, all
comes from the environment, as on the command line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, conf
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException

from keld import Account, Keld, KeldError

if TYPE_CHECKING:
    from airflow.sdk import Connection

DEFAULT_CONN_ID = "keld_default"
_ONE_HOST = frozenset(("LocalExecutor", "SequentialExecutor"))


class KeldHook(BaseHook):
    """Where job runs live and whose keys they use; `open()` gives the `keld.Keld`."""

    conn_name_attr = "keld_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "keld"
    hook_name = "Keld"

    def __init__(self, keld_conn_id: str = DEFAULT_CONN_ID) -> None:
        super().__init__()
        self.keld_conn_id = keld_conn_id

    def get_conn(self) -> Keld:
        """As `open`."""
        return self.open()

    def open(self) -> Keld:
        """A new environment, to be closed; override it to give `Keld` what is no configuration (a clock, settings).

        Raises:
            AirflowException: the connection is missing or of another kind, or the ledger is a file where workers are on many hosts.
        """
        connection = self._connection()
        extra: dict[str, Any] = {} if connection is None else connection.extra_dejson
        keld = Keld(
            home=extra.get("home") or _setting("home") or _home(),
            ledger_url=self._ledger_url(extra) or _setting("ledger_url"),
            namespace=extra.get("namespace") or _setting("namespace"),
            accounts=dict(self._accounts(connection, extra)),
        )
        _check_shared(keld)
        return keld

    def test_connection(self) -> tuple[bool, str]:
        """Whether every account of the connection answers to a list of its batches; pays nothing."""
        try:
            connection = self._connection()
            accounts = dict(self._accounts(connection, {} if connection is None else connection.extra_dejson))
            with Keld(home=_home(), accounts=accounts) as keld:
                return True, " ".join(_greeting(keld, name) for name in accounts)
        except (KeldError, AirflowException) as problem:
            return False, str(problem)

    def _connection(self) -> Connection | None:
        """None: there is none of the default name, and the environment alone is to say."""
        try:
            return self.get_connection(self.keld_conn_id)
        except AirflowNotFoundException:
            if self.keld_conn_id != DEFAULT_CONN_ID:
                raise
            return None

    def _accounts(self, connection: Connection | None, extra: dict[str, Any]) -> Iterator[tuple[str, Account]]:
        """The account of a connection, and those of the connections it names beside itself."""
        if connection is None:
            return
        yield _account(connection)
        for conn_id in str(extra.get("more_accounts") or "").replace(",", " ").split():
            yield _account(self.get_connection(conn_id))

    def _ledger_url(self, extra: dict[str, Any]) -> str | None:
        conn_id = extra.get("ledger_conn_id")
        if not conn_id:
            return None
        uri = self.get_connection(conn_id).get_uri()
        if not uri.startswith(("postgres://", "postgresql://")):
            raise AirflowFailException(
                f"The connection {conn_id} is no Postgres connection, and a ledger is kept in no other. Correct ledger_conn_id."
            )
        return uri.replace("postgres://", "postgresql://", 1)


def _account(connection: Connection) -> tuple[str, Account]:
    """A connection as an account, by the name before the colon in a job's models."""
    if connection.conn_type != KeldHook.conn_type:
        raise AirflowException(
            f"The connection {connection.conn_id} is of type {connection.conn_type}; an account is a connection of type keld."
        )
    extra, key = connection.extra_dejson, connection.password
    kind = extra.get("provider") or "openai"
    return extra.get("account") or kind, Account(kind=kind, base_url=_base_url(connection), api_key=(lambda: key) if key else None)


def _base_url(connection: Connection) -> str | None:
    """The base URL; None is the provider's own."""
    host = connection.host
    if not host or "://" in host:
        return host or None
    port = f":{connection.port}" if connection.port else ""
    return f"https://{host}{port}/{connection.schema or ''}".rstrip("/")


def _greeting(keld: Keld, name: str) -> str:
    provider = keld.provider(name)
    count = sum(1 for _ in provider.batches(datetime.now(UTC) - timedelta(days=1)))
    return f"{name} at {provider.host} answers; its list shows {count} batches."


def _setting(name: str) -> str | None:
    """What Airflow's configuration says in its section `[keld]`."""
    value: str | None = conf.get("keld", name, fallback=None)
    return value or None


def _home() -> Path | None:
    """A place that does not depend on the working directory, which differs between Airflow's processes."""
    if os.environ.get("KELD_HOME"):
        return None
    return Path(os.environ.get("AIRFLOW_HOME") or Path.home() / "airflow") / "keld"


def _check_shared(keld: Keld) -> None:
    """Passes if every worker finds the ledger: a file is one host's, and two ledgers would pay twice."""
    executors = [name.rpartition(":")[2].rpartition(".")[2] for name in conf.get("core", "executor", fallback="LocalExecutor").split(",")]
    remote = [name.strip() for name in executors if name.strip() not in _ONE_HOST]
    if remote and keld.ledger_url.startswith("sqlite"):
        raise AirflowFailException(
            f"The ledger is a file of this host, and {', '.join(remote)} runs tasks on others: each would pay for the same rows. Nothing was sent. "
            "Give a Postgres: ledger_conn_id in the connection, ledger_url in [keld] of the configuration, or KELD_LEDGER_URL."
        )
