"""Live Airflow: a real Airflow with all its processes, and its provider.  What was bought is read from the emulator's bill and log of calls.

Batches take an hour, on a clock that the tests move.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from example_project.stack import COMPONENTS, Airflow, running_airflow
from keld.emulator import Emulator

HERE = Path(__file__).parent
LATENCY_S = 3600.0
CANARY = "canary-7129"
KEY = "sk-canary-7129-KEY"
DAGS = ("label", "report", "interval", "quick", "hurried", "held")

QUIET = {"AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True"}
"""A setting with which no Dag runs but those that the tests name."""


class Stack:
    """A running Airflow and its provider."""

    def __init__(self, airflow: Airflow, emulator: Emulator, place: Path) -> None:
        self.airflow, self.emulator, self.place = airflow, emulator, place

    def settle(self, *dags: str) -> None:
        """Yesterday's own runs, which Airflow starts when a Dag is there, are through."""
        self.airflow.until(lambda: all(self._scheduled(dag) == ["deferred"] for dag in dags), "they wait")
        self.provider_ends()
        self.airflow.until(lambda: all(self._scheduled(dag) == ["success"] for dag in dags), "they are through")

    def _scheduled(self, dag_id: str) -> list[str]:
        states = self.airflow.states(dag_id, "label", "scheduled")
        assert "failed" not in states, f"{dag_id} has failed; see its log in {self.airflow.home}"
        return states

    def sent(self) -> int:
        """How often anything at all was sent to the provider, files included."""
        return sum(call.method == "POST" for call in self.emulator.requests())

    def creates(self) -> int:
        return sum(call.method == "POST" and call.path == "/v1/batches" for call in self.emulator.requests())

    def cancels(self) -> int:
        return sum(call.path.endswith("/cancel") for call in self.emulator.requests())

    def start(self, day: str) -> str:
        """A run of the Dag `label` for one day, deferred, and in a triggerer's hands."""
        run_id = self.airflow.trigger("label", partition_key=day)
        self.wait_for(run_id, "deferred")
        self.airflow.until(lambda: self.triggerer_of(run_id) is not None and f"{run_id}/label/-1" in self.logs(), "a triggerer has it")
        return run_id

    def state(self, run_id: str, dag_id: str = "label") -> str | None:
        [task] = self.airflow.tasks(dag_id, run_id)
        return task["state"]

    def wait_for(self, run_id: str, state: str, dag_id: str = "label", patience_s: float | None = None) -> float:
        return self.airflow.until(lambda: self._has_come_to(state, run_id, dag_id), f"{run_id} is {state}", patience_s)

    def _has_come_to(self, wanted: str, run_id: str, dag_id: str) -> bool:
        """Whether a task is in a state; not, if it has ended in another, which no patience changes."""
        state = self.state(run_id, dag_id)
        assert state == wanted or state not in ("failed", "success"), f"{dag_id} {run_id} is {state}, not {wanted}"
        return state == wanted

    def triggerer_of(self, run_id: str) -> int | None:
        """Which triggerer has a deferred task; None: none yet."""
        [task] = self.airflow.tasks("label", run_id)
        return task["trigger"] and task["trigger"]["triggerer_id"]

    def logs(self) -> str:
        """All that was logged, by Airflow and by its tasks."""
        return "".join(path.read_text(errors="replace") for path in self.airflow.home.rglob("*.log"))

    def provider_ends(self) -> None:
        self.emulator.advance(LATENCY_S)

    def arm(self, failpoint: str) -> None:
        """The next visit to a worker takes it with it."""
        (self.place / "tables" / "failpoint").write_text(failpoint)

    def mark(self, run_id: str, state: str, dag_id: str = "label") -> None:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/label"
        self.airflow.ask("PATCH", path, {"new_state": state})

    def clear(self, run_id: str, dag_id: str = "label") -> None:
        body = {"dry_run": False, "dag_run_id": run_id, "task_ids": ["label"], "only_failed": False}
        self.airflow.ask("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body)


def database_url(which: str, postgres: Callable[[], str]) -> dict[str, str]:
    if which == "sqlite":
        return {}
    url = postgres()
    dialect = sa.make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    both = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": dialect, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": dialect}
    return {**both, "KELD_LEDGER_URL": postgres()}


@contextmanager
def live(place: Path, components: tuple[str, ...] = COMPONENTS, dags: tuple[str, ...] = DAGS, **settings: str) -> Iterator[Stack]:
    """An Airflow that is up, and its provider; `settings` are of the environment of all its processes."""
    (place / "tables").mkdir()
    with Emulator(latency_s=LATENCY_S) as emulator:
        environment = {
            **emulator.env(),
            "OPENAI_API_KEY": KEY,
            "TEST_TABLES": str(place / "tables"),
            "TEST_CANARY": CANARY,
            "KELD_HOME": str(place / "keld"),
            "PYTHONPATH": str(HERE.parents[2]),
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "8",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",  # nobody edits these Dags, and each reading takes two seconds of a core
            **settings,
        }
        with running_airflow(place / "airflow", HERE / "dags", environment, components) as airflow:
            airflow.wait_until_up(*dags)
            yield Stack(airflow, emulator, place)


def rows(airflow: Airflow, query: str) -> list[tuple[Any, ...]]:
    """What the metadata database says to a query."""
    url = airflow.environment.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN") or f"sqlite:///{airflow.home / 'airflow.db'}"
    engine = sa.create_engine(url)
    try:
        with engine.connect() as db:
            return [tuple(row) for row in db.exec_driver_sql(query)]
    finally:
        engine.dispose()


def change(airflow: Airflow, statement: str) -> int:
    """Changes the metadata database; gives how many rows it changed."""
    engine = sa.create_engine(airflow.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    try:
        with engine.begin() as db:
            return db.exec_driver_sql(statement).rowcount
    finally:
        engine.dispose()


def dump(airflow: Airflow) -> str:
    """All that is in the metadata database, as text; fields that Airflow encrypts, decrypted."""
    from cryptography.fernet import Fernet

    catalog = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    if "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN" not in airflow.environment:
        catalog = "SELECT name FROM sqlite_master WHERE type = 'table'"
    fernet = Fernet(airflow.environment["AIRFLOW__CORE__FERNET_KEY"].encode())
    kept = [row for (table,) in rows(airflow, catalog) for row in rows(airflow, f'SELECT * FROM "{table}"')]
    return "\n".join(_plain(value, fernet) for row in kept for value in row)


def told_of_secrets(stack: Stack) -> list[str]:
    """The lines of Airflow's database and logs that have a row, a prompt, an answer or a key."""
    kept = dump(stack.airflow) + stack.logs()
    assert len(kept) > 100_000, "both were read"
    return [line[:300] for line in kept.splitlines() if CANARY in line or KEY in line]


def _plain(value: Any, fernet: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
    return fernet.decrypt(text.encode()).decode() if text.startswith("gAAAAA") else text
