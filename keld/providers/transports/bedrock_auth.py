"""Bedrock auth: who asks at Amazon Bedrock: a signature of each request, or a Bedrock API key; and the errors of AWS.

A part of the transport `bedrock`.  botocore finds the credentials (environment, profile, SSO, role of the machine or the pod) and signs; it makes no
call to Bedrock.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from keld.errors import AccessRefused, InvalidJob
from keld.providers.fault import CLOCK_SKEW, Fault, Sent
from keld.providers.part import Auth, Connection, Fixed, Outgoing

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

API_KEY = "AWS_BEARER_TOKEN_BEDROCK"
_SERVICE = "bedrock"
_LIMIT_S = 30.0  # for the credentials: a machine's metadata service may not answer at all
# botocore renews credentials that expire within 15 minutes whenever it is asked for them, so it is asked every five.
_EVERY_S = 300.0


def auth(connection: Connection) -> Auth:
    """Signatures with the account's own credentials if it has some; else its API key, else signatures with the credentials that botocore finds."""
    given = connection.account.credentials
    key = "" if given is not None else connection.key() or os.environ.get(API_KEY, "").strip()
    if key:
        return Fixed({"authorization": f"Bearer {key}"})
    return Signed(getattr(connection.account, "region", ""), given)


class Signed:
    """`Auth` that signs each request (Signature Version 4).

    Args:
        given: returns the credentials; None: botocore finds them.
    """

    def __init__(self, region: str, given: Callable[[], Any] | None = None) -> None:
        try:
            from botocore.session import Session
        except ImportError as missing:
            raise InvalidJob("Bedrock needs botocore, which is not installed. Nothing was sent. pip install 'keld[bedrock]'") from missing
        self._region, self._find, self._lock = region, cache(given or Session().get_credentials), threading.Lock()
        self._credentials: ReadOnlyCredentials | None = None
        self._next = 0.0  # of `time.monotonic()`

    def headers(self, outgoing: Outgoing) -> Mapping[str, str]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        if self._credentials is None:
            raise Fault(sent=Sent.NO, cause="there are no credentials of AWS")
        # Only headers that no proxy changes.
        signed = {
            name: value for name, value in outgoing.headers.items() if name.lower() == "content-type" or name.lower().startswith("x-amz")
        }
        request = AWSRequest(method=outgoing.method, url=outgoing.url, headers=signed, data=outgoing.body)
        SigV4Auth(self._credentials, _SERVICE, self._region).add_auth(request)
        return {name: value for name, value in request.headers.items() if name not in signed}

    def keys(self) -> dict[str, str]:
        """The credentials, as options of obstore, which does not know profiles and SSO.

        Raises:
            AccessRefused, Fault: see `renew`.
        """
        if self.due():
            self.renew()
        found = self._credentials
        if found is None:
            return {}
        token = {"session_token": found.token} if found.token else {}
        return {"access_key_id": found.access_key, "secret_access_key": found.secret_key} | token

    def due(self) -> bool:
        return time.monotonic() >= self._next

    def renew(self) -> None:
        """Asks botocore for the credentials.

        Raises:
            AccessRefused: it finds none.
            Fault: they did not come in time.
        """
        if not self._lock.acquire(timeout=_LIMIT_S):
            raise Fault(sent=Sent.NO, cause=f"the credentials of AWS did not come within {_LIMIT_S:,.0f} s")
        try:
            if self.due():
                self._renew()
        finally:
            self._lock.release()

    def _renew(self) -> None:
        got = _Found(self._find)
        got.join(_LIMIT_S)
        if got.credentials is None and self._credentials is None:
            if got.is_alive() or got.error is not None:
                why = type(got.error).__name__ if got.error is not None else f"nothing came within {_LIMIT_S:,.0f} s"
                raise Fault(sent=Sent.NO, cause=f"the credentials of AWS could not be had: {why}")
            raise AccessRefused(
                f"No credentials of AWS were found for Bedrock in {self._region}. Nothing was sent. Set AWS_PROFILE, AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY, or {API_KEY}, or run where a role is attached."
            )
        self._credentials = got.credentials or self._credentials  # after a failed renewal the old ones may still be good
        self._next = time.monotonic() + _EVERY_S


class _Found(threading.Thread):
    """The search for credentials, in a thread that ends with the process if it hangs."""

    def __init__(self, find: Callable[[], Any]) -> None:
        super().__init__(name="keld-aws-credentials", daemon=True)
        self.credentials: ReadOnlyCredentials | None = None
        self.error: Exception | None = None
        self._find = find
        self.start()

    def run(self) -> None:
        try:
            found = self._find()
            self.credentials = None if found is None else found.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001  its type is told by the thread that waits
            self.error = error


def error_in(body: dict[str, Any], headers: Mapping[str, str]) -> Any:
    """The error of a failed reply: its code is in a header, or in `__type` (botocore's parser for this protocol, 1.43)."""
    code = headers.get("x-amzn-errortype", "").partition(":")[0] or str(body.get("__type") or "").rpartition("#")[2]
    message = body.get("message") or body.get("Message")
    if not code or not isinstance(message, str):
        return None
    skewed = "Signature expired" in message or "Signature not yet current" in message or code == "RequestTimeTooSkewed"
    return {"code": CLOCK_SKEW if skewed else code, "message": message}
