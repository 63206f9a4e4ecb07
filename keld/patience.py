"""Patience: how long one call to a provider may take.

Below `http`, which keeps these limits.  Light: an environment has one before it needs a client.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long one call may take.

    Args:
        call_s: a look, a cancel, a removal: the whole call.
        reply_s: the reply to an upload or a create, after its body was sent.
        stall_s, least_bytes: a body must move at least `least_bytes` in any `stall_s` seconds.
    """

    call_s: float = 60.0
    reply_s: float = 300.0
    stall_s: float = 60.0
    least_bytes: int = 64 << 10
