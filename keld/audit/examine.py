"""Examine: logs -> findings: reads every file, judges each group, and prices what moving it would save."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from keld.audit import body
from keld.audit.capacity import Fleet, saved_usd
from keld.audit.database import is_database, read_database
from keld.audit.evidence import Evidence, evidence
from keld.audit.finding import Audit, Finding, Source
from keld.audit.format import Format
from keld.audit.formats import FORMATS
from keld.audit.formats.mapped import mapped
from keld.audit.group import Group, Groups
from keld.audit.log import logs_on_disk
from keld.audit.money import LEAST_DELAY, Bill, Net, bill, late_prior, saving, slower_usd, staging_usd
from keld.audit.piece import Passed, Piece
from keld.audit.rate import RateBook
from keld.audit.reader import taken
from keld.audit.record import Floats
from keld.audit.repeat import Ids
from keld.audit.rule import Rule, Rules
from keld.audit.verdict import LEAST_DAYS, verdict
from keld.errors import InvalidJob
from keld.price import Lane

_MONTH_DAYS = 30
_DAY_US = 86_400_000_000
_DELAY_MOST = timedelta(hours=24)
_SAMPLE_LENGTH = 400
Progress = Callable[[int, int], None]  # calls and bytes so far


def examine(
    logs: Sequence[str],
    *,
    now: datetime,
    rules: Rules | None = None,
    form: str | None = None,
    samples: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """What logs say about who waits, and what moving the others would save.

    Args:
        logs: files, directories, patterns, URIs, or the URL of LiteLLM's Postgres.
        now: the day of the price lists.
        form: the name of a format or the path of a mapping; None: each file's is known by its content.
        samples: how many beginnings of prompts a finding holds, where bodies are logged.

    Raises:
        InvalidJob: the format is not known, or its mapping or the rules are not valid.
        SourceError: a file is of no format that is known, or cannot be read.
    """
    rules = rules or Rules()
    groups = Groups(RateBook(now, rules.prices))
    sources = tuple(_read(logs, format_named(form), groups, progress or (lambda calls, size: None)))
    first, last = groups.span() or (None, None)
    span = 0.0 if first is None or last is None else (last - first) / _DAY_US
    # Two days of calls and one call of last year are no log of a year: what counts is on how many days there were calls.
    known = min(span, groups.days_with_calls)
    # The nights of a nightly job are a day each, also the last one: from the first call to the last of 14 nights it is 13 days.
    days = span if known < LEAST_DAYS else span + groups.silence() / _DAY_US
    factor = _MONTH_DAYS / days if known >= LEAST_DAYS else 1.0
    findings = _findings(groups, rules, RateBook(now, rules.prices), known, factor, samples)
    return Audit(
        findings=tuple(sorted(findings, key=lambda one: (-one.usd, one.name))),
        sources=sources,
        first=_instant(first),
        last=_instant(last),
        days=days,
        factor=factor,
        priced_at=now,
        zone="not said" if rules.zone is None else rules.zone.key,
        priors=asdict(rules.priors),
    )


def format_named(name: str | None) -> Format | None:
    """The format of that name, or of that mapping file; None for None."""
    if name is None:
        return None
    if name.endswith(".toml"):
        return mapped(name)
    if name not in FORMATS:
        raise InvalidJob(f"format={name!r} is not one of {', '.join(FORMATS)}, nor a mapping file that ends in .toml.", field="format")
    return FORMATS[name]


def _instant(micros: int | None) -> datetime | None:
    return None if micros is None else datetime.fromtimestamp(micros / 1e6, UTC)


def _read(logs: Sequence[str], form: Format | None, groups: Groups, progress: Progress) -> Iterator[Source]:
    size, ids = 0, Ids()
    for where, found in _streams(logs, form):
        counts: Counter[str] = Counter()
        title, passed = "", False
        for piece in found:
            if isinstance(piece, Passed):
                title, passed = piece.why, True
                continue
            new = ids.fresh(piece.found.calls)
            calls = taken(piece.found.calls, new)
            groups.add(calls, piece.form)
            title = piece.form.title
            counts.update(calls=int(calls.requests.sum()), again=int((~new).sum()), other=piece.found.other, bad=piece.found.bad)
            size += piece.bytes_read
            progress(groups.calls, size)
        yield Source(
            where=where, title=title or "empty", passed=passed, **{name: counts[name] for name in ("calls", "again", "other", "bad")}
        )


def _streams(logs: Sequence[str], form: Format | None) -> Iterator[tuple[str, Iterator[Piece | Passed]]]:
    for log in logs:
        if is_database(log):
            yield "a LiteLLM database", read_database(log)
    if on_disk := [log for log in logs if not is_database(log)]:
        yield from logs_on_disk(on_disk, form)


def _findings(groups: Groups, rules: Rules, rates: RateBook, days: float, factor: float, samples: int) -> list[Finding]:
    every = groups.all()
    names = _names(every)
    on_fleet = {id(group): rule.fleet for group in every if (rule := rules.of(group.key)) is not None and rule.fleet is not None}
    return [_finding(group, names[id(group)], every, on_fleet, rules, rates, days, factor, samples) for group in every]


def _finding(
    group: Group,
    name: str,
    every: Sequence[Group],
    on_fleet: dict[int, Fleet],
    rules: Rules,
    rates: RateBook,
    days: float,
    factor: float,
    samples: int,
) -> Finding:
    rule = rules.of(group.key)
    seen = evidence(group, days, rules.zone, rules.words)
    waits, reason = verdict(group, seen, days, rule)
    monthly = not any(sign.text.startswith("all calls are on") for sign in seen.signs)
    times = factor if monthly else 1.0
    delay, basis = _delay(seen, rule)
    costs = bill(group, rates.of(group.key.provider, group.key.model), flex=delay is not None and delay < LEAST_DELAY)
    fleet = on_fleet.get(id(group))
    return Finding(
        name=name,
        key=group.key,
        waits=waits,
        reason=reason,
        evidence=seen,
        group=group,
        rule=rule,
        delay=delay,
        delay_basis=basis,
        bill="machines of your own" if fleet is not None else costs,
        net=None if isinstance(costs, str) or fleet is not None else _net(costs, group, rules, rule, delay, times),
        fleet_usd=None if fleet is None else _fleet_usd(group, fleet, every, on_fleet, days),
        monthly=monthly,
        usd=_usd(group, costs, slower_usd(group, rates.of(group.key.provider, group.key.model)), times),
        samples=tuple(_samples(group, samples)),
    )


def _net(costs: Bill, group: Group, rules: Rules, rule: Rule | None, delay: timedelta | None, factor: float) -> Net:
    staging = staging_usd(group, rules.priors, None if rule is None else rule.staging_gb, factor)
    return saving(costs, rules.priors, late_prior(rules.priors, delay, costs.lane), staging, factor)


def _usd(group: Group, costs: Bill | str, slower: Decimal, factor: float) -> Decimal:
    """What a group costs in a month, in all lanes; as logged where no list has its price."""
    now = float(costs.now_usd) if isinstance(costs, Bill) else group.logged_usd[Lane.STANDARD] or float(group.columns()[4].sum())
    return Decimal(str(round((now + float(slower)) * factor, 6)))


def _delay(seen: Evidence, rule: Rule | None) -> tuple[timedelta | None, str]:
    """How long the answers may take, and where that is from."""
    if rule is not None and rule.acceptable_delay is not None:
        return rule.acceptable_delay, f"rule {rule.number} of the rules file"
    every = seen.runs.every
    if seen.runs.period is None or every is None:
        return None, "nobody said, and no clock was seen"
    left = every - seen.runs.usual_length
    return min(max(left, timedelta(minutes=1)), _DELAY_MOST), "a guess: from the end of a run to the start of the next, 24 h at most"


def _fleet_usd(group: Group, fleet: Fleet, every: Sequence[Group], on_fleet: dict[int, Fleet], days: float) -> tuple[Decimal, Decimal]:
    weeks = max(days / 7, 1.0)

    def load(one: Group) -> Floats:
        found: Floats = one.heat_tokens / weeks / 3_600 / fleet.capacity
        return found

    mine = load(group)
    sharing = [other for other in every if other is not group and (at := on_fleet.get(id(other))) is not None and at.name == fleet.name]
    others = sum(map(load, sharing), mine * 0)
    less, costs = saved_usd(others, mine, fleet)
    return Decimal(str(round(less, 2))), Decimal(str(round(costs, 2)))


def _samples(group: Group, most: int) -> Iterator[str]:
    for logged in group.bodies[:most]:
        found = body.read(logged)
        yield " / ".join(text[:_SAMPLE_LENGTH] for text in (found.system or "", found.user) if text)


def _names(every: Sequence[Group]) -> dict[int, str]:
    """A name for each group that a Job may have, by the id of the group."""
    found: dict[int, str] = {}
    taken: Counter[str] = Counter()
    for group in sorted(every, key=lambda one: one.key):
        parts = [part for part in (group.key.service, group.key.job) if part] or [group.key.operation]
        name = re.sub(r"[^A-Za-z0-9]+", "_", "_".join((*parts, group.key.model))).strip("_")[:100].lower() or "group"
        name = name if name[0].isalpha() else f"g_{name}"
        taken[name] += 1
        found[id(group)] = name if taken[name] == 1 else f"{name}_{taken[name]}"
    return found
