"""Rate: what a model costs in each lane today, looked up once for each model of a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from keld.audit.provider import price_list_of
from keld.audit.record import Ints
from keld.price import Lane, Rates
from keld.pricing import Listed, rates


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRates:
    """The rates of one model; None: no list has them for the lane."""

    standard: Rates | None
    batch: Rates | None
    flex: Rates | None

    @property
    def thresholds(self) -> tuple[int, ...]:
        """The numbers of input tokens above which requests cost more, in any of the lanes; begins with 0."""
        known = [one for one in (self.standard, self.batch, self.flex) if one is not None]
        return tuple(sorted({0} | {bracket.above for one in known for bracket in one.brackets}))

    def level(self, tokens: Ints) -> Ints:
        """For each request the position in `thresholds` of its bracket."""
        return np.searchsorted(np.array(self.thresholds[1:], dtype=np.int64), tokens, side="left").astype(np.int64)


class RateBook:
    """The price lists, on one day.

    Args:
        own: USD per million tokens for models that no list has, as `Job.prices`, by `account:model`.
    """

    def __init__(self, day: datetime, own: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._day, self._own = day, own
        self._known: dict[tuple[str, str], ModelRates] = {}

    def of(self, account: str, model: str) -> ModelRates:
        found = self._known.get((account, model))
        if found is None:
            found = ModelRates(**{lane.value: self._one(account, model, lane) for lane in Lane})
            self._known[account, model] = found
        return found

    def _one(self, account: str, model: str, lane: Lane) -> Rates | None:
        if not account or not model:
            return None
        for prices in dict.fromkeys((account, price_list_of(account))):
            listed = Listed(names=tuple(dict.fromkeys((model, _plain(model)))))
            found = rates(prices, model, lane, self._day, self._own, account=account, listed=listed)
            if found is not None:
                return found
        return None


def _plain(model: str) -> str:
    """The name without a cloud's version, as lists of other vendors have it."""
    return model.partition("@")[0]
