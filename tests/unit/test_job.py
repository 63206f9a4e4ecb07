"""The declaration: what is accepted, what is refused and how it says so, and when a job run is due."""

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pandas as pd
import pendulum
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keld.errors import DeadlinePassed, InvalidJob
from keld.job import Column, Job, due, partition_end, template_columns

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def _job(**terms: Any) -> Job:
    return Job(**{"name": "labels", "key": "id", "prompt": "Classify: {body}", "models": "openai:gpt-5-mini", **terms})


# Each bad declaration, and what the message must hold: the field, and what to do.
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"name": ""}, "name=''", "starts with a letter"),
    ({"name": "1st"}, "name='1st'", "starts with a letter"),
    ({"name": "a/b"}, "name='a/b'", "letters, digits"),
    ({"name": "a\n"}, "name=", "letters, digits"),
    ({"name": "a" * 129}, "name=", "up to 128"),
    ({"name": None}, "name=None", "starts with a letter"),
    ({"key": ""}, "key is empty", "key='ticket_id'"),
    ({"key": None}, "key is empty", "key='ticket_id'"),
    ({"prompt": "no column"}, "prompt names no column", "{body}"),
    ({"prompt": "{{body}}"}, "prompt names no column", "{body}"),
    ({"prompt": "Classify: {{ body }}"}, "prompt names no column", "single braces"),
    ({"output_type": {"category": str}}, "output_type holds a Python type", "Pydantic"),
    ({"output_type": {"type": "object", "properties": {"tags": {"enum": [int]}}}}, "output_type holds a Python type", "Pydantic"),
    ({"hedge": "maybe"}, "hedge='maybe' must be True or False", "False"),
    ({"probe": 1}, "probe=1 must be None, True, False, or one of batch, standard", "batch"),
    ({"prompt": ""}, "prompt names no column", "{body}"),
    ({"prompt": "{body"}, "prompt is not a str.format template", "{{ and }}"),
    ({"prompt": "body}"}, "prompt is not a str.format template", "{{ and }}"),
    ({"prompt": '{"a": {body}}'}, "prompt", ""),
    ({"prompt": 'Answer { "a": 1 } for {body}'}, 'prompt has a field {"a"}', "write {{ and }}"),
    ({"prompt": "{}"}, "prompt has a field {}", "{body}"),
    ({"prompt": "{0}"}, "prompt has a field {0}", "{body}"),
    ({"prompt": "{body:{width}}"}, "prompt formats {body}", "{price:.2f}"),
    ({"prompt": "{body!x}"}, "prompt formats {body}", "{price:.2f}"),
    ({"prompt": 5}, "prompt is a int", "a template, a Column, or a function"),
    ({"prompt": None}, "prompt is a NoneType", "a template, a Column, or a function"),
    ({"models": []}, "models is empty", "models=['openai:gpt-5-mini']"),
    ({"models": "gpt-5-mini"}, "models has 'gpt-5-mini'", "provider:model"),
    ({"models": ["openai:"]}, "models has 'openai:'", "provider:model"),
    ({"models": ["openai:a b"]}, "models has 'openai:a b'", "provider:model"),
    ({"models": [None]}, "models has None", "provider:model"),
    ({"models": None}, "models is a NoneType", "give a list"),
    ({"models": {"openai:gpt-5-mini"}}, "models is a set", "give a list"),
    ({"ceiling_usd": 0}, "ceiling_usd=0", "above zero"),
    ({"ceiling_usd": -1}, "ceiling_usd=-1", "above zero"),
    ({"ceiling_usd": float("nan")}, "ceiling_usd=nan", "above zero"),
    ({"ceiling_usd": float("inf")}, "ceiling_usd=inf", "above zero"),
    ({"ceiling_usd": "forty"}, "ceiling_usd='forty'", "US dollars"),
    ({"ceiling_usd": True}, "ceiling_usd=True", "US dollars"),
    ({"ceiling_usd": 10_000_000}, "ceiling_usd=10000000", "Give less"),
    ({"deadline": datetime(2026, 11, 20)}, "deadline=2026-11-20", "tzinfo"),
    ({"deadline": timedelta(0)}, "deadline=0:00:00", "above zero"),
    ({"deadline": timedelta(hours=-1)}, "deadline=-1 day", "above zero"),
    ({"deadline": 3600}, "deadline=3600", "timedelta(hours=9) or '9h'"),
    ({"deadline": "2026-11-20"}, "deadline=2026-11-20", "no time zone"),
    ({"deadline": "0h"}, "deadline=0:00:00", "above zero"),
    *[
        ({"deadline": text}, f"deadline={text!r}", "such as '9h'")
        for text in ("", "soon", "P", "PT", "P1M", "9", "9x", "-9h", "h", "1e9h", f"{10**12}d")
    ],
    ({"deadline": pendulum.naive(2026, 11, 20)}, "deadline=2026-11-20", "no time zone"),
    ({"deadline": pd.NaT}, "deadline=NaT", "is not an instant"),
    ({"deadline": datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))}, "deadline=0001-01-01", "years 1 to 9999"),
    ({"missing": 0}, "missing= is a text", "missing=''"),
    ({"missing": {"body": None}}, "missing= is a text", "mapping of columns"),
    ({"missing": {"boddy": ""}}, "missing= names 'boddy'", "Correct missing="),
    ({"missing": "", "prompt": Column("body")}, "for the columns of a template", "Remove missing="),
    ({"params": ["temperature"]}, "params is a list", "{'temperature': 0}"),
    ({"params": {"stop": object()}}, "params has a value", "JSON cannot hold"),
    ({"params": {1: 2}}, "params has the name 1", "not text"),
    ({"prices": {"openai:m": 3}}, "the rates of 'openai:m' are a int", "'input': 0.1"),
    ({"max_output_tokens": 0}, "max_output_tokens=0", "at least 1"),
    ({"max_output_tokens": 1.5}, "max_output_tokens=1.5", "whole number"),
    ({"max_attempts": 0}, "max_attempts=0", "at least 1"),
    ({"max_attempts": True}, "max_attempts=True", "whole number"),
    ({"max_shard_rows": 0}, "max_shard_rows=0", "at least 1"),
    ({"max_shard_bytes": -5}, "max_shard_bytes=-5", "at least 1"),
    ({"key": ["ticket_id"]}, "key is a list", "key='ticket_id'"),
    ({"tags": ["support", "nightly"]}, "tags is a list", "tags={'team': 'support'}"),  # as a Dag of Airflow has them
    ({"tags": "team=support"}, "tags is a str", "tags={'team': 'support'}"),
    ({"tags": {"cost_center": 4711}}, "the tag 'cost_center' is a int", "not text"),
    ({"tags": {"team": None}}, "the tag 'team' is a NoneType", "not text"),
    ({"tags": {7: "seven"}}, "tags has the name 7", "not text"),
    ({"params": "temperature=0"}, "params is a str", "params={'temperature': 0}"),
    ({"params": None}, "params is a NoneType", "params={'temperature': 0}"),
    ({"prices": [0.1, 0.4]}, "prices is a list", "prices={'openai:my-model'"),
    ({"priority": 5}, "priority is a int", "priority='value'"),  # as a task of Airflow has a priority_weight
    ({"priority": ["value"]}, "priority is a list", "priority='value'"),
    ({"endpoint": None}, "endpoint is a NoneType", "not text"),
    ({"output_prefix": 2}, "output_prefix is a int", "not text"),
]


@pytest.mark.parametrize(("terms", "field", "fix"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_declaration_is_refused_with_its_field_and_the_fix(terms: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        _job(**terms)
    assert field in str(caught.value)
    assert fix in str(caught.value)


@pytest.mark.parametrize(
    "terms",
    [
        {"name": "a.b-c_9"},
        {"prompt": "{{literal}} {body} {price:>10.2f} {body!r}"},
        {"prompt": "{a column} {Größe}"},
        {"prompt": Column("prompt", json=True)},
        {"prompt": lambda batch: ["x"] * batch.num_rows},
        {"models": ["openai:ft:gpt-5-mini:acme::1"]},
        {"models": ("anthropic:claude-haiku-4-5", "openai:gpt-5-mini")},
        {"deadline": datetime(2026, 11, 20, tzinfo=timezone(timedelta(hours=5)))},
        {"endpoint": "/v1/responses"},
        {"params": {"temperature": 0, "reasoning_effort": "low"}},
    ],
    ids=lambda terms: next(iter(terms)),
)
def test_a_good_declaration_is_accepted(terms: dict[str, Any]) -> None:
    assert _job(**terms)


@pytest.mark.parametrize(("given_", "normal"), [(40, "40"), (0.1, "0.1"), ("12.50", "12.50"), (Decimal("0.000001"), "0.000001")])
def test_a_ceiling_is_kept_as_the_decimal_that_was_written(given_: Any, normal: str) -> None:
    """0.1 is ten cents, not the binary number beside it."""
    assert _job(ceiling_usd=given_).ceiling == Decimal(normal)


def test_no_ceiling_is_none() -> None:
    assert _job().ceiling is None


def test_models_are_kept_once_each_in_the_users_order() -> None:
    assert _job(models=["b:2", "a:1", "b:2"]).acceptable == ("b:2", "a:1")


def test_a_single_model_needs_no_list() -> None:
    assert _job(models="openai:gpt-5-mini").acceptable == ("openai:gpt-5-mini",)


def test_a_declaration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        _job().name = "other"  # type: ignore[misc]


def test_the_columns_of_a_template_come_once_each_in_order() -> None:
    assert template_columns("{b} {{x}} {a:>5} {b!r}") == ["b", "a"]


# --- the end of a partition -------------------------------------------------------------------------------------------

ENDS: list[tuple[str | None, datetime | None]] = [
    ("2026-11", datetime(2026, 12, 1, tzinfo=UTC)),
    ("2026-12", datetime(2027, 1, 1, tzinfo=UTC)),
    ("2028-02", datetime(2028, 3, 1, tzinfo=UTC)),
    ("2026-11-19", datetime(2026, 11, 20, tzinfo=UTC)),
    ("2026-12-31", datetime(2027, 1, 1, tzinfo=UTC)),
    ("2028-02-28", datetime(2028, 2, 29, tzinfo=UTC)),
    ("2028-02-29", datetime(2028, 3, 1, tzinfo=UTC)),
    ("2027-02-29", None),
    ("2100-02-29", None),
    ("2000-02-29", datetime(2000, 3, 1, tzinfo=UTC)),
    ("2026-11-19-08:00", datetime(2026, 11, 19, 9, tzinfo=UTC)),
    ("2026-11-19-23:00", datetime(2026, 11, 20, tzinfo=UTC)),
    ("2026-12-31-23:00", datetime(2027, 1, 1, tzinfo=UTC)),
    ("2026-11-19-24:00", None),
    ("2026-00", None),
    ("2026-13", None),
    ("2026-11-31", None),
    ("0000-01", None),
    ("0000-01-01", None),
    ("9999-12", None),
    ("9999-12-31", None),
    ("9999-12-31-23:00", None),
    ("europe", None),
    ("2026", None),
    ("2026-11-19|europe", None),
    ("2026-11-19T08:00", None),
    (" 2026-11-19", None),
    ("2026-11-19\n", None),
    ("", None),
    (None, None),
]


def test_a_job_shows_no_prompt() -> None:
    """Orchestrators keep what an object says of itself."""
    said = repr(Job(name="a", key="id", prompt="CANARY {b}", system="CANARY", models="openai:m"))
    assert "openai:m" in said
    assert "CANARY" not in said


@pytest.mark.parametrize(("key", "end"), ENDS, ids=lambda value: repr(value)[:24])
def test_the_end_of_a_partition_is_read_from_its_key(key: str | None, end: datetime | None) -> None:
    assert partition_end(key) == end


@given(st.text(max_size=20))
def test_no_key_breaks_the_reading_of_its_end(key: str) -> None:
    end = partition_end(key)
    assert end is None or end.tzinfo is UTC


@given(st.datetimes(min_value=datetime(1000, 1, 1), max_value=datetime(9998, 1, 1)))
def test_a_day_ends_where_the_next_begins(day: datetime) -> None:
    assert partition_end(f"{day:%Y-%m-%d}") == datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)


# --- when it is due ---------------------------------------------------------------------------------------------------

END = datetime(2026, 11, 20, tzinfo=UTC)
DUE: list[tuple[Any, datetime | None, datetime | None, str]] = [
    (None, END, None, "none"),
    (timedelta(hours=24), END, END + timedelta(hours=24), "partition-end"),
    (timedelta(hours=9), END, NOW + timedelta(hours=9), "submitted-at"),  # 09:00 has passed at noon: a backfill
    (timedelta(hours=12), END, NOW + timedelta(hours=12), "submitted-at"),  # to the second is not after
    (timedelta(hours=9), None, NOW + timedelta(hours=9), "submitted-at"),
    (timedelta(hours=1), END + timedelta(days=3), END + timedelta(days=3, hours=1), "partition-end"),
    (NOW + timedelta(hours=1), END, NOW + timedelta(hours=1), "absolute"),
    (datetime(2026, 11, 20, 18, tzinfo=timezone(timedelta(hours=5))), END, NOW + timedelta(hours=1), "absolute"),
]


@pytest.mark.parametrize(("deadline", "end", "at", "basis"), DUE)
def test_when_a_job_run_is_due(deadline: Any, end: datetime | None, at: datetime | None, basis: str) -> None:
    assert due(_job(deadline=deadline), end, NOW) == (at, basis)


@pytest.mark.parametrize("end", [None, END])
def test_a_span_beyond_the_calendar_is_refused_in_words(end: datetime | None) -> None:
    """It ended with `OverflowError: date value out of range`, after the table was read."""
    with pytest.raises(InvalidJob, match="None means no deadline"):
        due(_job(deadline=timedelta.max), end, NOW)


@pytest.mark.parametrize("deadline", [NOW, NOW - timedelta(seconds=1)])
def test_an_instant_that_has_passed_is_refused(deadline: datetime) -> None:
    with pytest.raises(DeadlinePassed, match="Nothing was sent"):
        due(_job(deadline=deadline), END, NOW)


# What schedulers and frames bring: relatives of the standard library's types, with an arithmetic of their own.
RELATIVES = [
    (pendulum.datetime(2026, 10, 25, 2, 30, 1, 7, tz="Europe/Paris", fold=1), datetime(2026, 10, 25, 1, 30, 1, 7, UTC)),
    (pd.Timestamp("2026-11-20T09:00:00.123456789+05:30"), datetime(2026, 11, 20, 3, 30, 0, 123_456, UTC)),
    (datetime(2026, 11, 20, 9, tzinfo=timezone(timedelta(hours=-5))), datetime(2026, 11, 20, 14, tzinfo=UTC)),
    (pendulum.duration(days=3_650, hours=9, microseconds=1), timedelta(days=3_650, hours=9, microseconds=1)),
    (pd.Timedelta("36h"), timedelta(hours=36)),
    (timedelta.max, timedelta.max),
    *[
        (text, timedelta(hours=26))
        for text in ("26h", "1d 2h", "1d2h", " 1 d 2 h ", "93600s", "1560min", "25h 60m", "PT26H", "P1DT2H", "1 day, 2:00:00")
    ],
    *[(text, timedelta(days=10, hours=12)) for text in ("10.5d", "1w 3.5d", "P10DT12H", "P1.5W")],
    ("2026-11-20T09:00+01:00", datetime(2026, 11, 20, 8, tzinfo=UTC)),
    ("2026-11-20 09:00Z", datetime(2026, 11, 20, 9, tzinfo=UTC)),
]


@pytest.mark.parametrize(("given", "expected"), RELATIVES)
def test_a_deadline_is_of_the_standard_library_whoever_made_it(given: Any, expected: Any) -> None:
    """A pendulum instant minus one of ours is no timedelta, and breaks far from where it came in."""
    kept = _job(deadline=given).deadline
    assert kept == expected
    assert type(kept) is type(expected)
    assert getattr(kept, "tzinfo", UTC) is UTC
