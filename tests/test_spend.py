"""The spend report: every line adds up, by whatever people ask."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_status import NOW, RUN

from keld.spend import DIMENSIONS, spend
from keld.status import Status, status_of


def _status(**run: Any) -> Status:
    return status_of(replace(RUN, **run), [], NOW)


@pytest.mark.parametrize(
    ("by", "group"),
    [
        ("job", "labels"), ("partition", "2026-11-19"), ("model", "openai:m"), ("provider", "openai"), ("lane", "batch"), ("day", "2026-11-20"),
        ("tag:team", "support"), ("tag:nobody", "-"),
    ],
)  # fmt: skip
def test_a_line_is_named_by_what_was_asked_for(by: str, group: str) -> None:
    assert [line.group for line in spend([_status()], by)] == [group]


@pytest.mark.parametrize("by", ["model", "provider", "lane"])
def test_where_nothing_had_to_be_asked_there_is_no_model(by: str) -> None:
    assert [line.group for line in spend([_status(plan={"model": None})], by)] == ["-"]


def test_job_runs_of_one_group_are_summed() -> None:
    statuses = [_status(answered=3, failed=1), _status(partition="2026-11-20", answered=4, reserved_usd=Decimal("0.5"))]
    [line] = spend(statuses, "job")
    assert (line.job_runs, line.rows, line.answered, line.failed) == (2, 40, 7, 1)
    assert (line.paid_usd, line.in_flight_usd, line.standard_usd, line.saved_usd) == (
        Decimal("0.5"),
        Decimal("0.5"),
        Decimal(1),
        Decimal("0.5"),
    )


def test_the_dearest_comes_first() -> None:
    statuses = [_status(job="a"), _status(job="b", spent_usd=Decimal(9)), _status(job="c")]
    assert [line.group for line in spend(statuses, "job")] == ["b", "a", "c"]


def test_no_job_runs_make_no_lines() -> None:
    assert spend([], "job") == []


@given(
    costs=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.decimals(0, 100, places=12)), max_size=20),
    by=st.sampled_from(sorted(DIMENSIONS)),
)
def test_however_it_is_cut_the_total_is_the_same(costs: list[tuple[str, int, Decimal]], by: str) -> None:
    statuses = [_status(job=job, created_at=RUN.created_at + timedelta(days=day), spent_usd=usd) for job, day, usd in costs]
    assert sum(line.paid_usd for line in spend(statuses, by)) == sum(usd for _, _, usd in costs)
