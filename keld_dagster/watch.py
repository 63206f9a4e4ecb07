"""Watch: which assets of a code location a sensor collects results for.

`asset` marks them, and `sensor` finds them by the marks in the asset graph of its code location: so one sensor serves
all modules of a location, for any number of calls of `keld_definitions` and any partitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

JOB_METADATA = "keld/job"
RESOURCE_TAG = "keld/resource"  # on a result asset: the key of its `KeldResource`


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A result asset, its batch asset, its job's name and its downstream assets."""

    result: dg.AssetKey
    batch: dg.AssetKey
    job: str
    partitions_def: dg.PartitionsDefinition[Any] | None
    downstream: frozenset[dg.AssetKey]


def watched_in(graph: BaseAssetGraph[Any], resource_key: str) -> dict[dg.AssetKey, Watched]:
    """The result assets of a code location that use a resource."""
    return {
        node.key: Watched(
            result=node.key,
            batch=_batch_of(node.assets_def, node.key),
            job=node.metadata[JOB_METADATA],
            partitions_def=node.partitions_def,
            downstream=downstream_of(graph, node.key),
        )
        for node in graph.asset_nodes
        if JOB_METADATA in node.metadata and node.tags.get(RESOURCE_TAG) == resource_key
    }


def _batch_of(assets: dg.AssetsDefinition, result: dg.AssetKey) -> dg.AssetKey:
    """The other asset of the op, by the key that it has now: a key in metadata would stay as declared when assets get a prefix."""
    return next(key for key in assets.node_keys_by_output_name.values() if key != result)


def results_in(graph: BaseAssetGraph[Any]) -> frozenset[dg.AssetKey]:
    """The result assets of a code location, with any resource."""
    return frozenset(node.key for node in graph.asset_nodes if JOB_METADATA in node.metadata)


def downstream_of(graph: BaseAssetGraph[Any], key: dg.AssetKey) -> frozenset[dg.AssetKey]:
    """All assets that depend on an asset, directly or indirectly; with each, all of an op that makes several and none alone."""
    found: set[dg.AssetKey] = set()
    edge = [key]
    while edge:
        children = graph.get(edge.pop()).child_keys
        of_their_ops = {other for child in children for other in graph.get(child).execution_set_asset_keys}
        edge.extend(of_their_ops - found)
        found |= of_their_ops
    return frozenset(found)


def with_downstream(selection: dg.AssetSelection) -> dg.AssetSelection:
    """A selection of results with all that follows them, as `downstream_of` finds it; twice, since what an op makes beside has followers, too."""
    for _ in range(2):
        selection = selection.downstream().required_multi_asset_neighbors()
    return selection


def results_of(assets: dg.AssetsDefinition) -> Mapping[dg.AssetKey, str]:
    """The result assets of a definition, each with the key of its resource; empty if `build_batch_assets` did not make it."""
    return {spec.key: spec.tags[RESOURCE_TAG] for spec in assets.specs if JOB_METADATA in spec.metadata}
