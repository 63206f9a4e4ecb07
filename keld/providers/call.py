"""Call: one request of a fast lane, one HTTP attempt, and what came of it, the same for every SDK of this family.

Beside `base`.  What a reply said is handed on as the line that a batch's result file would hold, so that one reader serves all lanes.
Nothing is sent twice here, and nothing is decided but what is known: done, not done, or in doubt.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import cycle
from typing import Any

import httpx2
import msgspec

from keld.providers.base import Created, Denied, InDoubt, NotNow, OutcomeUnknown, QueueFull, Quota, Refused, Sender, SendOutcome, Settled
from keld.providers.fault import code_in, create_outcome, retry_after

IN_DOUBT = "keld_in_doubt"  # the code of a line that says: sent, and no reply; a provider has none for it
# Refused at the door, by their own words, and so not paid: Anthropic's 529 overloaded_error, Groq's 498 capacity_exceeded for flex, and a
# 503 that says when to come back.  Any other 5xx may be a proxy's, which lost the reply only.
_NOT_DONE = {"overloaded_error", "capacity_exceeded"}
# A refusal that is not in the provider's own shape is a gateway's.  With these statuses it refuses by the request alone (who asks, how often, how
# large it is) before it sends the request on, so nothing was done.  With any other the page may have taken the place of an answer that was paid
# for (a filter of replies, a route that was lost): in doubt, its worst case stays reserved.  403 is with those that are not done: it is nearly
# always a firewall's answer to the request, and it stops the lane, so that what a filter of replies may cost is bounded by what is in flight.
_REFUSED_BEFORE = {401, 402, 403, 407, 413, 429}
_CONNECTIONS = 32  # of one client
_CONNECT_S = 30.0
_SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How a provider's own result file says what a reply said, and where its replies tell of rate limits."""

    settled: Callable[[str, int, bytes], bytes]  # custom_id, HTTP status, a body that is one line of JSON
    doubtful: Callable[[str, str], bytes]  # custom_id, why
    quotas: Callable[[httpx2.Headers], dict[str, Quota]]


@asynccontextmanager
async def senders(
    client: Callable[[httpx2.AsyncClient], Any], path: str, timeout_s: float, most: int, wire: Wire, sdk: Any
) -> AsyncIterator[Sender]:
    """A sender for `most` requests at a time, over several of the SDK's clients: the transport looks at all connections of one for each request.

    Args:
        client: makes one upon a transport.
        timeout_s: of a whole request, from its connection to the last byte of its reply.
    """
    trust = httpx2.create_ssl_context()  # once: reading the machine's certificates takes 80 ms
    async with AsyncExitStack() as opened:
        made = [client(_transport(sdk, trust, timeout_s)) for _ in range(-(-most // _CONNECTIONS))]
        clients = cycle([await opened.enter_async_context(one) for one in made])
        yield lambda custom_id, body: call(next(clients), path, custom_id, body, wire, sdk, timeout_s)


def _transport(sdk: Any, trust: ssl.SSLContext, timeout_s: float) -> httpx2.AsyncClient:
    # Without a bound on connections: a request that waits for one would count as sent.  A server that closes an idle one just as it is
    # used again leaves the request in doubt; the shortest usual patience is 5 s.  A redirect would carry the key to wherever it points.
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=3)
    # A connection has less than the whole time, so that one which was never made is known for what it is: not sent.
    timeout = httpx2.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s / 2))
    headers = {"accept-encoding": "identity"}  # what cannot be read is not offered
    made: httpx2.AsyncClient = sdk.DefaultAsyncHttpxClient(
        follow_redirects=False, limits=limits, verify=trust, timeout=timeout, headers=headers
    )
    return made


async def call(client: Any, path: str, custom_id: str, body: bytes, wire: Wire, sdk: Any, timeout_s: float) -> SendOutcome:
    """What came of sending `body` to `path`, once."""
    options = {"headers": {"content-type": "application/json"}}
    try:
        # The SDK's own time-outs are of one read: a reply of a byte a second outlives them all.
        async with asyncio.timeout(timeout_s):
            reply = await client.post(path, cast_to=httpx2.Response, content=body, options=options)
    except TimeoutError:
        return _in_doubt(custom_id, f"no whole reply within {timeout_s:,.0f} s", wire)
    except sdk.APIStatusError as error:
        return _status(error, custom_id, wire)
    except (sdk.APIError, httpx2.HTTPError) as error:
        return _silence(error, custom_id, wire)
    answer = one_line_of(reply.content)
    if reply.status_code != 200 or answer is None:
        return _in_doubt(custom_id, f"an unreadable reply with HTTP {reply.status_code}", wire)
    return Settled(line=wire.settled(custom_id, 200, answer), answered=True, status=200, quotas=wire.quotas(reply.headers))


def one_line_of(body: bytes) -> bytes | None:
    """A JSON body without the line ends and blanks between its parts, which OpenAI sends; None where it is no JSON."""
    try:
        line = msgspec.json.format(body, indent=-1)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return None if b"\n" in line else line


def quotas(headers: httpx2.Headers, name: Callable[[str, str], str]) -> dict[str, Quota]:
    """The limits of `requests` and `tokens` that a reply tells whole; `name` gives the header of (kind, limit | remaining | reset)."""
    found = {}
    for kind in ("requests", "tokens"):
        limit, left, reset = (headers.get(name(kind, what)) for what in ("limit", "remaining", "reset"))
        try:
            quota = Quota(limit=float(limit or ""), left=float(left or ""), reset_s=_seconds(reset or "", headers.get("date")))
        except ValueError:
            continue
        if quota.limit > 0 and quota.reset_s >= 0:
            found[kind] = quota
    return found


def _seconds(reset: str, date: str | None) -> float:
    """Seconds of a span (`6ms`, `2m59.56s`, `20`) or until an instant, by the provider's own clock where it tells that.

    Raises:
        ValueError: it is neither.
    """
    if reset and (parts := _SPAN(reset)):
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in parts.groups())
        return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    try:
        return float(reset)
    except ValueError:
        at = datetime.fromisoformat(reset)
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max(0.0, (at - now).total_seconds())


def _status(error: Any, custom_id: str, wire: Wire) -> SendOutcome:
    """What an HTTP status other than 2xx meant; see `create_outcome`, with which it agrees."""
    status, code, told = error.status_code, code_in(error), wire.quotas(error.response.headers)
    if status == 407:
        return Denied(status=status, code=code)
    match create_outcome(error, carried_prompts=True):
        case QueueFull(retry_after_s=wait):
            return NotNow(why=f"HTTP {status} {code}", retry_after_s=wait, quotas=told)
        case Refused(own=False) if status >= 400 and status not in _REFUSED_BEFORE:
            return _in_doubt(custom_id, f"HTTP {status}, in words that are not the provider's own", wire)
        case Refused(permanent=permanent):
            if not permanent and status != 404:
                return Denied(status=status, code=code)
            said = one_line_of(error.response.content)
            body = said if said and said.startswith(b"{") else b'{"type":"http_%d"}' % status
            return Settled(line=wire.settled(custom_id, status, body), answered=False, status=status, code=code, quotas=told)
        case Created() | OutcomeUnknown():
            wait = retry_after(error)
            if code in _NOT_DONE or (status == 503 and wait is not None):
                return NotNow(why=f"HTTP {status} {code}", retry_after_s=wait, quotas=told)
            return _in_doubt(custom_id, f"HTTP {status} {code}", wire)


def _silence(error: Exception, custom_id: str, wire: Wire) -> SendOutcome:
    outcome = create_outcome(error, carried_prompts=True)
    if isinstance(outcome, Refused):
        return NotNow(why=outcome.message)
    return _in_doubt(custom_id, outcome.reason if isinstance(outcome, OutcomeUnknown) else "no reply", wire)


def _in_doubt(custom_id: str, why: str, wire: Wire) -> InDoubt:
    return InDoubt(line=wire.doubtful(custom_id, f"sent, and nobody knows what came of it ({why}): it may have been paid"), why=why)
