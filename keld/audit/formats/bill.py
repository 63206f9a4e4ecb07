"""Bill: a cloud's bill, for what is paid in batches today: FOCUS (1.2 to 1.4, any vendor) and AWS's Cost and Usage Report.

Names of the FOCUS specification 1.4 and of CUR 2.0 (29 Nov 2026).  The words by which a bill tells a batch were not seen in a real one.
"""

from keld.audit.format import Format, needs

FOCUS = Format(
    name="focus",
    title="FOCUS cost and usage",
    needs=needs("ChargePeriodStart ChargePeriodEnd BilledCost ServiceName"),
    only={
        "ServiceCategory": frozenset(("ai and machine learning",)),
        "ChargeCategory": frozenset(("usage",)),
    },
    names={
        "at": ("ChargePeriodStart",),
        "end": ("ChargePeriodEnd",),
        "provider": ("ServiceProviderName", "ProviderName"),
        "model": ("SkuId", "SkuMeter", "ChargeDescription"),
        "service": ("SubAccountName", "SubAccountId", "BillingAccountId"),
        "job": ("Tags",),
        "operation": ("SkuPriceId", "ChargeDescription"),
        "tags": ("Tags",),
        "usd": ("EffectiveCost", "BilledCost"),
        "lane": ("SkuPriceDetails/x_Lane", "SkuMeter", "ChargeDescription"),
    },
    buckets=True,
)
CUR = Format(
    name="cur",
    title="AWS Cost and Usage Report",
    needs=needs("line_item_usage_start_date line_item_product_code line_item_usage_type line_item_unblended_cost"),
    only={
        "line_item_product_code": frozenset(("amazonbedrock", "amazonbedrockservice")),
        "line_item_line_item_type": frozenset(("usage", "discountedusage")),
    },
    names={
        "at": ("line_item_usage_start_date",),
        "end": ("line_item_usage_end_date",),
        "model": ("product/model", "line_item_usage_type"),
        "service": ("line_item_iam_principal", "line_item_usage_account_id"),
        "operation": ("line_item_operation", "line_item_usage_type"),
        "tags": ("resource_tags",),
        "usd": ("line_item_unblended_cost",),
        "lane": ("line_item_usage_type",),
    },
    buckets=True,
    provider="bedrock",
)
