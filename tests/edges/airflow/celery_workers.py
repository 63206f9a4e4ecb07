"""Celery workers: those of a running Airflow, each as if on its own host: its home, its directory, its name.

They share what the README asks for (the ledger and Keld's home, or the ledger and a bucket), and the Dags.
"""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import psutil
from celery import Celery

from example_project.process import session
from example_project.stack import AIRFLOW, Airflow


class Crew:
    """Starts and ends workers by name; they take two tasks at a time."""

    def __init__(self, airflow: Airflow, broker_url: str, place: Path) -> None:
        self.airflow, self.place = airflow, place
        self._celery = Celery(broker=broker_url)
        self._names: set[str] = set()

    def at_work(self, *names: str) -> None:
        """Exactly these are, and listen to the broker."""
        for name in self._names - set(names):
            self.stop(name)
        for name in set(names) - self._names:
            self.start(name)
        self.airflow.until(lambda: self._listening() == set(names), f"at work: {', '.join(names)}")

    def start(self, name: str, **environment: str) -> None:
        home = self.airflow.home / "hosts" / name
        home.mkdir(parents=True, exist_ok=True)
        command = (*AIRFLOW, "celery", "worker", "--celery-hostname", f"{name}@%h", "--concurrency", "2")
        own = _place(home) if self.airflow.environment.get("KELD_STAGING") else {}
        self.airflow.run(name, *_host(name), *command, AIRFLOW_HOME=str(home), TEST_WORKER=name, **own, **environment)
        self._names.add(name)

    def stop(self, name: str) -> None:
        """Asked to end: it takes no more, and ends what it has."""
        self.airflow.stop(name)
        self._names.remove(name)

    def kill(self, name: str) -> None:
        """Its host loses its power."""
        self.airflow.kill(name)
        self._names.remove(name)

    def wait_for_stopped(self) -> str:
        """The worker that has a task which stands still at a failpoint."""
        self.airflow.until(lambda: any(map(self._is_stopped, self._names)), "a task stands still")
        [name] = filter(self._is_stopped, self._names)
        return name

    def visits(self, run_id: str) -> list[str]:
        """Who had the task of a Dag run, visit by visit."""
        lines = (self.place / "tables" / "visits").read_text().splitlines()
        return [name for run, name in map(str.split, lines) if run == run_id]

    def _is_stopped(self, name: str) -> bool:
        return any(process.info["status"] == psutil.STATUS_STOPPED for process in session(self.airflow.processes[name]))

    def _listening(self) -> set[str]:
        return {node.partition("@")[0] for answer in self._celery.control.ping(timeout=1) for node in answer}


def _place(home: Path) -> dict[str, str]:
    """The variables that give a worker directories of its own; the bucket is what it has in common with others."""
    own = {"KELD_HOME": "keld", "TMPDIR": "tmp", "HOME": "home"}
    for name in own.values():
        (home / name).mkdir(exist_ok=True)
    return {variable: str(home / name) for variable, name in own.items()}


# Root needs no namespace of users for it, and would not be let in to Postgres from there.
_NAMED = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')


def _host(name: str) -> tuple[str, ...]:
    """What makes a command run under another host name, where the kernel lets one.

    Keld takes over at once from a process of the same host that is gone; from another host's it has to wait for the lease to end.
    """
    return (*_NAMED, name) if _can_name_hosts() else ()


@cache
def _can_name_hosts() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_NAMED, "a", "true"], stderr=subprocess.DEVNULL, check=False).returncode == 0
