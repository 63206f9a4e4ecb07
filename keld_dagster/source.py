"""Source: where the rows of a partition come from.

Loaded lazily, in the op, and only by a run that submits: as an op input the table would also be read by every run that only attaches
or collects, and for all partitions of a ranged run at once.

A partition's rows are those of the source's partition of the same key, never more: for a key that its asset does not have, or without a key,
an IO manager may return the whole table.  A source that does not fit is refused while definitions load, if both definitions are known then
(here, or by Dagster's own check of the identity mapping); else it is refused in the run, before anything is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from keld_dagster.frame import Frame, frame_like, python_type

_ASSET_KEY = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")

SourceLike = dg.AssetsDefinition | dg.AssetSpec | dg.SourceAsset | dg.AssetKey | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An upstream asset, or a path template, or several; exactly one of `key` and `path`."""

    key: dg.AssetKey | None = None
    path: str | list[str] | None = None
    frame: Frame = "pandas"  # of the asset, by its annotation
    declared: bool = False  # True if `partitions_def` is the asset's own, since its definition was given
    partitions_def: dg.PartitionsDefinition[Any] | None = None

    def deps(self, partitions_def: dg.PartitionsDefinition[Any] | None) -> list[dg.AssetDep]:
        """The dependencies of an asset with these partitions and this source: each partition depends on the one of the same key."""
        same = None if partitions_def is None else dg.IdentityPartitionMapping()  # without partitions Dagster's runs fail over it
        return [] if self.key is None else [dg.AssetDep(self.key, partition_mapping=same)]

    @property
    def name(self) -> str | None:
        """The name of the source, if it is an asset; a path is its own name."""
        return None if self.key is None else f"asset:{self.key.to_user_string()}"

    def load(self, context: dg.AssetExecutionContext, partition: str | None, frame: Frame) -> Any:
        """The rows of a partition of an asset.

        Raises:
            Failure: the source does not have exactly this partition.
        """
        assert self.key is not None
        source = self if self.declared else _found(context, self)
        if source is not None:
            check_partition(source, context, partition)
        return context.load_asset_value(self.key, python_type=python_type(frame), partition_key=partition)


def source_of(source: SourceLike) -> Source:
    """A `Source` of what the user gave.

    A string that could be an asset key is one; a string with a dot, a brace, a scheme or a leading slash is a path.

    Raises:
        ValueError: a definition of several assets.
    """
    match source:
        case dg.AssetsDefinition() if len(source.keys) != 1:
            names = ", ".join(sorted(key.to_user_string() for key in source.keys))
            raise ValueError(
                f"The source makes {len(source.keys)} assets ({names}); the rows can come from one only. Give source=dg.AssetKey(...) of that one, "
                "and partitions_def= if it has partitions; or its spec, source=those_assets.get_asset_spec(...)."
            )
        case dg.AssetsDefinition():
            declared = next(iter(source.node_def.output_defs)).dagster_type.typing_type if source.is_executable else None
            return Source(key=source.key, frame=frame_like(declared), declared=True, partitions_def=source.partitions_def)
        case dg.AssetSpec() | dg.SourceAsset():
            return Source(key=source.key, declared=True, partitions_def=source.partitions_def)
        case dg.AssetKey():
            return Source(key=source)
        case str() if _ASSET_KEY.fullmatch(source):
            return Source(key=dg.AssetKey.from_user_string(source))
        case str() | os.PathLike():
            return Source(path=os.fspath(source))
        case list() | tuple() if source and all(isinstance(one, str | os.PathLike) for one in source):
            return Source(path=[os.fspath(one) for one in source])
        case _:
            raise ValueError(
                f"source= is a {type(source).__name__}; it can be an asset (its definition, its spec, its key, or the key as text), or a path or URI, "
                "or a list of these."
            )


def check_fit(what: str, source: Source, partitions_def: dg.PartitionsDefinition[Any] | None) -> None:
    """Passes if the partitions of an asset can be those of the source, as far as their definitions are known.

    Raises:
        ValueError: they cannot.
    """
    if source.declared and not _fit(source.partitions_def, partitions_def):
        raise ValueError(_misfit(what, source, source.partitions_def, partitions_def))


def check_mapping(what: str, source: Source, spec: dg.AssetSpec) -> None:
    """Passes if the partition mapping that Dagster shows matches the partitions of the source that are loaded.

    Raises:
        ValueError: it does not.
    """
    for dep in spec.deps:
        mapping = dep.partition_mapping
        same = mapping is None or isinstance(mapping, dg.IdentityPartitionMapping) or mapping == dg.TimeWindowPartitionMapping()
        if dep.asset_key == source.key and not same:
            raise ValueError(
                f"{what}: the partition mapping {type(mapping).__name__} would show other partitions of {dep.asset_key.to_user_string()} than are "
                "sent: a partition's rows are those of the source's partition of the same key. Bring the rows together in an asset of its own, "
                "with the partitions of the result, and give that one as source."
            )


def _found(context: dg.AssetExecutionContext, source: Source) -> Source | None:
    """The source with its partitions as the code location knows them; None for an asset of which it knows only the name."""
    assert source.key is not None
    in_location = context.run.remote_job_origin is not None  # else a test runs it, and Dagster knows only what it executes
    graph = context.repository_def.asset_graph if in_location else context.job_def.asset_layer.asset_graph
    node = graph.get(source.key) if graph.has(source.key) else None
    if node is None or (node.is_external and node.partitions_def is None):
        return None
    return replace(source, declared=True, partitions_def=node.partitions_def)


def check_partition(source: Source, context: dg.AssetExecutionContext, partition: str | None) -> None:
    """Passes if the source has exactly this partition.

    Raises:
        Failure: it does not; a retry would not help.
    """
    assert source.key is not None
    found, own = source.partitions_def, context.assets_def.partitions_def
    what = context.assets_def.node_def.name
    if not _fit(found, own):
        raise dg.Failure(_misfit(what, source, found, own) + " Nothing was sent.", allow_retries=False)
    if found is None or partition is None:
        return
    with dg.partition_loading_context(dynamic_partitions_store=context.instance):
        known = found == own or found.has_partition_key(partition)
    if not known:
        raise dg.Failure(
            f"{what}: the source {source.key.to_user_string()} has no partition {partition!r}. Nothing was sent. Materialize one that both have.",
            allow_retries=False,
        )


def _fit(source: dg.PartitionsDefinition[Any] | None, result: dg.PartitionsDefinition[Any] | None) -> bool:
    """True if the same key means the same rows in both, whether or not both have the key."""
    match source, result:
        case (None, None):
            return True
        case (dg.MultiPartitionsDefinition(), dg.MultiPartitionsDefinition()):
            theirs, ours = ({by.name: by.partitions_def for by in each.partitions_defs} for each in (source, result))
            return theirs.keys() == ours.keys() and all(_fit(theirs[name], ours[name]) for name in theirs)
        case (dg.TimeWindowPartitionsDefinition(), dg.TimeWindowPartitionsDefinition()):
            return _windows(source) == _windows(result)
        case (dg.DynamicPartitionsDefinition(), dg.DynamicPartitionsDefinition()):
            return bool(source == result)
        case _:
            return type(source) is type(result)


def _windows(partitions_def: dg.TimeWindowPartitionsDefinition) -> tuple[object, ...]:
    """The parts of a definition that turn a key into a time."""
    return partitions_def.cron_schedule, partitions_def.fmt, partitions_def.timezone


def _misfit(what: str, source: Source, theirs: dg.PartitionsDefinition[Any] | None, ours: dg.PartitionsDefinition[Any] | None) -> str:
    assert source.key is not None
    name = source.key.to_user_string()
    if ours is None:
        return (
            f"{what} has no partitions, but its source {name} has ({_shown(theirs)}): the whole table would be sent. "
            "Give build_batch_assets(partitions_def=...) the source's definition, or the source's own definition as source=."
        )
    if theirs is None:
        return (
            f"{what} has partitions ({_shown(ours)}), but its source {name} has none: the whole table would be sent for each. "
            "Partition the source, or give no partitions_def."
        )
    return (
        f"{what} has other partitions ({_shown(ours)}) than its source {name} ({_shown(theirs)}): the same key is not the same rows. "
        "Bring the rows together in an asset of its own, with the partitions of the result, and give that one as source."
    )


def _shown(partitions_def: dg.PartitionsDefinition[Any] | None) -> str:
    if isinstance(partitions_def, dg.TimeWindowPartitionsDefinition):
        return f"{type(partitions_def).__name__} {partitions_def.cron_schedule} {partitions_def.timezone}"
    return type(partitions_def).__name__
