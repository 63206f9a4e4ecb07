"""Handover: a Job for each group that does not wait, as a Python file that can be imported; refusals are in it as comments, with their reasons.

A log says which model is asked, how often and with what, never where the rows come from: source, key and prompt are left to do.  The system
prompt is written only where samples were asked for.
"""

from __future__ import annotations

import keyword
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, Decimal
from os.path import commonprefix
from pprint import pformat
from typing import Any

import numpy as np

from keld.audit import body
from keld.audit.clock import DAY
from keld.audit.finding import Audit, Finding, span_text
from keld.audit.money import LEAST_DELAY, Bill
from keld.audit.record import Floats
from keld.audit.verdict import Waits
from keld.price import Lane
from keld.view import usd

_OVER = Decimal("1.3")  # of the dearest run seen
_FEW = 20  # rows of a run, below which a batch may be late and pays little
_SHARED = 0.95  # of the calls, to be called a tag of all


def refusals(finding: Finding) -> list[str]:
    """Why no Job is written for a group; empty: one is."""
    bodies = [body.read(one) for one in finding.group.bodies]
    found = []
    if finding.waits is Waits.ASK:
        found.append(f"nobody knows yet whether somebody waits ({finding.reason})")
    if finding.evidence.rounds:
        found.append(f"its calls are chained, {finding.evidence.rounds:g} rounds")
    if any(one.tools for one in bodies):
        found.append("its calls have tools, whose results are asked with another call")
    if any(one.image_url for one in bodies):
        found.append("its images are URLs, which may have expired when a batch reads them")
    if isinstance(finding.bill, str):
        found.append(finding.bill)
    elif finding.worth is not None and finding.worth <= 0:
        found.append(f"it would save nothing ({usd(finding.worth)} a month)")
    return found


def jobs_file(audit: Audit, *, with_prompts: bool) -> str:
    """The text of a Python file with the jobs, the most expensive first."""
    eligible = [one for one in audit.findings if one.waits in (Waits.NO, Waits.ASK)]
    taken = [one for one in eligible if not refusals(one)]
    lines = [
        f'"""Jobs for what nobody waits for, as `keld audit` found it on {audit.priced_at:%Y-%m-%d}.  Each TODO is what no log says."""',
        "",
    ]
    if any("timedelta" in text for text in map(_deadline, taken)):
        lines.append("from datetime import timedelta")
    if taken:
        embeds = any(map(_embeds, taken))
        lines += ["from decimal import Decimal", "", f"from keld import {'Embedding, ' if embeds else ''}Job", ""]
    for one in taken:
        lines += ["", *_job(one, with_prompts=with_prompts)]
    refused = [(one, why) for one in eligible if (why := refusals(one))]
    if refused:
        lines += ["", "# No Job is written for:"]
        lines += [f"# {_line(one.name)}: {_line('; '.join(why))}." for one, why in refused]
    return "\n".join(lines).rstrip() + "\n"


def _job(finding: Finding, *, with_prompts: bool) -> Iterator[str]:
    bodies = [body.read(one) for one in finding.group.bodies]
    yield f"# {finding.group.calls:,} calls, ${finding.usd:,.2f} a month now; moving it saves about ${finding.worth or 0:,.2f} a month."
    for sign in finding.evidence.signs:
        yield f"# {_line(sign.text)}."
    yield f"{_variable(finding.name)} = Job("
    yield f"    name={finding.name!r},"
    yield '    key="id",  # TODO: the column that identifies a row'
    yield '    prompt="{text}",  # TODO: the prompt over the columns of your table'
    if system := _system(bodies) if with_prompts else None:
        yield f"    system={system!r},"
    elif any(one.system for one in bodies):
        yield "    system=None,  # TODO: its system prompt; `keld audit --samples 1` writes it here"
    schema = next((one.schema for one in bodies if one.schema), None)
    if _embeds(finding):
        yield "    output_type=Embedding(dimensions=1536),  # TODO: as the model gives it"
    elif schema is not None:
        yield f"    output_type={_indented(schema)},"
    yield f"    models=[{f'{finding.key.provider}:{finding.key.model}'!r}],"
    yield _deadline(finding)
    if _flex(finding):
        yield '    lane="flex",  # a batch may be late for runs this small or this frequent'
    yield f'    ceiling_usd=Decimal("{_ceiling(finding)}"),  # 1.3 x the most expensive run in the log, at the slower lane\'s price'
    if (limit := max((one.output_limit or 0 for one in bodies), default=0)) > 0:
        yield f"    max_output_tokens={limit},"
    if parameters := _constant([one.parameters for one in bodies]):
        yield f"    params={parameters!r},"
    if tags := _tags(finding):
        yield f"    tags={tags!r},"
    yield ")"


def _deadline(finding: Finding) -> str:
    if finding.delay is None:
        return "    deadline=None,  # TODO: when its answers are needed"
    minutes = max(int(finding.delay.total_seconds() // 60), 1)
    said = f"timedelta(hours={minutes // 60})" if minutes % 60 == 0 else f"timedelta(minutes={minutes})"
    return f"    deadline={said},  # {span_text(finding.delay)}: {finding.delay_basis}"


def _flex(finding: Finding) -> bool:
    small = len(finding.evidence.runs.calls) > 0 and float(np.median(finding.evidence.runs.calls)) < _FEW
    return isinstance(finding.bill, Bill) and (
        finding.bill.lane is Lane.FLEX or (small and finding.delay is not None and finding.delay < LEAST_DELAY)
    )


def _ceiling(finding: Finding) -> Decimal:
    """1.3 times the most expensive run, or day where there are no runs, without cache hits; rounded up to cents, above $10 to dollars."""
    at, _, _, _, usd = finding.group.columns()
    sums: Floats = finding.evidence.runs.usd
    if not len(sums) and len(at):
        _, day = np.unique(at // DAY, return_inverse=True)
        sums = np.bincount(day, weights=usd).astype(np.float64)
    assert isinstance(finding.bill, Bill)
    ratio = finding.bill.none_usd / finding.bill.now_usd if finding.bill.now_usd else Decimal(1)
    found = Decimal(str(float(sums.max()) if len(sums) else 1.0)) * ratio * _OVER
    return max(found, Decimal("0.01")).quantize(Decimal(1) if found > 10 else Decimal("0.01"), ROUND_CEILING)


def _system(bodies: Sequence[body.Body]) -> str | None:
    """What all system prompts begin with, up to the end of a line."""
    texts = [one.system for one in bodies if one.system]
    if not texts or len(set(texts)) == 1:
        return texts[0] if texts else None
    shared = commonprefix(texts)  # noqa: RUF071  of texts, not of paths
    return shared[: shared.rfind("\n") + 1].rstrip() or None


def _constant(parameters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Those with the same value in every request."""
    first = parameters[0] if parameters else {}
    return {name: value for name, value in first.items() if all(one.get(name) == value for one in parameters)}


def _tags(finding: Finding) -> dict[str, str]:
    """The labels that nearly all calls have; `team:support` is a label with a name."""
    most = finding.group.calls * _SHARED
    found: dict[str, str] = {}
    for text in (text for text, count in finding.group.tags.items() if count >= most):
        for label in text.split(","):
            name, mark, value = label.partition(":" if ":" in label else "=")
            found[name.strip() if mark else f"label_{len(found) + 1}"] = (value if mark else name).strip()
    return found


def _embeds(finding: Finding) -> bool:
    return "embed" in f"{finding.key.operation} {finding.key.model}".lower()


def _indented(schema: dict[str, Any]) -> str:
    return pformat(schema, width=120, sort_dicts=False).replace("\n", "\n    ")


def _variable(name: str) -> str:
    return f"{name}_job" if keyword.iskeyword(name) or name in ("Job", "Decimal", "timedelta") else name


def _line(text: str) -> str:
    """In one line: names in a log are anybody's text."""
    return "".join(char if char.isprintable() else " " for char in text)
