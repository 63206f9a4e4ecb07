"""Record: the one form in which a call is looked at, whatever log it comes from: columns of numbers, a few thousand calls at a time.

A text is a small number beside its list of words; a person, a session or a trace is only a hash.  No prompt and no answer has a column here: the
bodies of a chunk live as long as the chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NONE = np.iinfo(np.int64).min  # an instant that the log does not have
UNKNOWN = -1  # a yes-or-no that the log does not have

Ints = NDArray[np.int64]
Small = NDArray[np.int8]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """N texts: `words[codes[i]]`."""

    codes: Ints
    words: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """N calls, or N buckets of calls.

    Args:
        at, end: microseconds since 1970 in UTC; `NONE`: not logged.
        width: microseconds that a bucket covers; 0: one call.
        requests: calls in it; 1 for a call.
        input: tokens, the cached and the written ones included, as `price.Usage` counts them; `written` includes `written_1h`.
        usd: as it was logged; NaN: it was not.
        streamed, failed: 1 yes, 0 no, `UNKNOWN`.
        id, user, session, trace: hashes; 0: not logged.
        job: what the log calls the work: its tags, the name of its trace.
        service: who calls: a service, an application, the name of a key.
        prompt: a hash of the system prompt, or of how the prompt begins; "" if the log has no bodies.
        bodies: the requests as they were logged; None: the log has none.
    """

    at: Ints
    end: Ints
    width: Ints
    requests: Ints
    input: Ints
    cached: Ints
    written: Ints
    written_1h: Ints
    output: Ints
    usd: Floats
    streamed: Small
    failed: Small
    id: Ints
    user: Ints
    session: Ints
    trace: Ints
    provider: Text
    model: Text
    service: Text
    job: Text
    operation: Text
    lane: Text
    prompt: Text
    tags: Text
    bodies: Sequence[Any] | None = None

    def __len__(self) -> int:
        return len(self.at)


TEXTS = ("service", "job", "provider", "model", "operation", "prompt")  # together, what a group is
TOKENS = ("input", "cached", "written", "written_1h", "output")
