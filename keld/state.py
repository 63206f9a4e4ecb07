"""State: the life of a shard and of a job run; states, events, the transition table, nothing else.

Beside the road: `ledger` writes only what this table allows, `runner` has one case for each state.  Pure.
*How* a batch ended (completed, failed, expired, cancelled) is a field of the shard, not a state: the next step is the same
for all of them, which is to collect the answers that were paid for.

    PLANNED ──staged──► STAGED ──sending──► SUBMITTING ──created──► IN_PROGRESS ──ended──► ENDED ──collected──► COLLECTED
                         ▲  ▲                   │                    ▲   │  ▲
                         │  │       outcome_lost, refused            │   │  └── CANCELLING ──ended──► ENDED
                         │  │                   ▼                    │   │
                         │  └──────absent─── UNKNOWN ─────adopted────┘   │
                         │                   │  │  └──lost_track──► QUARANTINED
                         │                   │  └──rejected──► REJECTED  │
                         └──retry_due── DEFERRED ◄───────────────────────┘ (the provider's queue was full)
"""

from enum import StrEnum


class State(StrEnum):
    """The state of a shard."""

    PLANNED = "planned"  # its rows are chosen; no input file is written
    STAGED = "staged"  # its complete input file is on disk, and its digest in the ledger
    SUBMITTING = "submitting"  # the intent is committed; the create call may or may not have been sent
    UNKNOWN = "unknown"  # the create was refused, or its outcome is unknown; it is looked for at the provider before anything else
    IN_PROGRESS = "in_progress"  # the provider has it
    CANCELLING = "cancelling"  # a cancel was asked for; the provider has not ended the batch yet
    ENDED = "ended"  # the provider has ended it; its answers are still to be collected
    COLLECTED = "collected"  # every row has an outcome, on disk
    DEFERRED = "deferred"  # the provider's queue is full: the same file is sent again later
    REJECTED = "rejected"  # permanently refused before any row was answered; nothing was paid
    QUARANTINED = "quarantined"  # it cannot be proven that asking again would not pay twice: shown, not retried
    DROPPED = "dropped"  # cancelled before it was sent, nothing was paid; or hedged: its batch is an orphan


class Event(StrEnum):
    """What happened to a shard."""

    STAGED = "staged"
    UPLOADED = "uploaded"
    SENDING = "sending"
    CREATED = "created"
    UNSENT = "unsent"  # there was no connection: nothing of this create left the machine
    REFUSED = "refused"  # the create was refused; this counts when a look has shown that no batch was made
    OUTCOME_LOST = "outcome_lost"
    LOOKED = "looked"
    ADOPTED = "adopted"
    ABSENT = "absent"
    LOST_TRACK = "lost_track"
    CANCEL_ASKED = "cancel_asked"
    ENDED = "ended"
    COLLECTED = "collected"
    DEFERRED = "deferred"
    RETRY_DUE = "retry_due"
    REJECTED = "rejected"
    DROPPED = "dropped"
    HEDGED = "hedged"  # its rows are asked elsewhere, and may be paid twice; the sweep cancels its batch


class RunEvent(StrEnum):
    """What happened to a job run as a whole, or to other things than its shards; some words are older than the names here."""

    OPENED = "opened"
    ROUND = "round"  # the shards of a next round are planned
    WRITING = "writing"
    FINISHED = "finished"
    SUPERSEDED = "superseded"  # nothing of it was sent, and it is planned again as another job run
    CANCEL_ASKED = "cancel_asked"
    REOPENED = "reopened"  # a batch of it was found after it was over
    WRITE_AGAIN = "write_again"
    MOVED = "moved"  # to another namespace
    REBUILT = "rebuilt"  # from staging, since the ledger had lost it or a part of it
    ORPHAN = "stray"
    ORPHAN_SETTLED = "stray_settled"
    CANDIDATE = "candidate"
    CANDIDATE_RELEASED = "candidate_told"
    WATCHED = "watched"  # its news are told to a hook from now on
    TELLING = "telling"
    TOLD = "told"


class RunState(StrEnum):
    """The state of a job run."""

    OPEN = "open"  # rows are snapshot, shards are under way
    CANCELLING = "cancelling"  # the user asked; batches are being cancelled and collected
    WRITING = "writing"  # every row has an outcome; the enriched partition is being written
    FINISHED = "finished"  # every row has an outcome and the output, if any was asked, is whole
    CANCELLED = "cancelled"  # as FINISHED, but rows were not asked because the user cancelled


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.PLANNED, Event.STAGED): State.STAGED,
    (State.PLANNED, Event.DROPPED): State.DROPPED,
    (State.STAGED, Event.STAGED): State.STAGED,  # its file was gone (another host, a cleaned disk) and was written again
    (State.STAGED, Event.UPLOADED): State.STAGED,
    (State.STAGED, Event.SENDING): State.SUBMITTING,
    (State.STAGED, Event.DROPPED): State.DROPPED,
    (State.STAGED, Event.DEFERRED): State.DEFERRED,  # not sent: other shards wait for the same full queue
    (State.STAGED, Event.ADOPTED): State.IN_PROGRESS,  # its create took effect after the last look, and before it was sent again
    (State.SUBMITTING, Event.CREATED): State.IN_PROGRESS,
    (State.SUBMITTING, Event.UNSENT): State.STAGED,
    (State.SUBMITTING, Event.REFUSED): State.UNKNOWN,
    (State.SUBMITTING, Event.OUTCOME_LOST): State.UNKNOWN,
    (State.SUBMITTING, Event.LOST_TRACK): State.QUARANTINED,
    (State.UNKNOWN, Event.LOOKED): State.UNKNOWN,
    (State.UNKNOWN, Event.ADOPTED): State.IN_PROGRESS,
    (State.UNKNOWN, Event.ABSENT): State.STAGED,
    (State.UNKNOWN, Event.DEFERRED): State.DEFERRED,
    (State.UNKNOWN, Event.REJECTED): State.REJECTED,
    (State.UNKNOWN, Event.LOST_TRACK): State.QUARANTINED,
    (State.IN_PROGRESS, Event.CANCEL_ASKED): State.CANCELLING,
    (State.IN_PROGRESS, Event.ENDED): State.ENDED,
    (State.IN_PROGRESS, Event.DEFERRED): State.DEFERRED,
    (State.IN_PROGRESS, Event.REJECTED): State.REJECTED,
    (State.IN_PROGRESS, Event.HEDGED): State.DROPPED,
    (State.IN_PROGRESS, Event.LOST_TRACK): State.QUARANTINED,  # the provider says for days that it has no such batch
    (State.CANCELLING, Event.CANCEL_ASKED): State.CANCELLING,
    (State.CANCELLING, Event.ENDED): State.ENDED,
    (State.CANCELLING, Event.DEFERRED): State.DEFERRED,
    (State.CANCELLING, Event.REJECTED): State.REJECTED,
    (State.CANCELLING, Event.HEDGED): State.DROPPED,
    (State.CANCELLING, Event.LOST_TRACK): State.QUARANTINED,  # it has not ended, days after its cancel
    (State.DEFERRED, Event.RETRY_DUE): State.STAGED,
    (State.DEFERRED, Event.DEFERRED): State.DEFERRED,  # due, but another shard comes first
    (State.DEFERRED, Event.ADOPTED): State.IN_PROGRESS,  # an earlier create of it took effect after all
    (State.DEFERRED, Event.DROPPED): State.DROPPED,
    (State.DROPPED, Event.ADOPTED): State.IN_PROGRESS,  # it was cancelled while it seemed absent, and then found
    (State.ENDED, Event.COLLECTED): State.COLLECTED,
    (State.ENDED, Event.LOOKED): State.ENDED,  # its results are not there yet, incomplete, or not its own; they are fetched again later
    (State.ENDED, Event.LOST_TRACK): State.QUARANTINED,  # its results could never be read
    (State.QUARANTINED, Event.ADOPTED): State.IN_PROGRESS,  # its batch was found after all
    (State.REJECTED, Event.ADOPTED): State.IN_PROGRESS,  # refused, but found after all
}

TERMINAL = frozenset({State.COLLECTED, State.REJECTED, State.QUARANTINED, State.DROPPED})
AT_PROVIDER = frozenset({State.IN_PROGRESS, State.CANCELLING})
SENT = frozenset({State.SUBMITTING, State.UNKNOWN, *AT_PROVIDER, State.ENDED})  # its worst case is reserved until it is settled


class IllegalTransition(AssertionError):
    """A fault in Keld itself: an event that the table does not allow in that state."""


def after(state: State, event: Event) -> State:
    """The state after `event` in `state`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"{event} cannot happen to a shard that is {state}") from None
