"""Money: the arithmetic by hand, from the price lists, by kind of token; a cache may turn the sign."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from keld import Lane
from keld.audit.capacity import Fleet, replicas, saved_usd
from keld.audit.group import Group, Key
from keld.audit.money import Bill, bill, late_prior, net, saving
from keld.audit.prior import Priors
from keld.audit.rate import RateBook

NOW = datetime(2026, 11, 29, tzinfo=UTC)
LATE = {"late": Decimal("0.01"), "again": Decimal("0.02"), "twice": Decimal("0.005")}


def _bill(name: str, calls: int, tokens: tuple[int, int, int, int, int], own: Any = None) -> Bill:
    """Of so many calls with the same tokens: (input, cached, written, written for an hour, output)."""
    account, _, model = name.partition(":")
    found = Group(Key("", "", account, model, "", ""))
    found.requests[Lane.STANDARD] = calls
    found.tokens = defaultdict(lambda: np.zeros(5, dtype=np.int64), {(Lane.STANDARD, 0): np.array(tokens, dtype=np.int64) * calls})
    costs = bill(found, RateBook(NOW, own).of(account, model))
    assert isinstance(costs, Bill), costs
    return costs


def _split(costs: Bill, share: str) -> tuple[Decimal, Decimal]:
    return costs.now_usd * Decimal(share), costs.none_usd * Decimal(share)


def test_a_million_calls_of_a_cent_of_which_sixty_in_a_hundred_can_wait() -> None:
    """$10,000 become $7,000."""
    costs = _bill("openai:gpt-5-mini", 1_000_000, (8_000, 0, 0, 0, 4_000))
    assert costs.now_usd == 10_000
    now, then = _split(costs, "0.6")
    assert costs.now_usd - net(now, then) == 7_000
    assert net(now, then, **LATE) == Decimal("2895")


def test_half_a_million_calls_of_claude_sonnet() -> None:
    """$6,750 become $3,375, $40,500 a year."""
    costs = _bill("anthropic:claude-sonnet-4-5", 500_000, (2_000, 0, 0, 0, 500))
    assert (costs.now_usd, costs.none_usd) == (6_750, 3_375)
    assert net(costs.now_usd, costs.none_usd) * 12 == 40_500
    assert net(costs.now_usd, costs.none_usd, **LATE) == Decimal("3256.875")


@pytest.mark.parametrize(
    ("spent", "share", "months", "saved", "realistic"),
    [(1_000_000, "0.5", 1, 250_000, 241_250), (500_000, "0.4", 12, 1_200_000, 1_158_000)],
)
def test_a_share_of_a_large_bill(spent: int, share: str, months: int, saved: int, realistic: int) -> None:
    now = spent * Decimal(share)
    assert net(now, now / 2) * months == saved
    assert net(now, now / 2, **LATE) * months == realistic


def test_twenty_times_needs_rates_of_ten_to_one_and_the_list_has_others() -> None:
    """The list gives 10 times from Opus 4.8 to Haiku 4.5 in batches, and 100 times to Haiku 5.5."""
    tokens = (1_000, 0, 0, 0, 1_000)
    own = {"mine:large": {"input": 10, "output": 10}, "mine:small": {"input": 1, "output": 1}}
    # An own price holds in every lane; the batch discount of a half is put on top.
    assert _bill("mine:large", 1, tokens, own).now_usd / (_bill("mine:small", 1, tokens, own).now_usd / 2) == 20
    large = _bill("anthropic:claude-opus-4-8", 1, tokens).now_usd
    assert large / _bill("anthropic:claude-haiku-4-5", 1, tokens).none_usd == 10


@pytest.mark.parametrize(
    ("name", "same", "none"),
    [
        ("openai:gpt-4.1", "0.25", "-0.26"),
        ("openai:gpt-5-mini", "0.50", "-0.44"),
        ("anthropic:claude-sonnet-4-5", "0.50", "-0.69"),
        ("gemini:gemini-2.5-flash", "0.40", "-0.42"),
    ],
)
def test_with_ninety_in_a_hundred_cache_hits_a_batch_without_any_costs_more(name: str, same: str, none: str) -> None:
    costs = _bill(name, 1, (10_000, 9_000, 0, 0, 300))
    assert round((costs.now_usd - costs.same_usd) / costs.now_usd, 2) == Decimal(same)
    assert round((costs.now_usd - costs.none_usd) / costs.now_usd, 2) == Decimal(none)


def test_the_range_holds_what_is_assumed_and_is_the_same_every_time() -> None:
    """27,000 calls of $364.50: $154, from $140 to $166."""
    costs = _bill("anthropic:claude-sonnet-4-5", 27_000, (2_000, 0, 0, 0, 500))
    found = saving(costs, Priors(), Priors().late, Decimal("0.52"), 1.0)
    assert costs.now_usd == Decimal("364.5")
    assert [float(found.quantile(q)) for q in (0.1, 0.5, 0.9)] == pytest.approx([140, 154, 166], abs=1.5)
    assert round(found.net_usd) == 154
    again = saving(costs, Priors(), Priors().late, Decimal("0.52"), 1.0)
    assert (found.draws == again.draws).all()


def test_cached_tokens_widen_the_range_down_to_the_case_of_no_hits() -> None:
    costs = _bill("anthropic:claude-sonnet-4-5", 27_000, (10_000, 9_000, 0, 0, 300))
    found = saving(costs, Priors(), Priors().late, Decimal(0), 1.0)
    assert costs.cached == pytest.approx(0.9)
    assert found.no_hits_usd < 0 < found.same_hits_usd
    assert found.quantile(0.1) < 0 < found.quantile(0.9)


def test_a_price_that_no_list_has_is_not_counted() -> None:
    group = Group(Key("", "", "vllm", "our-own", "", ""))
    group.tokens[Lane.STANDARD, 0] += np.array([10, 0, 0, 0, 10], dtype=np.int64)
    assert bill(group, RateBook(NOW).of("vllm", "our-own")) == "no list has a price for vllm:our-own"


def test_what_must_be_back_soon_is_late_more_often() -> None:
    """The chance that a batch is back in two hours is that of the turnaround, not of the prior."""
    a, b = late_prior(Priors(), timedelta(hours=2), Lane.BATCH)
    assert a / (a + b) > 0.1
    assert late_prior(Priors(), timedelta(hours=12), Lane.BATCH) == Priors().late


HOURS = np.arange(24)
PEOPLE = np.where((HOURS >= 6) & (HOURS < 22), 3.0, 1.0)


@pytest.mark.parametrize(
    ("hours", "load", "fleet", "less", "costs"),
    [
        (range(1, 5), 2.0, "fixed", 0, 410),
        (range(1, 5), 2.0, "autoscaled", 973, 410),
        (range(9, 15), 2.4, "fixed", 11_680, 737),
        (range(9, 15), 2.4, "autoscaled", 2_918, 737),
    ],
)
def test_machines_of_ones_own_are_saved_in_whole_replicas_only(hours: range, load: float, fleet: Any, less: int, costs: int) -> None:
    """An endpoint that must stay warm for the same peak saves nothing."""
    own = np.where(np.isin(HOURS, list(hours)), load, 0.0)
    found = saved_usd(PEOPLE, own, Fleet(name="", capacity=1, price_per_hour=4, spot_price=1.6, fleet=fleet))
    assert tuple(map(round, found)) == (less, costs)
    assert replicas(np.array([3.0]))[0] == 4
