"""The README's example and the example project's Dags, read as Airflow reads them."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_example_in_the_readme_is_a_dag_with_one_task() -> None:
    """A newcomer copies it first; it must load."""
    found = re.search(r"## In Airflow\n\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found is not None
    from airflow.sdk import DAG

    names: dict[str, Any] = {}
    exec(found[1].replace("with DAG(", "with (dag := DAG(", 1).replace("max_active_runs=16):", "max_active_runs=16)):", 1), names)
    dag: DAG = names["dag"]
    [task] = dag.tasks
    assert (dag.dag_id, task.task_id, task.job.name) == ("ticket_labels", "label", "ticket_labels")
    assert task.job.acceptable == ("anthropic:claude-haiku-4-5", "openai:gpt-5-mini")


def test_the_example_projects_dags_are_the_two_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.syspath_prepend(ROOT)
    bag = DagBag(ROOT / "example_project" / "dags")
    assert bag.import_errors == {}
    assert {dag_id: sorted(dag.task_ids) for dag_id, dag in bag.dags.items()} == {
        "ticket_triage": ["tickets", "triage"],
        "ticket_embeddings": ["embed"],
    }
