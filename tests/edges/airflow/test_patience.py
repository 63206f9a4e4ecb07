"""What the tests and the demo ask of an Airflow, and how long they wait for it: against a server of the shape of its API, without Airflow itself."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from example_project.stack import Airflow

MIGRATED_S = 4.0


class Measured(Airflow):
    """An Airflow whose processor time is what the test says."""

    computed = 0.0

    def computed_s(self) -> float:
        return self.computed


@pytest.fixture
def airflow(tmp_path: Path) -> Measured:
    found = Measured(tmp_path, tmp_path, {})
    found.migrated_s = MIGRATED_S
    return found


@contextmanager
def answering(*statuses: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of a server that answers each POST with the next of these, and the bodies it was sent."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            bodies.append(body)
            said = json.dumps({"dag_run_id": body.get("dag_run_id", "manual__airflows-own")}).encode()
            self.send_response(statuses[len(bodies) - 1])
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()


def test_a_dag_run_whose_trigger_was_answered_with_an_error_is_made_once(airflow: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow on a locked SQLite answers 500 whether the run was made or not."""
    monkeypatch.setattr("example_project.stack.time.sleep", lambda _: None)
    with answering(500, 503, 409) as (airflow.url, bodies):
        run_id = airflow.trigger("label", partition_key="2026-03-01")
    assert [body["dag_run_id"] for body in bodies] == [run_id] * 3
    assert run_id.startswith("manual__"), "Airflow refuses ids that look like a schedule's"


def test_an_airflow_that_only_idles_is_given_up_after_a_multiple_of_what_its_database_took(airflow: Measured) -> None:
    """Seconds of the clock depend on the machine; so do seconds of its processor, but both of these alike."""
    patience = airflow.patience()
    airflow.computed = 15 * MIGRATED_S
    assert patience.note(None)
    airflow.computed = 25 * MIGRATED_S
    assert not patience.note(None)
    assert patience.note("further"), "what came further is waited for from then on"
