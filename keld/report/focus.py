"""Focus: the cost lines as rows of FOCUS 1.4, Cost and Usage (https://focus.finops.org, read 2026-11-29).

One row for each job run, account, model, lane and kind of token.  The price of each kind is not in the ledger, only what all of them cost together,
so the kinds are told apart only where list price times tokens gives the ledger's sums to the pico-dollar.  Where it does not (requests in a bracket of
long contexts, a host that is paid by the hour, a price list that has changed since), the cost line is one row whose unit is the job run: quantity 1, at a
price of its own.  So the sum of EffectiveCost is always what `keld spend` says was paid.

It is an estimate on the client's side from reported usage, not the provider's invoice.  FOCUS has no column for what the same tokens cost in
another lane: ListCost is the standard lane's price here, and `x_ListBasis` says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa

from keld.ledger import CostLine, JobRun
from keld.price import Bracket, Lane
from keld.report.book import Book, RatesOf
from keld.report.cell import cell

_NUMBERS = (
    "BilledCost",
    "ConsumedQuantity",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "ListCost",
    "ListUnitPrice",
    "PricingQuantity",
)
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingAccountType", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart",
    "ChargeCategory", "ChargeClass", "ChargeDescription", "ChargeFrequency", "ChargePeriodEnd", "ChargePeriodStart", "ConsumedQuantity",
    "ConsumedUnit", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "HostProviderName", "InvoiceIssuerName", "ListCost", "ListUnitPrice",
    "PricingCategory", "PricingQuantity", "PricingUnit", "ServiceCategory", "ServiceName", "ServiceProviderName", "ServiceSubcategory", "SkuId",
    "SkuMeter", "SkuPriceDetails", "SkuPriceId", "SubAccountId", "SubAccountName", "Tags", "x_CostBasis", "x_Job", "x_JobRun", "x_Lane", "x_ListBasis",
    "x_Model", "x_Namespace", "x_Partition",
)  # fmt: skip
_COST_BASIS = "client-side estimate from the usage that the provider reported, at list prices; not an invoice"
_LIST_BASIS = "the same tokens in the provider's standard lane"
_PER_MTOK = Decimal(10) ** 6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A part of a cost line: so many units at a price each, in USD, and at what each costs in the standard lane.

    Args:
        kind: of token; or `all`, where kinds cannot be told apart; or `twice`, for rows that were paid a second time.
        tokens: of the part; None: unknown.
    """

    kind: str
    what: str
    quantity: int
    unit: str
    price: Decimal
    standard_price: Decimal
    tokens: int | None

    @property
    def usd(self) -> Decimal:
        return self.price * self.quantity

    @property
    def standard_usd(self) -> Decimal:
        return self.standard_price * self.quantity


def focus_table(book: Book, rates_of: RatesOf) -> pa.Table:
    """The rows of a book; every column is text, as FOCUS writes numbers and instants, null where there is no value."""
    rows = [row for line in book.cost_lines for row in _rows(book.runs[line.run_id], line, rates_of)]
    return pa.Table.from_arrays(
        [pa.array([_text(name, row.get(name)) for row in rows], type=pa.string()) for name in COLUMNS], names=list(COLUMNS)
    )


def _rows(run: JobRun, line: CostLine, rates_of: RatesOf) -> Iterator[Mapping[str, object]]:
    whose = _whose(run, line)
    for part in (*_parts(run, line, rates_of), *_twice(line)):
        yield whose | _charge(run, line, part)


def _parts(run: JobRun, line: CostLine, rates_of: RatesOf) -> list[_Part]:
    """The kinds of tokens of a cost line if they add up to it, else all of it as one part."""
    paid = line.paid_usd - line.twice_usd
    name = f"{line.provider}:{line.model}"
    mine = rates_of(name, Lane(line.lane), run.created_at, run.terms.prices) if line.model else None
    standard = rates_of(name, Lane.STANDARD, run.created_at, run.terms.prices) if line.model else None
    if mine is not None and standard is not None:
        for write in ("cache_write", "cache_write_1h"):
            parts = _by_kind(line, mine.base, standard.base, write)
            if (sum(part.usd for part in parts), sum(part.standard_usd for part in parts)) == (paid, line.standard_usd):
                return parts
    if not (paid or line.standard_usd):
        return []
    return [_whole("all", "tokens of all kinds", paid, line.standard_usd, line.input_tokens + line.output_tokens)]


def _by_kind(line: CostLine, mine: Bracket, standard: Bracket, write: str) -> list[_Part]:
    tokens = {
        "input": line.input_tokens - line.cached_tokens - line.cache_write_tokens,
        "cached": line.cached_tokens,
        write: line.cache_write_tokens,
        "output": line.output_tokens,
    }
    return [
        _Part(
            kind=kind,
            what=f"{kind.replace('_', ' ')} tokens",
            quantity=count,
            unit="Tokens",
            price=getattr(mine, kind) / _PER_MTOK,
            standard_price=getattr(standard, kind) / _PER_MTOK,
            tokens=count,
        )
        for kind, count in tokens.items()
        if count
    ]


def _twice(line: CostLine) -> list[_Part]:
    """What was paid a second time: a cost without a standard price, so that it lessens what was saved."""
    return [_whole("twice", "rows paid a second time", line.twice_usd, Decimal(0), None)] if line.twice_usd else []


def _whole(kind: str, what: str, usd: Decimal, standard_usd: Decimal, tokens: int | None) -> _Part:
    return _Part(kind=kind, what=what, quantity=1, unit="Job Runs", price=usd, standard_price=standard_usd, tokens=tokens)


def _whose(run: JobRun, line: CostLine) -> dict[str, object]:
    day = run.created_at.date()
    month = day.replace(day=1)
    project = run.tags.get("project")
    return {
        "BillingAccountId": line.provider,
        "BillingAccountName": line.provider,
        "BillingAccountType": "Provider account",
        "BillingCurrency": "USD",
        "BillingPeriodStart": month,
        "BillingPeriodEnd": (month + timedelta(days=31)).replace(day=1),
        "ChargePeriodStart": day,
        "ChargePeriodEnd": day + timedelta(days=1),
        "HostProviderName": line.provider,
        "InvoiceIssuerName": line.provider,
        "ServiceProviderName": line.provider,
        "ServiceName": f"{line.provider} API",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "SubAccountId": project,
        "SubAccountName": project,
        "Tags": json.dumps({name: str(value) for name, value in run.tags.items()}, sort_keys=True),
        "x_CostBasis": _COST_BASIS,
        "x_Job": run.job,
        "x_JobRun": run.id,
        "x_Lane": line.lane,
        "x_ListBasis": _LIST_BASIS,
        "x_Model": line.model,
        "x_Namespace": run.namespace,
        "x_Partition": run.partition or None,
    }


def _charge(run: JobRun, line: CostLine, part: _Part) -> dict[str, object]:
    by_token = part.unit == "Tokens"
    sku = f"{line.provider}/{line.model}/{part.kind}"
    return {
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargeDescription": f"{line.model}, {line.lane} lane: {part.what}",
        "BilledCost": part.usd,
        "EffectiveCost": part.usd,
        "ContractedCost": part.usd,
        "ListCost": part.standard_usd,
        "ConsumedQuantity": part.tokens,
        "ConsumedUnit": None if part.tokens is None else "Tokens",
        "PricingQuantity": part.quantity,
        "PricingUnit": part.unit,
        "PricingCategory": "Standard" if by_token else "Other",
        "ContractedUnitPrice": part.price,
        "ListUnitPrice": part.standard_price,
        "SkuId": sku,
        "SkuMeter": part.what.capitalize(),
        "SkuPriceId": f"{sku}/{line.lane}" if by_token else f"{sku}/{line.lane}/{run.id}",
        "SkuPriceDetails": json.dumps({"x_Lane": line.lane, "x_TokenKind": part.kind}),
    }


def _text(name: str, value: object) -> str | None:
    match value:
        case None:
            return None
        case Decimal():
            return f"{value.normalize():f}" if value else "0"
        case datetime():
            return f"{value:%Y-%m-%dT%H:%M:%SZ}"
        case date():
            return f"{value:%Y-%m-%d}T00:00:00Z"
        case _:
            return str(value) if name in _NUMBERS else cell(str(value))
