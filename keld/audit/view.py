"""View: an audit as tables for people."""

from __future__ import annotations

from decimal import Decimal

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from keld.audit.finding import Audit, Finding
from keld.audit.money import Bill
from keld.audit.verdict import Waits

_SHOWN = 30
_WHO = {
    Waits.YES: "that somebody waits for",
    Waits.NO: "that nobody waits for",
    Waits.ASK: "whose owners must be asked",
    Waits.ALREADY: "already in a slower lane",
}
_COLOURS = {Waits.YES: "cyan", Waits.NO: "green", Waits.ASK: "yellow", Waits.ALREADY: "dim"}


def audit_view(audit: Audit, *, explained: bool = True) -> RenderableType:
    """What an audit found: the money, the groups, and the reasons of each."""
    parts: list[RenderableType] = [
        Text(headline(audit)),
        Text(),
        _groups(audit),
        Text(),
        *map(Text, _files(audit)),
        *map(Text, notes(audit)),
    ]
    if explained:
        for finding in audit.findings[:_SHOWN]:
            parts += [Text(), *_reasons(finding)]
    return Lines(*parts)


def headline(audit: Audit) -> str:
    """The result in a sentence or two."""
    calls = sum(one.calls for one in audit.sources)
    if not audit.findings:
        return f"{calls:,} calls: there is nothing to judge."
    low, middle, high = audit.saving(Waits.NO)
    _, possible, _ = audit.saving(Waits.NO, Waits.ASK)
    unit = audit.unit
    money = ", ".join(f"{usd(audit.usd(waits))} for calls {_WHO[waits]}" for waits in Waits if audit.usd(waits))
    return (
        f"{calls:,} calls on {audit.days:.1f} days. {unit.capitalize()}: {money}. Moving those that nobody waits for saves {usd(middle)} {unit} "
        f"({usd(low)} to {usd(high)}); with all that are to be asked about, too, {usd(possible)}."
    )


def _groups(audit: Audit) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("group", "model", "calls", "USD", "verdict", "points", "saves", "p10 to p90", "if no cache hits"):
        table.add_column(
            name, justify="right" if name in ("calls", "USD", "saves", "p10 to p90", "if no cache hits") else "left", no_wrap=True
        )
    for one in audit.findings[:_SHOWN]:
        table.add_row(
            Text(one.name), Text(f"{one.key.provider}:{one.key.model}"), f"{one.group.calls:,}", cost(one), Text(one.waits.value, style=_COLOURS[one.waits]),
            f"{one.evidence.waits} : {one.evidence.free}", *saving_cells(one),
        )  # fmt: skip
    return table


def saving_cells(finding: Finding) -> tuple[str, str, str]:
    """(expected saving, its range, the saving without any cache hit); empty where nothing is to be moved."""
    if finding.waits not in (Waits.NO, Waits.ASK):
        return "", "", ""
    if finding.net is None:
        return ("?" if finding.worth is None else usd(finding.worth)), "", ""
    spread = f"{usd(finding.net.quantile(0.1))} to {usd(finding.net.quantile(0.9))}"
    return usd(finding.net.net_usd), spread, usd(finding.net.no_hits_usd)


def _files(audit: Audit) -> list[str]:
    lines = [
        f"{one.where}: {one.title}"
        + ("" if one.passed else f", {one.calls:,} calls")
        + (f", {one.again:,} more that were counted before" if one.again else "")
        + (f", {one.bad:,} rows that cannot be read" if one.bad else "")
        for one in audit.sources[:_SHOWN]
    ]
    if (left := len(audit.sources) - _SHOWN) > 0:
        lines.append(f"{left:,} more files; {audit.bad:,} rows in all that cannot be read")
    if (left := len(audit.findings) - _SHOWN) > 0:
        lines.append(f"{left:,} more groups are in --json.")
    return lines


def notes(audit: Audit) -> list[str]:
    """What the figures leave out, a line each."""
    found = [
        f"Not counted: {groups} groups, {tokens_in:,} input and {tokens_out:,} output tokens: {why}."
        for why, (groups, tokens_in, tokens_out) in audit.not_counted.items()
    ]
    kinds = [{(one.key.provider, one.key.model) for one in audit.findings if bool(one.group.width) is buckets} for buckets in (False, True)]
    found += [
        f"Single calls and buckets of {provider}:{model} were read: if they are of the same traffic, it is counted twice; give one of them."
        for provider, model in sorted(kinds[0] & kinds[1])
    ]
    if once := [one for one in audit.findings if not one.monthly and audit.factor != 1]:
        found.append(f"What ran only once ({len(once)} of {len(audit.findings)} groups) counts with that one time, also in the sums.")
    found += [
        f"{one.where}: none of its {one.bad:,} rows can be read as {one.title}: each lacks an instant, or is no whole line. An instant is ISO 8601, a "
        "Unix time, or a date with its month as a number; where nothing says whether the day or the month is first, write it as 2026-10-05."
        for one in audit.sources
        if one.bad and not one.calls + one.again + one.other
    ]
    if audit.factor == 1 and audit.findings:
        found.append("The log has less than 7 days: no verdict but by a rule, and the figures are of the log, not of a month.")
    return found


def _reasons(finding: Finding) -> list[Text]:
    lines = [Text(f"{finding.name}: {finding.waits.value} ({finding.reason})", style=_COLOURS[finding.waits])]
    lines += [Text(f"  {text}") for text in reasons(finding)]
    if finding.waits is Waits.ASK:
        lines += [Text(f"  {line}", style="dim") for line in ("To settle it:", *finding.stanza().splitlines())]
    return lines


def reasons(finding: Finding) -> list[str]:
    """The evidence of both sides, what is missing, and the terms of the saving, a line each."""
    found = []
    for sign in finding.evidence.signs:
        side = f"+{sign.waits} waits" if sign.waits else f"+{sign.free} does not wait" if sign.free else "note"
        found.append(f"{side}: {sign.text}")
    if finding.evidence.missing:
        found.append(f"not in the log: {', '.join(finding.evidence.missing)}")
    if finding.waits in (Waits.NO, Waits.ASK):
        found += money_lines(finding)
    return [*found, *(f"sample: {text}" for text in finding.samples)]


def money_lines(finding: Finding) -> list[str]:
    """The formula with its numbers; what is said where there are none."""
    if finding.fleet_usd is not None:
        less, costs = finding.fleet_usd
        return [f"own machines: whole replicas saved {usd(less)}, the batch costs {usd(costs)} a month"]
    if isinstance(finding.bill, Bill) and finding.net is not None:
        net = finding.net
        found = [
            f"net {usd(net.net_usd)} = (1 - {net.late:.3f} late) x ({usd(net.now_usd)} now - {usd(net.then_usd)} then) - ({net.again:.3f} again + "
            f"{net.twice:.3f} twice) x {usd(net.then_usd)} then - {usd(net.staging_usd)} staging - {usd(net.operations_usd)} operations; now is "
            f"{net.eligible:.0%} of the standard lane's cost, the share that can move; then is the {finding.bill.lane} lane; {finding.bill.basis}"
        ]
        if finding.bill.cached > 0.01:
            found.append(
                f"{finding.bill.cached:.0%} of the input is read from the cache: {usd(net.same_hits_usd)} if a batch hits as often, "
                f"{usd(net.no_hits_usd)} if it never does"
            )
        return found
    return [f"not counted: {finding.bill}"]


def usd(amount: Decimal) -> str:
    """An amount for people: cents, from $100 on dollars."""
    sign = "-" if amount < 0 else ""
    return f"{sign}${abs(amount):,.0f}" if abs(amount) >= 100 else f"{sign}${abs(amount):,.2f}"


def cost(finding: Finding) -> str:
    """What a group costs in a month, or did once."""
    return usd(finding.usd) if finding.monthly else f"{usd(finding.usd)} once"
