"""The examples in README and docs/ and the example project's Dags, read as Airflow reads them."""

import re
import sys
import threading
import urllib.error
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.edges.airflow.airflow_worker import since
from tests.support.documents import DOCS, ROOT, blocks


@since("3.2")
@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "how-to" / "airflow.md"], ids=["README", "how-to"])
def test_an_example_is_a_dag_with_one_task(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A newcomer copies it first; it must load."""
    for block in blocks(page):
        if block.title is not None:
            (tmp_path / block.title).write_text(block.text)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    [code] = [block.text for block in blocks(page) if "import DAG" in block.text]
    from airflow.sdk import DAG

    names: dict[str, Any] = {}
    try:
        exec(re.sub(r"with (DAG\(.*\)):$", r"with (dag := \1):", code, count=1, flags=re.MULTILINE), names)
    finally:
        sys.modules.pop("jobs", None)
    dag: DAG = names["dag"]
    [task] = dag.tasks
    assert (dag.dag_id, task.task_id, task.job.name) == ("ticket_labels", "label", "ticket_labels")
    assert task.job.acceptable == ("anthropic:claude-haiku-4-5", "openai:gpt-5-mini")


@since("3.3")
def test_the_example_projects_dags_are_the_two_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.syspath_prepend(ROOT)
    bag = DagBag(ROOT / "example_project" / "dags")
    assert bag.import_errors == {}
    assert {dag_id: sorted(dag.task_ids) for dag_id, dag in bag.dags.items()} == {
        "ticket_triage": ["tickets", "triage"],
        "ticket_embeddings": ["embed"],
    }


@pytest.mark.parametrize(("method", "asked"), [("GET", 2), ("PATCH", 2), ("POST", 1)])
def test_the_demo_asks_a_locked_airflow_again_unless_that_might_start_a_run_twice(tmp_path: Path, method: str, asked: int) -> None:
    """Airflow's API answers with a 500 for moments in which another of its processes holds SQLite; newcomers would see a traceback."""
    from example_project.stack import Airflow

    calls: list[str] = []

    class Locked(BaseHTTPRequestHandler):
        def answer(self) -> None:
            calls.append(self.command)
            self.send_response(500 if len(calls) == 1 else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_PATCH = do_POST = answer

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Locked) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        airflow = Airflow(tmp_path, tmp_path, {})
        airflow.url = f"http://127.0.0.1:{server.server_port}"
        if method == "POST":
            with pytest.raises(urllib.error.HTTPError):
                airflow.ask(method, "/")
        else:
            assert airflow.ask(method, "/") == {}
        server.shutdown()
    assert calls == [method] * asked


def test_the_demo_says_how_many_tasks_wait_for_their_next_try() -> None:
    """Else it stands still for minutes, and nobody can tell why."""
    from example_project.airflow_demo import _line

    assert _line(Counter(success=3, up_for_retry=2)) == "at the provider 0, in a slot or queued 0, to be tried again 2, done 3 of 5"


def test_a_busy_machine_is_given_longer_than_airflows_own_five_seconds(tmp_path: Path) -> None:
    """A task whose first question to Airflow's API times out fails, and the demo would wait five minutes for its next try."""
    from example_project.stack import _settings

    assert float(_settings(tmp_path, tmp_path, 8080)["AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT"]) >= 60
