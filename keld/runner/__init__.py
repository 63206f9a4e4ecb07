"""Runner: the only rooms that act.  They read the state, do the one step that is due, and record it.

The map of the package, in the order in which a job run passes through them:

    submission   what a caller asks to be opened
    open         a submission -> the job run of its partition: the existing one, or a new one
    owner        whose job it is, by the ledger
    take         the rows of a partition as they are asked, and those that need no request
    first        the first round: which model in which lane, cut into shards
    runner       the two verbs, `advance` and `poll`; which step is due; the lease around them
    heartbeat    renews the leases of the job runs that are held, while their steps move
    settings     how long the runner waits, and how often it looks
    context      one worker's lease on one job run, with its files; Environment, which all steps need
    clock        waits that became too long because a clock was set back
    overlap      the slow half of a step, begun for the next shard while this one's goes on
    queue        which shard is sent next where a provider's queue is full
    submit       rows -> input file -> intent -> create, sent once
    refusal      what is done after a create was refused
    find_lost    looks at the provider for a create whose outcome is unknown
    sibling      other batches that the same create made
    look         what the providers' lists say about many job runs at once, so that few need a lease
    observe      what the provider says about the batches that are under way; cancels
    collect      result files -> one answer a row
    probe        a row before all the others
    option       what every model and lane could do for the rows that are left
    escalate     moves rows that still wait at the escalation time to a faster lane
    give_up      the instant at which a shard that makes no progress is given up
    fast_lane    a shard's rows one by one through a fast lane
    meter        the time of a host that is paid by the hour: reserved, measured, paid
    round        plans the rows that may be asked again
    finish       the enriched partition
    output       the enriched rows for a caller, and the sink they go to
    finding      a batch that a provider has and the ledger does not
    orphan       finds and settles them

Nothing is imported here: a caller that only wants `settings` or `finding` loads no table library and no HTTP client.
"""
