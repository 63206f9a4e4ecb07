"""Decorator: `@task.keld_batch`, the operator with the rows given by the function below it.

    @task.keld_batch(job=labels, sink="s3://lake/labels/{partition}.parquet")
    def label(partition_key=None):
        return duckdb.sql(f"select * from tickets where day = '{partition_key}'").arrow()

The function is called on a worker, and only if something must be sent.  What it returns goes to staging, not to Airflow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from airflow.providers.common.compat.sdk import determine_kwargs
from airflow.sdk import Context
from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, task_decorator_factory

from keld_airflow.hidden import HiddenRowsField, unwrap
from keld_airflow.operator import KeldBatchOperator
from keld_airflow.terms import TermsTask


class KeldBatchDecoratedOperator(DecoratedOperator, KeldBatchOperator):
    """See the module's header."""

    custom_operator_name = "@task.keld_batch"
    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, "sink", *TermsTask.template_fields)
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        **TermsTask.template_fields_renderers,
    }

    op_args = HiddenRowsField()
    op_kwargs = HiddenRowsField()

    def __init__(self, *, python_callable: Callable[..., Any], **kwargs: Any) -> None:
        super().__init__(python_callable=python_callable, kwargs_to_upstream={"source": python_callable}, **kwargs)

    def _rows(self, context: Context) -> Any:
        args, given = unwrap(self.op_args), {**context, **unwrap(self.op_kwargs)}
        return self.python_callable(*args, **determine_kwargs(self.python_callable, args, given))


def keld_batch_task(python_callable: Callable[..., Any] | None = None, **kwargs: Any) -> TaskDecorator:
    """`@task.keld_batch(...)`; its arguments are `KeldBatchOperator`'s, without `source`."""
    # Airflow would take this from the function's annotation; but what the function returns are rows.
    return task_decorator_factory(
        python_callable=python_callable, decorated_operator_class=KeldBatchDecoratedOperator, **{"multiple_outputs": False, **kwargs}
    )
