"""Source: where the rows of a partition come from.

Loaded lazily, in the op, and only by a run that submits: as an op input the table would also be read by every run that only attaches
or collects, and for all partitions of a ranged run at once.

A partition's rows are those of the source's partition of the same key, or of those that a partition mapping names (`mapping`), never more: for a
key that its asset does not have, or without a key, an IO manager may return the whole table.  A source that does not fit is refused while
definitions load, if both definitions are known then (here, or by Dagster's own check of the mapping); else it is refused in the run, before
anything is loaded.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dagster as dg

from keld_dagster.frame import FRAMES, Frame, frame_like, python_type
from keld_dagster.mapping import Partitions, is_same_key, refusal, shown, upstream_keys
from keld_dagster.pending import FRAMES_TAG, tag_of

_ASSET_KEY = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*")

SourceLike = (
    dg.AssetsDefinition
    | dg.AssetSpec
    | dg.SourceAsset
    | dg.AssetDep
    | dg.AssetKey
    | str
    | os.PathLike[str]
    | Sequence[str | os.PathLike[str]]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An upstream asset, or a path template, or several; exactly one of `key` and `path`."""

    key: dg.AssetKey | None = None
    path: str | list[str] | None = None
    frame: Frame | None = None  # of the asset, by its annotation; None if its definition was not given
    declared: bool = False  # True if `partitions_def` is the asset's own, since its definition was given
    partitions_def: Partitions = None
    mapping: dg.PartitionMapping | None = None  # None: the partition of the same key

    def deps(self, partitions_def: Partitions) -> list[dg.AssetDep]:
        """The dependencies of an asset with these partitions and this source."""
        same = None if partitions_def is None else dg.IdentityPartitionMapping()  # without partitions Dagster's runs fail over it
        return [] if self.key is None else [dg.AssetDep(self.key, partition_mapping=same if self.mapping is None else self.mapping)]

    def as_shown(self, spec: dg.AssetSpec) -> Source:
        """The source with the partition mapping that Dagster shows of an asset."""
        mapping = next((dep.partition_mapping for dep in spec.deps if dep.asset_key == self.key), self.mapping)
        return replace(self, mapping=None if is_same_key(mapping, self.partitions_def, spec.partitions_def) and self.declared else mapping)

    @property
    def name(self) -> str | None:
        """The name of the source, if it is an asset; a path is its own name."""
        if self.key is None:
            return None
        same = self.mapping is None or isinstance(self.mapping, dg.IdentityPartitionMapping)
        return f"asset:{self.key.to_user_string()}{'' if same or self.mapping is None else f' by {shown(self.mapping)}'}"

    def load(self, context: dg.AssetExecutionContext, partition: str | None, frame: Frame) -> Any:
        """The rows of a partition of an asset; those of several of its partitions are loaded one after the other, when they are read.

        Raises:
            Failure: the source does not have these partitions.
        """
        keys = self._keys(context, partition)
        load = partial(self._loaded, context, frame)
        if len(keys) == 1:
            return load(partition_key=keys[0])
        from keld import Parts  # here: it brings the readers of all table formats

        return Parts({str(key): partial(load, partition_key=key) for key in keys})

    def frame_in(self, context: dg.AssetExecutionContext) -> Frame:
        """The frame that matches the annotation of the asset, as the code location knows it; pandas if it knows none."""
        if self.frame is not None or self.key is None:
            return self.frame or "pandas"
        graph = _graph(context)
        found = frame_of(graph.get(self.key).assets_def, self.key) if graph.has(self.key) else None
        frames: dict[str, Frame] = json.loads(tag_of(context.run.tags, FRAMES_TAG, "{}"))
        return found or frames.get(self._said, "pandas")

    def _loaded(self, context: dg.AssetExecutionContext, frame: Frame, *, partition_key: str | None) -> Any:
        assert self.key is not None
        try:
            return context.load_asset_value(self.key, python_type=python_type(frame), partition_key=partition_key)
        except Exception as error:  # an IO manager says what it does not take in its own words, if at all
            error.add_note(
                f"The source {self._said} could not be loaded as {frame}. Nothing was sent. If its IO manager takes another frame, give frame= "
                f"({', '.join(FRAMES)}). If it keeps values in memory, it has them for the inputs of a run only: give the source one that writes them."
            )
            raise

    def _keys(self, context: dg.AssetExecutionContext, partition: str | None) -> Sequence[str | None]:
        """The partitions of the source that hold the rows of a partition, at least one; None stands for the whole of an asset without partitions.

        Raises:
            Failure: the source does not have them; a retry would not help.
        """
        source = self if self.declared else _found(context, self)
        what = context.assets_def.node_def.name
        if source is None:
            if self.mapping is None or isinstance(self.mapping, dg.IdentityPartitionMapping):
                return [partition]
            raise _refused(what, f"nothing is known here of the partitions of {self._said}. Give its definition or its spec as source=.")
        theirs, ours = source.partitions_def, context.assets_def.partitions_def
        problem = refusal(source._said, source.mapping, theirs, ours)
        if problem is not None:
            raise _refused(what, problem)
        if theirs is None:
            return [None]
        if is_same_key(source.mapping, theirs, ours):
            return [source._same(context, what, partition)]
        assert source.mapping is not None
        return source._mapped(context, what, *upstream_keys(source.mapping, theirs, ours, partition, context.instance))

    def _same(self, context: dg.AssetExecutionContext, what: str, partition: str | None) -> str | None:
        theirs = self.partitions_def
        with dg.partition_loading_context(dynamic_partitions_store=context.instance):
            known = (
                theirs is None or partition is None or theirs == context.assets_def.partitions_def or theirs.has_partition_key(partition)
            )
        if not known:
            raise _refused(what, f"the source {self._said} has no partition {partition!r}. Materialize one that both have.")
        return partition

    def _mapped(self, context: dg.AssetExecutionContext, what: str, keys: list[str], nonexistent: list[str]) -> list[str]:
        """The partitions that a mapping names, if all of them are there: the rows of the others alone would be an incomplete partition."""
        assert self.key is not None and self.mapping is not None
        if nonexistent:
            raise _refused(
                what,
                f"{shown(self.mapping)} needs {len(nonexistent)} partitions that the source {self._said} does not have: {_some(nonexistent)}. "
                "Materialize a partition that has them all; TimeWindowPartitionMapping(allow_nonexistent_upstream_partitions=True) does without them.",
            )
        if not keys:
            raise _refused(what, f"{shown(self.mapping)} names no partition of the source {self._said} for it.")
        there = context.instance.get_materialized_partitions(self.key)
        missing = [key for key in keys if key not in there]
        if missing and (there or _made_here(context, self.key)):  # else a table that Dagster does not keep account of
            raise _refused(
                what,
                f"{len(missing)} of the {len(keys)} partitions of the source {self._said} that hold its rows are not materialized: {_some(missing)}. "
                "Materialize them first.",
            )
        return keys

    @property
    def _said(self) -> str:
        assert self.key is not None
        return self.key.to_user_string()


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
                f"The source makes {len(source.keys)} assets ({names}); the rows can come from one only. Give its spec, "
                "source=those_assets.get_asset_spec(dg.AssetKey(...)); or its key, source=dg.AssetKey(...), and partitions_def= if it has partitions."
            )
        case dg.AssetsDefinition():
            return Source(key=source.key, frame=frame_of(source, source.key), declared=True, partitions_def=source.partitions_def)
        case dg.AssetSpec() | dg.SourceAsset():
            return Source(key=source.key, declared=True, partitions_def=source.partitions_def)
        case dg.AssetDep():
            return Source(key=source.asset_key, mapping=source.partition_mapping)
        case dg.AssetKey():
            return Source(key=source)
        case dg.AssetIn() | dg.AssetOut():
            raise ValueError(
                f"source= is an {type(source).__name__}, which is no asset by itself. Give the asset (its definition, spec or key), and "
                "partition_mapping= and frame= beside it."
            )
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


def check_fit(what: str, source: Source, partitions_def: Partitions) -> None:
    """Passes if a source can give the rows of an asset with these partitions, as far as the definitions are known.

    Raises:
        ValueError: it cannot.
    """
    if source.mapping is not None and source.key is None:
        raise ValueError(f"{what}: partition_mapping= is for a source that is an asset; a path names its partitions by {{partition}}.")
    if source.declared and (problem := refusal(source._said, source.mapping, source.partitions_def, partitions_def)) is not None:
        raise ValueError(f"{what}: {problem}")


def frame_of(asset: dg.AssetsDefinition, key: dg.AssetKey) -> Frame | None:
    """The frame that matches the annotation of one of its assets; None for one that is only named here."""
    if not asset.is_executable:
        return None
    return frame_like(asset.node_def.output_def_named(asset.get_output_name_for_asset_key(key)).dagster_type.typing_type)


def _found(context: dg.AssetExecutionContext, source: Source) -> Source | None:
    """The source with its partitions as the code location knows them; None for an asset of which it knows only the name."""
    assert source.key is not None
    graph = _graph(context)
    node = graph.get(source.key) if graph.has(source.key) else None
    if node is None or (node.is_external and node.partitions_def is None):
        return None
    return replace(source, declared=True, partitions_def=node.partitions_def)


def _made_here(context: dg.AssetExecutionContext, key: dg.AssetKey) -> bool:
    """True if this code location materializes the asset."""
    graph = _graph(context)
    return graph.has(key) and bool(graph.get(key).is_materializable)


def _graph(context: dg.AssetExecutionContext) -> Any:
    """The assets of the code location; in a test, which has none, those of the job."""
    try:
        return context.repository_def.asset_graph  # of `dg launch`, too
    except Exception:  # noqa: BLE001  # Dagster's own error has no public name
        return context.job_def.asset_layer.asset_graph


def _refused(what: str, problem: str) -> dg.Failure:
    return dg.Failure(f"{what}: {problem} Nothing was sent.", allow_retries=False)


def _some(keys: Sequence[str]) -> str:
    return ", ".join(map(repr, keys[:5])) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
