"""Spread: the answer to a request of many rows -> an answer to each of them.

Below `answer` and the providers' packs.  Pure.  Each row has its own content, and its share of the tokens that were used, by the bytes of its prompt.
A request that was refused says nothing of which row was at fault: each is asked again, by itself, and a refusal is not paid.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from keld.outcome import Outcome
from keld.reply import Reply

_COUNTS = ("input_tokens", "cached_tokens", "cache_write_tokens", "cache_write_1h_tokens", "output_tokens")


def spread(reply: Reply, custom_ids: Sequence[str], weights: Sequence[int]) -> list[Reply]:
    """The reply to a request of N rows as N replies, in the order of its rows.

    Args:
        custom_ids: of the rows.
        weights: of each row's prompt; the tokens are split by it, exactly.
    """
    counts = {name: shares(getattr(reply, name), weights) for name in _COUNTS}
    contents = reply.parts if reply.parts is not None and len(reply.parts) == len(custom_ids) else None
    outcome, error, retryable = reply.outcome, reply.error, reply.retryable
    if outcome is Outcome.ANSWERED and contents is None:
        outcome, error, retryable = Outcome.INVALID, f"an answer without one part for each of its {len(custom_ids):,} rows", True
    elif outcome is Outcome.ERRORED:
        error, retryable = f"{error} (of a request with {len(custom_ids):,} rows)", True
    return [
        msgspec.structs.replace(
            reply,
            custom_id=custom_id,
            outcome=outcome,
            content=None if contents is None else contents[n],
            parts=None,
            error=error,
            retryable=retryable,
            **{name: split[n] for name, split in counts.items()},
        )
        for n, custom_id in enumerate(custom_ids)
    ]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` split by weight into whole numbers whose sum is `total`, each within 1 of its exact share.

    >>> shares(10, [1, 1, 1])
    [3, 3, 4]
    """
    whole, given, seen, found = sum(weights), 0, 0, []
    if not whole:
        return shares(total, [1] * len(weights))
    for weight in weights:
        seen += weight
        upto = total * seen // whole
        found.append(upto - given)
        given = upto
    return found
