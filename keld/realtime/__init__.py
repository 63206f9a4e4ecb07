"""Realtime: the fast lanes, many single requests at once under rate limits, every paid answer on disk at once.

Beside the road, above `providers`, below `runner`; the only package with an event loop.  The files, from what a caller sees downwards:

    run       the rows of one shard, asked one by one, and what came of it
    options   how fast, how many at once, how patient
    loop      the event loop: which request begins when, and what its reply means
    ending    when a run must end early, and why
    throttle  how many requests at once, and how fast
    journal   the answers of one shard on disk, and the requests whose outcome is unknown
"""

from keld.realtime.ending import Stopped
from keld.realtime.options import Options, Time
from keld.realtime.run import RealtimeRun, run_realtime, settle_doubts

__all__ = ["Options", "RealtimeRun", "Stopped", "Time", "run_realtime", "settle_doubts"]
