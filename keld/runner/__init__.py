"""Runner: the only rooms that act.  They look up the state, do the one thing that is due, and record it.

submission  what a caller asks to be opened
open      a submission -> the job run of its partition: the one that is there, or a new one
owner     whose job it is, by the ledger
take      the rows of a partition as they are asked, and which of them need not be asked
first     the first round: which model in which lane, cut into shards
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
output    the enriched rows for a caller, and the sink they go to
sweep     batches that a provider has and the ledger does not
"""

from keld.runner.open import Opener
from keld.runner.output import read
from keld.runner.runner import Runner
from keld.runner.submission import identity, submission
from keld.runner.sweep import Finding, Verdict
from keld.runner.visit import Settings, World

__all__ = ["Finding", "Opener", "Runner", "Settings", "Verdict", "World", "identity", "read", "submission"]
