"""Worksheet: the questions whose answers decide about a group, as Markdown for a ticket; filled where the log or a rule says it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from keld.audit.finding import Audit, Finding, span_text
from keld.audit.verdict import Waits

_BLANK = "_?_"


def worksheet(audit: Audit) -> str:
    """A section for each group that does not wait or is to be asked about, the most expensive first."""
    lines = [f"# Which calls can wait: {audit.days:.0f} days of logs, {audit.priced_at:%Y-%m-%d}", ""]
    for finding in audit.findings:
        if finding.waits in (Waits.NO, Waits.ASK):
            lines += [*_section(finding), ""]
    return "\n".join(lines)


def _section(finding: Finding) -> Iterator[str]:
    yield f"## {_cell(finding.name)}"
    yield ""
    when = "a month now" if finding.monthly else "in the log"
    yield f"{finding.waits.value.capitalize()}: {_cell(finding.reason)}. ${finding.usd:,.2f} {when}, {finding.group.calls:,} calls."
    yield ""
    yield "| question | answer |"
    yield "|---|---|"
    for question, answer in _answers(finding):
        yield f"| {question} | {_cell(answer) or _BLANK} |"
    yield ""
    yield "What the log says:"
    yield ""
    for sign in finding.evidence.signs:
        side = "waits" if sign.waits else "does not wait" if sign.free else "note"
        yield f"- {side}: {_cell(sign.text)}"
    if finding.evidence.missing:
        yield f"- it does not say: {_cell(', '.join(finding.evidence.missing))}"
    yield ""
    yield "The rule that settles it, for the rules file:"
    yield ""
    yield "```toml"
    yield finding.stanza().rstrip()
    yield "```"


def _answers(finding: Finding) -> Iterator[tuple[str, str]]:
    rule, runs = finding.rule, finding.evidence.runs
    delay = "" if finding.delay is None else f"{span_text(finding.delay)} ({finding.delay_basis})"
    yield "Acceptable delay", delay
    yield "Who sees the answers", "" if rule is None else rule.seen_by
    yield (
        "Rows in a window",
        f"{int(np.median(runs.calls)):,} in a run, usually" if len(runs.calls) else f"{finding.group.calls:,} in the log",
    )
    every = runs.every
    yield "Window", f"a run every {span_text(every)}, {span_text(runs.usual_length)} long" if every is not None else ""
    yield "Retry window", "" if rule is None else rule.retry_window
    yield (
        "Volume in staging",
        f"{_megabytes(finding):,.1f} MB in the time of the log"
        if rule is None or rule.staging_gb is None
        else f"{rule.staging_gb} GB a month",
    )
    yield "Warm capacity avoided", "" if finding.fleet_usd is None else f"${finding.fleet_usd[0]:,.2f} a month"
    yield "Failures today", "" if finding.failed is None else f"{finding.failed:.2%}"
    yield "Owner", "" if rule is None else rule.owner
    yield "Fallback if it is late", "" if rule is None else rule.fallback
    yield "Harm of a delay", "" if rule is None else rule.harm


def _megabytes(finding: Finding) -> float:
    return sum(finding.tokens) * 4 * 2 / 1e6


def _cell(text: str) -> str:
    """Safe in a Markdown table: names in a log are anybody's text."""
    plain = "".join(char if char.isprintable() else " " for char in text)
    for mark in ("\\", "|", "`", "<", "[", "*", "_"):
        plain = plain.replace(mark, f"\\{mark}")
    return plain
