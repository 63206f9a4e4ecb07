"""Dag job: the jobs of the real Airflow's Dags, and their rows.  Not in the Dags' folder: Airflow stores the source of the files there."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from keld import Job, status

CANARY = os.environ["TEST_CANARY"]  # not spelled here: of a mapped task Airflow keeps its functions' source
PLACE = Path(os.environ["TEST_TABLES"])
JOB = Job(name="labels", key="id", system=f"{CANARY}-SYSTEM", prompt=f"{CANARY}-PROMPT {{body}}", models="openai:gpt-5-mini")
SHORT = Job(name="hurried", key="id", prompt="{body}", models="openai:gpt-5-mini", deadline=timedelta(seconds=20))
HELD = Job(name="held", key="id", prompt="{body}", models="openai:gpt-5-mini")

# OpenAI shows each batch on a page of its own, the emulator does not; it counts as having OpenAI's, for the links to be seen.
status.batch_page = lambda host, batch_id: f"https://platform.openai.com/batches/{batch_id}"


def rows_of(partition_key: str = "", ds: str = "") -> list[dict[str, Any]]:
    """Five rows a partition."""
    day = partition_key or ds
    return [{"id": n, "body": f"{CANARY}-ROW {n} of {day}"} for n in range(5)]


def note_late(context: Any = None, **_: Any) -> None:
    """A callback of a deadline: leaves word."""
    (PLACE / f"late-{os.getpid()}").touch()


def note(what: str, context: Any) -> None:
    """A task or callback leaves word that it has run, and for which Dag run."""
    with (PLACE / "notes").open("a") as notes:
        notes.write(f"{context.get('run_id') or context['dag_run'].run_id} {what}\n")


def arm(context: Any) -> None:
    """Before a visit: leaves word of where it is; takes the failpoint that a test has left for the next one, and only for that."""
    if "TEST_WORKER" in os.environ:
        with (PLACE / "visits").open("a") as visits:
            visits.write(f"{context['run_id']} {os.environ['TEST_WORKER']}\n")
    try:
        os.environ["KELD_FAILPOINT"] = (PLACE / "failpoint").read_text()
        (PLACE / "failpoint").unlink()
    except FileNotFoundError:
        os.environ.pop("KELD_FAILPOINT", None)
