"""Record: the nouns of the other side: a row, a batch, a line of the bill."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

# USD per million tokens: what a job says its model costs, and what is billed.
PRICES = {"input": 2, "cached": 2, "cache_write": 2, "cache_write_1h": 2, "output": 10}


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a batch."""

    custom_id: str
    prompt: str
    said: str
    input_tokens: int
    output_tokens: int

    @property
    def usd(self) -> Decimal:
        return (Decimal(PRICES["input"]) * self.input_tokens + Decimal(PRICES["output"]) * self.output_tokens) / 10**6


@dataclass(slots=True)
class Batch:
    """One batch."""

    id: str
    at: datetime
    rows: list[Row]
    endpoint: str
    input_id: str | None = None
    metadata: Any = None
    token: str | None = None  # a create with the same one makes no second batch
    cancelled_at: datetime | None = None
    others: bool = False  # another customer's
    fetched: int = 0


@dataclass(frozen=True, slots=True)
class Purchase:
    """What a create asks for."""

    rows: list[Row]
    endpoint: str
    input_id: str | None = None
    metadata: Any = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the bill."""

    batch_id: str | None
    custom_id: str | None
    prompt: str
    usd: Decimal
