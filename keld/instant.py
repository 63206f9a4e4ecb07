"""Instant: what a caller gives as a point in time or a span of it -> `datetime` and `timedelta` of the standard library, aware, in UTC.

Called first by `job` and `environment`.  Schedulers and frames pass subclasses of these types (Airflow's pendulum, pandas' Timestamp), whose
arithmetic gives other types with other rules.  After the conversion here there are only the standard library's.  Templates and YAML files
can hold only text: it is read as ISO 8601, in the short form `1d12h`, and as Python prints a `timedelta` and a `datetime`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from keld.errors import InvalidJob

_NUMBER = r"(\d+(?:\.\d+)?)"
# Weeks, days, hours, minutes, seconds; years and months have no fixed length.
_ISO_SPAN = re.compile(rf"P(?:{_NUMBER}W)?(?:{_NUMBER}D)?(?:T(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?", re.IGNORECASE)
_SHORT_SPAN = re.compile(
    rf"(?:{_NUMBER}\s*w(?:eeks?)?)?\s*(?:{_NUMBER}\s*d(?:ays?)?)?\s*(?:{_NUMBER}\s*h(?:ours?)?)?\s*"
    rf"(?:{_NUMBER}\s*m(?:in(?:utes?)?)?)?\s*(?:{_NUMBER}\s*s(?:ec(?:onds?)?)?)?",
    re.IGNORECASE,
)
_PYTHON_SPAN = re.compile(r"(?:(\d+) days?, )?(\d{1,2}):(\d{2}):(\d{2}(?:\.\d+)?)")
_UNITS = ("weeks", "days", "hours", "minutes", "seconds")


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


def read(text: str) -> timedelta | datetime | None:
    """The span or the instant that a text says; None if it says neither.

    A number without a unit is neither: it could be hours or seconds.  The instant may have no time zone; `utc` checks that.
    """
    text = text.strip()
    try:
        for form in (_ISO_SPAN, _SHORT_SPAN, _PYTHON_SPAN):
            found = form.fullmatch(text)
            if found is not None and any(found.groups()):
                units = _UNITS[-len(found.groups()) :]
                return timedelta(**{unit: float(number) for unit, number in zip(units, found.groups(), strict=True) if number})
        return datetime.fromisoformat(text) if ":" in text else None  # a date alone does not say when in the day
    except (ValueError, OverflowError):
        return None
