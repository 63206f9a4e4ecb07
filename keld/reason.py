"""Reason: why the chosen option uses the prompt cache as it does, and whether a row goes ahead of the others, in a sentence with numbers.

On the road: `plan` -> **`reason`** -> what `keld plan` shows.  Pure; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from keld.plan import Option
from keld.price import Lane

_PREMIUM = {"5m": "1.25 times", "30m": "1.25 times", "1h": "twice"}


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
    """What is expected of the prompt cache, and what the same rows would cost in the next best way."""
    ttl, plain, instead = chosen.cache.ttl, chosen.unmarked_usd, chosen.instead
    if ttl is not None:
        had = "of an earlier batch is still in the prompt cache" if chosen.cache.warm else "is marked for the prompt cache"
        return (
            f"What the prompts begin with {had} ({ttl.value}); {chosen.cache.hits:.0%} of the rows "
            f"{'' if chosen.cache.warm else 'after the first '}are expected to read it: {_usd(chosen.expected_usd)} instead of {_usd(plain)} without marks."
        )
    if chosen.ahead is None and instead is not None and instead.cache.ttl is not None:
        mark = instead.cache.ttl.value
        why = (
            f"would keep the deadline with {instead.chance:.1%} instead of {chosen.chance:.1%}"
            if instead.chance is not None and chosen.chance is not None and instead.total_usd < chosen.total_usd
            else f"would cost {_usd(instead.total_usd)} instead of {_usd(chosen.total_usd)}, what a rescue may cost included"
        )
        return (
            f"What the prompts begin with is not marked for the prompt cache: rows of one batch do not see what others write, which costs "
            f"{_PREMIUM[mark]} the input; with one row ahead it {why}."
        )
    return ""


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
