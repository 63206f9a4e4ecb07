"""Runner: the only rooms that act.  They look up the state, do the one thing that is due, and record it.

The map of the package, in the order in which a job run meets its rooms:

    submission   what a caller asks to be opened
    open         a submission -> the job run of its partition: the one that is there, or a new one
    owner        whose job it is, by the ledger
    take         the rows of a partition as they are asked, and which of them need not be asked
    first        the first round: which model in which lane, cut into shards
    runner       the two verbs, `advance` and `poll`; which step is due; the lease around them
    context      one worker's lease on one job run; Environment and Settings, which all steps need
    clock        a clock that was set back: instants that lie too far ahead
    queue        which shard is sent next where a provider's queue is full
    submit       rows -> input file -> intent -> create, sent once
    refusal      what follows from a create that was refused
    find_lost    a create whose outcome is unknown, looked for at the provider
    sibling      other batches that one create made
    look         what the lists say of many job runs at once, so that few need a lease
    observe      what the provider says of the batches under way; cancels
    collect      result files -> one answer a row
    probe        a row in the standard lane before all the others
    option       what every model and lane could do for the rows that are left
    escalate     at the escalation time, rows that still wait move to a faster lane
    give_up      the instant at which a shard that makes no progress is given up
    fast_lane    a shard's rows one by one through a fast lane
    round        what may be asked again, planned
    finish       the enriched partition
    output       the enriched rows for a caller, and the sink they go to
    orphan       batches that a provider has and the ledger does not
"""

from keld.runner.context import Environment, Settings
from keld.runner.open import Opener
from keld.runner.orphan import Finding, Verdict
from keld.runner.output import read
from keld.runner.runner import Runner
from keld.runner.submission import identity, submission

__all__ = ["Environment", "Finding", "Opener", "Runner", "Settings", "Verdict", "identity", "read", "submission"]
