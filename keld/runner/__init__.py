"""Runner: the only rooms that act.  They look up the state, do the one thing that is due, and record it.

runner    the two verbs, `advance` and `poll`; which step is due; the lease around them
visit     one worker's hold on one job run; Settings: how patient it is
turn      whose shard goes next where a provider's queue is full
submit    rows -> input file -> intent -> create, sent once
search    a create of unknown outcome, looked for
look      what the lists say of many job runs at once, so that few are visited
observe   what the provider says of the batches under way; cancels
collect   result files -> one answer a row
probe     a row in the standard lane before all the others
option    what every model and lane could do for the rows that are left
escalate  at the latest safe moment, what waits moves on to a faster lane
last      the instant at which a shard that gets nowhere is given up
hurry     a shard's rows one by one through a fast lane
round     what may be asked again, planned
finish    the enriched partition
sweep     batches that a provider has and the ledger does not
"""

from keld.runner.option import Ask, key_notes, keyless, options, overhead, plan_shards
from keld.runner.probe import probe_of
from keld.runner.runner import Runner
from keld.runner.sweep import Finding, Verdict
from keld.runner.visit import Settings, World, question_of

__all__ = [
    "Ask",
    "Finding",
    "Runner",
    "Settings",
    "Verdict",
    "World",
    "key_notes",
    "keyless",
    "options",
    "overhead",
    "plan_shards",
    "probe_of",
    "question_of",
]
