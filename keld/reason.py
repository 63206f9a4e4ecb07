"""Reason: why the chosen option uses the prompt cache as it does, and whether a row goes ahead of the others, in a sentence with numbers.

On the road: `plan` -> **`reason`** -> what `keld plan` shows.  Pure; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from keld.plan import Option
from keld.price import Lane


def reason(chosen: Option | None, options: Sequence[Option]) -> str:
    """One or two sentences; "" if no cache and no row ahead was to be considered.

    Args:
        options: all that were compared, the chosen one among them.
    """
    if chosen is None:
        return ""
    return " ".join(filter(None, (_order(chosen), _cache(chosen), _other_lane(chosen, options))))


def _order(chosen: Option) -> str:
    match chosen.ahead:
        case None:
            return ""
        case Lane.BATCH:
            return "One row goes ahead as a batch of one, and the others follow when it has ended."
        case _:
            return f"One row goes ahead in the {chosen.ahead.value} lane, and the others follow when it is answered."


def _cache(chosen: Option) -> str:
    """What is expected of the prompt cache, and what the same rows would cost without it, or with it."""
    ttl, cost, plain = chosen.cache.ttl, _usd(chosen.expected_usd), _usd(chosen.unmarked_usd)
    if ttl is not None and chosen.cache.warm:
        had = f"An earlier batch wrote what all prompts begin with, and the prompt cache still has it ({ttl.value})"
        return f"{had}: {chosen.cache.hits:.0%} of the rows are expected to read it, {cost} instead of {plain} without marks."
    if ttl is not None:
        said = f"What all prompts begin with is marked for the prompt cache ({ttl.value})"
        return (
            f"{said}: {chosen.cache.hits:.0%} of the rows after the first are expected to read it, {cost} instead of {plain} without marks."
        )
    if chosen.marked_usd is None or chosen.lane is not Lane.BATCH or chosen.marked_usd <= (chosen.unmarked_usd or 0):
        return ""
    return (
        "What all prompts begin with is not marked for the prompt cache: rows of one batch do not see what the others write, so with marks "
        f"they would cost {_usd(chosen.marked_usd)} instead of {plain}{_primed(chosen)}."
    )


def _primed(chosen: Option) -> str:
    """What one row ahead would change."""
    instead = chosen.instead
    if instead is None or instead.ahead is not Lane.BATCH or instead.cache.ttl is None:
        return ""
    chances = (
        ""
        if instead.chance is None or chosen.chance is None
        else f" and keep the deadline with {instead.chance:.1%}, not {chosen.chance:.1%}"
    )
    return f"; with one row ahead they would cost {_usd(instead.total_usd)}{chances}"


def _other_lane(chosen: Option, options: Sequence[Option]) -> str:
    """Why a lane whose rates are higher is expected to cost less than the batch."""
    batch = next(
        (option for option in options if _same_model(option, chosen) and option.lane is Lane.BATCH and option.obstacle is None), None
    )
    if batch is None or chosen.lane is Lane.BATCH or not chosen.usage.cached_tokens or batch.total_usd <= chosen.total_usd:
        return ""
    share = batch.usage.cached_tokens / max(batch.usage.input_tokens, 1)
    return f"A batch would cost {_usd(batch.total_usd)}, since {share:.0%} of its input is expected from the cache."


def _same_model(one: Option, other: Option) -> bool:
    return (one.provider, one.model) == (other.provider, other.model)


def _usd(amount: Decimal | None) -> str:
    return "an unknown amount" if amount is None else f"${amount:,.4f}"
