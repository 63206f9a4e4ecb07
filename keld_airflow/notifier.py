"""Notifier: notifies people which job runs are open past their deadline.

For `DeadlineAlert` (in the triggerer) and for `on_failure_callback`.  It reads the ledger and reports counts, money and ids in the log, and to a
webhook if one is given, in the form that Slack, Mattermost and Teams accept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import BaseHook, BaseNotifier

from keld_airflow.hook import DEFAULT_CONN_ID, KeldHook
from keld_airflow.poller import in_thread

if TYPE_CHECKING:
    from airflow.sdk import Connection, Context

    from keld import Status


class KeldLateNotifier(BaseNotifier):
    """Reports which job runs are late, and how many of their rows are answered.

    Args:
        keld_conn_id: whose ledger to read.
        job: only this one; default all of the namespace.
        webhook_conn_id: a connection whose host is a URL, and whose password, if any, is the secret end of its path.
    """

    def __init__(
        self, *, keld_conn_id: str = DEFAULT_CONN_ID, job: str | None = None, webhook_conn_id: str | None = None, context: Any = None
    ) -> None:
        super().__init__(context=context)
        self.keld_conn_id, self.job, self.webhook_conn_id = keld_conn_id, job, webhook_conn_id

    def notify(self, context: Context) -> None:
        """Logs what is late, as a warning, and posts it to the webhook."""
        text = self.text()
        self.log.warning(text)
        if self.webhook_conn_id is not None:
            _post(self.webhook_conn_id, text)

    async def async_notify(self, context: Context) -> None:
        """The same, in a thread."""
        await in_thread(self.notify, context)

    def text(self) -> str:
        """A line for each job run that is late."""
        with KeldHook(self.keld_conn_id).open() as keld:
            late = [status for status in keld.statuses(job=self.job, open_only=True) if status.late]
        if not late:
            return "Keld: no job run is late by the ledger; what was never sent is not in it."
        return "\n".join(["Keld: past their deadline:", *map(_line, late)])


def _post(conn_id: str, text: str) -> None:
    """Posts a message.

    Raises:
        AirflowException: it was not taken; the end of the address, which is secret, is not named.
    """
    import httpx2  # not needed while a Dag is parsed

    url = _url_of(BaseHook.get_connection(conn_id))
    try:
        answer = httpx2.post(url, json={"text": text}, timeout=20)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise AirflowException(f"The webhook of the connection {conn_id} could not be called: {type(error).__name__}.") from None
    if not answer.is_success:
        raise AirflowException(f"The webhook of the connection {conn_id} answered {answer.status_code}.")


def _url_of(connection: Connection) -> str:
    """The address: host and password, or scheme, host, port and password, as Airflow's own HTTP hook reads them.

    Raises:
        AirflowException: it is none.
    """
    host, schema = connection.host or "", connection.schema or ""
    if host and "://" not in host and schema in ("http", "https"):
        host = f"{schema}://{host}{f':{connection.port}' if connection.port else ''}"
    url = "/".join(part.strip("/") for part in (host, connection.password) if part)
    if not url.startswith(("http://", "https://")):
        raise AirflowException(
            f"The connection {connection.conn_id} is no webhook: its host is no URL. Give it as https://hooks.slack.com/services, and the secret end "
            "as the password; in AIRFLOW_CONN_... as JSON, since of a URI Airflow keeps the scheme as the type."
        )
    return url


def _line(status: Status) -> str:
    done = sum(batch.done or 0 for batch in status.batches)
    return (
        f"{status.job}[{status.partition}] was due {status.deadline_at:%Y-%m-%d %H:%M} UTC: {status.answered:,} of {status.rows:,} rows answered, "
        f"{done:,} more are answered at the provider, as it reports; ${status.cost_usd:.4f} so far (job run {status.id})"
    )
