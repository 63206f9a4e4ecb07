"""Fault: what an HTTP status or a broken connection means, the same for every transport.

Beside `base`.  A transport turns its own library's exceptions, or a reply, into a `Fault`; its meaning comes from the table of the kind, else from
rules that hold for all.  Only codes are kept, since a message may quote a prompt or the key, and faults go to logs and to
the ledger; the reason for refusing a file goes only to the rows of that file.

The shape of a refusal shows whether the provider or a proxy wrote it: a page of HTML is a proxy's.  A proxy can copy the provider's shape, so the
shape decides only how long we look for a batch that may have been created, never whether we look.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, assert_never

import httpx2
import msgspec

from keld.errors import AccessRefused, KeldError, ProviderRefused, ProviderUnreachable
from keld.http import retry_after
from keld.providers.base import NO_ACCESS, CreateOutcome, OutcomeUnknown, QueueFull, Quota, Refused
from keld.providers.word import access_advice, reply_words

# Whatever looks like a key, a token or a signature, in the shapes of the providers and of the clouds, Nov 2026.
_KEY = re.compile(
    r"""
      \b(?:(?:sk|pk|gsk|xai|fw)[-_]|key-)[\w*.\-]{4,}    # OpenAI, Anthropic, OpenRouter, Groq, xAI, Fireworks
    | \bBearer\s+\S+
    | \bAIza[\w-]{8,}                                   # an API key of Google
    | \bya29\.[\w.-]+                                   # an access token of Google
    | \beyJ[\w-]{8,}(?:\.[\w-]*)*                       # a JSON web token: Entra, Google
    | \b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{8,}             # an access key of AWS
    | \bABSK[\w+/=-]{4,}                                # a key of Bedrock
    | \b[0-9a-f]{32}\b | \b[A-Za-z0-9]{64,}             # keys of Azure, old and new, and of Together
    | \b(?:sig|AccountKey|SharedAccessSignature|Signature|X-Amz-Signature|X-Amz-Security-Token|X-Goog-Signature|api[-_]?key)\s*[=:]\s*[^\s&;,"'<>]+
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Codes are made of words and short numbers; keys are not.
_CODE = re.compile(
    r"(?=.{1,64}$)(?!(?:sk|pk|gsk|xai|key|fw)[_-]|AKIA|ASIA|ABIA|ACCA|AIza|ABSK|ya29\b|eyJ)(?:[A-Za-z]{1,32}[0-9]{0,3}|[0-9]{1,4})(?:[_.-](?:[A-Za-z]{1,32}[0-9]{0,3}|[0-9]{1,4}))*"
).fullmatch
# Raised by the transport before a byte of the request went out: nothing can have been created.
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ProxyError", "LocalProtocolError", "InvalidURL")
_DEFINITE = {400, 401, 402, 403, 404, 405, 410, 413, 415, 422}
# An empty or closed account without a code of its own: Anthropic says `invalid_request_error` with 400, github.com/anthropics/
# anthropic-sdk-typescript/issues/618 (still so on 17 Sep 2026), and so do Groq and LiteLLM for their restrictions and budgets.
_ACCESS_SAID = {
    "credit_balance_too_low": r"credit balance is too low",
    "usage_limit_reached": r"reached your specified .{0,40}usage limits?",
    "organization_disabled": r"organization has been (?:disabled|restricted)",
    "account_deactivated": r"account (?:is not active|has been deactivated)",
    "budget_exceeded": r"budget has been exceeded|ExceededBudget|exceeded budget",
    "billing_hard_limit_reached": r"billing hard limit",
}
_CAUSES = {
    "ConnectTimeout": "no connection within its time",
    "PoolTimeout": "all connections were in use for too long",
    "ReadTimeout": "no reply within its time",
    "WriteTimeout": "it did not take the request within its time",
    "ReadError": "the connection broke while its reply was read",
    "WriteError": "the connection broke while the request was sent",
    "RemoteProtocolError": "the connection was closed without a whole reply",
    "UnsupportedProtocol": "its base URL begins neither with http:// nor with https://",
    "InvalidURL": "its address cannot be read",
    "UnreadableEncoding": "its reply came in a content-encoding that was not asked for and cannot be read",
    "ProxyError": "the proxy would not connect",
}


class Sent(StrEnum):
    """How far a call got."""

    NO = "no"  # nothing left the machine
    MAYBE = "maybe"  # no reply: it may have been done
    ANSWERED = "answered"  # there was a reply


class Meaning(StrEnum):
    """What a reply that is no success means."""

    REFUSED = "refused"  # permanently: the same request would be refused again
    MISSING = "missing"  # what the request names is not there
    QUEUE_FULL = "queue_full"  # a rate or queue limit: send the same later
    NOT_DONE = "not_done"  # refused before any work, which its code says though its status does not
    ACCESS = "access"  # the key, the project or the billing is refused; a person must act
    REDIRECT = "redirect"  # to another address, where the key is not sent
    UNKNOWN = "unknown"  # it may have been done


ANY = "*"  # any code
Codes = Mapping[tuple[int | None, str], Meaning]
"""(status or None for any, code or `ANY`) -> what it means at one kind of provider, if that differs from the common rules."""


ErrorIn = Callable[[dict[str, Any], Mapping[str, str]], Any]
"""(JSON body, headers) of a failed reply -> the provider's error: an object with `message` and `code` or `type`, and `retry_after_s` if the body says it;
anything else: none.

The body is empty if it is no JSON object.  It must not raise.
"""


class Fault(Exception):
    """A call that did not succeed, as its transport saw it; what follows from it is decided elsewhere.

    Args:
        sent: how far the call got.
        status: of the reply; None: there was none.
        code: the provider's code, a short word; "" without a reply.
        message: the provider's message, as far as it may be repeated.
        own: the reply has the shape of the provider's own errors; else it comes from a proxy or a gateway.
        retry_after_s: seconds until it may be tried again, if the reply says so.
        cause: why there is no readable reply, for people.
        body: of the reply; may quote a prompt.
        quotas: what is left of the account's rate limits, if the reply says so.
        date: the `date` header of the reply: the host's own clock; "" without one.
    """

    def __init__(
        self,
        *,
        sent: Sent,
        status: int | None = None,
        code: str = "",
        message: str = "",
        own: bool = False,
        retry_after_s: float | None = None,
        cause: str = "",
        body: bytes = b"",
        quotas: Mapping[str, Quota] | None = None,
        date: str = "",
    ) -> None:
        super().__init__(cause or reply_words(status, code))
        self.sent, self.status, self.code, self.message, self.own = sent, status, code, message, own
        self.retry_after_s, self.cause, self.body, self.quotas, self.date = retry_after_s, cause, body, quotas or {}, date


def fault_of(
    failed: httpx2.Response | BaseException,
    *,
    carried_prompts: bool = False,
    error_in: ErrorIn | None = None,
    quotas: Mapping[str, Quota] | None = None,
) -> Fault:
    """The fault of a reply that is no success, or of what an HTTP library or an SDK raised: an exception with such a reply in `response`, or without.

    Args:
        carried_prompts: the request had prompts in it, so that the provider's message may quote one.
    """
    reply = failed if isinstance(failed, httpx2.Response) else getattr(failed, "response", None)
    if isinstance(reply, httpx2.Response):
        return fault_of_reply(
            reply.status_code, reply.headers, _body_of(reply), carried_prompts=carried_prompts, error_in=error_in, quotas=quotas
        )
    assert isinstance(failed, BaseException), "a reply was read above"
    return fault_of_no_reply(failed)


def _body_of(reply: httpx2.Response) -> bytes:
    try:
        return reply.content
    except RuntimeError:  # a stream that was not read
        return b""


def fault_of_reply(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    carried_prompts: bool,
    error_in: ErrorIn | None = None,
    quotas: Mapping[str, Quota] | None = None,
) -> Fault:
    """The fault of a reply; its body is `{"error": {"message", "type" or "code"}}`, or what `error_in` reads, or anything else.

    Args:
        carried_prompts: the request had prompts in it, so that the provider's message may quote one.
    """
    body = _in_common_shape(body, headers, error_in)
    code, message, own = _words(body, carried_prompts)
    wait_s = retry_after(headers)
    if wait_s is None:
        wait_s = retry_after({"retry-after": str(_error_in(body).get("retry_after_s", ""))})
    return Fault(
        sent=Sent.ANSWERED,
        status=status,
        code=code,
        message=message,
        own=own,
        retry_after_s=wait_s,
        body=body,
        quotas=quotas,
        date=str(headers.get("date", "")),
    )


def _in_common_shape(body: bytes, headers: Mapping[str, str], error_in: ErrorIn | None) -> bytes:
    """The body of a failed reply as `{"error": {...}}`, with the error that `error_in` finds; unchanged if it finds none."""
    error = error_in(_object_of(body), headers) if error_in is not None else None
    return msgspec.json.encode({"error": error}) if isinstance(error, dict) else body


def fault_of_no_reply(error: BaseException) -> Fault:
    """The fault of an exception of an HTTP library; the innermost exception says how far the request got."""
    sent = Sent.NO if _transport_fault(error) in _NEVER_SENT else Sent.MAYBE
    return Fault(sent=sent, cause=cause_of(error) + _by_proxy(error))


def _by_proxy(error: BaseException) -> str:
    """A clause that names the proxy which stands between, if one does: what could not be reached may be the proxy."""
    request = getattr(error, "_request", None)
    if not isinstance(request, httpx2.Request):
        return ""
    from urllib.request import getproxies, proxy_bypass

    scheme, host = request.url.scheme, request.url.host
    named = next((name for name in (scheme, "all") if name in getproxies()), None)
    if named is None or proxy_bypass(host):
        return ""
    return f" (by way of the proxy that {named.upper()}_PROXY names)"


def unreadable(status: int) -> Fault:
    """The fault of a reply whose status is a success and whose body cannot be read, e.g. a proxy's page or a truncated one."""
    return Fault(sent=Sent.ANSWERED, status=status, code="unreadable", cause="an unreadable reply")


def meaning(fault: Fault, codes: Codes) -> Meaning:
    """The meaning of a fault's reply.

    Read and write faults, 408, 409 and every 5xx are unknown: a proxy may have lost only the reply.
    """
    known = codes.get((fault.status, fault.code)) or codes.get((None, fault.code)) or codes.get((fault.status, ANY))
    if known not in (None, Meaning.NOT_DONE):
        return known
    by_status = _meaning_of_status(fault)
    # Only where the status says nothing: a create that met 429 would be looked for, as if it might have been done.
    return known if known is not None and by_status is Meaning.UNKNOWN else by_status


def _meaning_of_status(fault: Fault) -> Meaning:
    status = fault.status
    if status is None or 200 <= status < 300:
        return Meaning.UNKNOWN
    if status in (401, 402, 403) or (fault.own and status < 500 and fault.code in NO_ACCESS):
        return Meaning.ACCESS
    if status == 429:
        return Meaning.QUEUE_FULL
    if 300 <= status < 400:
        return Meaning.REDIRECT
    if status == 404:
        return Meaning.MISSING
    return Meaning.REFUSED if status in _DEFINITE else Meaning.UNKNOWN


def create_outcome(fault: Fault, codes: Codes, place: Callable[[], str] = str) -> CreateOutcome:
    """The outcome of a create that failed: refused, refused for now, or unknown.

    Args:
        place: gives the clause of `placed`.
    """
    status, code, own = fault.status, fault.code, fault.own
    if fault.sent is Sent.NO:
        return Refused(None, "unreachable", placed(fault.cause, place), permanent=False)
    if status is None:
        return OutcomeUnknown(f"no reply: {fault.cause}")
    match meaning(fault, codes):
        case Meaning.ACCESS:
            return Refused(status, code, "", permanent=False, own=own, access=True)
        case Meaning.QUEUE_FULL:
            return QueueFull(fault.retry_after_s, own)
        case Meaning.REDIRECT:
            return Refused(status, "redirect", "it redirects to another address, and the key is not sent there", permanent=False, own=False)
        case Meaning.MISSING:  # a new upload helps; the file itself is not at fault
            return Refused(status, code, "", permanent=False, own=own)
        case Meaning.REFUSED:
            return Refused(status, code, fault.message, permanent=True, own=own)
        case Meaning.UNKNOWN | Meaning.NOT_DONE:  # we look for the batch in any case
            return OutcomeUnknown(fault.cause or reply_words(status, code))
        case unreachable:
            assert_never(unreachable)


def placed(cause: str, place: Callable[[], str]) -> str:
    """The cause of a call without a reply, with the setting that the host is made from if no host has that name.

    Args:
        place: gives that setting, as a clause; "": there is none.  Asked only then, since it may take a second.
    """
    clause = place() if _NO_SUCH_NAME in cause else ""
    return f"{cause}; {clause}" if clause else cause


def error_of(
    fault: Fault, codes: Codes, name: str, host: str, doing: str, place: Callable[[], str] = str, *, missing: str | None = None
) -> KeldError:
    """The error, for people, of a call that costs nothing.

    Args:
        place: as of `placed`.
        missing: what 404 means for this call, one sentence; None: most often a wrong base URL.

    `AccessRefused`: 401, 402, 403, or a code that means no money or no permission.  `ProviderUnreachable`: no connection, no reply, 408, 409,
    429, 5xx, or a full queue; worth another try later.  `ProviderRefused`: any other status.
    """
    status = fault.status
    if status is None:
        return ProviderUnreachable(
            f"{name} at {host} could not be reached for {doing}: {placed(fault.cause, place)}. It is tried again later.", account=name
        )
    if fault.cause:
        return ProviderUnreachable(f"{name} at {host} gave {fault.cause} to {doing}. It is tried again later.", account=name)
    said = f"{name} at {host} answered {doing} with {reply_words(status, fault.code)}."
    means = meaning(fault, codes)
    if means is Meaning.ACCESS:
        return AccessRefused(f"{said} {access_advice(fault.code, name)}", account=name, status=status)
    if means is Meaning.REDIRECT:
        said = f"{name} at {host} redirects {doing} to another address ({reply_words(status)}), where the key is not sent."
        return ProviderRefused(f"{said} Check the base URL of {name}.", account=name, status=status)
    if status in (408, 409, 425, 429) or status >= 500 or means in (Meaning.QUEUE_FULL, Meaning.NOT_DONE):
        return ProviderUnreachable(f"{said} It is tried again later.", account=name, status=status)
    if status == 404:
        advice = missing or f"Check the base URL of {name}: most often a part of its path is missing, such as /v1."
        return ProviderRefused(f"{said} {advice}", account=name, status=status)
    return ProviderRefused(said, account=name, status=status)


def code_of(value: object) -> str:
    """A provider's error code, if it is a short word without spaces; "unreadable_code" for free text, which may quote a prompt."""
    text = str(value or "error")
    return text if _CODE(text) else "unreadable_code"


def scrubbed(text: str, limit: int = 300) -> str:
    """`text` in one line, without anything that looks like a key."""
    return _KEY.sub("***", " ".join(text.split()))[:limit]


def cause_of(error: BaseException) -> str:
    """Why there was no reply, for people; never the exception's own message, which may quote a URL with a key."""
    chain = list(_chain(error))
    for cause in chain:
        match cause:
            case ssl.SSLCertVerificationError():
                return f"its TLS certificate is not trusted ({cause.verify_message or 'not verified'}); set SSL_CERT_FILE to your own authority's"
            case ssl.SSLError() if cause.reason == "WRONG_VERSION_NUMBER":
                return "that port does not use TLS (http:// instead of https://?)"
            case ssl.SSLError():
                return f"TLS failed ({code_of((cause.reason or 'unknown').lower())})"
            case socket.gaierror():
                return f"its {_NO_SUCH_NAME} (DNS)"
            case ConnectionRefusedError():
                return "the connection was refused: nothing listens there"
            case ConnectionResetError() | BrokenPipeError():
                return "the connection was cut"
            case OSError() if cause.errno in _UNREACHABLE:
                return "the network has no route to it"
    said = next((_CAUSES[name] for name in map(_name, reversed(chain)) if name in _CAUSES), None)
    return said or _name(chain[-1])


_NO_SUCH_NAME = "name is not known"  # said of a host here, and of a bucket's in `objects`
_UNREACHABLE = {100, 101, 112, 113, 51, 65}  # the network or the host is down or unreachable, on Linux and on macOS


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and its causes, down to the first."""
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


def _words(body: bytes, carried_prompts: bool) -> tuple[str, str, bool]:
    """Code, message as far as it may be repeated, and whether the body has the shape of the provider's own errors."""
    code, message, own = _read(body)
    if carried_prompts:
        # Only a leading field path ("requests.0.custom_id") is safe; the rest may quote a prompt.
        field = re.match(r"[A-Za-z_][\w.\[\]-]{0,80}(?=:)", message)
        return code, f"at {field[0]}" if field else "", own
    return code, scrubbed(message), own


def _read(body: bytes) -> tuple[str, str, bool]:
    """Code, whole message and shape of an error's body."""
    inner = _error_in(body)
    said, kind = inner.get("message"), inner.get("code") or inner.get("type")
    message, code = str(said or ""), code_of(kind)
    if code not in NO_ACCESS:
        by_type = code_of(inner.get("type"))  # LiteLLM has the status in its code
        by_text = next((name for name, words in _ACCESS_SAID.items() if re.search(words, message, re.IGNORECASE)), code)
        code = by_type if by_type in NO_ACCESS else by_text
    return code, message, isinstance(said, str) and bool(kind)


def _error_in(body: bytes) -> dict[str, Any]:
    inner = _object_of(body).get("error")
    return inner if isinstance(inner, dict) else {}


def _object_of(body: bytes) -> dict[str, Any]:
    """A JSON object; an empty one if the body is none."""
    try:
        read = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}
    return read if isinstance(read, dict) else {}
