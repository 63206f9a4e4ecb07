"""Run config: what a person, a job or a schedule configured for the run that sent -> what the runs that collect are configured with.

They run the assets that the first run had to skip, and through the same IO managers: without its config these would fail, or take their defaults in
silence.  Dagster ends a whole tick for one request of which it can make no run, and would end every later one: so each is looked at before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import dagster as dg

from keld_dagster.pending import WAIT_TAG, tag_of

_ASSET_JOB = (
    "__ASSET_JOB"  # the job of all assets of a code location, which is that of collect runs; its other names begin with this one, too
)
_OF_ASSETS = ("ops", "resources")  # what else may stand in a run's config (its executor, its loggers) is of the job that it was launched by


def given_config(instance: dg.DagsterInstance, repository: dg.RepositoryDefinition, submitted: dg.DagsterRun) -> Mapping[str, Any]:
    """The config of the run that began it all: one that collects and sends another round may have less.

    A job that maps its config by a function of the user's own has another language, of which nothing is known here.
    """
    run = submitted
    while (before := _before(instance, run)) is not None:
        run = before
    if run.job_name.startswith(_ASSET_JOB):
        return run.run_config
    job = repository.get_job(run.job_name) if repository.has_job(run.job_name) else None
    config = run.run_config or (None if job is None else job.run_config) or {}
    return {part: config[part] for part in _OF_ASSETS if part in config}


def _before(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun | None:
    """The run that sent what this one was launched to collect; None if it was launched otherwise, or that one was deleted."""
    sent = tag_of(run.tags, WAIT_TAG, "")
    return instance.get_run_by_id(sent) if sent not in ("", run.run_id) else None


def misfit(repository: dg.RepositoryDefinition, assets: Collection[dg.AssetKey], config: Mapping[str, Any]) -> str | None:
    """Why Dagster would make no run of one partition of these assets with a config; None if it would."""
    graph = repository.asset_graph
    if (
        len({graph.get(key).partitions_def for key in assets} - {None}) > 1
    ):  # https://github.com/dagster-io/dagster/issues/23163, 2026-12-01
        return "They have different partitions, or partitions that begin on different days."
    try:
        job = repository.get_job(_ASSET_JOB).get_subset(asset_selection=frozenset(assets))
        dg.validate_run_config(job, dict(config))
    except Exception as problem:  # noqa: BLE001  # of an op that has no parts, of a config, of an environment variable that it names
        return str(problem)
    return None
