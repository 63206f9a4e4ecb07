"""Fault: what an HTTP status or a broken connection means, the same for every SDK of this family.

Beside `base`.  The openai and anthropic SDKs share their error classes' shape, not the classes: `status_code`, `code`, `body`
on a status error, the transport's exception as `__cause__` of a connection error.  Only codes are kept, since a message may quote a
prompt or the key, and what is said here goes to logs and to the ledger; a refused file's reason goes to its rows alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.providers.base import CreateOutcome, OutcomeUnknown, QueueFull, Refused

_KEY = re.compile(r"\b(sk|key|pk|gsk|xai)-[A-Za-z0-9_*.\-]{4,}|Bearer\s+\S+", re.IGNORECASE)
# Words and short numbers, as codes are made of; a key is neither.
_CODE = re.compile(
    r"(?=.{1,64}$)(?!(?:sk|pk|gsk|xai|key)[_-])(?:[A-Za-z]{1,32}[0-9]{0,3}|[0-9]{1,4})(?:[_.-](?:[A-Za-z]{1,32}[0-9]{0,3}|[0-9]{1,4}))*"
).fullmatch
# Raised by the transport before a byte of the request went out: nothing can have been created.
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError", "LocalProtocolError", "InvalidURL")
_DEFINITE = {400, 401, 402, 403, 404, 405, 410, 413, 415, 422}


def create_outcome(error: Exception, *, carried_prompts: bool) -> CreateOutcome:
    """What a failed create left behind: a definite no, a no for now, or nobody knows.

    Read and write faults, 408, 409 and every 5xx are unknown: a proxy may have lost only the reply.
    """
    status = getattr(error, "status_code", None)
    if status is None:
        cause = _cause(error)
        if cause in _NEVER_SENT:
            return Refused(None, "unreachable", f"no connection ({cause})", permanent=False)
        return OutcomeUnknown(f"no reply ({cause})")
    code, message = _words(error, carried_prompts)
    if status == 429 or (status == 400 and code == "token_limit_exceeded"):
        return QueueFull(retry_after(error))
    if 300 <= status < 400:
        return Refused(status, "redirect", "it points elsewhere, and the key is not sent there", permanent=False)
    if status in _DEFINITE:
        # 401-403 and 404 of the file are mended by the user or by uploading again; the file itself is not at fault.
        permanent = status not in (401, 402, 403, 404)
        return Refused(status, code, message if permanent else "", permanent=permanent)
    return OutcomeUnknown(f"HTTP {status}")


@contextmanager
def plain_faults(name: str, host: str, doing: str, sdk: Any, *, carried_prompts: bool = False) -> Iterator[None]:
    """Turns the SDK's exceptions of a call that pays nothing into Keld's.

    Raises:
        AccessRefused: 401, 402, 403.
        ProviderUnreachable: no connection, no reply, 408, 409, 429, 5xx; worth another try later.
        ProviderRefused: any other status.
    """
    try:
        yield
    except sdk.APIStatusError as error:
        code, _ = _words(error, carried_prompts)
        status = error.status_code
        said = f"{name} at {host} answered {doing} with HTTP {status} {code}."
        if status in (401, 402, 403):
            raise AccessRefused(f"{said} Check the key, the project and the billing of {name}.") from None
        if status in (408, 409, 425, 429) or status >= 500:
            raise ProviderUnreachable(f"{said} It is tried again later.") from None
        raise ProviderRefused(said, status) from None
    except sdk.APIConnectionError as error:
        if _cause(error) == "UnreadableEncoding":
            raise ProviderUnreachable(
                f"{name} at {host} answered {doing} in a content-encoding that was not asked for and cannot be read. It is tried again later."
            ) from None
        raise ProviderUnreachable(
            f"{name} at {host} could not be reached for {doing} ({_cause(error)}). It is tried again later."
        ) from None
    except sdk.APIError as error:
        raise ProviderUnreachable(
            f"{name} at {host} gave an unreadable answer to {doing} ({type(error).__name__}). It is tried again later."
        ) from None


def retry_after(error: Exception) -> float | None:
    """Seconds from a `retry-after` header, where there is a sane one."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 86_400 else None


def code_in(error: Exception) -> str:
    """The provider's code for a status error."""
    return _words(error, carried_prompts=True)[0]


def code_of(value: object) -> str:
    """A provider's code for a fault, where it is one: a short word without spaces.  Free text may quote a prompt, and is left out."""
    text = str(value or "error")
    return text if _CODE(text) else "unreadable_code"


def scrubbed(text: str, limit: int = 300) -> str:
    """`text` in one line, without anything that looks like a key."""
    return _KEY.sub("***", " ".join(text.split()))[:limit]


def _words(error: Any, carried_prompts: bool) -> tuple[str, str]:
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else {}
    inner = inner if isinstance(inner, dict) else {}
    code = code_of(inner.get("code") or inner.get("type"))
    message = str(inner.get("message") or "")
    if carried_prompts:
        # Only a leading field path ("requests.0.custom_id") is the provider's own; the rest may quote a prompt.
        field = re.match(r"[A-Za-z_][\w.\[\]-]{0,80}(?=:)", message)
        return code, f"at {field[0]}" if field else ""
    return code, scrubbed(message)


def _cause(error: BaseException) -> str:
    deepest = error
    while deepest.__cause__ is not None and type(deepest).__name__ not in _NEVER_SENT:
        deepest = deepest.__cause__
    return type(deepest).__name__
