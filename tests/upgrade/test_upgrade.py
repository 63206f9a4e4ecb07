"""Upgrade: what an earlier version left behind, dead in the middle of everything, is finished and spent right by this one.

What it left is kept in `tests/upgrade/<its commit>`, with the provider's side (`python -m upgrade` made it, with that commit's code).
"""

import io
import json
import lzma
import sqlite3
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from msgspec import to_builtins

from keld import Keld, Status
from keld.emulator import Emulator
from keld.errors import LedgerError
from keld.ledger import Ledger, migration
from keld.ledger.migration import NEWEST
from keld.state import RunState
from tests.support.ticket_job import finish
from tests.upgrade.provider import put_back
from tests.upgrade.world import LATENCY_S, job, rows

LEFT = Path(__file__).parent / "4ccca51"
PROVIDERS = ("openai", "anthropic")
PARTITIONS = ("finished", "second", "ended", "collecting", "writing", "unsent", "out", "intent", "reply", "unknown", "deferred", "fast")


def read(name: str) -> bytes:
    return lzma.decompress((LEFT / f"{name}.xz").read_bytes())


@pytest.fixture
def left(ledger_url: str, tmp_path: Path, open_emulator: Callable[..., Emulator]) -> Iterator[tuple[Keld, Emulator]]:
    """This version upon what the earlier one left, and the providers as they stood."""
    database, home = "sqlite" if ledger_url.startswith("sqlite") else "postgres", tmp_path / "home"
    emulator = open_emulator(latency_s=LATENCY_S)
    put_back(emulator, json.loads(read(f"{database}-provider.json")))
    with tarfile.open(fileobj=io.BytesIO(read(f"{database}-staging.tar"))) as archive:
        archive.extractall(home, filter="data")
    load(ledger_url, read(f"{database}.sql").decode().replace("@HOME@", str(home)).replace("@HOST@", emulator.url))
    with Keld(home=home, ledger_url=ledger_url, clock=emulator.now) as keld:
        yield keld, emulator


def load(url: str, sql: str) -> None:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as db:
            db.executescript(sql)
        return
    engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as db:
        db.exec_driver_sql(sql.replace("%", "%%"))
    engine.dispose()


@pytest.mark.long
@pytest.mark.by_turns  # of the two databases: it has thirty job runs
def test_what_an_earlier_version_left_is_finished_and_spent_right(left: tuple[Keld, Emulator], tmp_path: Path) -> None:
    """After the test the ledger is compared with the bill, too (`bill_check`)."""
    keld, emulator = left
    for provider in PROVIDERS:
        for partition in PARTITIONS:
            status = finish(keld, emulator, found(keld, provider, partition).id)
            assert (status.state, status.answered) == (RunState.FINISHED, 6), (provider, partition, status.problem)
            assert keld.read(status.id).read_all().select(["ticket_id", "body"]).equals(rows(partition))
            if partition != "fast":  # on the bill those have no ids
                assert bought(keld, emulator, status.id) == Counter(dict.fromkeys(range(5), 1)), (provider, partition)
        assert finish(keld, emulator, found(keld, provider, "cancelling").id).state is RunState.CANCELLED
        assert pq.read_table(tmp_path / "home" / f"{provider}-writing.parquet").num_rows == 6
    quarantined = found(keld, "anthropic", "quarantined")
    assert (quarantined.answered, quarantined.quarantined) == (2, 4), "the twin of a quarantined row is quarantined"


@pytest.mark.wide
def test_what_an_earlier_version_answered_is_not_asked_again(left: tuple[Keld, Emulator]) -> None:
    keld, emulator = left
    for provider in PROVIDERS:
        before = len(emulator.batches())
        again = keld.submit(job(provider), rows("finished"), partition="finished")
        assert (again.over, again.generation, len(emulator.batches())) == (True, 1, before)
        changed = finish(keld, emulator, keld.submit(job(provider), rows("finished", changed=3), partition="finished").id)
        assert (changed.generation, changed.answered, changed.reused) == (2, 6, 5)
        assert bought(keld, emulator, changed.id) == Counter({3: 1})


# --- versions ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def old_url(ledger_url: str) -> str:
    """A ledger of the first version."""
    load(ledger_url, read(f"{'sqlite' if ledger_url.startswith('sqlite') else 'postgres'}.sql").decode())
    return ledger_url


def shape(url: str) -> dict[str, Any]:
    """Every table's columns and indexes, and the version."""
    engine = sa.create_engine(sa.make_url(url) if url.startswith("sqlite") else sa.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.connect() as db:
        look = sa.inspect(db)
        tables = {
            name: (
                {column["name"]: (str(column["type"]), column["nullable"]) for column in look.get_columns(name)},
                sorted((index["name"], tuple(index["column_names"])) for index in look.get_indexes(name)),
                look.get_pk_constraint(name)["constrained_columns"],
            )
            for name in look.get_table_names()
        }
        version = db.execute(sa.text("SELECT version FROM keld_version")).scalar_one()
    engine.dispose()
    return tables | {"version": version}


def test_an_upgraded_ledger_is_as_a_new_one(old_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Else a query may work on the developer's machine only."""
    new_url = f"sqlite:///{tmp_path / 'new.db'}" if old_url.startswith("sqlite") else request.getfixturevalue("postgres")()
    for url in (old_url, new_url):
        Ledger(url).close()
    assert shape(old_url) == shape(new_url)
    assert shape(new_url)["version"] == NEWEST > 1


def test_a_migration_that_fails_leaves_the_ledger_as_it_was(old_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version before can go on with it."""
    before = shape(old_url)
    monkeypatch.setattr(
        migration, "STEPS", ((*migration.STEPS[0], "ALTER TABLE keld_nothing ADD COLUMN at_all VARCHAR"), *migration.STEPS[1:])
    )
    with pytest.raises(LedgerError, match=f"from version 1 to {NEWEST}: .*It is unchanged"):
        Ledger(old_url)
    assert shape(old_url) == before


def test_of_many_who_open_an_old_ledger_at_once_one_upgrades_it(old_url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for ledger in pool.map(lambda _: Ledger(old_url), range(4)):
            assert len(ledger.catalog.runs("default")) == 27
            ledger.close()


def test_a_ledger_that_lacks_a_table_is_refused_with_what_to_do(old_url: str) -> None:
    """A restore or a copy that broke off: an empty table in its place would be a lie."""
    engine = sa.create_engine(
        sa.make_url(old_url) if old_url.startswith("sqlite") else sa.make_url(old_url).set(drivername="postgresql+psycopg")
    )
    with engine.begin() as db:
        db.execute(sa.text("DROP TABLE keld_intent"))
    engine.dispose()
    with pytest.raises(LedgerError, match=r"is incomplete: it lacks keld_intent. .*from-staging"):
        Ledger(old_url)


def found(keld: Keld, provider: str, partition: str) -> Status:
    status = keld.find(f"labels_{provider}", partition)
    assert status is not None
    return status


def bought(keld: Keld, emulator: Emulator, run_id: str) -> Counter[int]:
    """How often each row of a job run is on the bill, by its position."""
    ours = {shard.id for shard in keld.ledger.shards(run_id)}
    marks = [(entry.custom_id or "-").split("-") for entry in emulator.bill()]
    return Counter(int(position) for shard, position in marks if shard in ours)


def test_the_terms_of_an_earlier_version_are_read_and_would_be_written_as_they_stand(old_url: str) -> None:
    """They are JSON in the ledger: a key that another version does not find has its default, which may be another one."""
    engine = sa.create_engine(
        sa.make_url(old_url) if old_url.startswith("sqlite") else sa.make_url(old_url).set(drivername="postgresql+psycopg")
    )
    with engine.connect() as db:
        stored = {id_: json.loads(text) for id_, text in db.execute(sa.text("SELECT id, CAST(terms AS TEXT) FROM keld_job_run"))}
    engine.dispose()
    assert stored
    with closing(Ledger(old_url)) as ledger:
        for run_id, terms in stored.items():
            assert json.dumps(to_builtins(ledger.run(run_id).terms)) == json.dumps(terms)
