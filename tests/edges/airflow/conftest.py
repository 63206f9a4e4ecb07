"""Airflow for the tests, hermetic: a home of its own, no examples, all of its tests one worker's, the provider an emulator.

Airflow is imported when a test asks for it: that takes seconds, and changes how a process logs.
"""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keld import Keld
from keld.emulator import Emulator
from tests.edges.airflow.airflow_worker import LATENCY_S, Worker

HERE = Path(__file__).parent
HOME = tempfile.mkdtemp(prefix="keld-airflow-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

# Read when Airflow is imported.
os.environ.update(
    AIRFLOW_HOME=HOME,
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__DAGS_FOLDER=str(HERE / "dags"),
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="False",
    AIRFLOW__LOGGING__LOGGING_LEVEL="INFO",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = {path for path in {item.path for item in items} if HERE in path.parents}
    for item in items:
        if item.path in ours:
            item.add_marker(pytest.mark.xdist_group("airflow"))


@pytest.fixture(scope="session", autouse=True)
def airflow() -> None:
    """Imports Airflow, and gives back the handlers that its import takes from the root logger."""
    handlers, level = list(logging.root.handlers), logging.root.level
    import airflow.sdk.execution_time.supervisor  # noqa: F401

    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def provider(open_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Emulator:
    """A provider whose batches take an hour, on a clock that runs and that the test turns; Keld's home is the test's."""
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "keld"))
    monkeypatch.delenv("KELD_LEDGER_URL", raising=False)
    return open_emulator(latency_s=LATENCY_S, frozen=False)


@pytest.fixture
def home(provider: Emulator, tmp_path: Path) -> Iterator[Keld]:
    """The ledger that the tasks write, to look into."""
    with Keld(home=tmp_path / "keld") as keld:
        yield keld
