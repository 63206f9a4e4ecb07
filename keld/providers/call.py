"""Call: one request of a fast lane in one HTTP attempt, and its outcome; the same for every provider.

Beside `provider`.  A reply becomes a line of the journal (`envelope`), so that one reader serves all lanes.  Nothing is sent twice here; the
only decision is: done, not done, or in doubt.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache
from itertools import cycle
from typing import assert_never

import httpx2
import msgspec

from keld import http
from keld.errors import AccessRefused
from keld.providers.base import Denied, InDoubt, NotNow, Quota, Sender, SendOutcome, Settled
from keld.providers.envelope import doubt, in_doubt_line, reply_line
from keld.providers.fault import Codes, ErrorIn, Fault, Meaning, Sent, fault_of, meaning, placed
from keld.providers.part import Auth, Outgoing
from keld.providers.word import reply_words

# A refusal without the shape of the provider's own errors comes from a gateway.  With these statuses the gateway judges the request alone (who asks,
# how often, how large) before it forwards it, so nothing was done.  With any other status its page may have replaced an answer that was paid
# (a filter of replies, a lost route): in doubt, the worst case stays reserved.  403 counts as not done: it is nearly always a firewall's answer to
# the request, and it stops the lane, so that a filter of replies can cost no more than what is in flight.
_REFUSED_BEFORE = {401, 402, 403, 407, 413, 429}
_CONNECTIONS = 32  # of one client
_url = cache(httpx2.URL)
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[httpx2.Response]]
"""A URL, a body and the headers -> the reply, read to its end."""
_SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?").fullmatch


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The URL of the requests of one path, who asks, and how its replies are read."""

    url: str
    auth: Auth
    headers: Mapping[str, str]
    quotas: Callable[[httpx2.Headers], dict[str, Quota]]
    codes: Codes
    error_in: ErrorIn | None = None
    aborted: Callable[[bytes], bool] = lambda answer: False
    place: Callable[[], str] = str


@asynccontextmanager
async def senders(target: Target, timeout_s: Callable[[], float], most: int) -> AsyncIterator[Sender]:
    """A sender for `most` requests at a time, over several clients: a client's pool looks at all its connections for each request.

    Args:
        timeout_s: gives the time limit of a whole request that begins now, from its connection to the last byte of its reply.
    """
    trust = http.trust()
    async with AsyncExitStack() as opened:
        made = [http.async_client(trust, timeout_s()) for _ in range(-(-most // _CONNECTIONS))]
        posts = cycle([_post(await opened.enter_async_context(one)) for one in made])
        yield lambda custom_id, body: call(next(posts), target, custom_id, body, timeout_s())


def _post(client: httpx2.AsyncClient) -> Post:
    """A function that sends one POST with a client.

    `AsyncClient.post` builds the same headers and reads the same URL anew for each request: a seventh of its CPU (measured 2026-11-30).
    """
    defaults, limits = dict(client.headers), {"timeout": client.timeout.as_dict()}
    return lambda url, body, headers: client.send(
        httpx2.Request("POST", _url(url), headers=defaults | dict(headers), content=body, extensions=limits)
    )


async def call(post: Post, target: Target, custom_id: str, body: bytes, timeout_s: float) -> SendOutcome:
    """The outcome of sending `body` once."""
    try:
        headers = await _signed(target, body)
    except AccessRefused as refused:
        return Denied(status=refused.status or 401, code="access_refused", why=str(refused))
    except Fault as no_token:
        return _no_reply(no_token, custom_id, target.place)
    try:
        # The library's own timeouts limit one read each: a reply of one byte a second would never exceed them.
        async with asyncio.timeout(timeout_s):
            reply = await post(target.url, body, headers)
    except TimeoutError:
        return _in_doubt(custom_id, f"no whole reply within {timeout_s:,.0f} s")
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        return _no_reply(fault_of(error), custom_id, target.place)
    quotas = target.quotas(reply.headers)
    if not reply.is_success:
        return _refused(fault_of(reply, carried_prompts=True, error_in=target.error_in, quotas=quotas), target.codes, custom_id)
    answer = one_line_of(reply.content)
    if answer is not None and target.aborted(answer):
        return NotNow(why="HTTP 200 with an abort in it", quotas=quotas)
    if reply.status_code != 200 or answer is None:
        return _in_doubt(custom_id, f"an unreadable reply with HTTP {reply.status_code}")
    return Settled(line=reply_line(custom_id, 200, answer), answered=True, status=200, quotas=quotas)


async def _signed(target: Target, body: bytes) -> dict[str, str]:
    """The headers of one request; a token that is due is renewed first, beside the event loop, so that other requests go on.

    Raises:
        Fault, AccessRefused: see `Auth.renew`; the request was not sent.
    """
    if target.auth.due():
        await asyncio.to_thread(target.auth.renew)
    headers = {**target.headers, "content-type": "application/json"}
    return headers | dict(target.auth.headers(Outgoing(method="POST", url=target.url, headers=headers, body=body)))


def one_line_of(body: bytes) -> bytes | None:
    """A JSON body in one line, without the white space that OpenAI sends; None if it is no JSON."""
    try:
        line = msgspec.json.format(body, indent=-1)
    except (msgspec.MsgspecError, RecursionError):
        return None
    return None if b"\n" in line else line


def quotas(headers: httpx2.Headers, name: Callable[[str, str], str]) -> dict[str, Quota]:
    """The limits of `requests` and `tokens` that a reply states completely; `name` gives the header of (kind, limit | remaining | reset)."""
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
    """Seconds of a span (`6ms`, `2m59.56s`, `20`) or until an instant, by the provider's own clock if the reply has a date.

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


def _refused(fault: Fault, codes: Codes, custom_id: str) -> SendOutcome:
    """The outcome of an HTTP status other than 2xx; see `meaning`."""
    status, code = fault.status or 0, fault.code
    if status == 407:
        return Denied(status=status, code=code)
    match meaning(fault, codes):
        case Meaning.QUEUE_FULL | Meaning.NOT_DONE:
            return NotNow(why=reply_words(status, code), retry_after_s=fault.retry_after_s, quotas=fault.quotas)
        case Meaning.ACCESS:
            return Denied(status=status, code=code)
        case Meaning.REDIRECT:
            return Denied(status=status, code="redirect")
        case Meaning.REFUSED | Meaning.MISSING if not fault.own and status not in _REFUSED_BEFORE:
            return _in_doubt(custom_id, f"HTTP {status}, without the shape of the provider's own errors")
        case Meaning.REFUSED | Meaning.MISSING:
            said = one_line_of(fault.body)
            body = said if said and said.startswith(b"{") else b'{"type":"http_%d"}' % status
            return Settled(line=reply_line(custom_id, status, body), answered=False, status=status, code=code, quotas=fault.quotas)
        case Meaning.UNKNOWN:
            # A 503 with retry-after was refused before any work, and is not paid.  Any other 5xx may be from a proxy that lost only the reply.
            if status == 503 and fault.retry_after_s is not None:
                return NotNow(why=reply_words(status, code), retry_after_s=fault.retry_after_s, quotas=fault.quotas)
            return _in_doubt(custom_id, reply_words(status, code))
        case unreachable:
            assert_never(unreachable)


def _no_reply(fault: Fault, custom_id: str, place: Callable[[], str]) -> SendOutcome:
    if fault.sent is Sent.NO:
        return NotNow(why=placed(fault.cause, place))
    return _in_doubt(custom_id, f"no reply: {fault.cause}")


def _in_doubt(custom_id: str, why: str) -> InDoubt:
    return InDoubt(line=in_doubt_line(custom_id, doubt(why)), why=why)
