"""Fault: what goes wrong, as data.

A plan is `{"rules": [{"at": point, "do": fault, "times": 1, "skip": 0, "match": {...}, ...arguments}]}`.  A rule fires
on the events of its point that match, after skipping `skip` of them, `times` times (null: always); each firing
is logged.  The faults of a batch are chosen when it is created, so `times` counts batches there.

`match`: `provider`; `model` (exact); `path` (substring); `batch` (ordinal of its creation at its provider, from 1);
`lane` (`batch` or `realtime`); `custom_id` (suffix; chooses rows at `rows` and `lines`).

at any call: `any`, `upload`, `create`, `list`, `get`, `cancel`, `download`, `delete`, `realtime`
    status            an official error body: `status` (500) `message` `code` `retry_after`; `after`: the work was done
    drop_before       the connection is closed, nothing was done
    drop_after        the work was done, then the connection is closed without a response
    delay             waits `delay_s` (1) in real time, then continues
    redirect          307 to `location` (http://other-host.invalid)
    garbage           a `body` (an HTML page) that is no JSON, with `status` (200), said to be in `encoding`; `after`: the work was done
at `create`
    late_landing      no answer (or `status`); it appears `after_s` (60) later, if its input file still exists
    hidden            GET of the new batch is 404 `for_s` (10)
    list_lag          the new batch is not listed `for_s` (10)
    twice             a second batch is made of it, as by a gateway that retries; only the first is answered
at `upload` of an object to a bucket
    list_lag          the new object can be read, and is not listed `for_s` (10)
at `life`
    fail              late validation failure with `code` `message` `line` `param` (OpenAI)
    token_limit       `failed` with `token_limit_exceeded` (OpenAI)
    stuck             forever at `status` (in_progress; validating, finalizing, cancelling), `done` (0.5) of it done
    expire            only the share `done` (0.5) finishes; expires `after_s` (86400)
    status            `value` (paused), a status that no client knows, `instead_of` (in_progress)
    counts            wrong numbers, or null: `total completed failed` / `processing succeeded errored canceled expired`
at `rows`: `fraction` (1) or `count` chooses rows, exactly; on realtime calls it counts calls
    error             refused with `status` (500) `code` `message`, unpaid; where all are, there is no output file
    model_not_found   404, unpaid
    refusal           paid, and refused
    length            paid, and cut
    invalid           paid, and not what the schema asked for
    standard_tier     flex was asked for; the standard tier is given, reported and paid (OpenAI)
    cache_miss        the prompt cache is not found, however warm: what is marked is written once more, and paid
at `results`
    no_output_id      `output_file_id` (Anthropic: `results_url`) is null
    empty_output_id   it is ""
    late_ids          it, and `error_file_id`, are null until `for_s` (600) after the end
    zero_byte_output  the output file has no bytes
    no_error_id       `error_file_id` is null
    empty_error_id    `error_file_id` is ""
    zero_byte_error   the error file has no bytes
    results_url       `results_url` is `url` (another host)
at `lines`: `fraction` (1) or `count` chooses rows, exactly
    missing           the row's line is gone
    duplicate         it is there twice
    foreign           a line of another batch follows it
    blank             an empty line follows it
    cut               it ends in the middle
    garbage           noise in its place
    surrogate         a lone surrogate escape in a foreign field, or `inside`: "answer", in the answer's text
    u2028             a raw U+2028, likewise
    huge              a string of `size_mb` (1), likewise
    nan               NaN
    deep              brackets nested `levels` (100000) deep
    duplicate_key     `custom_id` is given twice (the last is right)
    bom, crlf         of the whole file
    reorder           `order` "reverse" (or "input") instead of shuffled
at `download`
    truncate          after `bytes` (1000) the connection is cut; `clean`: the short body looks whole
    gzip_bomb         content-encoding gzip, even if not requested, `size_mb` (64) of zeros; `after_lines`: after the file's own
    slow              `bytes_per_s` (65536)
"""

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .clock import Clock
from .rule import Event, Rule

_CHOICE = {"fraction", "count"}
HTTP_FAULTS: dict[str, set[str]] = {
    "status": {"status", "message", "code", "retry_after", "after"},
    "drop_before": set(),
    "drop_after": set(),
    "delay": {"delay_s"},
    "redirect": {"location"},
    "garbage": {"body", "status", "after", "encoding"},
}
CREATE_FAULTS: dict[str, set[str]] = {
    "late_landing": {"after_s", "status"},
    "hidden": {"for_s"},
    "list_lag": {"for_s"},
    "twice": set(),
}
UPLOAD_FAULTS: dict[str, set[str]] = {"list_lag": {"for_s"}}
LIFE_FAULTS: dict[str, set[str]] = {
    "fail": {"code", "message", "line", "param"},
    "token_limit": set(),
    "stuck": {"status", "done"},
    "expire": {"done", "after_s"},
    "status": {"value", "instead_of"},
    "counts": {"total", "completed", "failed", "processing", "succeeded", "errored", "canceled", "expired"},
}
ROW_FAULTS: dict[str, set[str]] = {
    "error": {"status", "code", "message"} | _CHOICE,
    "model_not_found": _CHOICE,
    "refusal": _CHOICE,
    "length": _CHOICE,
    "invalid": _CHOICE,
    "standard_tier": _CHOICE,
    "cache_miss": _CHOICE,
}
RESULT_FAULTS: dict[str, set[str]] = {
    "no_output_id": set(),
    "empty_output_id": set(),
    "late_ids": {"for_s"},
    "zero_byte_output": set(),
    "no_error_id": set(),
    "empty_error_id": set(),
    "zero_byte_error": set(),
    "results_url": {"url"},
}
LINE_FAULTS: dict[str, set[str]] = {
    **dict.fromkeys(("missing", "duplicate", "foreign", "cut", "garbage", "blank", "nan", "duplicate_key"), _CHOICE),
    "surrogate": {"inside"} | _CHOICE,
    "u2028": {"inside"} | _CHOICE,
    "huge": {"inside", "size_mb"} | _CHOICE,
    "deep": {"levels"} | _CHOICE,
    "bom": set(),
    "crlf": set(),
    "reorder": {"order"},
}
DOWNLOAD_FAULTS: dict[str, set[str]] = {
    "truncate": {"bytes", "clean"},
    "gzip_bomb": {"size_mb", "after_lines"},
    "slow": {"bytes_per_s"},
}
POINTS: dict[str, dict[str, set[str]]] = {
    **dict.fromkeys(("any", "list", "get", "cancel", "delete", "realtime"), HTTP_FAULTS),
    "create": HTTP_FAULTS | CREATE_FAULTS,
    "upload": HTTP_FAULTS | UPLOAD_FAULTS,
    "download": HTTP_FAULTS | DOWNLOAD_FAULTS,
    "life": LIFE_FAULTS,
    "rows": ROW_FAULTS,
    "results": RESULT_FAULTS,
    "lines": LINE_FAULTS,
}
_OWN = {"at", "do", "times", "skip", "match"}
_MATCH = {"provider", "model", "path", "batch", "lane", "custom_id"}


class UnknownFault(ValueError):
    """A plan names something that does not exist; the message names what does."""


@dataclass(frozen=True, kw_only=True)
class Firing:
    at: datetime
    point: str
    do: str
    on: str


class Faults:
    """The plan in force, and what it has done."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self.log: list[Firing] = []

    def add(self, plan: dict[str, Any]) -> None:
        """Put the plan's rules behind those in force; all of them or, if one is unknown, none.

        Raises:
            UnknownFault: a point, a fault, an argument or a match is not in the table.
        """
        rules = [read_rule(rule) for rule in plan.get("rules", ())]
        with self._lock:
            self._rules.extend(rules)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()
            self.log.clear()

    def rules(self) -> list[dict[str, Any]]:
        with self._lock:
            return [rule.as_dict() for rule in self._rules]

    def take(self, point: str, among: dict[str, set[str]], event: Event, on: str = "") -> list[Rule]:
        """The rules that fire now; each firing is counted and logged."""
        with self._lock:
            # The usual case, on every call: no plan, no work.
            if not self._rules:
                return []
            points = (point, "any") if among is HTTP_FAULTS else (point,)
            fitting = [rule for rule in self._rules if rule.at in points and rule.do in among and rule.matches(event)]
            fired = [rule for rule in fitting if rule.fires()]
            for rule in fired:
                self.log.append(Firing(at=self._clock.now(), point=point, do=rule.do, on=on or event.path))
            return fired


def read_rule(given: dict[str, Any]) -> Rule:
    """The rule that a plan's object describes.

    Raises:
        UnknownFault: see `Faults.add`.
    """
    point, do = given.get("at"), given.get("do")
    if point not in POINTS:
        raise UnknownFault(f"unknown point {point!r}; known: {', '.join(sorted(POINTS))}")
    if do not in POINTS[point]:
        raise UnknownFault(f"unknown fault {do!r} at {point!r}; known: {', '.join(sorted(POINTS[point]))}")
    arguments = {name: value for name, value in given.items() if name not in _OWN}
    match = given.get("match") or {}
    for what, names, known in (("argument", arguments, POINTS[point][do]), ("match", match, _MATCH)):
        if strange := sorted(set(names) - known):
            raise UnknownFault(f"unknown {what} {strange[0]!r} for {point}.{do}; known: {', '.join(sorted(known))}")
    return Rule(at=point, do=do, times=given.get("times", 1), skip=given.get("skip", 0), match=match, arguments=arguments)
