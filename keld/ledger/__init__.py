"""Ledger: what happened, in order, durable; SQLite by default, Postgres by URL.

Beside the road, below `runner`.  One `Ledger` holds the parts; each part is a file, and all of them write to one database.  The files, from
what the runner uses down to the tables:

    ledger       what happens to job runs and shards, recorded under a lease: events, states, intents, reservations
    progress     how many requests of a shard are done, where nothing else has happened
    control      requests of people and orchestrators about a job run, and who waits for it
    catalog      job runs by namespace, job and partition: found, moved, handed over
    account      what may be in a provider's account: creates that are looked for, known batches, the sweep
    orphan       batches that a shard has in addition to its own
    candidate    batches that may be orphans
    object       which object each staged file is, where staging is a bucket
    queue        the job runs that share one account's limits
    history      what was learned of turnaround, speed, tokens and cache
    notice       which news of a job run were passed to a hook
    stretch      the time that realtime runs kept a host of one's own busy, and what each pays for it
    transition   one event of one shard, by the transition table
    recovery     what staging remembers, compared with the ledger
    rebuild      what staging remembers, written to a ledger that lost it
    witness      what staging remembers of the ledger
    witness_file    ... kept in files of a disk
    witness_object  ... kept in objects of a bucket
    memory       what is remembered of one job run, line by line
    lease        who may act on a job run, and until when
    reservation  the money reserved for requests that may still be billed
    cost         what each job run spent on each model in each lane
    event        what happened, appended in order
    lookup       the records of one job run or shard
    fault        what went wrong with a shard
    record       what is read from the tables
    database     the SQLite file or the Postgres behind a ledger's URL
    migration    how a ledger of an earlier version becomes one of this
    table        the tables
    column       how money, instants, words and frozen records are stored
"""

from keld.ledger.account import Suspect
from keld.ledger.cost import CostLine
from keld.ledger.database import is_missing, rehearse, shown
from keld.ledger.fault import RefusalReason, ShardError, ShardFault
from keld.ledger.history import Timing
from keld.ledger.lease import WORKER_SKEW, Lease
from keld.ledger.ledger import Ledger
from keld.ledger.memory import Memory
from keld.ledger.progress import Unchanged
from keld.ledger.queue import QueuedShard, Rival
from keld.ledger.record import Attachment, Candidate, EventRecord, Intent, JobRun, Orphan, Shard, nonce

__all__ = [
    "WORKER_SKEW",
    "Attachment",
    "Candidate",
    "CostLine",
    "EventRecord",
    "Intent",
    "JobRun",
    "Lease",
    "Ledger",
    "Memory",
    "Orphan",
    "QueuedShard",
    "RefusalReason",
    "Rival",
    "Shard",
    "ShardError",
    "ShardFault",
    "Suspect",
    "Timing",
    "Unchanged",
    "is_missing",
    "nonce",
    "rehearse",
    "shown",
]
