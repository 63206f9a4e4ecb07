"""Warm worker: what the fork server imports last.  It does one job run at each of two providers, so that no worker begins from nothing.

Else each would import, compile SQL and read price lists for longer than it works.  A worker inherits modules and caches; threads, connections
and files are closed before.
"""

import gc
import os
import tempfile
import threading
from pathlib import Path

import pytest

from keld import failpoint, process
from keld.emulator import Emulator
from tests.support import shared_statements
from tests.support.ticket_job import anthropic, openai
from tests.support.worker_process import Order, work


def _warm() -> None:
    before = dict(os.environ)
    shared_statements.share(pytest.MonkeyPatch())
    with tempfile.TemporaryDirectory() as folder, Emulator(frozen=True, latency_s=60) as emulator:
        for peer in (openai, anthropic):
            place = Path(folder) / peer.name
            place.mkdir()
            work(
                Order(
                    env=emulator.env(),
                    home=str(place / "home"),
                    ledger_url=f"sqlite:///{place / 'ledger.db'}",
                    emulator_url=emulator.url,
                    peer=peer,
                    scenario="plain",
                    sink=str(place / "out.parquet"),
                )
            )
    os.environ.clear()
    os.environ.update(before)
    failpoint._passes.clear()
    process._short_machine.cache_clear()
    for thread in threading.enumerate():
        if thread.name.startswith("AnyIO"):  # a worker of the emulator's event loop, which was told to end with it
            thread.join(60)
    others = {thread.name for thread in threading.enumerate()} - {"MainThread", "keld-leases"}  # the latter only waits, to end soon
    assert not others, f"a fork would lose {others}"


_warm()
gc.freeze()  # no worker's garbage collector looks through what it inherits, which would copy it, page by page
