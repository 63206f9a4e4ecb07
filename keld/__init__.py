"""Keld: LLM batch inference as one declaration in the orchestrator you already run.

The map of the house; the files in order are the way of the data.

    job          what a user declares: Job, its terms, its validation
    reading      how text files are read: types, encoding, delimiter, quote
    table/       partition in -> Arrow record batches; enriched rows -> partition out
    schema/      what an answer must look like: output type -> Arrow columns and a strict decoder
    value        what an Arrow value is in a prompt, a CSV cell, a line of JSON
    request      row + prompt -> what is asked; the only maker and reader of custom_id; fingerprints
    identity     whose job it is, what it asks and of which source
    snapshot     the rows of a partition as they were asked, taken once
    reuse        the answers that an earlier generation already paid for
    twin         rows with the same prompt are asked once
    shard        the slice that becomes one batch; cut within one provider's limits
    price        what tokens cost, by provider, model, lane and day
    estimate     how many tokens a row takes, as expected
    vocabulary   how many tokens a text is, exactly, where that is known
    cache        whether the shared beginning of prompts is marked for the provider's cache
    turnaround   how long a lane takes
    deadline     how long a batch may be waited for, and when its rows must move on
    plan         which model in which lane, what it costs, when it is due
    state        the life of a shard and of a job run: states, events, transitions
    migration    how a ledger of an earlier version becomes one of this
    database     the SQLite file or the Postgres behind a ledger's URL
    record       what the ledger holds, as tables and as what is read from them
    witness      what staging remembers of the ledger, so that a lost one is noticed and rebuilt
    rebuild      what staging remembers, into a ledger that lost it
    outlay       what each job run spent on each model in each lane
    ledger       what happened, in order, durable; leases, intents, reservations
    http         one client an account, and one limit a call
    pace         how many requests at once, and how fast
    journal      what fast requests were answered, durable at once
    realtime     the fast lanes: many requests at once, under rate limits
    staging      the files of a job run, and how they are written
    answer       result lines -> answers, exactly one per request
    cascade      which answers satisfy, and which model is asked next
    enrich       rows + answers -> the enriched partition
    status       a job run as people and orchestrators see it
    retention    what is staged of job runs that ended long ago, and its removal
    spend        outlays -> what was paid, saved, foreseen, and paid twice, by whatever people ask
    environment  Keld(...): ledger, staging, accounts; the verbs
    view         plans, job runs and spend as tables for people
    cli          keld plan | run | status | watch | cancel | reconcile | gc | prices | spend | emulate
    instant      points in time and spans as callers give them -> the standard library's, aware, in UTC
    path         what a source's or sink's path leaves to be filled in
    process      a name for this process, by which another can tell whether it is dead
    errors       every error raised on purpose
    failpoint    named places where a test may make the process die
    runner/      the only rooms that act: submit, refusal, search, sibling, look, observe, escalate, hurry, collect, finish, sweep, clock
    providers/   who answers: dialects and transports, one account at one provider, what each kind is made of
    emulator/    the other side of the wire; imports nothing of the rest
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keld.environment import Keld
    from keld.errors import KeldError
    from keld.instant import utc
    from keld.job import Column, Job
    from keld.path import check_path, wants_partition
    from keld.providers.account import Account
    from keld.providers.kinds import kinds
    from keld.reading import Reading
    from keld.runner import Settings
    from keld.schema import Embedding
    from keld.status import Status

__version__ = "0.1.0"
__all__ = [
    "Account", "Column", "Embedding", "Job", "Keld", "KeldError", "Reading", "Settings", "Status", "__version__",
    "check_path", "kinds", "utc", "wants_partition",
]  # fmt: skip

# Imported at their first use: pyarrow, SQLAlchemy and the SDKs take a second that `import keld` must not cost.
_HOMES = {
    "Account": "keld.providers.account",
    "Column": "keld.job",
    "Embedding": "keld.schema",
    "Job": "keld.job",
    "Keld": "keld.environment",
    "KeldError": "keld.errors",
    "Reading": "keld.reading",
    "Settings": "keld.runner",
    "Status": "keld.status",
    "check_path": "keld.path",
    "kinds": "keld.providers.kinds",
    "utc": "keld.instant",
    "wants_partition": "keld.path",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'keld' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
