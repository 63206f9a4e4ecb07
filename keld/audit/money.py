"""Money: what moving a group to batches is worth, net, from the price lists by kind of token; never a share of the bill.

    net = (1 - late) (A - B) - (again + twice) B - staging - operations

A is what the eligible calls cost now, B what the same tokens cost in the slower lane.  B has a range of its own: cached tokens that no batch hits
are plain input, and at 90 % hits that alone makes a batch cost more.  Money is `Decimal` USD; only the draws of the range are floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

import numpy as np

from keld.audit.group import Group
from keld.audit.prior import SHARES, Priors
from keld.audit.rate import ModelRates
from keld.audit.record import Floats, Ints
from keld.price import Lane, Rates, Usage
from keld.turnaround import turnaround

LEAST_DELAY = timedelta(hours=1)  # with less, a batch is not allowed
_SAFE_DELAY = timedelta(hours=6)  # with more, `late` is as assumed
_BYTES_A_TOKEN = 4
_COPIES = 2  # staged here, and at the provider
_DISCOUNTS = (Decimal("0.5"), Decimal("1.2"))  # logged against list: outside of it the log counts something else
_GB = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """What a group's calls in the standard lane cost, now and in the slower lane, for the time of the log.

    Args:
        now_usd: A.
        same_usd, none_usd: B, with the cache hits as now, and without any.
        lane: the slower lane.
        basis: where A is from, in words.
        cached: the share of the input that was read from the cache.
    """

    now_usd: Decimal
    same_usd: Decimal
    none_usd: Decimal
    lane: Lane
    basis: str
    cached: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """What moving a group saves in a month, its terms, and its range.

    Args:
        net_usd: with the means of the priors.
        no_hits_usd, same_hits_usd: if no cached token, or each, is found again.
        draws: net for each draw; of all groups the same draw is the same world.
    """

    now_usd: Decimal
    then_usd: Decimal
    late: Decimal
    again: Decimal
    twice: Decimal
    eligible: Decimal
    staging_usd: Decimal
    operations_usd: Decimal
    net_usd: Decimal
    no_hits_usd: Decimal
    same_hits_usd: Decimal
    draws: Floats

    def quantile(self, q: float) -> Decimal:
        return quantile(self.draws, q)


def quantile(draws: Floats, q: float) -> Decimal:
    return Decimal(str(round(float(np.quantile(draws, q)), 2)))


def net(
    now: Decimal,
    then: Decimal,
    late: Decimal = Decimal(0),
    again: Decimal = Decimal(0),
    twice: Decimal = Decimal(0),
    staging: Decimal = Decimal(0),
    operations: Decimal = Decimal(0),
) -> Decimal:
    """The formula of this file, exact.

    >>> net(Decimal(6750), Decimal(3375), Decimal("0.01"), Decimal("0.02"), Decimal("0.005"))
    Decimal('3256.875')
    """
    return (1 - late) * (now - then) - (again + twice) * then - staging - operations


def bill(group: Group, rates: ModelRates, *, flex: bool = False) -> Bill | str:
    """What the calls of a group cost now and would cost; why that is not known, in words, where it is not."""
    lane, slower = (Lane.FLEX, rates.flex) if flex else (Lane.BATCH, rates.batch)
    name = f"{group.key.provider}:{group.key.model}"
    if not group.key.model:
        return "the log does not name the model"
    if rates.standard is None:
        return f"no list has a price for {name}"
    if slower is None:
        return f"no list has a {lane} rate for {name}"
    tokens = {above: counts for (in_lane, above), counts in group.tokens.items() if in_lane is Lane.STANDARD}
    if not sum(counts.sum() for counts in tokens.values()):
        return "the log has no tokens"
    listed = _total(rates.standard, tokens, hits=True)
    scale, basis = _scale(group, listed)
    whole = sum((counts[0] for counts in tokens.values()), 0)
    return Bill(
        now_usd=listed * scale,
        same_usd=_total(slower, tokens, hits=True) * scale,
        none_usd=_total(slower, tokens, hits=False) * scale,
        lane=lane,
        basis=basis,
        cached=float(sum(counts[1] for counts in tokens.values()) / max(whole, 1)),
    )


def slower_usd(group: Group, rates: ModelRates) -> Decimal:
    """What a group's calls in the batch and flex lanes cost, for the time of the log: as logged, else at list prices, where there is either."""
    return sum((_lane_usd(group, lane, listed) for lane, listed in ((Lane.BATCH, rates.batch), (Lane.FLEX, rates.flex))), Decimal(0))


def _lane_usd(group: Group, lane: Lane, listed: Rates | None) -> Decimal:
    if listed is None or group.logged[lane] >= 0.99 * group.requests[lane]:
        return Decimal(str(round(group.logged_usd[lane], 9)))
    return _total(listed, {above: counts for (in_lane, above), counts in group.tokens.items() if in_lane is lane}, hits=True)


def _scale(group: Group, listed: Decimal) -> tuple[Decimal, str]:
    """What is paid for a dollar of the list, which holds in every lane, and the basis in words."""
    logged = Decimal(str(round(group.logged_usd[Lane.STANDARD], 9)))
    if not listed or group.logged[Lane.STANDARD] < 0.99 * group.requests[Lane.STANDARD] or not logged:
        return Decimal(1), "list prices; the log has no costs"
    ratio = logged / listed
    if not _DISCOUNTS[0] <= ratio <= _DISCOUNTS[1]:
        return Decimal(1), f"list prices; the logged ${logged:,.2f} is {ratio:.2f} times these, and is not used"
    return ratio, f"as logged, {ratio:.3f} times the list; the same factor is applied to the slower lane"


def _total(rates: Rates, tokens: dict[int, Ints], *, hits: bool) -> Decimal:
    return sum((rates.total(_usage(counts, hits=hits), above + 1) for above, counts in tokens.items()), Decimal(0))


def _usage(counts: Ints, *, hits: bool) -> Usage:
    whole, cached, written, written_1h, output = (int(one) for one in counts)
    if not hits:
        return Usage(input_tokens=whole, output_tokens=output)
    return Usage(
        input_tokens=whole, cached_tokens=cached, cache_write_tokens=written, cache_write_1h_tokens=written_1h, output_tokens=output
    )


def late_prior(priors: Priors, delay: timedelta | None, lane: Lane) -> tuple[float, float]:
    """The beta distribution of `late`; with a short acceptable delay, by how long the lane usually takes."""
    if delay is None or delay >= _SAFE_DELAY or lane is not Lane.BATCH:
        return priors.late
    chance = 1 - turnaround(lane).chance(delay)
    return max(100 * chance, 1.0), max(100 * (1 - chance), 1.0)


def staging_usd(group: Group, priors: Priors, given_gb: float | None, factor: float) -> Decimal:
    """USD a month for the bytes of the group's calls."""
    tokens = sum(int(counts[0] + counts[4]) for (lane, _), counts in group.tokens.items() if lane is Lane.STANDARD)
    gigabytes = tokens * _BYTES_A_TOKEN * _COPIES * factor / _GB if given_gb is None else given_gb
    return Decimal(str(round(gigabytes * priors.staging_usd_per_gb, 6)))


def saving(costs: Bill, priors: Priors, late: tuple[float, float], staging: Decimal, factor: float) -> Net:
    """What moving a group saves in a month.

    Args:
        factor: from the time of the log to a month.
    """
    month = Decimal(str(factor))
    assumed = Priors(**{name: getattr(priors, name) for name in Priors.__dataclass_fields__} | {"late": late})
    mean = {name: assumed.mean(name) for name in (*SHARES, "operations")}
    now, same, none = (one * month * mean["eligible"] for one in (costs.now_usd, costs.same_usd, costs.none_usd))

    def with_hits(kept: Decimal) -> Decimal:
        return none + kept * (same - none)

    def whole(then: Decimal) -> Decimal:
        return net(now, then, mean["late"], mean["again"], mean["twice"], staging, mean["operations"])

    return Net(
        now_usd=now,
        then_usd=with_hits(mean["kept"]),
        late=mean["late"],
        again=mean["again"],
        twice=mean["twice"],
        eligible=mean["eligible"],
        staging_usd=staging,
        operations_usd=mean["operations"],
        net_usd=whole(with_hits(mean["kept"])),
        no_hits_usd=whole(none),
        same_hits_usd=whole(same),
        draws=_draws(costs, assumed, float(staging), factor),
    )


def _draws(costs: Bill, priors: Priors, staging: float, factor: float) -> Floats:
    drawn = {name: priors.draws(name) for name in (*SHARES, "operations")}
    scale = drawn["eligible"] * factor
    now = float(costs.now_usd) * scale
    then = (float(costs.none_usd) + drawn["kept"] * float(costs.same_usd - costs.none_usd)) * scale
    return (1 - drawn["late"]) * (now - then) - (drawn["again"] + drawn["twice"]) * then - staging - drawn["operations"]
