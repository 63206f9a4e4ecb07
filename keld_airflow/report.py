"""Report: a task that writes a page about all job runs of a connection, and the link to the page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.sdk import BaseOperator, BaseOperatorLink

from keld import KeldError
from keld_airflow.hook import DEFAULT_CONN_ID, KeldHook

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import TaskInstanceKey

_MOST_DAYS = 36_500


class KeldReportLink(BaseOperatorLink):
    """The page, where people can open it; empty if its path is no web address."""

    name = "Keld report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        page: str = getattr(operator, "page", "")
        return page if page.startswith(("http://", "https://")) else ""


class KeldReportOperator(BaseOperator):
    """Writes the page of `keld report --html`; its XCom has the link and the sums.

    Args:
        path: of the page: a path that the worker can write, or a URI such as `s3://bucket/keld.html`.
        url: where people open it, if that is not the path: the address of the web server or bucket that serves it.
        by: what divides the days: team, project, category, job, model, provider, lane, or `tag:NAME`.
        days: how many days before today are on it; None: all there ever were.
        audit: a result of `keld audit --json`, to be shown beside: a path that the worker can read, or a URI.
        keld_conn_id: whose ledger to read, as of `KeldBatchOperator`.
    """

    template_fields: Sequence[str] = ("path", "url", "by", "audit", "keld_conn_id")
    operator_extra_links = (KeldReportLink(),)
    ui_color = "#e8e4f3"

    def __init__(
        self,
        *,
        path: str,
        url: str | None = None,
        by: str = "team",
        days: int | None = 30,
        audit: str | None = None,
        keld_conn_id: str = DEFAULT_CONN_ID,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if days is not None and (isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= _MOST_DAYS):
            raise ValueError(
                f"{self.task_id}: days={days!r} is not a number of days, from 1 to {_MOST_DAYS}. Give None for all there ever were."
            )
        self.path, self.url, self.by, self.days, self.audit = path, url, by, days, audit
        self.keld_conn_id = keld_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        try:
            with KeldHook(self.keld_conn_id).open() as keld:
                since = None if self.days is None else keld.clock().date() - timedelta(days=self.days)
                total = keld.write_report(self.path, by=self.by, since=since, audit=self.audit).total
        except KeldError as problem:
            raise (AirflowFailException if problem.permanent else AirflowException)(str(problem)) from None
        self.page = self.url or self.path
        return {"report": self.page} | total.to_json()
