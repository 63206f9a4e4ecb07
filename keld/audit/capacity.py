"""Capacity: what machines of one's own save when a group moves away from the peak: whole replicas, or nothing.

An endpoint that must stay warm for the same peak saves nothing, however much work leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal

import numpy as np

from keld.audit.record import Floats
from keld.errors import InvalidJob

_FULL = 0.75  # of its capacity, a replica that serves people is used
_BATCH_FULL = 0.95
_DAYS = 30.4  # of a month
_HOURS = 730  # of a month


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Machines that serve one or more groups.

    Args:
        name: groups with the same name share them.
        capacity: of one replica, in tokens a second.
        price_per_hour, spot_price: of one replica, in USD; the second is what a batch pays.
        fleet: `fixed`: as many as the peak needs, all month; `autoscaled`: as many as each hour needs.
    """

    name: str
    capacity: float
    price_per_hour: float
    spot_price: float
    fleet: Literal["fixed", "autoscaled"] = "fixed"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Fleet:
        """Raises:
        InvalidJob: a value is missing or not valid.
        """
        kind = given.get("fleet", "fixed")
        missing = [name for name in ("capacity", "price_per_hour") if not isinstance(given.get(name), int | float)]
        if missing or kind not in ("fixed", "autoscaled"):
            raise InvalidJob(
                "capacity needs capacity (tokens a second of a replica) and price_per_hour (USD), and fleet = fixed or autoscaled."
            )
        price = float(given["price_per_hour"])
        return cls(
            name=str(given.get("name", "")),
            capacity=float(given["capacity"]),
            price_per_hour=price,
            spot_price=float(given.get("spot_price", price)),
            fleet=kind,
        )


def replicas(load: Floats) -> Floats:
    """Whole replicas for each hour's load, which is in replicas that are used to the full."""
    return np.array([ceil(round(one / _FULL, 9)) for one in load], dtype=np.float64)


def saved_usd(others: Floats, own: Floats, fleet: Fleet) -> tuple[float, float]:
    """(USD a month that machines cost less, USD that the batch costs) if `own` leaves and `others` stay.

    Args:
        others, own: the load of each hour of a day or a week, in full replicas.
    """
    before, after = replicas(others + own), replicas(others)
    days = _DAYS / (len(own) / 24)
    if fleet.fleet == "fixed":
        less = float(before.max() - after.max()) * _HOURS * fleet.price_per_hour
    else:
        less = float((before - after).sum()) * days * fleet.price_per_hour
    return less, float(own.sum()) * days / _BATCH_FULL * fleet.spot_price
