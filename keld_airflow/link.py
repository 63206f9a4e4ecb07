"""Link: the page of a task's batch at its provider, one click from the task instance.

Airflow calls it when a task has deferred or ended, on the worker, where the operator knows its batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class KeldBatchLink(BaseOperatorLink):
    """The page of the first batch that has one; empty if the provider has no such pages."""

    name = "Keld batch"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        return getattr(operator, "batch_page", None) or ""
