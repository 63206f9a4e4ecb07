"""Report: an asset that writes a page about all job runs of a code location, day by day."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from keld_dagster.metadata import money

if TYPE_CHECKING:
    from keld import Spend
    from keld_dagster.resource import KeldResource

_WEB = ("http://", "https://")


def build_report_asset(
    path: str | os.PathLike[str],
    *,
    url: str | None = None,
    name: str = "keld_report",
    by: str = "team",
    days: int | None = 30,
    audit: str | os.PathLike[str] | None = None,
    cron: str | None = "0 6 * * *",
    cron_timezone: str = "UTC",
    key_prefix: str | Sequence[str] | None = None,
    group_name: str | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    resource_key: str = "keld",
) -> dg.AssetsDefinition:
    """An asset whose materialisation writes the page of `keld report --html`, with a link to it in its metadata.

    Args:
        path: of the page: a local path, or a URI such as `s3://bucket/keld.html`.
        url: where people open it, if that is not the path: the address of the web server or bucket that serves it.
        by: what divides the days: team, project, category, job, model, provider, lane, or `tag:NAME`.
        days: how many days before today are on it; None: all there ever were.
        audit: a result of `keld audit --json`, to be shown beside: a local path or a URI.
        cron: when it is written by itself, as its automation condition; None: only when somebody asks.
        key_prefix, group_name, owners, tags: as of `dg.asset`.
        resource_key: of the `KeldResource` whose ledger is read.
    """

    @dg.asset(
        name=name,
        key_prefix=key_prefix,
        group_name=group_name,
        owners=owners,
        tags=tags,
        kinds={"keld", "html"},
        description="What LLM batches cost and saved, which deadlines were kept, how long lanes took: one page.",
        automation_condition=None if cron is None else dg.AutomationCondition.on_cron(cron, cron_timezone),
        required_resource_keys={resource_key},
    )
    def keld_report(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        resource: KeldResource = getattr(context.resources, resource_key)
        keld = resource.get()
        since = None if days is None else keld.clock().date() - timedelta(days=days)
        total = keld.write_report(path, by=by, since=since, audit=audit).total
        return dg.MaterializeResult(metadata=_metadata(_link(url or os.fspath(path)), total))

    return keld_report


def _link(place: str) -> dg.MetadataValue[Any]:
    if place.startswith(_WEB):
        return dg.MetadataValue.url(place)
    return dg.MetadataValue.path(place if "://" in place else str(Path(place).absolute()))


def _metadata(link: dg.MetadataValue[Any], total: "Spend") -> dict[str, Any]:
    """The link, and the sums; numbers are plotted by Dagster, a point for each day that the page was written."""
    return {
        "keld/report": link,
        "keld/cost": f"{money(total.paid_usd)} of {money(total.standard_usd)} at standard price",
        "keld/cost_usd": round(float(total.paid_usd), 6),
        "keld/saved_usd": round(float(total.saved_usd), 6),
        "keld/in_flight_usd": round(float(total.in_flight_usd), 6),
        "keld/paid_twice_usd": round(float(total.twice_usd), 6),
        "keld/job_runs": total.job_runs,
    }
