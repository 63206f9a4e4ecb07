"""Instant: what a caller gives as a point in time or a span of it -> `datetime` and `timedelta` of the standard library, aware, in UTC.

Called first by `job` and `environment`.  Schedulers and frames pass subclasses of these types (Airflow's pendulum, pandas' Timestamp), whose
arithmetic gives other types with other rules.  After the conversion here there are only the standard library's.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from keld.errors import InvalidJob

_NUMBER = r"(\d+(?:\.\d+)?)"
_SPANS = (  # weeks, days, hours, minutes, seconds
    re.compile(rf"(?:{_NUMBER}\s*w)?\s*(?:{_NUMBER}\s*d)?\s*(?:{_NUMBER}\s*h)?\s*(?:{_NUMBER}\s*m(?:in)?)?\s*(?:{_NUMBER}\s*s)?"),
    re.compile(
        rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?"
    ),  # ISO 8601, without months and years
    re.compile(r"()(?:(\d+) days?, )?(\d{1,2}):(\d{2}):(\d{2}(?:\.\d+)?)"),  # as Python and Jinja print a timedelta
)


def utcnow() -> datetime:
    """Now, in UTC: the default clock of an environment."""
    return datetime.now(UTC)


def utc(value: datetime, name: str = "instant") -> datetime:
    """The same instant, exact to the microsecond, in UTC.

    Args:
        name: the argument's name, for the error.

    Raises:
        InvalidJob: it is no datetime, or has no time zone, so that the instant is not known.
    """
    if not isinstance(value, datetime) or value != value:  # noqa: PLR0124  pandas' NaT is a datetime, too
        raise InvalidJob(f"{name}={value!r} is not an instant. Nothing was sent. Use e.g. datetime(2026, 11, 20, 9, tzinfo=timezone.utc).")
    offset = value.utcoffset()
    if offset is None:
        raise InvalidJob(f"{name}={value} has no time zone. Nothing was sent. Use e.g. datetime(..., tzinfo=timezone.utc).")
    try:
        return datetime(value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond, tzinfo=UTC) - span(
            offset
        )
    except OverflowError:
        raise InvalidJob(f"{name}={value} is outside of the years 1 to 9999 in UTC. Nothing was sent. Give one inside of them.") from None


def span(value: timedelta) -> timedelta:
    """The same length of time as a `timedelta` of the standard library."""
    return timedelta.__add__(timedelta(), value)  # not `+`, which would call the subclass's method first


def instant_or_span(text: str, name: str) -> datetime | timedelta:
    """What a text says: a span (`9h`, `1d 6h`, `PT9H`), or an instant in ISO 8601.

    Args:
        name: the argument's name, for the error.

    Raises:
        InvalidJob: it says neither, or the span is longer than any.
    """
    text = text.strip()
    found = next((match.groups() for form in _SPANS if (match := form.fullmatch(text))), ())
    try:
        if any(found):
            weeks, days, hours, minutes, seconds = (float(part or 0) for part in found)
            return timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        return datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidJob(
            f"{name}={text!r} is neither a span, such as '9h', '1d 6h' or 'PT9H', nor an instant, such as '2026-11-20T09:00Z'. Nothing was sent."
        ) from None
