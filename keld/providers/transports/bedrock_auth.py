"""Bedrock auth: who asks at Amazon Bedrock: a signature of each request, or a Bedrock API key; and the errors of AWS.

A part of the transport `bedrock`.  botocore finds the credentials (environment, profile, SSO, role of the machine or the pod) and signs; it makes no
call to Bedrock.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from keld.errors import AccessRefused, InvalidJob
from keld.providers.account import check_unquoted
from keld.providers.auth import Kept
from keld.providers.part import Auth, Connection, Fixed, Outgoing
from keld.providers.word import CLOCK_SKEW, ROLE_REFUSED

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

API_KEY = "AWS_BEARER_TOKEN_BEDROCK"
_SERVICE = "bedrock"
# A role that may not be passed is a 403, one that Bedrock may not assume a bad request: neither is a fault of the rows.
_ROLE = re.compile(r"iam:PassRole|\bassume\b.{0,60}\brole\b|\brole\b.{0,120}\b(?:assume|trust)", re.IGNORECASE).search
# botocore renews credentials that expire within 15 minutes whenever it is asked for them.  So they are good for ten when it has given them, and it is
# asked after five.
_GOOD_S = 600.0


def auth(connection: Connection) -> Auth:
    """Signatures with the account's own credentials if it has some; else its API key, else signatures with the credentials that botocore finds."""
    given = connection.account.credentials
    key = "" if given is not None else connection.key() or os.environ.get(API_KEY, "").strip()
    if key:
        check_unquoted(key, "Bedrock")
        return Fixed({"authorization": f"Bearer {key}"})
    return Signed(getattr(connection.account, "region", ""), given)


@cache
def regions() -> list[str]:
    """The regions in which botocore knows Bedrock; a newer one may be missing."""
    from botocore.session import Session

    session = Session()
    return [
        region for part in session.get_available_partitions() for region in session.get_available_regions("bedrock", partition_name=part)
    ]


def bucket_options_of(connection: Connection) -> Callable[[], Mapping[str, str]]:
    """Gives region and keys of the account's bucket, also where an API key asks for jobs; the keys are those with which requests are signed.

    It raises `AccessRefused` or `Fault`: see `Signed.renew`.
    """
    account = connection.account
    keys = Signed(getattr(account, "region", ""), account.credentials)
    return lambda: {"region": getattr(account, "region", ""), **keys.keys()}


class Signed:
    """`Auth` that signs each request (Signature Version 4).

    Args:
        given: returns the credentials; None: botocore finds them.
    """

    def __init__(self, region: str, given: Callable[[], Any] | None = None, limit_s: float = 30.0) -> None:
        try:
            from botocore.session import Session
        except ImportError as missing:
            raise InvalidJob("Bedrock needs botocore, which is not installed. No call was made. pip install 'keld[bedrock]'") from missing
        self._region = region
        self._find = Session().get_credentials if given is None else cache(given)  # botocore keeps what it finds itself
        self._kept = Kept(self._found, "the credentials of AWS", limit_s)

    def headers(self, outgoing: Outgoing) -> Mapping[str, str]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest

        # Only headers that no proxy changes.
        signed = {
            name: value for name, value in outgoing.headers.items() if name.lower() == "content-type" or name.lower().startswith("x-amz")
        }
        request = AWSRequest(method=outgoing.method, url=outgoing.url, headers=signed, data=outgoing.body)
        SigV4Auth(self._kept.get(), _SERVICE, self._region).add_auth(request)
        return {name: value for name, value in request.headers.items() if name not in signed}

    def keys(self) -> dict[str, str]:
        """The credentials, as options of obstore, which does not know profiles and SSO.

        Raises:
            AccessRefused, Fault: see `renew`.
        """
        if self.due():
            self.renew()
        found = self._kept.get()
        token = {"session_token": found.token} if found.token else {}
        return {"access_key_id": found.access_key, "secret_access_key": found.secret_key} | token

    def due(self) -> bool:
        return self._kept.due()

    def renew(self) -> None:
        """Asks botocore for the credentials.

        Raises:
            AccessRefused: it finds none.
            Fault: they did not come in time.
        """
        self._kept.renew()

    def _found(self) -> tuple[ReadOnlyCredentials, float]:
        """The credentials, and when to ask for them again for good: until then old ones are used if a renewal fails."""
        found = self._find()
        if found is None:
            raise AccessRefused(
                f"No credentials of AWS were found for Bedrock in {self._region}. No call was made. Set AWS_PROFILE, AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY, or {API_KEY}, or run where a role is attached."
            )
        return found.get_frozen_credentials(), time.time() + _GOOD_S


def error_in(body: dict[str, Any], headers: Mapping[str, str]) -> Any:
    """The error of a failed reply: its code is in a header, or in `__type` (botocore's parser for this protocol, 1.43)."""
    code = headers.get("x-amzn-errortype", "").partition(":")[0] or str(body.get("__type") or "").rpartition("#")[2]
    message = body.get("message") or body.get("Message")
    if not code or not isinstance(message, str):
        return None
    skewed = "Signature expired" in message or "Signature not yet current" in message or code == "RequestTimeTooSkewed"
    role = _ROLE(message) is not None
    return {"code": CLOCK_SKEW if skewed else ROLE_REFUSED if role else code, "message": message}
