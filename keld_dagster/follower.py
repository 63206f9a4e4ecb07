"""Follower: which assets a collect run materialises beside its result: those downstream of it, that its submit run planned and had to skip.

One that also needs the result of another job that is at its provider rides with the last of them: earlier it would fail, or read an older
partition.  The rule is here once, for the sensor's `tick` and for `testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet

import dagster as dg


def carried(
    result: dg.AssetKey,
    followers: Collection[dg.AssetKey],
    missing: Collection[dg.AssetKey],
    downstream: Callable[[dg.AssetKey], AbstractSet[dg.AssetKey]],
) -> Sequence[dg.AssetKey]:
    """Those of the followers that a result's collect run carries.

    Args:
        missing: the results that are not materialised; one downstream of `result` is sent by the same run, and skips what follows it by itself.
        downstream: all assets that depend on an asset, directly or indirectly.
    """
    below = downstream(result)
    others = set(missing) - below - {result}
    blocked = frozenset[dg.AssetKey]().union(*(downstream(other) for other in others))
    return sorted((set(followers) & below) - blocked, key=lambda key: key.to_user_string())
