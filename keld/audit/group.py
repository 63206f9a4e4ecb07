"""Group: the calls of one service, job, model, operation and prompt, which is the unit of every verdict; never a single call.

Reading goes through here: of a call some forty bytes are kept (its instants, session, trace and cost), everything else is added up.  A
part of the name that takes too many values (a tag with an id in it, a prompt without a fixed beginning) is not a part of the name: its groups
become one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from keld.audit.format import Format
from keld.audit.rate import RateBook
from keld.audit.record import TOKENS, Calls, Floats, Ints
from keld.price import Lane

VARIOUS = "*"
LANES = (Lane.STANDARD, Lane.BATCH, Lane.FLEX)  # as the words of `Calls.lane`
_PROMPTS_MOST = 20  # of one job: more are no templates
_JOBS_MOST = 50  # of one service and model: more are ids
_USERS_MOST = 1_000
_BODIES = 20
_NAME_MOST, _WORDS_MOST = 60, 6  # characters and words of a name: what is longer and has more is a text, and may be a prompt
_STRAY, _SILENCE_DAYS = 0.001, 7  # calls that are fewer than this share of all, and alone for so long, are no part of the log's time
_HOUR_US = 3_600_000_000
_DAY_US = 24 * _HOUR_US
_MONDAY_US = 4 * 24 * _HOUR_US  # 1970-01-01 was a Thursday
_DATED = re.compile(r"\d{4}-\d{2}-\d{2}(?:[T ][\d:.]+Z?)?|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{12,}\b|\d{4,}")


class Key(NamedTuple):
    """What calls of a group share."""

    service: str
    job: str
    provider: str
    model: str
    operation: str
    prompt: str


@dataclass(slots=True)
class Group:
    """What is known of the calls of a group; its lists hold arrays, one for each chunk, of its calls in the standard lane only."""

    key: Key
    at: list[Ints] = field(default_factory=list)
    end: list[Ints] = field(default_factory=list)
    session: list[Ints] = field(default_factory=list)
    trace: list[Ints] = field(default_factory=list)
    usd: list[Floats] = field(default_factory=list)  # at list prices, else as logged
    requests: Counter[Lane] = field(default_factory=Counter)
    tokens: defaultdict[tuple[Lane, int], Ints] = field(default_factory=lambda: defaultdict(lambda: np.zeros(len(TOKENS), dtype=np.int64)))
    logged_usd: defaultdict[Lane, float] = field(default_factory=lambda: defaultdict(float))
    logged: Counter[Lane] = field(default_factory=Counter)  # requests with a logged cost
    streamed: int = 0
    stream_known: int = 0
    failed: int = 0
    failed_known: int = 0
    users: set[int] = field(default_factory=set)
    tags: Counter[str] = field(default_factory=Counter)
    heat_requests: Ints = field(default_factory=lambda: np.zeros(168, dtype=np.int64))  # by hour of the week in UTC, from Monday 00:00 on
    heat_tokens: Ints = field(default_factory=lambda: np.zeros(168, dtype=np.int64))
    width: int = 0
    bodies: list[Any] = field(default_factory=list)
    forms: set[str] = field(default_factory=set)
    lacks: set[str] = field(default_factory=set)
    tool_turns: int = 0

    def take(self, other: Group) -> None:
        """Adds the calls of another group."""
        for name in ("at", "end", "session", "trace", "usd"):
            getattr(self, name).extend(getattr(other, name))
        for name in ("requests", "logged", "tags"):
            getattr(self, name).update(getattr(other, name))
        for lane, usd in other.logged_usd.items():
            self.logged_usd[lane] += usd
        for bracket, counts in other.tokens.items():
            self.tokens[bracket] += counts
        for name in ("streamed", "stream_known", "failed", "failed_known", "heat_requests", "heat_tokens", "tool_turns"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.width = max(self.width, other.width)
        for name in ("users", "forms", "lacks"):
            getattr(self, name).update(getattr(other, name))
        self.bodies = (self.bodies + other.bodies)[:_BODIES]

    @property
    def calls(self) -> int:
        return sum(self.requests.values())

    def columns(self) -> tuple[Ints, Ints, Ints, Ints, Floats]:
        """(at, end, session, trace, USD) of its calls in the standard lane, in the order in which they began."""
        whole = [np.concatenate(getattr(self, name)) if self.at else np.zeros(0) for name in ("at", "end", "session", "trace", "usd")]
        order = np.argsort(whole[0], kind="stable")
        at, end, session, trace, usd = (column[order] for column in whole)
        return at.astype(np.int64), end.astype(np.int64), session.astype(np.int64), trace.astype(np.int64), usd


class Groups:
    """All groups of some logs, made while these are read."""

    def __init__(self, rates: RateBook) -> None:
        self._rates = rates
        self._groups: dict[Key, Group] = {}
        self._various: set[tuple[str, ...]] = set()
        self._parts: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
        self._days: Counter[int] = Counter()  # day since 1970 -> its calls
        self._ends: dict[int, tuple[int, int]] = {}  # day -> the first and the last instant
        self.calls = 0

    def add(self, calls: Calls, form: Format) -> None:
        """Adds a chunk of calls."""
        if not len(calls):
            return
        self._add_days(calls)
        self.calls += int(calls.requests.sum())
        keys, inverse = _keys(calls)
        order = np.argsort(inverse, kind="stable")
        edges = np.searchsorted(inverse[order], np.arange(len(keys) + 1))
        for position, key in enumerate(keys):
            rows = order[edges[position] : edges[position + 1]]
            self._add(self._group(key), calls, rows, form)

    def span(self) -> tuple[int, int] | None:
        """(the first, the last instant) of the log without a few stray calls far from all others; None: there are no calls."""
        days = sorted(self._days)
        most = self.calls * _STRAY
        while len(days) > 1 and days[1] - days[0] > _SILENCE_DAYS and self._days[days[0]] <= most:
            days.pop(0)
        while len(days) > 1 and days[-1] - days[-2] > _SILENCE_DAYS and self._days[days[-1]] <= most:
            days.pop()
        return (self._ends[days[0]][0], max(self._ends[day][1] for day in days)) if days else None

    def silence(self) -> int:
        """Microseconds until a call could be expected after the last one: the most hours in a row of the week without any, a day at most; 0 for buckets."""
        if any(group.width for group in self._groups.values()):
            return 0
        quiet = sum((group.heat_requests for group in self._groups.values()), np.zeros(168, dtype=np.int64)) == 0
        longest = max((len(run) for run in "".join("01"[int(one)] for one in (*quiet, *quiet)).split("0")), default=0)
        return min(longest, 24) * _HOUR_US

    @property
    def days_with_calls(self) -> int:
        return len(self._days)

    def _add_days(self, calls: Calls) -> None:
        """A bucket is on the day on which it begins."""
        days, inverse = np.unique(calls.at // _DAY_US, return_inverse=True)
        counts = np.bincount(inverse, weights=calls.requests)
        first, last = np.full(len(days), np.iinfo(np.int64).max), np.full(len(days), np.iinfo(np.int64).min)
        np.minimum.at(first, inverse, calls.at)
        np.maximum.at(last, inverse, calls.at + calls.width)
        for day, count, begin, end in zip(days.tolist(), counts.tolist(), first.tolist(), last.tolist(), strict=True):
            before = self._ends.get(day, (begin, end))
            self._ends[day] = (min(begin, before[0]), max(end, before[1]))
            self._days[day] += int(count)

    def all(self) -> list[Group]:
        return list(self._groups.values())

    def _group(self, key: Key) -> Group:
        key = self._settled(key)
        found = self._groups.get(key)
        if found is None:
            found = self._groups[key] = Group(key)
        return found

    def _settled(self, key: Key) -> Key:
        """The key, with `VARIOUS` for a part that takes too many values; then the groups that there are become one."""
        for part, most in (("job", _JOBS_MOST), ("prompt", _PROMPTS_MOST)):
            base = (part, *key._replace(prompt="")._replace(**{part: ""}))
            if base not in self._various:
                self._parts[base].add(getattr(key, part))
                if len(self._parts[base]) > most:
                    self._various.add(base)
                    self._unite(part, base)
            if base in self._various:
                key = key._replace(**{part: VARIOUS})
        return key

    def _unite(self, part: str, base: tuple[str, ...]) -> None:
        for key in [key for key in self._groups if (part, *key._replace(prompt="")._replace(**{part: ""})) == base]:
            group = self._groups.pop(key)
            united = key._replace(**{part: VARIOUS})
            if (there := self._groups.get(united)) is not None:
                there.take(group)
            else:
                group.key = united
                self._groups[united] = group

    def _add(self, group: Group, calls: Calls, rows: Ints, form: Format) -> None:
        group.forms.add(form.title)
        group.lacks.update(form.lacks())
        lanes, requests = calls.lane.codes[rows], calls.requests[rows]
        tokens = np.stack([getattr(calls, name)[rows] for name in TOKENS])
        rates = self._rates.of(group.key.provider, group.key.model)
        level = rates.level(tokens[0] // np.maximum(requests, 1))
        usd = calls.usd[rows]
        for code, lane in enumerate(LANES):
            in_lane = lanes == code
            if not in_lane.any():
                continue
            group.requests[lane] += int(requests[in_lane].sum())
            for step, above in enumerate(rates.thresholds):
                these = in_lane & (level == step)
                if these.any():
                    group.tokens[lane, above] += tokens[:, these].sum(axis=1)
            has_usd = in_lane & np.isfinite(usd)
            group.logged[lane] += int(requests[has_usd].sum())
            group.logged_usd[lane] += float(usd[has_usd].sum())
        standard = rows[lanes == 0]
        if len(standard):
            _add_columns(group, calls, standard, _usd(rates.standard, tokens[:, lanes == 0], usd[lanes == 0]))
        _add_flags(group, calls, rows)


def _usd(standard: Any, tokens: Ints, logged: Floats) -> Floats:
    if standard is None:
        return np.where(np.isfinite(logged), logged, 0.0).astype(np.float32)
    found: Floats = (standard.cost_pico(*tokens) / 1e12).astype(np.float32)
    return found


def _add_columns(group: Group, calls: Calls, rows: Ints, usd: Floats) -> None:
    group.at.append(calls.at[rows])
    group.end.append(calls.end[rows])
    group.session.append(calls.session[rows])
    group.trace.append(calls.trace[rows])
    group.usd.append(usd)
    hours = ((calls.at[rows] - _MONDAY_US) // _HOUR_US) % 168
    group.heat_requests += np.bincount(hours, weights=calls.requests[rows], minlength=168).astype(np.int64)
    group.heat_tokens += np.bincount(hours, weights=calls.input[rows] + calls.output[rows], minlength=168).astype(np.int64)
    group.width = max(group.width, int(calls.width[rows].max()))


def _add_flags(group: Group, calls: Calls, rows: Ints) -> None:
    streamed, failed = calls.streamed[rows], calls.failed[rows]
    group.streamed += int((streamed == 1).sum())
    group.stream_known += int((streamed >= 0).sum())
    group.failed += int((failed == 1).sum())
    group.failed_known += int((failed >= 0).sum())
    if len(group.users) < _USERS_MOST:
        group.users.update(set(np.unique(calls.user[rows]).tolist()) - {0})
    codes, counts = np.unique(calls.tags.codes[rows], return_counts=True)
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        label = calls.tags.words[code]
        if label and name_of(label) != VARIOUS and (len(group.tags) < _JOBS_MOST or label in group.tags):
            group.tags[label] += count
    if calls.bodies is not None:
        group.bodies += [body for row in rows[: _BODIES - len(group.bodies)] if (body := calls.bodies[row]) is not None]
        group.tool_turns += sum(_is_tool_turn(calls.bodies[row]) for row in rows)


def _is_tool_turn(body: Any) -> bool:
    """True if the last message is the result of a tool: the call is a round of a loop."""
    messages = body.get("messages") if body is not None else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    match last:
        case {"role": "tool" | "function"} | {"content": [{"type": "tool_result"}, *_]}:
            return True
        case _:
            return False


def name_of(word: str) -> str:
    """A name of a log's without dates and ids; a text is no name."""
    if len(word) > _NAME_MOST and word.count(" ") >= _WORDS_MOST:
        return VARIOUS
    return _DATED.sub(VARIOUS, word)


def _keys(calls: Calls) -> tuple[list[Key], Ints]:
    """The different keys of some calls, and for each call the position of its own."""
    inverse = np.zeros(len(calls), dtype=np.int64)
    names: list[tuple[str, ...]] = [()]
    for part in Key._fields:
        text = getattr(calls, part)
        words = [name_of(word) if part in ("service", "job") else word for word in text.words]
        unique, inverse = np.unique(inverse * len(words) + text.codes, return_inverse=True)
        names = [(*names[code // len(words)], words[code % len(words)]) for code in unique.tolist()]
    keys = list(dict.fromkeys(names))
    place = {key: position for position, key in enumerate(keys)}
    return [Key(*key) for key in keys], np.array([place[name] for name in names], dtype=np.int64)[inverse]
