"""Realtime: the fast lanes: many single requests at once, under rate limits, each paid answer written to disk immediately.

Beside the road, above `providers`, below `runner`; the only package with an event loop.  The files, from the caller's view downwards:

    run       the rows of one shard, asked one by one, and the result
    options   how many requests at once, and how long to wait
    loop      the event loop: when a request begins, and what its reply means
    ending    when a run must end early, and why
    pacer     which of these two decides how many requests are in flight together
    throttle  how many requests at once, and how fast, under a provider's limits
    goodput   how many requests at once keep an engine of one's own full
    journal   the answers of one shard, and the requests whose outcome is unknown
    journal_file      in files, where workers share a disk
    journal_segments  in a bucket, where they do not
"""

from keld.realtime.ending import Stopped
from keld.realtime.journal_segments import answers_in
from keld.realtime.options import Options, Time
from keld.realtime.run import RealtimeRun, run_realtime, settle_doubts

__all__ = ["Options", "RealtimeRun", "Stopped", "Time", "answers_in", "run_realtime", "settle_doubts"]
