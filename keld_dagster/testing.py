"""Testing: `materialize(...)`, which brings Keld assets to their end in one call, as a unit test needs it.

Beside the road, for users' tests: a run that submits, the emulator's clock turned to the batch's end, and the runs that collect, with the selection
and the tags that the sensor would give them; no server, no daemon, no waiting.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from keld import Keld, RunState, Status
from keld_dagster.follower import carried
from keld_dagster.pending import ASSET_TAG, COLLECT, FRAMES_TAG, JOB_RUN_TAG, PARTITION_TAG, PHASE_TAG, TEST_TAG
from keld_dagster.resource import KeldResource, require_configured
from keld_dagster.source import frame_of
from keld_dagster.watch import JOB_METADATA, results_of, with_downstream

if TYPE_CHECKING:
    from keld.emulator import Emulator

__all__ = ["Materialized", "materialize"]

_LOOKS = 200  # at the emulator, each further apart: months of its clock, unless a job run has a problem that does not end
_TROUBLED = 10  # of them with a problem, such as a provider that cannot be reached
_RUNS = 50  # of a partition: a chain of jobs has one more for each, and so has each round of rows that are sent again
_LEAST = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True)
class Materialized:
    """What `materialize` did.

    Args:
        runs: in their order: the one that submits, those that collect; of each partition.
        job_runs: of each Keld asset and partition, as they ended.
    """

    runs: tuple[dg.ExecuteInProcessResult, ...]
    job_runs: tuple[Status, ...]

    @property
    def success(self) -> bool:
        """True if every run succeeded."""
        return all(run.success for run in self.runs)

    @property
    def cost_usd(self) -> Decimal:
        """What the providers would have billed."""
        return sum((status.cost_usd for status in self.job_runs), Decimal(0))

    @property
    def checks(self) -> dict[str, bool]:
        """Whether each check passed at its latest evaluation, by `asset:check`."""
        return {f"{one.asset_key.to_user_string()}:{one.check_name}": one.passed for one in self.get_asset_check_evaluations()}

    def asset_value(self, asset_key: dg.AssetKey | str | Sequence[str], partition_key: str | None = None) -> Any:
        """The value of an asset, as it was handed to its IO manager.

        Args:
            partition_key: default the last partition.

        Raises:
            KeyError: no run materialised it.
        """
        key = (
            dg.AssetKey.from_user_string(asset_key)
            if isinstance(asset_key, str)
            else dg.AssetKey(list(asset_key.path))
            if isinstance(asset_key, dg.AssetKey)
            else dg.AssetKey(list(asset_key))
        )
        for run in reversed(self.runs):
            partition = run.dagster_run.tags.get(PARTITION_TAG)
            if key in _materialized(run) and partition_key in (None, partition):
                return run.asset_value(key)
        raise KeyError(f"No run materialised {key.to_user_string()}" + (f" of {partition_key}." if partition_key else "."))

    def get_asset_materialization_events(self) -> Sequence[dg.DagsterEvent]:
        """As of `ExecuteInProcessResult`, of all runs."""
        return [event for run in self.runs for event in run.get_asset_materialization_events()]

    def get_asset_check_evaluations(self) -> Sequence[dg.AssetCheckEvaluation]:
        """As of `ExecuteInProcessResult`, of all runs."""
        return [evaluation for run in self.runs for evaluation in run.get_asset_check_evaluations()]


def materialize(
    assets: Sequence[dg.AssetsDefinition | dg.AssetSpec | dg.SourceAsset],
    *,
    partition_key: str | Sequence[str] | None = None,
    selection: Any = None,
    resources: Mapping[str, Any] | None = None,
    instance: dg.DagsterInstance | None = None,
    emulator: Emulator | None = None,
    raise_on_error: bool = True,
    run_config: Any = None,
    tags: Mapping[str, str] | None = None,
) -> Materialized:
    """Materialises these assets to their end, with an emulator in place of the providers: `dg.materialize`, and what the sensor does after it.

    Args:
        assets, selection, resources, raise_on_error, run_config, tags: as of `dg.materialize`; `tags` are of the first run.
        partition_key: one, or several, one after the other.
        resources: default a `KeldResource` in the instance's directory.  An account's `base_url` is replaced by the emulator's.
        instance: default a new one; with one of your own a second call finds what the first one paid for.
        emulator: default the running one to which the environment leads, such as the fixture `keld_emulator`, else a new one whose batches
            take an hour of its own clock.

    Raises:
        TimeoutError: a batch does not end, or a job run sends again and again.
    """
    with ExitStack() as stack:
        emulator = emulator or _emulator(stack)
        stack.enter_context(_environment(emulator.env()))
        instance = instance or stack.enter_context(dg.DagsterInstance.ephemeral())
        results = {key: resource for one in assets if isinstance(one, dg.AssetsDefinition) for key, resource in results_of(one).items()}
        given = dict(resources or {})
        for name in set(results.values()):
            own = given.get(name) or KeldResource(home=str(Path(instance.storage_directory()) / "keld"))
            require_configured(own)
            given[name] = _at_emulator(own, emulator) if isinstance(own, KeldResource) else own
        kelds = {name: stack.enter_context(given[name].process_config_and_initialize_cm()).get() for name in set(results.values())}
        course = _Course(
            assets=list(assets),
            jobs=_jobs(assets),
            kelds={key: kelds[name] for key, name in results.items()},
            emulator=emulator,
            options={"resources": given, "instance": instance, "raise_on_error": raise_on_error, "run_config": run_config},
        )
        partitions = [partition_key] if partition_key is None or isinstance(partition_key, str) else list(partition_key)
        runs = [
            run
            for partition in partitions
            for run in course.runs(partition, {"selection": selection, "tags": {**(tags or {}), TEST_TAG: "true"}})
        ]
        statuses = [status for partition in partitions for key in results if (status := course.status(key, partition)) is not None]
        return Materialized(runs=tuple(runs), job_runs=tuple(statuses))


@dataclass(frozen=True, kw_only=True)
class _Course:
    """The way of partitions from their submission to their end.

    Args:
        jobs: the job of each result asset.
        kelds: the environment of each result asset.
        options: of every `dg.materialize`.
    """

    assets: list[Any]
    jobs: Mapping[dg.AssetKey, str]
    kelds: Mapping[dg.AssetKey, Keld]
    emulator: Emulator
    options: Mapping[str, Any]

    def runs(self, partition: str | None, first: Mapping[str, Any]) -> Iterator[dg.ExecuteInProcessResult]:
        """The runs of a partition, each when it is due."""
        run = dg.materialize(self.assets, partition_key=partition, **first, **self.options)
        yield run
        planned = self._resolved(None if first["selection"] is None else dg.AssetSelection.from_coercible(first["selection"]))
        missing = planned - _materialized(run)
        for _ in range(_RUNS):
            if not run.success or (due := self._next(missing, partition)) is None:
                return
            result, status = due
            collect = {
                TEST_TAG: "true",
                PHASE_TAG: COLLECT,
                ASSET_TAG: result.to_user_string(),
                JOB_RUN_TAG: status.id,
                FRAMES_TAG: self._frames(),
            }
            run = dg.materialize(
                self.assets, partition_key=partition, selection=self._selection(result, missing), tags=collect, **self.options
            )
            yield run
            missing -= _materialized(run)
        raise TimeoutError(f"{_RUNS} runs did not materialise {', '.join(sorted(key.to_user_string() for key in missing))}.")

    def status(self, result: dg.AssetKey, partition: str | None) -> Status | None:
        """The youngest job run of a result asset."""
        return self.kelds[result].find(self.jobs[result], partition)

    def _next(self, missing: set[dg.AssetKey], partition: str | None) -> tuple[dg.AssetKey, Status] | None:
        """The result asset that a run can collect now, when the clock has been turned to it; None if nothing is on its way."""
        since, before, troubled = self.emulator.now(), None, 0
        for _ in range(_LOOKS):
            waiting = {key: status for key in sorted(missing & self.jobs.keys()) if (status := self._looked_at(key, partition)) is not None}
            ready = next(((key, status) for key, status in waiting.items() if status.wants_worker), None)
            if ready is not None or not waiting:
                return ready
            states = [(batch.shard, batch.state) for status in waiting.values() for batch in status.batches]
            since, before = (since if states == before else self.emulator.now()), states
            troubled += any(status.problem is not None for status in waiting.values())
            if troubled >= _TROUBLED:
                break
            self.emulator.advance(_step(list(waiting.values()), since, self.emulator.now()))
        raise TimeoutError(
            f"By {self.emulator.now():%Y-%m-%d %H:%M} on the emulator's clock: {' '.join(_said(status) for status in waiting.values())}"
        )

    def _looked_at(self, result: dg.AssetKey, partition: str | None) -> Status | None:
        """The job run of a result that has not been collected, after a look at its provider; None if there is none, or it was cancelled."""
        status = self.status(result, partition)
        if status is not None and not status.over:
            self.kelds[result].poll([status.id])
            status = self.kelds[result].status(status.id)
        return None if status is None or status.state is RunState.CANCELLED else status

    def _selection(self, result: dg.AssetKey, missing: set[dg.AssetKey]) -> list[dg.AssetKey]:
        """A result, and what is downstream of it and waits for no other result."""
        return [result, *carried(result, missing - {result}, missing & self.jobs.keys(), self._downstream)]

    def _frames(self) -> str:
        """The frame of each asset: of those that it does not select, a run without a code location has the names only."""
        made = [(key, one) for one in self.assets if isinstance(one, dg.AssetsDefinition) and one.is_executable for key in one.keys]
        return json.dumps({key.to_user_string(): frame_of(one, key) for key, one in made})

    def _downstream(self, key: dg.AssetKey) -> set[dg.AssetKey]:
        return self._resolved(with_downstream(dg.AssetSelection.assets(key))) - {key}

    def _resolved(self, selection: dg.AssetSelection | None) -> set[dg.AssetKey]:
        """The assets of a selection that can be executed; None: all."""
        executable = {key for one in self.assets if isinstance(one, dg.AssetsDefinition) and one.is_executable for key in one.keys}
        return executable if selection is None else executable & set(selection.resolve(self.assets))


def _step(waiting: Sequence[Status], since: datetime, now: datetime) -> timedelta:
    """How far the clock is turned: to the next check; or further, by half of the time since the last change, if nothing is decided meanwhile."""
    to_check = min((status.next_check_at - now for status in waiting if status.next_check_at is not None), default=_LEAST)
    further = [(now - since) / 2]
    further += [status.escalates_at - now for status in waiting if status.escalates_at is not None and status.escalates_at > now]
    further += [(status.deadline_at - now) / 10 for status in waiting if status.deadline_at is not None and status.deadline_at > now]
    return max(_LEAST, to_check, min(further))


def _said(status: Status) -> str:
    return status.summary if status.problem is None else f"{status.summary} {status.problem}"


def _jobs(assets: Sequence[Any]) -> dict[dg.AssetKey, str]:
    return {
        spec.key: spec.metadata[JOB_METADATA]
        for one in assets
        if isinstance(one, dg.AssetsDefinition)
        for spec in one.specs
        if JOB_METADATA in spec.metadata
    }


def _materialized(run: dg.ExecuteInProcessResult) -> set[dg.AssetKey]:
    return {event.asset_key for event in run.get_asset_materialization_events() if event.asset_key is not None}


def _at_emulator(resource: KeldResource, emulator: Emulator) -> KeldResource:
    """The same resource with the emulator's clock, none of whose accounts leads elsewhere."""

    class AtEmulator(type(resource)):  # type: ignore[misc]  # of the user's own class, whose `open` may be its own
        def open(self) -> Keld:
            keld: Keld = super().open()
            keld.clock = emulator.now
            return keld

    fields = {name: getattr(resource, name) for name in type(resource).model_fields}
    fields["accounts"] = {
        name: account if account.base_url is None else account.model_copy(update={"base_url": emulator.url_of(account.kind)})
        for name, account in resource.accounts.items()
    }
    return AtEmulator(**fields)


def _emulator(stack: ExitStack) -> Emulator:
    """The emulator to which the environment leads, else a new one.

    Raises:
        ImportError: the emulator's packages are not installed.
    """
    try:
        from keld.emulator import Emulator  # at its first use: it is an extra
    except ImportError as error:
        raise ImportError(f"{error}. The emulator is an extra: pip install 'keld[emulator]'.") from error
    return Emulator.in_environment() or stack.enter_context(Emulator(latency_s=3600, frozen=True))


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
