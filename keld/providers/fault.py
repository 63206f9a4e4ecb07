"""Fault: what an HTTP status or a broken connection means, the same for every SDK of this family.

Beside `base`.  The openai and anthropic SDKs share their error classes' shape, not the classes: `status_code` and `response` on a status
error, the transport's exception as `__cause__` of a connection error.  Only codes are kept, since a message may quote a prompt or the
key, and what is said here goes to logs and to the ledger; a refused file's reason goes to its rows alone.

Whose words a refusal is in is told by its shape: a page of HTML is a proxy's.  A proxy can copy a provider's shape, so the shape decides
how long is looked for what was created all the same, never whether.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.providers.base import NO_ACCESS, CreateOutcome, OutcomeUnknown, QueueFull, Refused

_KEY = re.compile(r"\b(sk|key|pk|gsk|xai)-[A-Za-z0-9_*.\-]{4,}|Bearer\s+\S+", re.IGNORECASE)
# Words and short numbers, as codes are made of; a key is neither.
_CODE = re.compile(
    r"(?=.{1,64}$)(?!(?:sk|pk|gsk|xai|key)[_-])(?:[A-Za-z]{1,32}[0-9]{0,3}|[0-9]{1,4})(?:[_.-](?:[A-Za-z]{1,32}[0-9]{0,3}|[0-9]{1,4}))*"
).fullmatch
# Raised by the transport before a byte of the request went out: nothing can have been created.
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError", "LocalProtocolError", "InvalidURL")
_DEFINITE = {400, 401, 402, 403, 404, 405, 410, 413, 415, 422}
# An empty or closed account without a code of its own: Anthropic says `invalid_request_error` with 400, github.com/anthropics/
# anthropic-sdk-typescript/issues/618 (still so on 17 Sep 2026), and so do Groq and LiteLLM of their restrictions and budgets.
_ACCESS_SAID = {
    "credit_balance_too_low": r"credit balance is too low",
    "usage_limit_reached": r"reached your specified .{0,40}usage limits?",
    "organization_disabled": r"organization has been (?:disabled|restricted)",
    "account_deactivated": r"account (?:is not active|has been deactivated)",
    "budget_exceeded": r"budget has been exceeded|ExceededBudget|exceeded budget",
    "billing_hard_limit_reached": r"billing hard limit",
}
_IN_WORDS = {
    "ConnectTimeout": "no connection within its time",
    "PoolTimeout": "all connections were in use for too long",
    "ReadTimeout": "no reply within its time",
    "WriteTimeout": "it did not take the request within its time",
    "ReadError": "the connection broke while its reply was read",
    "WriteError": "the connection broke while the request was sent",
    "RemoteProtocolError": "the connection was closed without a whole reply",
    "UnsupportedProtocol": "its base URL is none of http:// or https://",
    "InvalidURL": "its base URL cannot be read",
    "ProxyError": "the proxy would not connect",
}


def create_outcome(error: Exception, *, carried_prompts: bool) -> CreateOutcome:
    """What a failed create was answered with: a no, a no for now, or nobody knows.

    Read and write faults, 408, 409 and every 5xx are unknown: a proxy may have lost only the reply.
    """
    status = getattr(error, "status_code", None)
    if status is None:
        if _transport_fault(error) in _NEVER_SENT:
            return Refused(None, "unreachable", cause_of(error), permanent=False)
        return OutcomeUnknown(f"no reply: {cause_of(error)}")
    code, message, own = _words(error, carried_prompts)
    if is_refused_access(error):
        return Refused(status, code, "", permanent=False, own=own, access=True)
    if status == 429 or (status == 400 and code == "token_limit_exceeded"):
        return QueueFull(retry_after(error), own)
    if 300 <= status < 400:
        return Refused(status, "redirect", "it points elsewhere, and the key is not sent there", permanent=False, own=False)
    if status in _DEFINITE:
        # 404 of the file is mended by uploading again; the file itself is not at fault.
        permanent = status != 404
        return Refused(status, code, message if permanent else "", permanent=permanent, own=own)
    return OutcomeUnknown(f"HTTP {status}")


def is_refused_access(error: Exception) -> bool:
    """Whether a status error says that the key, the project or the money is refused, and not this one call."""
    code, _, own = _read(error)
    status = getattr(error, "status_code", 500)
    return status in (401, 402, 403) or (own and status < 500 and code in NO_ACCESS)


@contextmanager
def plain_faults(name: str, host: str, doing: str, sdk: Any, *, carried_prompts: bool = False) -> Iterator[None]:
    """Turns the SDK's exceptions of a call that pays nothing into Keld's.

    Raises:
        AccessRefused: 401, 402, 403, or what else says that there is no money or no right.
        ProviderUnreachable: no connection, no reply, 408, 409, 429, 5xx; worth another try later.
        ProviderRefused: any other status.
    """
    try:
        yield
    except sdk.APIStatusError as error:
        code, _, _ = _words(error, carried_prompts)
        status = error.status_code
        said = f"{name} at {host} answered {doing} with HTTP {status} {code}."
        if is_refused_access(error):
            raise AccessRefused(f"{said} Check the key, the project and the billing of {name}.", account=name, status=status) from None
        if status in (408, 409, 425, 429) or status >= 500:
            raise ProviderUnreachable(f"{said} It is tried again later.", account=name, status=status) from None
        raise ProviderRefused(said, account=name, status=status) from None
    except sdk.APIConnectionError as error:
        if _transport_fault(error) == "UnreadableEncoding":
            raise ProviderUnreachable(
                f"{name} at {host} answered {doing} in a content-encoding that was not asked for and cannot be read. It is tried again later.",
                account=name,
            ) from None
        raise ProviderUnreachable(
            f"{name} at {host} could not be reached for {doing}: {cause_of(error)}. It is tried again later.", account=name
        ) from None
    except sdk.APIError as error:
        raise ProviderUnreachable(
            f"{name} at {host} gave an unreadable answer to {doing} ({type(error).__name__}). It is tried again later.", account=name
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


def cause_of(error: BaseException) -> str:
    """Why there was no reply, in words that a person can act upon; never the exception's own, which may quote a URL with a key."""
    chain = list(_chain(error))
    for cause in chain:
        match cause:
            case ssl.SSLCertVerificationError():
                return f"its TLS certificate is not trusted ({cause.verify_message or 'not verified'}); set SSL_CERT_FILE to your own authority's"
            case ssl.SSLError() if cause.reason == "WRONG_VERSION_NUMBER":
                return "it does not speak TLS there (http:// instead of https://?)"
            case ssl.SSLError():
                return f"TLS failed ({code_of((cause.reason or 'unknown').lower())})"
            case socket.gaierror():
                return "its name is not known (DNS)"
            case ConnectionRefusedError():
                return "the connection was refused: nothing listens there"
            case ConnectionResetError() | BrokenPipeError():
                return "the connection was cut"
            case OSError() if cause.errno in _UNREACHABLE:
                return "there is no way to it in the network"
    said = next((_IN_WORDS[name] for name in map(_name, reversed(chain)) if name in _IN_WORDS), None)
    return said or _name(chain[-1])


_UNREACHABLE = {100, 101, 112, 113, 51, 65}  # the network or the host is down or unreachable, on Linux and on macOS


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and what it came of, to the first."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _name(error: BaseException) -> str:
    return type(error).__name__


def _transport_fault(error: BaseException) -> str:
    """The name of the exception that says how far the request got."""
    deepest = error
    while deepest.__cause__ is not None and _name(deepest) not in _NEVER_SENT:
        deepest = deepest.__cause__
    return _name(deepest)


def _words(error: Any, carried_prompts: bool) -> tuple[str, str, bool]:
    """Code, message as far as it may be told, and whether they are in the provider's own shape."""
    code, message, own = _read(error)
    if carried_prompts:
        # Only a leading field path ("requests.0.custom_id") is the provider's own; the rest may quote a prompt.
        field = re.match(r"[A-Za-z_][\w.\[\]-]{0,80}(?=:)", message)
        return code, f"at {field[0]}" if field else "", own
    return code, scrubbed(message), own


def _read(error: Any) -> tuple[str, str, bool]:
    """Code, whole message and shape of a status error's body: `{"error": {"message", "type" or "code"}}` is both providers' own."""
    inner = _error_of(error)
    said, kind = inner.get("message"), inner.get("code") or inner.get("type")
    message, code = str(said or ""), code_of(kind)
    if code not in NO_ACCESS:
        by_type = code_of(inner.get("type"))  # LiteLLM has the status in its code
        plain = next((name for name, words in _ACCESS_SAID.items() if re.search(words, message, re.IGNORECASE)), code)
        code = by_type if by_type in NO_ACCESS else plain
    return code, message, isinstance(said, str) and bool(kind)


def _error_of(error: Any) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(error.response.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, AttributeError, RuntimeError):  # the last: a stream nobody has read
        body = None
    inner = body.get("error") if isinstance(body, dict) else None
    return inner if isinstance(inner, dict) else {}
