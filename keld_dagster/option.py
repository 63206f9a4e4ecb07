"""Option: the keywords that `build_batch_assets` and `keld_assets` take, as type checkers see them.

`build_batch_assets` has them in its signature, with what each means; the decorator takes the same and the terms of a job in one call.  A test
compares them with that signature and with `keld.JobTerms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, TypedDict

import dagster as dg

from keld import JobTerms
from keld_dagster.frame import Frame
from keld_dagster.translator import KeldTranslator

DepLike = dg.AssetsDefinition | dg.AssetSpec | dg.SourceAsset | dg.AssetDep | dg.AssetKey | str | Sequence[str]


class OpOptions(TypedDict, total=False):
    """The keywords of `dg.multi_asset` that are about the op, not about what Dagster shows of an asset."""

    backfill_policy: dg.BackfillPolicy | None
    retry_policy: dg.RetryPolicy | None
    pool: str | None
    hooks: AbstractSet[dg.HookDefinition] | None
    op_tags: Mapping[str, Any] | None


class AssetOptions(OpOptions, total=False):
    """The keywords of `build_batch_assets` but `job` and `source`."""

    partition_mapping: dg.PartitionMapping | None
    name: str | None
    key_prefix: str | Sequence[str] | None
    partitions_def: dg.PartitionsDefinition[Any] | None
    io_manager_key: str | None
    group_name: str | None
    description: str | None
    owners: Sequence[str] | None
    tags: Mapping[str, str] | None
    kinds: AbstractSet[str] | None
    metadata: Mapping[str, Any] | None
    deps: Sequence[DepLike] | None
    code_version: str | None
    freshness_policy: dg.FreshnessPolicy | None
    automation_condition: dg.AutomationCondition[dg.AssetKey] | None
    frame: Frame | None
    completion_rate: float
    valid_rate: float
    translator: KeldTranslator | None
    resource_key: str
    types: Any
    encoding: str | None
    delimiter: str | None
    quote: str | None


class KeldAssetsOptions(JobTerms, AssetOptions, total=False):
    """The keywords of `keld_assets` but `source` and `job_name`: the terms of the job, and the options of the assets."""
