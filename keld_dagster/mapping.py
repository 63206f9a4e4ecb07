"""Mapping: which partitions of the source hold the rows of a partition.

Without a mapping, the one of the same key, if the same key means the same rows in both.  With one of Dagster's, those that it names for the
partition, asked of the object that Dagster's own graph shows: what a person sees there is what is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dagster as dg

Partitions = dg.PartitionsDefinition[Any] | None


def is_same_key(mapping: dg.PartitionMapping | None, theirs: Partitions, ours: Partitions) -> bool:
    """True if a partition's rows are those of the source's partition of the same key."""
    if mapping is None or isinstance(mapping, dg.IdentityPartitionMapping):
        return True
    return are_equal(mapping, dg.TimeWindowPartitionMapping()) and _fit(theirs, ours)  # what Dagster takes if none is given


def refusal(name: str, mapping: dg.PartitionMapping | None, theirs: Partitions, ours: Partitions) -> str | None:
    """Why a source of that name with these partitions cannot give the rows of ours; None if it can, as far as definitions tell."""
    if mapping is None or isinstance(mapping, dg.IdentityPartitionMapping):
        return None if _fit(theirs, ours) else _misfit(name, theirs, ours)
    if theirs is None:
        whole = isinstance(mapping, dg.AllPartitionMapping)
        return None if whole else f"its source {name} has no partitions, so {shown(mapping)} has nothing to choose from."
    if ours is None and isinstance(mapping, dg.TimeWindowPartitionMapping | dg.StaticPartitionMapping | dg.MultiPartitionMapping):
        return f"it has no partitions, so {shown(mapping)} cannot say which of its source {name} are meant. Give partitions_def=."
    try:
        mapping.validate_partition_mapping(theirs, ours)
    except Exception as problem:  # noqa: BLE001  each mapping raises errors of its own
        return f"{shown(mapping)} does not fit its source {name} ({_kind(theirs)}) and its own partitions ({_kind(ours)}): {problem}"
    return None


def upstream_keys(
    mapping: dg.PartitionMapping,
    theirs: dg.PartitionsDefinition[Any],
    ours: Partitions,
    partition: str | None,
    instance: dg.DagsterInstance,
) -> tuple[list[str], list[str]]:
    """(the partitions of the source that a mapping names for one of ours, in their own order; those that it needs and that do not exist)."""
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        found = mapping.get_upstream_mapped_partitions_result_for_partitions(
            None if ours is None or partition is None else ours.subset_with_partition_keys([partition]), ours, theirs
        )
        return _in_order(theirs, found.partitions_subset.get_partition_keys()), list(found.required_but_nonexistent_partition_keys)


def are_equal(one: dg.PartitionMapping | None, other: dg.PartitionMapping | None) -> bool:
    """True if two mappings are the same; mappings are tuples, and those without a field are all equal to each other."""
    return type(one) is type(other) and one == other


def shown(mapping: dg.PartitionMapping) -> str:
    """A mapping in a word, the same in every process; with the offset of its window, if it has one."""
    match mapping:
        case dg.TimeWindowPartitionMapping() if mapping.start_offset or mapping.end_offset:
            return f"TimeWindowPartitionMapping({mapping.start_offset}, {mapping.end_offset})"
        case _:
            return type(mapping).__name__


def _in_order(partitions_def: dg.PartitionsDefinition[Any], keys: Iterable[str]) -> list[str]:
    """The keys in an order that is the same each time: some mappings give them as a set, and the order is that of the rows."""
    match partitions_def:
        case dg.TimeWindowPartitionsDefinition():
            return sorted(keys, key=lambda key: partitions_def.time_window_for_partition_key(key).start)
        case dg.StaticPartitionsDefinition():
            wanted = set(keys)
            return [key for key in partitions_def.get_partition_keys() if key in wanted]
        case _:
            return sorted(keys)


def _fit(theirs: Partitions, ours: Partitions) -> bool:
    """True if the same key means the same rows in both, whether or not both have the key."""
    match theirs, ours:
        case (None, None):
            return True
        case (dg.MultiPartitionsDefinition(), dg.MultiPartitionsDefinition()):
            one, other = ({by.name: by.partitions_def for by in each.partitions_defs} for each in (theirs, ours))
            return one.keys() == other.keys() and all(_fit(one[name], other[name]) for name in one)
        case (dg.TimeWindowPartitionsDefinition(), dg.TimeWindowPartitionsDefinition()):
            return _windows(theirs) == _windows(ours)
        case (dg.DynamicPartitionsDefinition(), dg.DynamicPartitionsDefinition()):
            return bool(theirs == ours)
        case _:
            return type(theirs) is type(ours)


def _windows(partitions_def: dg.TimeWindowPartitionsDefinition) -> tuple[object, ...]:
    """The parts of a definition that turn a key into a time."""
    return partitions_def.cron_schedule, partitions_def.fmt, partitions_def.timezone


def _misfit(name: str, theirs: Partitions, ours: Partitions) -> str:
    if ours is None:
        return (
            f"it has no partitions, but its source {name} has ({_kind(theirs)}): the whole table would be sent. "
            "Give partitions_def= the source's definition, or the source's own definition as source=; "
            "if all rows are meant, give partition_mapping=dg.AllPartitionMapping()."
        )
    if theirs is None:
        return (
            f"it has partitions ({_kind(ours)}), but its source {name} has none: the whole table would be sent for each. "
            "Partition the source, or give no partitions_def; if that is meant, give partition_mapping=dg.AllPartitionMapping()."
        )
    return (
        f"it has other partitions ({_kind(ours)}) than its source {name} ({_kind(theirs)}): the same key is not the same rows. "
        "Give partitions_def= the source's definition, its time zone included; or, if others are meant, say which partitions of the source: "
        f"partition_mapping={_usual(theirs, ours)}."
    )


def _usual(theirs: Partitions, ours: Partitions) -> str:
    """The mapping that people mostly mean between two such definitions."""
    match theirs, ours:
        case (dg.TimeWindowPartitionsDefinition(), dg.TimeWindowPartitionsDefinition()):
            return "dg.TimeWindowPartitionMapping()"
        case (dg.MultiPartitionsDefinition(), _) | (_, dg.MultiPartitionsDefinition()):
            return "dg.MultiToSingleDimensionPartitionMapping(...)"
        case _:
            return "..., one of Dagster's"


def _kind(partitions_def: Partitions) -> str:
    if isinstance(partitions_def, dg.TimeWindowPartitionsDefinition):
        return f"{type(partitions_def).__name__} {partitions_def.cron_schedule} {partitions_def.timezone}"
    return "none" if partitions_def is None else type(partitions_def).__name__
