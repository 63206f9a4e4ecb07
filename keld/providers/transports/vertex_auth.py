"""Vertex auth: an access token of Google Cloud, renewed before it expires; and the errors of its APIs.

A part of the transport `vertex`.  google-auth finds the credentials (a key file, `gcloud auth application-default login`, the machine's or the pod's
service account) and gets a token by calls of its own, without a limit for the whole: so `keld.providers.auth` runs them in a thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any

from keld.errors import AccessRefused, InvalidJob
from keld.objects import Credentials
from keld.providers.account import check_unquoted
from keld.providers.auth import Renewed, Token
from keld.providers.part import Connection

TOKEN_VARIABLE = "GOOGLE_OAUTH_ACCESS_TOKEN"  # noqa: S105  the name of a variable; Terraform's provider for Google reads the same one
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_GIVEN_S = 600.0  # a token that we were given does not say when it expires; it is asked for again halfway
# The reasons of google.rpc.ErrorInfo with which a request is refused for every row, whatever the status beside them is.
_NO_ACCESS = frozenset(
    ("SERVICE_DISABLED", "BILLING_DISABLED", "CONSUMER_SUSPENDED", "CONSUMER_INVALID", "USER_PROJECT_DENIED", "ACCESS_TOKEN_EXPIRED")
)


def auth(connection: Connection) -> Renewed:
    """A token by the account's own credentials if it has some; else its token (`api_key=`, or the variable `GOOGLE_OAUTH_ACCESS_TOKEN`), else one by
    the credentials that google-auth finds.
    """
    given = connection.account.credentials
    if given is not None:
        given = cache(given)
        return Renewed(lambda: _fetched(connection, given), "a token of Google Cloud")
    return Renewed(lambda: _given(connection) or _fetched(connection), "a token of Google Cloud")


def bucket_credentials(connection: Connection) -> Credentials:
    """The same token for the bucket: obstore alone knows neither an access token nor every kind of credentials.

    The function raises `Fault` or `AccessRefused` if there is no token.
    """
    kept = auth(connection)

    def credentials() -> dict[str, Any]:
        token = kept.token()
        return {"token": token.value, "expires_at": datetime.fromtimestamp(token.expires_at, UTC)}

    return credentials


def _given(connection: Connection) -> Token | None:
    value = connection.key() or os.environ.get(TOKEN_VARIABLE, "").strip()
    check_unquoted(value, "Vertex")
    return Token(value, time.time() + _GIVEN_S) if value else None


def _fetched(connection: Connection, given: Callable[[], Any] | None = None) -> Token:
    """A new token.

    Args:
        given: returns the credentials; None: google-auth finds them.

    Raises:
        AccessRefused: there are no credentials, or they are refused.
        InvalidJob: google-auth is not installed.
    """
    try:
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError, OAuthError, RefreshError
        from google.auth.transport.requests import Request
    except ImportError as missing:
        raise InvalidJob("Kind vertex needs google-auth, which is not installed. No call was made. pip install 'keld[vertex]'") from missing
    try:
        credentials = given() if given is not None else google.auth.default(scopes=[SCOPE])[0]
        credentials.refresh(Request())
    except DefaultCredentialsError:
        raise AccessRefused(
            "There are no credentials for Google Cloud. No call was made. Run `gcloud auth application-default login`, set "
            f"GOOGLE_APPLICATION_CREDENTIALS to a key file, or {TOKEN_VARIABLE} to an access token.",
            account=connection.account.kind,
        ) from None
    except (RefreshError, OAuthError) as refused:
        if refused.retryable:
            raise
        raise AccessRefused(
            "Google Cloud refused the credentials that google-auth found. No call was made. Run `gcloud auth application-default login` again, or "
            "correct GOOGLE_APPLICATION_CREDENTIALS.",
            account=connection.account.kind,
        ) from None
    expiry = credentials.expiry
    return Token(str(credentials.token), time.time() + _GIVEN_S if expiry is None else expiry.replace(tzinfo=UTC).timestamp())


def error_in(body: dict[str, Any], headers: Any) -> Any:
    """A google.rpc.Status, or an error of Claude's API, as an error in the common shape."""
    error = body.get("error")
    if not isinstance(error, dict):
        return None
    if not error.get("status"):
        return error  # Claude's own: {"type", "message"}
    details = [detail for detail in error.get("details") or () if isinstance(detail, dict)]
    reason = next((str(detail["reason"]) for detail in details if detail.get("reason") in _NO_ACCESS), None)
    found: dict[str, Any] = {"code": reason or error["status"], "message": str(error.get("message") or "")}
    delay = next((str(detail["retryDelay"]) for detail in details if "retryDelay" in detail), "")
    with suppress(ValueError):
        found["retry_after_s"] = float(delay.removesuffix("s"))
    return found
