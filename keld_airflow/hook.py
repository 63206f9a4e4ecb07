"""Hook: an Airflow connection -> a `keld.Keld`: the provider accounts from connections, the rest from `[keld]` in Airflow's configuration.

A key stays where Airflow keeps it: `keld` gets a function that returns it.  If there is no connection of the default name, everything
comes from the environment, as on the command line.  A connection with a field that Keld does not read is refused: an ignored field would be
a key that is not used, or a ledger that is not the intended one.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowNotFoundException, conf
from airflow.sdk import BaseHook

from keld import Account, InvalidJob, KeldError
from keld_airflow.account import account_in
from keld_airflow.configuration import home_of, setting
from keld_airflow.form import field_behaviour, form_widgets
from keld_airflow.ledger import ledger_url
from keld_airflow.lookup import check_absent
from keld_airflow.provider import CONNECTION_FIELDS

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from keld import Keld

DEFAULT_CONN_ID = "keld_default"
_ONE_HOST = frozenset(("LocalExecutor", "SequentialExecutor"))
_KINDS: list[str] = CONNECTION_FIELDS["provider"]["schema"]["enum"]


class KeldHook(BaseHook):
    """The ledger, staging and keys that job runs use; `open()` returns the `keld.Keld`."""

    conn_name_attr = "keld_conn_id"
    default_conn_name = DEFAULT_CONN_ID
    conn_type = "keld"
    hook_name = "Keld"

    def __init__(self, keld_conn_id: str = DEFAULT_CONN_ID) -> None:
        super().__init__()
        if not isinstance(keld_conn_id, str) or not keld_conn_id.strip():
            what = "empty" if isinstance(keld_conn_id, str) else f"a {type(keld_conn_id).__name__}"
            raise AirflowFailException(f"keld_conn_id is {what}, and must be the name of a connection. Nothing was sent.")
        self.keld_conn_id = keld_conn_id

    @staticmethod
    def get_connection_form_widgets() -> dict[str, Any]:
        """As `form`; Airflow 3.1 asks for it."""
        return form_widgets()

    @staticmethod
    def get_ui_field_behaviour() -> dict[str, Any]:
        """As `form`; Airflow 3.1 asks for it."""
        return field_behaviour()

    def get_conn(self) -> Keld:
        """As `open`."""
        return self.open()

    def open(self) -> Keld:
        """A new environment, which the caller closes; override it to give `Keld` what no configuration can hold (a clock, settings).

        Raises:
            AirflowException: the connection is missing, of another type or has a field that Keld does not know; or the ledger is a file while
                workers are on many hosts.
        """
        from keld import Keld  # loads pyarrow and SQLAlchemy, which a Dag that is only parsed does not need

        _quieten()
        connection = self._connection()
        extra: dict[str, Any] = {} if connection is None else connection.extra_dejson
        keld = Keld(
            home=home_of(extra.get("home")),
            ledger_url=self._ledger_url(extra) or setting("ledger_url"),
            namespace=extra.get("namespace") or setting("namespace"),
            accounts=self._unconnected(connection) | self._accounts(connection, extra),
        )
        _check_shared(keld)
        return keld

    def test_connection(self) -> tuple[bool, str]:
        """True, and a text, if every account of the connection answers a request for its list of batches; costs nothing."""
        from keld import Keld  # as in `open`

        try:
            connection = self._connection()
            extra: dict[str, Any] = {} if connection is None else connection.extra_dejson
            accounts = self._accounts(connection, extra)
            with Keld(home=home_of(extra.get("home")), accounts=accounts) as keld:
                return True, " ".join(_greeting(keld, name) for name in accounts)
        except (KeldError, AirflowException) as problem:
            return False, str(problem)

    def _connection(self) -> Connection | None:
        """The connection; None if none has the default name, and the environment variables decide.

        Raises:
            AirflowException: whether it is there could not be asked.
        """
        try:
            return self._read(self.keld_conn_id, "keld_conn_id")
        except AirflowNotFoundException:
            if self.keld_conn_id != DEFAULT_CONN_ID:
                raise
            check_absent(self.keld_conn_id)
            return None

    def _read(self, conn_id: str, named_by: str) -> Connection:
        """The connection, read completely; Airflow itself ignores one that it cannot read, and reads a broken extra as an empty one.

        Raises:
            AirflowNotFoundException: there is none, or a secrets backend does not answer: a retry may help.
            AirflowException: Airflow denies it.
            AirflowFailException: Airflow cannot read it.
        """
        try:
            connection = self.get_connection(conn_id)
        except AirflowNotFoundException:
            variable = f"AIRFLOW_CONN_{conn_id.upper()}"
            if os.environ.get(variable):
                raise AirflowFailException(
                    f"Airflow cannot read what the environment variable {variable} holds. Nothing was sent. Write it as JSON, "
                    '{"conn_type": "keld", "password": "KEY"}, or as a URI, keld://:KEY@, its special characters percent-encoded.'
                ) from None
            raise AirflowNotFoundException(
                f"There is no connection {conn_id}, which {named_by} names. Nothing was sent. Create it, or correct {named_by}; a secrets "
                "backend that does not answer gives the same error."
            ) from None
        except PermissionError:  # Airflow's own, from 3.2 on
            raise AirflowException(
                f"Airflow denies the connection {conn_id} to this process. Nothing was sent. A SyncCallback of a DeadlineAlert is given none in Airflow 3.3: "
                f"give it as an AsyncCallback, or the connection as AIRFLOW_CONN_{conn_id.upper()}. A task is denied the connections of other teams."
            ) from None
        if connection.extra and not _is_object(connection.extra):
            raise AirflowFailException(
                f"The extra of the connection {conn_id} is no JSON object. Nothing was sent. Write it as "
                '{"provider": "anthropic"}, or leave it empty.'
            )
        return connection

    def _accounts(self, connection: Connection | None, extra: dict[str, Any]) -> dict[str, Account]:
        """The account of a connection, and those of the connections in its `more_accounts`."""
        if connection is None:
            return {}
        accounts, come_from = dict([account_in(connection)]), self.keld_conn_id
        for conn_id in str(extra.get("more_accounts") or "").replace(",", " ").split():
            name, account = account_in(self._read(conn_id, f"more_accounts of the connection {come_from}"))
            if name in accounts:
                raise AirflowFailException(
                    f"The connections {come_from} and {conn_id} are both the account {name!r}, and one would hide the other. Nothing was sent. "
                    "Give one of them a name of its own in its field `account`, which models then name before the colon."
                )
            accounts[name] = account
        return accounts

    def _unconnected(self, connection: Connection | None) -> dict[str, Account]:
        """The accounts that no connection gives; their error about a missing key names this reason."""
        missing = f"there is no connection {self.keld_conn_id}"
        if connection is not None:
            missing = f"the connection {self.keld_conn_id} is another account, and names none for it in more_accounts"
        return {kind: Account.of(kind, keyless=missing) for kind in _KINDS}

    def _ledger_url(self, extra: dict[str, Any]) -> str | None:
        conn_id = extra.get("ledger_conn_id")
        if not conn_id:
            return None
        return ledger_url(self._read(conn_id, f"ledger_conn_id of the connection {self.keld_conn_id}"))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _greeting(keld: Keld, name: str) -> str:
    provider = keld.provider(name)
    count = sum(1 for _ in provider.batches(datetime.now(UTC) - timedelta(days=1)))
    return f"{name} at {provider.host} answers; its list shows {count} batches."


def _quieten() -> None:
    """Keeps the HTTP client from a line for every request, in the log of each task and, for each look, of the triggerer; unless a level is set."""
    client = logging.getLogger("httpx2")
    if client.level == logging.NOTSET:
        client.setLevel(logging.WARNING)


def _check_shared(keld: Keld) -> None:
    """Passes if the workers of all Airflow executors reach the ledger."""
    executors = [name.rpartition(":")[2].rpartition(".")[2] for name in conf.get("core", "executor", fallback="LocalExecutor").split(",")]
    try:
        keld.check_shared(
            [name.strip() for name in executors if name.strip() not in _ONE_HOST],
            "ledger_conn_id in the connection, ledger_url in [keld] of the configuration, or KELD_LEDGER_URL",
        )
    except InvalidJob as problem:
        raise AirflowFailException(str(problem)) from None
