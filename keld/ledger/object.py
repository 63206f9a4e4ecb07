"""Object: which object each file of a job run is, where staging is a bucket.

Below `ledger`, whose transactions name objects with the step that made them, under the lease: that commit is what a rename is on a disk.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from keld.ledger.database import Database
from keld.ledger.table import OBJECT
from keld.stored import StoredName


class Objects:
    """The objects that a ledger names."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, run_id: str) -> dict[str, StoredName]:
        """The object of each file of a job run, by the file's name."""
        query = sa.select(OBJECT.c.name, OBJECT.c.object, OBJECT.c.sha256, OBJECT.c.size_bytes).where(OBJECT.c.run_id == run_id)
        with self._db.read() as db:
            return {row.name: StoredName(object=row.object, sha256=row.sha256, size_bytes=row.size_bytes) for row in db.execute(query)}

    def forget(self, run_id: str) -> None:
        """Names none of a job run's files any more, since they were removed."""
        with self._db.write() as db:
            db.execute(sa.delete(OBJECT).where(OBJECT.c.run_id == run_id))


def name_objects(db: sa.Connection, run_id: str, objects: Mapping[str, StoredName]) -> None:
    """Names the objects of a job run's files, in place of those of the same files before."""
    rows = [
        {"run_id": run_id, "name": name, "object": named.object, "sha256": named.sha256, "size_bytes": named.size_bytes}
        for name, named in objects.items()
    ]
    if rows:
        this = (OBJECT.c.run_id == sa.bindparam("run"), OBJECT.c.name == sa.bindparam("file"))
        db.execute(sa.delete(OBJECT).where(*this), [{"run": run_id, "file": row["name"]} for row in rows])
        db.execute(sa.insert(OBJECT), rows)
