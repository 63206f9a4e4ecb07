"""Declaration: `build_batch_assets`, a job and its source -> the specs of two assets, and everything that can be refused before a run.

Whatever Dagster's own asset decorators take is taken, by the same names; the translator has the last word.  Both assets carry the job's
fingerprint as their code version, so that a changed prompt shows as out of date, and a changed deadline, ceiling or tag does not.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import dagster as dg

from keld import Job, Reading, fingerprint_of
from keld_dagster.asset import Pair, assets_of
from keld_dagster.check import Wanted
from keld_dagster.code_reference import code_reference
from keld_dagster.frame import FRAMES, Frame
from keld_dagster.mapping import are_equal
from keld_dagster.metadata import job_metadata
from keld_dagster.option import DepLike
from keld_dagster.source import Source, SourceLike, check_fit, source_of
from keld_dagster.translator import KeldTranslator, Part
from keld_dagster.watch import JOB_METADATA, RESOURCE_TAG

_IO_MANAGER_KEY = "dagster/io_manager_key"  # in the metadata of a spec: what `with_io_manager_key` writes


def build_batch_assets(
    job: Job,
    *,
    source: SourceLike,
    partition_mapping: dg.PartitionMapping | None = None,
    name: str | None = None,
    key_prefix: str | Sequence[str] | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    io_manager_key: str | None = None,
    group_name: str | None = None,
    description: str | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    kinds: AbstractSet[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    deps: Sequence[DepLike] | None = None,
    code_version: str | None = None,
    freshness_policy: dg.FreshnessPolicy | None = None,
    automation_condition: dg.AutomationCondition[dg.AssetKey] | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    hooks: AbstractSet[dg.HookDefinition] | None = None,
    op_tags: Mapping[str, Any] | None = None,
    frame: Frame | None = None,
    completion_rate: float = 0.99,
    valid_rate: float = 0.99,
    translator: KeldTranslator | None = None,
    resource_key: str = "keld",
    types: Any = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    quote: str | None = None,
) -> dg.AssetsDefinition:
    """The assets `<name>_batch` and `<name>` of a job over the partitions of an upstream table.

    Args:
        source: the upstream asset (its definition, spec or key, or the key as a string; of a multi-asset `assets.get_asset_spec(key)`), loaded
            through its IO manager only if something must be sent; or a path or URI, with `{partition}` for the key, or a list of these.
        partition_mapping: which of the source's partitions hold the rows of a partition, as of `dg.AssetDep`; default the one of the same key, and
            a source whose keys have another meaning is refused.
        name: the result asset; default the job's name, with `_` for what an asset's name cannot hold.
        key_prefix, group_name, owners, tags, kinds, automation_condition: of both assets, as for any asset of Dagster's.
        partitions_def: of both assets; default the source's, if its definition or spec is given, and no mapping.
        io_manager_key: takes the enriched partition; default Dagster's own, `io_manager`.
        description, metadata: of the result, e.g. `{"partition_expr": "day"}` for IO managers of databases.
        deps: more upstream assets of both, which are not loaded: what a prompt function reads by itself.
        code_version: appended to the job's fingerprint, which is the code version of both assets.
        freshness_policy: on the result; gives each partition its deadline if the job has none.
        retry_policy: for short faults of submission and collection; a step that waits for a retry keeps its slot.
        pool: limits how many runs upload or download at once; waiting takes no slot.
        hooks, op_tags: of the op behind both assets, e.g. `{"dagster-k8s/config": {...}}`.
        frame: the form in which the source is loaded and the result handed over; default the source's return annotation, else pandas.
        completion_rate: the least share of answered rows; below it downstream assets do not run.
        valid_rate: the least share of answers that fit the output schema; below it the check `valid_rate` warns.
        translator: what its `get_asset_spec` returns replaces all of the above.
        resource_key: of the `KeldResource`.
        types, encoding, delimiter, quote: how text files are read where `source` is a path; see `keld.Reading`.

    Raises:
        InvalidJob: an unknown type, encoding, delimiter or quote.
        ValueError: no job, an unknown frame, a rate outside 0..1, or a source whose partitions are not those of the result.
    """
    if not isinstance(job, Job):
        raise ValueError(f"build_batch_assets takes a keld.Job; this is a {type(job).__name__}.")
    reading = Reading(types=types, encoding=encoding, delimiter=delimiter, quote=quote)
    origin = _origin(job, source, partition_mapping)
    _check_options(job, origin, frame, {"completion_rate": completion_rate, "valid_rate": valid_rate}, reading)
    common: dict[str, Any] = {
        "group_name": group_name,
        "owners": owners,
        "tags": tags,
        "automation_condition": automation_condition,
        "partitions_def": origin.partitions_def if partitions_def is None and origin.mapping is None else partitions_def,
        "code_version": "-".join([fingerprint_of(job), *([code_version] if code_version else [])]),
        # Dagster shows three kinds at most.
        "kinds": set(kinds) if kinds else set(list(dict.fromkeys(model.partition(":")[0] for model in job.acceptable))[:3]),
    }
    declared = code_reference()
    own: dict[str, Any] = {
        "freshness_policy": freshness_policy,
        "metadata": {**declared, **job_metadata(job), **(metadata or {})},
        "description": description,
    }
    key = _result_key(job, name, key_prefix, origin)
    batch, result = _specs(
        job, origin, key, deps or (), translator or KeldTranslator(), common, declared, own, io_manager_key or "io_manager", resource_key
    )
    pair = Pair(
        job=job,
        source=origin.as_shown(result),
        batch=batch.key,
        result=result.key,
        partitions_def=result.partitions_def,
        freshness_policy=result.freshness_policy,
        frame=frame,
        wanted=Wanted.of(job, completion_rate, valid_rate),
        reading=reading,
        resource_key=resource_key,
    )
    return assets_of(
        pair,
        [batch, result],
        backfill_policy=backfill_policy,
        retry_policy=retry_policy,
        pool=pool,
        hooks=hooks,
        op_tags=op_tags,
    )


def _origin(job: Job, source: SourceLike, partition_mapping: dg.PartitionMapping | None) -> Source:
    """The source with its mapping, which may be given with it.

    Raises:
        ValueError: two mappings are given.
    """
    origin = source_of(source)
    if partition_mapping is None:
        return origin
    if origin.mapping is not None and not are_equal(origin.mapping, partition_mapping):
        raise ValueError(f"{job.name}: the source and partition_mapping= name two partition mappings. Give one of them.")
    return replace(origin, mapping=partition_mapping)


def _check_options(job: Job, source: Source, frame: Frame | None, rates: Mapping[str, float], reading: Reading) -> None:
    """Passes if the options are valid.

    Raises:
        ValueError: an unknown frame, a rate outside 0..1, or options for text files with a source that is none.
    """
    if frame is not None and frame not in FRAMES:
        raise ValueError(f"{job.name}: frame={frame!r} is not one of {', '.join(FRAMES)}.")
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ValueError(f"{job.name}: {name}={rate!r} is a share, from 0 to 1.")
    if source.key is not None and reading.given():
        raise ValueError(
            f"{job.name}: {', '.join(reading.given())} say how a text file is read; the source is the asset {source.key.to_user_string()}, "
            "which its IO manager reads."
        )


def _result_key(job: Job, name: str | None, prefix: str | Sequence[str] | None, source: Source) -> dg.AssetKey:
    """The result asset's key; a slash in the name separates the parts of a key, as in Dagster's own texts.

    Raises:
        ValueError: it is the key of the source.
    """
    name = name or job.name.replace(".", "_").replace("-", "_")
    key = dg.AssetKey(name.split("/")).with_prefix([prefix] if isinstance(prefix, str) else list(prefix or []))
    if key == source.key:
        raise ValueError(f"{job.name}: the result would be {key.to_user_string()}, which is its source. Give it another name=.")
    return key


def _specs(
    job: Job,
    source: Source,
    key: dg.AssetKey,
    deps: Sequence[DepLike],
    translator: KeldTranslator,
    common: Mapping[str, Any],
    declared: Mapping[str, Any],
    own: Mapping[str, Any],
    io_manager_key: str,
    resource_key: str,
) -> tuple[dg.AssetSpec, dg.AssetSpec]:
    """The specs of batch and result, as the translator returns them.

    Raises:
        ValueError: the source does not fit their partitions, Dagster would show other partitions of it than are sent, or the translator gives no specs
            of two assets.
    """
    upstream = [*source.deps(common["partitions_def"]), *deps]
    batch = _translated(
        translator,
        "batch",
        dg.AssetSpec(
            dg.AssetKey([*key.path[:-1], f"{key.path[-1]}_batch"]),
            deps=upstream,
            description=f"What was sent to the provider for `{key.to_user_string()}`: batches, expected cost, deadline.",
            metadata=declared,
            **common,
        ),
    )
    usual = (
        f"The rows of {'the source' if source.key is None else source.key.to_user_string()} with the answers of the job `{job.name}`. "
        # Dagster's dialog warns of every missing upstream asset; this one may be missing.
        f"Materializing it also sends the batch: `{batch.key.to_user_string()}` may be missing. "
        "Its page says how far the provider is while this one waits."
    )
    spec = dg.AssetSpec(key, deps=[*upstream, batch.key], **{**common, **own, "description": own["description"] or usual})
    result = _translated(translator, "result", spec.with_io_manager_key(io_manager_key))
    if batch.key == result.key:
        raise ValueError(
            f"{job.name}: the translator gives both assets the key {result.key.to_user_string()}; keep default.key, or make it from it."
        )
    if _IO_MANAGER_KEY not in result.metadata:  # without one, Dagster would take the rows for nothing
        result = result.with_io_manager_key(io_manager_key)
    _check_shown(source, batch, result)
    # After the translator: the sensor finds the pair by these.
    return batch, result.merge_attributes(metadata={JOB_METADATA: job.name}, tags={RESOURCE_TAG: resource_key})


def _translated(translator: KeldTranslator, part: Part, default: dg.AssetSpec) -> dg.AssetSpec:
    """The spec that a translator returns for an asset.

    Raises:
        ValueError: it is a class, or it returns something else.
    """
    if isinstance(translator, type):
        raise ValueError(
            f"{default.key.to_user_string()}: translator= is the class {translator.__name__}; give an object, {translator.__name__}()."
        )
    spec = translator.get_asset_spec(part, default)
    if not isinstance(spec, dg.AssetSpec):
        raise ValueError(
            f"{default.key.to_user_string()}: {type(translator).__name__}.get_asset_spec returned a {type(spec).__name__}; it must return a dg.AssetSpec, "
            "e.g. default.replace_attributes(...)."
        )
    return spec


def _check_shown(source: Source, batch: dg.AssetSpec, result: dg.AssetSpec) -> None:
    """Passes if what Dagster shows of both assets is what one op can do, and the source fits.

    Raises:
        ValueError: it is not.
    """
    what = result.key.to_user_string()
    if batch.partitions_def != result.partitions_def:
        raise ValueError(f"{what}: the translator gives {batch.key.to_user_string()} other partitions; both assets are of one op.")
    if not are_equal(source.as_shown(batch).mapping, source.as_shown(result).mapping):
        raise ValueError(
            f"{what}: the translator gives {batch.key.to_user_string()} another partition mapping; what is sent is what is collected."
        )
    check_fit(what, source.as_shown(result), result.partitions_def)
