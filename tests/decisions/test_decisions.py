"""The policy, held over a few simulated days: what may never happen, and what must go well often enough.  `make decisions` prints the long run."""

from __future__ import annotations

from functools import cache

import pytest

from tests.decisions.simulate import Figures, Played, figures, play
from tests.decisions.world import World

pytestmark = pytest.mark.xdist_group("decisions")  # one worker's: it plays each simulation once


@cache
def _played(seed: int) -> Played:
    return play(World(seed, 300))


@pytest.fixture(params=(1, 2))
def keld(request: pytest.FixtureRequest) -> Figures:
    return figures(_played(request.param), "Keld")


@pytest.mark.share(2)
def test_no_ceiling_is_broken_and_no_row_is_paid_twice(keld: Figures) -> None:
    """Whatever the providers do."""
    assert (keld.breaches, keld.twice) == (0, 0)


@pytest.mark.share(2)
def test_deadlines_that_can_be_kept_are_kept(keld: Figures) -> None:
    """All ceilings and the first days, in which nothing is learned yet, included."""
    assert keld.kept_possible >= 0.98 * keld.possible


@pytest.mark.share(2)
def test_what_it_costs_is_near_what_it_costs_a_clairvoyant(keld: Figures) -> None:
    assert keld.cost <= 1.2


@pytest.mark.share(2)
def test_no_row_is_left_without_an_answer_where_the_ceiling_has_room(keld: Figures) -> None:
    assert keld.unanswered <= 0.01 * keld.runs


def test_nobody_who_cannot_see_the_future_keeps_more_for_less() -> None:
    """Those who keep about as many pay far more; those who pay less keep far fewer."""
    played = _played(1)
    keld = figures(played, "Keld")
    for name in played.runs:
        other = figures(played, name)
        assert name in ("Keld", "clairvoyant") or other.kept_possible < keld.kept_possible or other.cost > 1.3 * keld.cost
