"""Lookup: whether a connection that Airflow did not find is really absent, or could not be asked for.

For `hook`, where no connection of the default name means that the environment decides.  Airflow takes a place that does not answer (a vault that is
sealed, an API server whose database is away) for one that has nothing, and says so at level DEBUG only.  Keld would then go on with
other keys and another ledger, in which nothing of what was sent is known, and would pay for it once more.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.common.compat.sdk import AirflowException


def check_absent(conn_id: str) -> None:
    """Passes if each place at which Airflow looks for connections says that it has none of this name; asks them all.

    Raises:
        AirflowException: one of them did not answer: a retry may help.
    """
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded  # not needed while a Dag is parsed

    for backend in ensure_secrets_backend_loaded():
        try:
            if type(backend).__name__ == "ExecutionAPISecretsBackend":  # it gives None for an error, too
                _ask_api(conn_id)
            else:
                backend.get_connection(conn_id=conn_id)
        except Exception as error:  # noqa: BLE001  a backend raises what its client does; its text may hold a secret
            raise AirflowException(
                f"Whether there is a connection {conn_id} could not be asked: {type(backend).__name__} failed with {_named(error)}. Nothing was sent, because "
                "the connection may say which keys and which ledger to use. A later try asks again; if it fails always, create the connection."
            ) from None


def _ask_api(conn_id: str) -> None:
    """Asks the API server, by way of the process that supervises this one.

    Raises:
        AirflowRuntimeError: it could not answer.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse, GetConnection

    try:
        answer = task_runner.SUPERVISOR_COMMS.send(GetConnection(conn_id=conn_id))
    except AirflowRuntimeError as error:
        if _kind(error.error) == "CONNECTION_NOT_FOUND":
            return
        raise
    if isinstance(answer, ErrorResponse) and _kind(answer) != "CONNECTION_NOT_FOUND":
        raise AirflowRuntimeError(error=answer)


def _kind(response: Any) -> str:
    return str(response.error.value)


def _named(error: Exception) -> str:
    """The kind of an error, without its text."""
    response = getattr(error, "error", None)
    return _kind(response) if hasattr(getattr(response, "error", None), "value") else type(error).__name__
