"""Migration: how a ledger that an earlier version made becomes one of this version.

Below `database`, which holds the lock and the transaction around it: a step succeeds as a whole, or the ledger is unchanged.  Written by
hand, forward only, and never changed once released: what a step does must not depend on the current `record`.  New columns may be
null, since a worker of the earlier version may be writing at the same time; `tests/upgrade/test_upgrade.py` finishes job runs of earlier versions.
"""

from __future__ import annotations

import re

import sqlalchemy as sa

_MAKES = re.compile(r"CREATE TABLE (\w+)").match

# From version N, at N - 1, to the next.
STEPS: tuple[tuple[str, ...], ...] = (
    (  # 1 -> 2: the owner, the declaration and the source of a job run; candidates
        "ALTER TABLE keld_job_run ADD COLUMN owner VARCHAR",
        "ALTER TABLE keld_job_run ADD COLUMN source VARCHAR",
        "ALTER TABLE keld_job_run ADD COLUMN declared JSON",
        "ALTER TABLE keld_job_run ADD COLUMN outdated VARCHAR",
        "CREATE TABLE keld_candidate (host VARCHAR NOT NULL, batch_id VARCHAR NOT NULL, provider VARCHAR NOT NULL, run_id VARCHAR(32) NOT NULL, "
        "shard_id VARCHAR(10) NOT NULL, requests BIGINT NOT NULL, worst_usd BIGINT NOT NULL, found_at BIGINT NOT NULL, settled_at BIGINT, "
        "PRIMARY KEY (host, batch_id))",
        "CREATE INDEX keld_candidate_run ON keld_candidate (run_id)",
    ),
    (  # 2 -> 3: the time of hosts that are paid by the hour
        "CREATE TABLE keld_stretch (id VARCHAR(10) NOT NULL, host VARCHAR NOT NULL, run_id VARCHAR(32) NOT NULL, shard_id VARCHAR(10) NOT NULL, "
        "usd_an_hour BIGINT NOT NULL, begun_at BIGINT NOT NULL, seen_at BIGINT NOT NULL, ended_at BIGINT, usd BIGINT, shares JSON, PRIMARY KEY (id))",
        "CREATE INDEX keld_stretch_host ON keld_stretch (host, begun_at)",
        "CREATE INDEX keld_stretch_shard ON keld_stretch (shard_id)",
    ),
    (  # 3 -> 4: the objects that the files of a job run are, where staging is a bucket
        "CREATE TABLE keld_object (run_id VARCHAR(32) NOT NULL, name VARCHAR NOT NULL, object VARCHAR NOT NULL, "
        "sha256 VARCHAR(64) NOT NULL, size_bytes BIGINT NOT NULL, PRIMARY KEY (run_id, name))",
    ),
    ("ALTER TABLE keld_shard ADD COLUMN lines BIGINT",),  # 4 -> 5: requests of many rows
    (  # 5 -> 6: the upload of each create: where a host keeps no marks, it shows whose a batch is that is listed only after the shard was sent again
        "ALTER TABLE keld_intent ADD COLUMN input_ref VARCHAR",
        "CREATE INDEX keld_intent_input ON keld_intent (input_ref)",
    ),
    (  # 6 -> 7: what the prompt cache already had of a shard, and rows that go ahead of the others
        "ALTER TABLE keld_shard ADD COLUMN cache_prefix VARCHAR(16)",
        "ALTER TABLE keld_shard ADD COLUMN cache_warm BOOLEAN",
        "ALTER TABLE keld_shard ADD COLUMN ahead BOOLEAN",
    ),
)
NEWEST = 1 + len(STEPS)


def made_later(version: int) -> set[str]:
    """The tables that a ledger of that version does not have yet."""
    return {found[1] for statements in STEPS[version - 1 :] for one in statements if (found := _MAKES(one))}


def migrate(db: sa.Connection, version: int) -> int:
    """The version of the ledger after every step from `version` on; within the caller's transaction."""
    for statements in STEPS[version - 1 :]:
        for statement in statements:
            db.exec_driver_sql(statement)
    return max(version, NEWEST)
