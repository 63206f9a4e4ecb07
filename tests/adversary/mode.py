"""Mode: what the other side does wrong, as data: faults of single replies, habits of a host.

Each is something that gateways, proxies and self-hosted hosts of the two shapes were seen to do, in public threads; so many words say what.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tests.adversary.wire import Reply, Request

CALLS = ("create", "get", "list", "upload", "size", "download", "cancel", "delete", "ask")
_PAGE = b"<!DOCTYPE html><html><head><title>Gateway</title></head><body><h1>Something is not as it should be</h1></body></html>"
# A host that never gives a key away would not notice; what is asked there is on the host's journal.
TRAP = "/trap"
MOVED = "/moved"  # results may be fetched there; what goes where is in tests/providers/test_redirect.py


def call_of(request: Request) -> tuple[str, str]:
    """Which call a request is, of either shape, and the id it names."""
    parts = request.path[1:] if request.path[:1] == ["v1"] else request.path
    parts = parts[1:] if parts[:2] == ["messages", "batches"] else parts
    match request.method, parts:
        case "POST", ["files"]:
            return "upload", ""
        case "GET", ["files", name, "content"] | ["batches", name, "results"]:
            return "download", name
        case "GET", ["files", name]:
            return "size", name
        case "DELETE", ["files" | "batches", name]:
            return "delete", name
        case "POST", ["batches"]:
            return "create", ""
        case "GET", ["batches"]:
            return "list", request.query.get("after") or request.query.get("after_id") or ""
        case "GET", ["batches", name]:
            return "get", name
        case "POST", ["batches", name, "cancel"]:
            return "cancel", name
        case "POST", ["chat", "completions"] | ["messages"] | ["responses"]:
            return "ask", ""
        case _:
            return "odd", request.target


def _page(status: int) -> Callable[[Reply | None], Reply]:
    return lambda _: Reply(status=status, kind="text/html", body=_PAGE)


def _json(status: int, code: str, kind: str = "invalid_request_error", **headers: str) -> Callable[[Reply | None], Reply]:
    """An error in the words of both providers: what one reads is there, and so is what the other reads."""
    told = {"type": "error", "error": {"type": kind, "code": code, "message": "not this time", "param": None}}
    return lambda _: Reply(status=status, body=json.dumps(told).encode(), headers=headers)


def _body(body: bytes, kind: str = "application/json", status: int = 200) -> Callable[[Reply | None], Reply]:
    return lambda _: Reply(status=status, body=body, kind=kind)


def _sent(how: str) -> Callable[[Reply | None], Reply]:
    return lambda true: replace(true or Reply(status=500, body=b'{"error": {"message": "later"}}' + b" " * 400), how=how)


def _integer_id(true: Reply | None) -> Reply:
    """The reply with a number for its id, as some databases have it."""
    told = json.loads((true or Reply(body=b"{}")).body)
    return Reply(body=json.dumps({**told, "id": 170_000_001} if isinstance(told, dict) else told).encode())


# What comes instead of the true reply; it is given the true one, or None where the call was not carried out.
REPLIES: dict[str, Callable[[Reply | None], Reply]] = {
    "302": lambda _: Reply(status=302, headers={"location": TRAP}, kind="text/html", body=_PAGE),
    "307": lambda _: Reply(status=307, headers={"location": TRAP}, kind="text/html", body=_PAGE),
    "400 html": _page(400),
    "401 html": _page(401),
    "403 html": _page(403),
    "404 html": _page(404),
    "413 html": _page(413),
    "502 html": _page(502),
    "200 html": _page(200),
    "400 json": _json(400, "invalid_request"),
    "401 json": _json(401, "invalid_api_key", "authentication_error"),
    "402 json": _json(402, "billing_error", "billing_error"),
    "403 json": _json(403, "permission_denied", "permission_error"),
    "404 json": _json(404, "not_found", "not_found_error"),
    "408 json": _json(408, "timeout"),
    "409 json": _json(409, "conflict"),
    "429 json": _json(429, "rate_limit_exceeded", "rate_limit_error"),
    "429 json, retry-after": _json(429, "rate_limit_exceeded", "rate_limit_error", **{"retry-after": "7"}),
    "429 insufficient_quota": _json(429, "insufficient_quota", "insufficient_quota"),
    "500": _json(500, "internal", "api_error"),
    "503": _json(503, "overloaded", "overloaded_error"),
    "529": _json(529, "overloaded", "overloaded_error"),
    "200 empty": _body(b""),
    "204": _body(b"", status=204),
    "200 text": _body(b"upstream connect error or disconnect/reset before headers", "text/plain"),
    "200 null": _body(b"null"),
    "200 array": _body(b"[]"),
    "200 error": _body(b'{"error": {"type": "api_error", "code": "internal", "message": "overloaded"}}'),
    "dropped": _sent("dropped"),
    "half": _sent("half"),
    "never": _sent("never"),
    "trickle": _sent("trickle"),
    "trickled head": _sent("trickled_head"),
    "integer id": _integer_id,
    "true": lambda true: true or Reply(status=500),
}
SLOW = ("never", "trickle", "trickled head")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A reply that goes wrong.

    Args:
        at: one of `CALLS`.
        how: one of `REPLIES`.
        done: whether the call was carried out all the same.
        calls: how often an intermediary sends the one it was given: 2 is a create done twice.
        first: of what was done several times, whether the first reply is handed on, not the last.
        skip, times: after so many calls, for so many; times None: always.
        lands_s: a create that is carried out so much later, by the host's clock, than it was answered.
        for_s: only so long after the host began.
    """

    at: str
    how: str = "true"
    done: bool = True
    calls: int = 1
    first: bool = False
    skip: int = 0
    times: int | None = 1
    lands_s: float = 0
    for_s: float | None = None

    def __post_init__(self) -> None:
        assert self.at in CALLS and self.how in REPLIES

    def __str__(self) -> str:
        said = f"{self.at}: {self.how}"
        said += "" if self.done else ", not done"
        said += f", sent {self.calls} times" if self.calls > 1 else ""
        said += f", lands {self.lands_s:,.0f} s later" if self.lands_s else ""
        return said + ("" if self.times == 1 else ", always" if self.times is None else f", {self.times} times")


@dataclass(slots=True)
class Plan:
    """Faults that wait for their calls."""

    faults: list[Fault] = field(default_factory=list)
    _met: dict[int, int] = field(default_factory=dict)
    hits: list[Fault] = field(default_factory=list)

    def take(self, at: str, age_s: float) -> Fault | None:
        """The fault of this call, if there is one."""
        for n, fault in enumerate(self.faults):
            if fault.at != at or (fault.for_s is not None and age_s > fault.for_s):
                continue
            met = self._met[n] = self._met.get(n, 0) + 1
            if met > fault.skip and (fault.times is None or met <= fault.skip + fault.times):
                self.hits.append(fault)
                return fault
        return None


def bent(fault: Fault | None, do: Callable[[], Reply]) -> Reply:
    """What is sent back for a call that `do` carries out."""
    if fault is None:
        return do()
    replies = [do() for _ in range(fault.calls)] if fault.done else [None]
    return REPLIES[fault.how](replies[0] if fault.first else replies[-1])


# What a host does all the time.
LISTS = {
    "oldest_first": "lists the oldest first",
    "ignores_after": "gives the first page whatever `after` says, and says that there is more",
    "ignores_after_all_new": "the same, a page of two",
    "pages_of_two": "gives two a page, whatever `limit` says",
    "no_metadata": "keeps no metadata",
    "no_input_id": "does not say which input file a batch has",
    "no_has_more": "does not say whether a list goes on",
    "no_time": "tells no time of creation",
    "lags": "lists a batch 40 s after its create",
    "lags_long": "lists a batch two hours after its create",
    "fails_later": "answers every page but the first with 500",
    "list_404": "has no list",
    "null_list": "says null for an empty list, and nothing of more",
    "other_ids": "names batches in its list by other ids than everywhere else",
    "no_counts": "does not say how many requests a batch has",
    "no_filter": "takes no notice of a list's filter",
}
RESULTS = {
    "res_text": "a sentence",
    "res_empty": "nothing",
    "res_gzip": "gzip, without saying so",
    "res_coded_gzip": "gzip, and says so, though identity was asked for",
    "res_null": "null",
    "res_array": "an array",
    "res_error": "an error with status 200",
    "res_foreign": "results of another batch",
    "res_html": "a page of HTML",
    "res_redirect": "a redirect",
    "res_br": "brotli, which nobody asked for",
    "res_404": "404",
    "res_growing": "a file that grows for 40 s after the batch has ended",
    "res_part": "a file that lacks a line for good",
    "res_shuffled": "another order each time, and the first time it is cut",
    "res_twice": "each line twice",
    "res_no_newline": "no newline at the end",
}
LIVES = {
    "life_500": "answers every look at a batch with 500 for 75 h",
    "stuck": "never ends a batch",
    "no_cancel": "takes cancels, and goes on",
    "denies": "does not know a batch that it made, for 75 h",
    "expires": "ends a batch after 24 h, half of it answered",
    "fails": "fails a batch before anything is answered",
    "integer_ids": "makes numbers its ids",
    "no_delete": "removes no file",
    "no_range": "knows no ranges",
    "no_size": "does not say how large a file is",
    "silent": "says nothing of rows that were not answered",
    "eager": "answers all rows at once, before anybody can cancel",
}
QUIRKS = LISTS | RESULTS | LIVES
