"""Evidence: what speaks for and against somebody waiting for the answers of a group, each sign with its points and its numbers.

No sign decides alone, and one that the log cannot have is no sign against.  That a step has a schema, temperature 0 or one prompt for
all is no sign: a fraud check at a checkout has all three.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from keld.audit import clock
from keld.audit.group import Group
from keld.audit.record import NONE, Ints

WORDS = ("nightly", "batch", "backfill", "eval", "cron", "etl", "airflow", "dagster", "spark", "offline", "bulk", "reindex", "digest")
_USERS = 5
_PAUSE_S = 3.0
_LOOP = 0.6
_NIGHT = 0.7
_EVEN = 0.5
_FEW_DAYS, _LONG_LOG = 3, 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """One sign.

    Args:
        waits: points for somebody waiting.
        free: points for nobody waiting.
        text: what was seen, in numbers.
    """

    waits: int = 0
    free: int = 0
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the log says about a group.

    Args:
        missing: what it does not have, in words.
        rounds: of a chain, where most calls are in chains; 0: they are not.
        clocked, looped: whether the calls themselves show a program: runs that keep a time and are worked as by one, or a closed loop.
    """

    signs: tuple[Sign, ...]
    missing: tuple[str, ...]
    runs: clock.Runs
    rounds: float
    clocked: bool
    looped: bool

    @property
    def waits(self) -> int:
        return sum(sign.waits for sign in self.signs)

    @property
    def free(self) -> int:
        return sum(sign.free for sign in self.signs)


def evidence(group: Group, days: float, zone: ZoneInfo | None, words: tuple[str, ...] = WORDS) -> Evidence:
    """The signs of a group in a log of so many days; `zone` None: nobody said where its people are, so that no hour of theirs is night."""
    at, end, session, trace, usd = group.columns()
    local = zone or ZoneInfo("UTC")
    found = clock.runs(at, end, usd.astype("float64"), group.width, local)
    loop = None if group.width else _loop(at, end)
    on_time = clock.by_clock(found)
    by_program = loop is not None or clock.is_short(found) or (not group.width and _is_even(at, found))
    signs = [_clock(found, by_program=by_program) if on_time else None, _words(group, words)]
    if not group.width:
        signs += [_users(group), _stream(group), _pauses(at, end, session), loop]
        signs += [None if zone is None else _night(at, zone), _once(at, local, days)]
    share, rounds = clock.chain(at, end, trace)
    if share > 0.5:
        signs.append(Sign(text=f"{share:.0%} of the calls are rounds of chains, {rounds:g} rounds each: a batch for each round"))
    if group.tool_turns * 2 > group.calls:
        rounds = max(rounds, 2.0)
        signs.append(Sign(text=f"{group.tool_turns / group.calls:.0%} of the calls bring the result of a tool: rounds of a loop"))
    elif share <= 0.5:
        rounds = 0.0
    return Evidence(
        signs=tuple(sign for sign in signs if sign is not None),
        missing=_missing(group, at, end, session),
        runs=found,
        rounds=rounds,
        clocked=on_time and by_program,
        looped=loop is not None,
    )


def _clock(found: clock.Runs, *, by_program: bool) -> Sign:
    """Runs that keep a time.

    Args:
        by_program: their calls come at once, evenly, or each after another: people have hours, too, and come on time.
    """
    seen = f"{found.same:.0%} of {len(found.starts)} runs start within the same 2 minutes of the {found.period}"
    if not by_program:
        minutes = found.usual_length.total_seconds() / 60
        return Sign(text=f"{seen}, but they last {minutes:.0f} minutes, and nothing shows that a program asks: people have hours, too")
    return Sign(free=3, text=f"{seen}; {found.share:.0%} of the calls are in these runs")


def _is_even(at: Ints, found: clock.Runs) -> bool:
    spread = clock.dispersion(at, found)
    return spread is not None and spread <= _EVEN


def _words(group: Group, words: tuple[str, ...]) -> Sign | None:
    name = " ".join((group.key.service, group.key.job, *group.tags)).lower()
    seen = [word for word in words if re.search(rf"(?<![a-z]){re.escape(word)}s?(?![a-z])", name)]
    return Sign(free=2, text=f"its name says {', '.join(seen)}") if seen else None


def _users(group: Group) -> Sign | None:
    if len(group.users) < _USERS:
        return None
    return Sign(waits=3, text=f"{len(group.users):,}{' or more' if len(group.users) >= 1_000 else ''} different people")


def _stream(group: Group) -> Sign | None:
    if not group.stream_known or group.streamed * 2 < group.stream_known:
        return None
    return Sign(waits=2, text=f"{group.streamed / group.stream_known:.0%} of the calls stream")


def _pauses(at: Ints, end: Ints, session: Ints) -> Sign | None:
    found = clock.pause(at, end, session)
    if found is None or found[0] < _PAUSE_S:
        return None
    return Sign(waits=2, text=f"half of {found[1]:,} pauses within a session are longer than {found[0]:.1f} s, as of a person who reads")


def _loop(at: Ints, end: Ints) -> Sign | None:
    found = clock.closed_loop(at, end)
    if found is None or found < _LOOP:
        return None
    return Sign(free=2, text=f"closed loop {found:.2f} (0 is chance, 1 always): a program asks again as soon as an answer is there")


def _night(at: Ints, zone: ZoneInfo) -> Sign | None:
    if clock.rounding(at) == clock.DAY:
        return None  # a date is no hour
    share = clock.at_night(at, zone)
    return Sign(free=1, text=f"{share:.0%} of the calls are between 22:00 and 06:00 {zone.key}") if share >= _NIGHT else None


def _once(at: Ints, zone: ZoneInfo, days: float) -> Sign | None:
    active = clock.days_active(at, zone)
    if days < _LONG_LOG or not 0 < active <= _FEW_DAYS:
        return None
    return Sign(free=1, text=f"all calls are on {active} of {days:.0f} days")


def _missing(group: Group, at: Ints, end: Ints, session: Ints) -> tuple[str, ...]:
    found = set(group.lacks)
    if not group.stream_known:
        found.add("stream flag")
    if not group.users:
        found.add("people")
    if not group.width and len(end) and (end == NONE).all():
        found.add("ends of calls")
    if not session.any():
        found.add("sessions")
    if group.width:
        found.add(f"single calls (it has buckets of {group.width / clock.MINUTE:g} minutes)")
    elif step := clock.rounding(at):
        found.add(f"the time of a call (it is rounded to {step / clock.MINUTE:g} minutes)")
    elif len(at) and not (at % clock.SECOND).any():
        found.add("parts of a second")
    return tuple(sorted(found))
