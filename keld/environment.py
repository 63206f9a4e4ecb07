"""Environment: `Keld(...)`, where jobs run: one ledger, one staging root, the provider accounts; and the few verbs.

The front room: everything a user or an orchestrator calls goes through here.  `submit` takes the snapshot and plans; it sends
nothing.  `advance` and `poll` are the runner's.  The identity of a job run is (namespace, job, partition), never a caller's run id.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from keld import snapshot
from keld.answer import AnswerSink, Outcome, same
from keld.cascade import seal
from keld.database import shown
from keld.enrich import KELD_COLUMNS, enrich, enriched_schema, source_schema
from keld.errors import AccessRefused, InvalidJob, LedgerError, ProviderUnreachable, SchemaError, StagingError, UnknownJobRun
from keld.identity import Identity, declared, name_of
from keld.instant import utc
from keld.job import Job, due, partition_end
from keld.ledger import Ledger
from keld.path import check_path
from keld.plan import Plan, choose_first
from keld.price import Lane, Quote, quotes, sold_in_batches
from keld.providers.account import Account
from keld.providers.base import Fit
from keld.providers.provider import ACCOUNTS, Provider, connect, price_list
from keld.reading import Reading
from keld.record import JobRun, Shard
from keld.request import Question, fingerprint, marks_of, one_line
from keld.retention import Removal, outdated, remove
from keld.reuse import reuse
from keld.runner import Ask, Finding, Runner, Settings, World, keyless, options, overhead, plan_shards, probe_of, question_of
from keld.schema import OutputSchema, output_schema
from keld.shard import fitting
from keld.snapshot import Snapshot
from keld.spend import Report, report
from keld.staging import RunFiles, Staging, disk_errors, write_file
from keld.state import RunState
from keld.status import Status, status_of
from keld.table import Table, check_apart, open_table, sink_is_file, try_sink, write_table
from keld.twin import fan_out, find_twins, keep_twins

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


_NAMESPACE = "default"
log = logging.getLogger("keld")


def utcnow() -> datetime:
    """Now, aware, in UTC."""
    return datetime.now(UTC)


class Keld:
    """Where jobs run.

    Args:
        home: the directory of ledger and staging; default `KELD_HOME`, else `.keld`.
        ledger_url: `sqlite:///...` or `postgresql://...`; default `KELD_LEDGER_URL`, else an SQLite file in `home`.
        namespace: keeps several teams apart in one ledger; default `KELD_NAMESPACE`, else `default_namespace`, else `default`.
        default_namespace: where nobody names one; an orchestrator gives its code location's name.  What was run under `default` before,
            and asks the same, is brought into it when it is asked for.
        accounts: more providers, or other settings of the known ones, by the name before the colon in `models`.
        clock: gives now, aware UTC; for tests.
        settings: how patient the runner is.
    """

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        ledger_url: str | None = None,
        namespace: str | None = None,
        default_namespace: str | None = None,
        accounts: Mapping[str, Account] | None = None,
        clock: Callable[[], datetime] = utcnow,
        settings: Settings | None = None,
    ) -> None:
        self.home = Path(home or os.environ.get("KELD_HOME") or ".keld").absolute()
        self.ledger_url = ledger_url or os.environ.get("KELD_LEDGER_URL") or f"sqlite:///{self.home / 'ledger.db'}"
        chosen = namespace or os.environ.get("KELD_NAMESPACE")
        self.namespace = chosen or default_namespace or _NAMESPACE
        self._inherits = chosen is None and self.namespace != _NAMESPACE  # what stands under the name that was the default for all
        self.accounts = ACCOUNTS | dict(accounts or {})
        self.clock = clock
        self.settings = settings or Settings()
        self.staging = Staging(self.home / "staging")
        self._providers: dict[str, Provider] = {}
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._runner: Runner | None = None

    # -- the verbs --------------------------------------------------------------------------------------------

    def plan(
        self,
        job: Job,
        source: Any,
        *,
        partition: str | None = None,
        owner: str | None = None,
        source_name: str | None = None,
        types: Any = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
    ) -> Plan:
        """What a run of this partition would do, cost and take; sends nothing, keeps nothing.

        Args:
            owner, source_name: as of `submit`.
            types, encoding, delimiter, quote: how text files are read; see `submit`.

        Raises:
            SourceError, SchemaError, PriceUnknown, CeilingTooLow, DeadlinePassed, InvalidJob.
        """
        check_path(source, "source")
        mine = _identity(job, source, partition or "", owner, source_name)
        self._check_owner(job, partition or "", mine)
        table = open_table(source, partition=partition, reading=Reading(types=types, encoding=encoding, delimiter=delimiter, quote=quote))
        with TemporaryDirectory(prefix="keld-plan-") as directory:
            files = RunFiles(Path(directory))
            taken, question, _ = self._take(job, table, files)
            sizes = snapshot.sizes(files.snapshot)
            askable = sizes if job.reuse == "never" else self._once(files, sizes)
            plan = self._plan(job, partition or "", taken, question, files, askable, int((sizes > 0).sum()))
            return replace(plan, table_notes=table.notes)

    def submit(
        self,
        job: Job,
        source: Any,
        *,
        partition: str | None = None,
        sink: Any = None,
        ends_at: datetime | None = None,
        force: bool = False,
        owner: str | None = None,
        source_name: str | None = None,
        types: Any = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
    ) -> Status:
        """The job run of this partition: a new one, or the one that is there.

        An open one is attached to, unless nothing of it was sent and the table or the declaration has changed: then it is planned
        anew.  One that was sent and asked otherwise (see `identity`) is given back as `outdated`: it is to be finished, and what is declared
        now is asked by submitting again when it is over, as `run` does.  One that answered every row of the same table, by the same
        declaration, is given back as it is (with a sink, its output is written again).  Otherwise a next generation asks what was not
        answered before.  Nothing is sent here: `advance` does.

        Args:
            source: see `table.open_table`; `{partition}` in a path stands for the key.
            sink: a path or URI for the enriched partition, `{partition}` as above; None keeps it in staging, for `read`.  One of an open
                file system (a UPath and its like) is only checked: `write` it when the job run is over.
            ends_at: the partition's end, aware, where its key does not say (see `job.partition_end`).
            force: ask every row anew, whatever was answered and paid before.
            owner: who declares the job, in the caller's words (an asset, a task); default the job's name.  It is no part of the identity.
            source_name: what the source is called, where it is no path and so does not say it itself.
            types: of the columns of CSV and JSON Lines, and of those that Hive directories name: a dict like `{"amount": "decimal(12,2)"}`, or a
                `pyarrow.Schema`.  A column of a CSV file that is not named is text, as it is written.
            encoding: of text files; default UTF-8, or UTF-16 by its mark.
            delimiter, quote: of CSV; default a comma (in `.tsv` a tab) and `"`; `quote=""`: nothing is quoted.

        Raises:
            SourceError, SchemaError, PriceUnknown, CeilingTooLow, DeadlinePassed, AccessRefused, InvalidJob, StagingError: nothing was sent.
        """
        reading = Reading(types=types, encoding=encoding, delimiter=delimiter, quote=quote)
        key = _keepable(partition or "")
        ends_at = None if ends_at is None else utc(ends_at, f"{job.name}[{key}]: ends_at")
        for place, name in ((source, "source"), (sink, "sink")):
            check_path(place, name)
        opened_by_caller = hasattr(sink, "protocol")
        target = None if sink is None or opened_by_caller else _absolute(sink)
        self._check_sink(job, sink if opened_by_caller else target, key)
        check_apart(source, target, partition)
        mine = _identity(job, source, key, owner, source_name)
        before = self._standing(job, key, mine)
        if before is not None and _is_stuck(before) and (force or target is None or self._outdated(before, mine)):
            before = self._without_output(before)
        if before is not None and not before.over:
            self.ledger.check_remembered(before.id)  # else what was sent might be taken for unsent, and planned anew
        if before is not None and not before.over and not all(shard.unsent for shard in self.ledger.shards(before.id)):
            return self._attach(before, target, mine)
        table = open_table(source, partition=partition, reading=reading)
        run_id = secrets.token_hex(16)
        files = self.staging.make(run_id)
        try:
            opened = self._open(job, key, table, run_id, files, sink if opened_by_caller else target, ends_at, before, force, mine)
        except BaseException:
            self._drop_unopened(run_id)
            raise
        if opened is None or opened.id != run_id:
            self.staging.drop(run_id)  # nothing new to ask, or another worker was first
            return self._attach(opened or self._first(job, key, mine), target, mine)
        return self.status(opened.id)

    def compare(self, run_id: str, job: Job, source: Any = None, *, owner: str | None = None, source_name: str | None = None) -> Status:
        """The status of a job run, with what is declared otherwise by now noted as `outdated`, whether it is over or not.

        For whoever hands out the rows of a job run that was submitted earlier.  The source is not read, and nothing is sent.

        Raises:
            UnknownJobRun: there is none.
        """
        run = self.ledger.run(run_id)
        mine = _identity(job, source, run.partition, owner, source_name)
        outdated = mine.changed_since(run.fingerprint, run.declared, run.source)
        if outdated != run.outdated:
            self.ledger.note_outdated(run.id, outdated)
        return self.status(run_id)

    def advance(self, run_id: str, *, budget_s: float = 60.0) -> Status:
        """Does whatever is due for a job run, for about `budget_s`; idempotent, callable from anywhere."""
        self.runner.advance(run_id, timedelta(seconds=budget_s))
        return self.status(run_id)

    def poll(self, run_ids: Sequence[str] | None = None, *, budget_s: float = 10.0) -> list[Status]:
        """Looks at the providers, for these or all open job runs, and records; never uploads, downloads or pays."""
        ids = list(run_ids) if run_ids is not None else [run.id for run in self.ledger.runs(self.namespace, open_only=True)]
        return self._statuses_of(self.runner.poll(ids, timedelta(seconds=budget_s)))

    def run(
        self,
        job: Job,
        source: Any,
        *,
        partition: str | None = None,
        sink: Any = None,
        ends_at: datetime | None = None,
        force: bool = False,
        owner: str | None = None,
        source_name: str | None = None,
        poll_s: float | None = None,
        progress: Callable[[Status], None] | None = None,
        types: Any = None,
        encoding: str | None = None,
        delimiter: str | None = None,
        quote: str | None = None,
    ) -> Status:
        """Submits and advances to the end; run again after any interruption, it goes on where it stood.

        Where a job run is out that asked otherwise, it is finished first.

        Args:
            poll_s: seconds between looks at the provider; None adapts to the batches' age.
            progress: called with the status after every step.
            types, encoding, delimiter, quote: how text files are read; see `submit`.

        Raises:
            AccessRefused, ProviderUnreachable: the provider cannot be used and nothing has been accepted yet.
        """
        reading = Reading(types=types, encoding=encoding, delimiter=delimiter, quote=quote)
        how: dict[str, Any] = {"partition": partition, "sink": sink, "ends_at": ends_at, "owner": owner, "source_name": source_name}
        while True:
            status = self.submit(job, source, force=force, **how, **reading.given())
            done = self.finish(status.id, poll_s=poll_s, progress=progress)
            if status.outdated is None:
                return done

    def finish(self, run_id: str, *, poll_s: float | None = None, progress: Callable[[Status], None] | None = None) -> Status:
        """Advances a job run to its end; see `run`."""
        pause = threading.Event()
        fruitless, before = 0, None
        while True:
            status = self.advance(run_id, budget_s=2.0)
            if progress is not None:
                progress(status)
            if status.over:
                return status
            if status.problem is None:
                fruitless = 0
            elif not status.accepted:
                fruitless += 1
                self._give_up_early(status, fruitless)
            idle = before is not None and before.batches == status.batches  # another worker has it in hand, perhaps
            pause.wait(max(self._wait_s(status, poll_s, fruitless), 0.5 if idle else 0.0))
            before = status

    def status(self, run_id: str) -> Status:
        """Where a job run stands.

        Raises:
            UnknownJobRun.
        """
        return status_of(self.ledger.run(run_id), self.ledger.shards(run_id), self.clock())

    def find(self, job: str, partition: str | None = None) -> Status | None:
        """The youngest job run of (job, partition), or None."""
        run = self.ledger.latest(self.namespace, job, partition or "")
        if run is None and self._inherits:
            run = self.ledger.latest(_NAMESPACE, job, partition or "")
        return None if run is None else self.status(run.id)

    def hand_over(self, job: str, owner: str) -> None:
        """Says who declares a job of this namespace from now on, whatever it asked before; see `identity`."""
        self.ledger.hand_over(self.namespace, job, owner)

    def namespaces(self) -> dict[str, int]:
        """How many job runs each namespace of this ledger holds; the verbs see only those of their own."""
        return self.ledger.namespaces()

    def statuses(
        self, *, job: str | None = None, open_only: bool = False, limit: int | None = None, ids: Collection[str] | None = None
    ) -> list[Status]:
        """Job runs of this namespace, the youngest first; or those of `ids` that the ledger has, in no order."""
        if ids is not None:
            return self._statuses_of(self.ledger.runs_of(ids))
        return self._statuses_of(self.ledger.runs(self.namespace, job=job, open_only=open_only, limit=limit))

    def _statuses_of(self, runs: Sequence[JobRun]) -> list[Status]:
        shards, now = self.ledger.shards_of([run.id for run in runs]), self.clock()
        return [status_of(run, shards.get(run.id, []), now) for run in runs]

    def spend(self, by: str = "job", *, job: str | None = None, since: date | None = None, until: date | None = None) -> Report:
        """What the job runs of this namespace spent and saved, a line a group; asks no provider.

        Args:
            by: team, project, category, job, partition, day, model, provider, lane, or `tag:NAME`.
            since, until: the first and the last day, in UTC, on which they were submitted.

        Raises:
            InvalidJob: `by` is none of these.
        """
        after = None if since is None else datetime.combine(since, time(), UTC)
        before = None if until is None else datetime.combine(until, time(), UTC) + timedelta(days=1)
        # The outlays first, so that each has its job run in what is read next.
        outlays = self.ledger.outlays(self.namespace, job=job, since=after, until=before)
        return report(self.ledger.runs(self.namespace, job=job, since=after, until=before), outlays, by)

    def cancel(self, run_id: str) -> Status:
        """Asks to cancel: what was not sent is dropped, what is at the provider is cancelled there and harvested, by `advance`.

        Where only its output is still to be written, that is left: the rows can be read, and written elsewhere.
        """
        self.ledger.run(run_id)  # there is one
        self.ledger.ask_cancel(run_id, self.clock())
        if self.ledger.run(run_id).state is RunState.WRITING:
            self.ledger.set_sink(run_id, None, self.clock())
        return self.status(run_id)

    def attach(self, run_id: str, holder: str) -> int:
        """Notes that `holder`, a name of the caller's, waits for a job run; gives the epoch to `detach` with."""
        return self.ledger.attach(run_id, holder)

    def detach(self, run_id: str, holder: str, epoch: int) -> bool:
        """Notes that `holder` waits no longer; the last to go cancels, as `cancel` does, and True says so.

        One that has attached anew since `epoch` waits still: what is told to go late, or twice, harms nobody.
        """
        return self.ledger.detach(run_id, holder, epoch, self.clock())

    def reconcile(
        self, accounts: Sequence[str] | None = None, *, since: timedelta = timedelta(days=3), dry_run: bool = False
    ) -> list[Finding]:
        """Batches that the providers have and the ledger does not; adopted, cancelled and counted, as each `verdict` says.

        Args:
            accounts: default: those that this ledger has ever sent to, as far as they are configured here (see `not_configured`).
            since: how far back to look; the provider's results of unmarked batches are read to tell whose they are.
            dry_run: only tell.

        Raises:
            AccessRefused, ProviderUnreachable: a provider's list cannot be read; what was found before it was acted on.
            InvalidJob: one of `accounts` is not configured.
        """
        names = list(accounts) if accounts is not None else [name for name in self.ledger.accounts() if name in self.accounts]
        after = self.clock() - since
        return [found for name in names for found in self.runner.reconcile(self.provider(name), after, act=not dry_run)]

    def not_configured(self) -> list[str]:
        """The accounts that this ledger has sent to, and that only others who share it can ask."""
        return [name for name in self.ledger.accounts() if name not in self.accounts]

    def rebuild(self) -> list[Status]:
        """Brings the ledger up to what staging remembers: of one that was deleted or emptied all, of one restored from a backup what is missing.

        Gives the job runs of which it knew too little.  What staging does not have, since it was removed by `gc` or is another root's, is
        not found here; `reconcile` finds batches by asking the providers.
        """
        with closing(Ledger(self.ledger_url, staging=self.staging)) as ledger:
            assert ledger.witness is not None
            memories = sorted(ledger.witness.memories(), key=lambda memory: memory.run.created_at if memory.run else self.clock())
            found = [memory.run.id for memory in memories if memory.run is not None and ledger.take_in(memory, self.clock())]
        return [self.status(run_id) for run_id in found]

    def gc(self, older_than: timedelta = timedelta(days=30), *, dry_run: bool = False) -> list[Removal]:
        """Removes the staged files (prompts, answers) of job runs that ended so long ago; the ledger and the outputs stay.

        Such an answer cannot be reused any more: a partition that changed is asked whole.  Kept are job runs with quarantined rows or an
        unsettled batch, and, always, what ended less than `Settings.sweep_for` ago; of those only what dead workers left half written goes.
        Told and left are directories this ledger does not know.

        Args:
            dry_run: only tell.
        """
        now = self.clock()
        before = now - max(older_than, self.settings.sweep_for)
        found = list(outdated(self.ledger, self.staging, before))
        return found if dry_run else [one for one in found if not one.known or remove(self.ledger, self.staging, one, before, now)]

    def prices(self, models: Sequence[str] | None = None) -> list[Quote]:
        """What models cost today, lane by lane; in the batch lane only for the default: every model of the accounts with a rate there.

        Args:
            models: `provider:model`; one that nobody knows has one quote, without rates.

        Raises:
            InvalidJob: a name without a provider.
        """
        now = self.clock()
        if models is None:
            priced = ((name, price_list(name, account)) for name, account in sorted(self.accounts.items()))
            return [quote for name, prices in priced for quote in sold_in_batches(name, prices, now)]
        found: list[Quote] = []
        for name in models:
            provider, _, model = name.partition(":")
            if not provider or not model:
                raise InvalidJob(f"{name!r}: say whose model it is, e.g. openai:{name or 'gpt-5-mini'}.")
            prices = price_list(provider, self.accounts[provider]) if provider in self.accounts else provider
            found += quotes(provider, prices, model, now)
        return found

    def read(self, run_id: str) -> pa.RecordBatchReader:
        """The enriched rows of a job run that is over, or whose output cannot be written, streamed, in the order of the table.

        Raises:
            UnknownJobRun: there is none, or rows of it have no outcome yet.
        """
        import pyarrow as pa

        run = self.ledger.run(run_id)
        if not run.over and run.state is not RunState.WRITING:
            raise UnknownJobRun(
                f"{run.job}[{run.partition}] is {run.state.value}: its rows do not all have an outcome yet. Advance it first."
            )
        _check_kept(run)
        files = self.staging.run(run_id)
        question = question_of(files)
        output, schema = OutputSchema.from_json(question.output), _enriched_schema(files, question)
        answers = [path for path in [*files.reused, files.unsent, files.stopped, *self._answer_files(run)] if path.exists()]
        answers = fan_out(files.twins, answers, output)
        return pa.RecordBatchReader.from_batches(schema, enrich(files.snapshot, answers, output))

    def write(self, run_id: str, sink: Any) -> str:
        """Writes the enriched rows of a job run that is over to a path or an open file system's (a UPath and its like); gives the URI.

        For places that only the caller can open.  Others are `submit`'s `sink`, which any worker writes.

        Raises:
            UnknownJobRun: there is none, or it is not over.
            SinkError: it cannot be written; the answers are safe.
        """
        check_path(sink, "sink")
        rows = self.read(run_id)
        return write_table(sink, rows.schema, rows, partition=self.ledger.run(run_id).partition or None).uri

    def close(self) -> None:
        """Closes clients and the ledger."""
        for provider in self._providers.values():
            provider.close()
        self._providers.clear()
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = self._runner = None

    def __enter__(self) -> Keld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Keld {self.namespace} home={self.home}>"

    # -- the rooms behind -------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """Opened at the first use.

        Raises:
            LedgerError: it cannot be opened, or lacks job runs that staging has with something at a provider.
        """
        with self._lock:
            if self._ledger is None:
                ledger = Ledger(self.ledger_url, staging=self.staging)
                if forgotten := ledger.forgotten():
                    ledger.close()
                    raise _lost(forgotten, shown(self.ledger_url))
                self._ledger = ledger
            return self._ledger

    @property
    def world(self) -> World:
        """What the runner acts with."""
        return World(self.ledger, self.staging, self.provider, self.clock, self.settings)

    @property
    def runner(self) -> Runner:
        if self._runner is None:
            self._runner = Runner(self.world)
        return self._runner

    def provider(self, name: str) -> Provider:
        """The provider of an account, connected at the first use.

        Raises:
            InvalidJob: no account has that name.
        """
        with self._lock:
            if name not in self._providers:
                if name not in self.accounts:
                    raise InvalidJob(
                        f"models names the account {name!r}; the accounts are {', '.join(sorted(self.accounts))}. Nothing was sent. "
                        "Correct models=, or give Keld(accounts={...}) one of that name."
                    )
                self._providers[name] = connect(name, self.accounts[name], self.settings.patience)
            return self._providers[name]

    def _check_sink(self, job: Job, sink: Any, partition: str) -> None:
        """Passes if the sink can be written, and is not a file that another partition of the job went to, as far as the ledger knows."""
        if sink is None or not sink_is_file(sink, partition or None) or not isinstance(sink, str):
            return
        other = self.ledger.partition_at(self.namespace, job.name, sink, partition)
        if other is not None:
            raise InvalidJob(
                f"{job.name}[{partition}]: the sink {sink} is where the partition {other!r} went; it would be written over. Nothing was sent. "
                "Name one file a partition, e.g. --sink 'out/{partition}.parquet', or a directory."
            )

    def _standing(self, job: Job, key: str, mine: Identity) -> JobRun | None:
        """The youngest job run of a partition, whose owner is from now on whoever asks.

        Raises:
            InvalidJob: the job is somebody else's.
        """
        before, owners = self._check_owner(job, key, mine)
        if before is not None and before.namespace != self.namespace:
            self.ledger.move(before.namespace, job.name, key, self.namespace, self.clock())
            before = self.ledger.latest(self.namespace, job.name, key)
        if owners - {mine.owner}:
            self.ledger.hand_over(self.namespace, job.name, mine.owner)
        return before

    def _check_owner(self, job: Job, key: str, mine: Identity) -> tuple[JobRun | None, set[str | None]]:
        """The youngest job run of a partition, and who has declared the job so far; passes if it is not somebody else's.

        Raises:
            InvalidJob: it is.
        """
        before = self.ledger.latest(self.namespace, job.name, key)
        latest = self.ledger.latest_of(self.namespace, job.name)
        known = [run for run in (latest, before) if run is not None]
        if known and all(mine.is_anothers(run.owner, run.fingerprint, run.declared, run.source) for run in known):
            raise _anothers(job, mine, known[0])
        inherited = self.ledger.latest(_NAMESPACE, job.name, key) if before is None and self._inherits else None
        if inherited is not None and inherited.fingerprint == mine.fingerprint and inherited.owner in (None, mine.owner):
            return inherited, {inherited.owner}
        return before, {run.owner for run in known}

    def _attach(self, run: JobRun, sink: str | None, mine: Identity) -> Status:
        outdated = self._outdated(run, mine)
        if outdated != run.outdated:
            self.ledger.note_outdated(run.id, outdated)
        if outdated is not None:
            log.warning("run.outdated run=%s job=%s partition=%s changed=%s", run.id, run.job, run.partition, outdated)
        elif sink is not None and run.over and not (run.removed_at is not None and sink == run.sink):
            _check_kept(run)
            self._try_sink(sink, run)
            self.ledger.write_again(run.id, sink, self.clock())
        elif sink is not None and sink != run.sink:
            self._try_sink(sink, run)
            self.ledger.set_sink(run.id, sink, self.clock())
        return self.status(run.id)

    def _outdated(self, run: JobRun, mine: Identity) -> str | None:
        """What is declared otherwise since an open job run was sent, in words."""
        return None if run.over else mine.changed_since(run.fingerprint, run.declared, run.source)

    def _without_output(self, run: JobRun) -> JobRun:
        """The job run, whose output cannot be written where it should go, over without it; its rows can be read, and written elsewhere."""
        self.ledger.set_sink(run.id, None, self.clock())
        return self.runner.advance(run.id, timedelta(seconds=5))

    def _try_sink(self, sink: Any, run: JobRun) -> None:
        files = self.staging.run(run.id)
        if files.question.exists() and files.snapshot.exists():  # else they lie with another worker
            try_sink(sink, _enriched_schema(files, question_of(files)), partition=run.partition or None)

    def _first(self, job: Job, key: str, mine: Identity) -> JobRun:
        """The job run of a worker that was quicker than this one."""
        run = self._standing(job, key, mine)
        if run is None:
            raise UnknownJobRun(f"No job run of {job.name}[{key}] in this ledger.")
        return run

    def _open(
        self,
        job: Job,
        key: str,
        table: Table,
        run_id: str,
        files: RunFiles,
        sink: Any,
        ends_at: datetime | None,
        before: JobRun | None,
        force: bool,
        mine: Identity,
    ) -> JobRun | None:
        taken, question, asked_of = self._take(job, table, files)
        unchanged = before is not None and (before.input_digest, before.fingerprint) == (taken.digest, asked_of)
        if before is not None and unchanged and not force and (not before.over or _nothing_to_ask(before)):
            self.ledger.redeclare(before.id, mine.declared, mine.source)  # the same rows, the same prompts
            return self.ledger.run(before.id)
        if sink is not None:
            try_sink(sink, _enriched_schema(files, question), partition=key or None)
        if before is not None and not before.over and not self.runner.supersede(before.id):
            return before  # another worker has just begun to send it
        sizes, quarantined = snapshot.sizes(files.snapshot), 0
        if not force and job.reuse != "never":
            standing, quarantined = self._reused(job, key, question, asked_of, files)
            sizes[standing] = 0
        askable = sizes if job.reuse == "never" else self._once(files, sizes)
        plan = self._plan(job, key, taken, question, files, askable, int((sizes > 0).sum()), ends_at)
        shards: list[Shard] = []
        if plan.chosen is not None:
            self.provider(plan.chosen.provider).ready()
            shards = self._shards(job, taken, run_id, plan, question, files, askable)
        terms = self._terms(job, taken, question)
        terms["models"] = self._with_key(job, key, terms["models"])
        row = {
            "id": run_id, "namespace": self.namespace, "job": job.name, "partition": key, "generation": 1 if before is None else before.generation + 1,
            "fingerprint": asked_of, "input_digest": taken.digest, "rows": taken.rows, "reused": plan.reused, "answered": plan.reused - quarantined,
            "quarantined": quarantined, "unaskable": taken.unaskable, "terms": terms, "tags": dict(job.tags), "plan": _plan_facts(plan),
            "ceiling_usd": job.ceiling, "deadline_at": plan.due, "deadline_basis": plan.due_basis,
            "sink": sink if isinstance(sink, str) else None,
            "owner": mine.owner, "source": mine.source, "declared": dict(mine.declared),
        }  # fmt: skip
        return self.ledger.open_run(row, shards, self.clock())

    def _with_key(self, job: Job, partition: str, models: Sequence[str]) -> list[str]:
        """The models that can be asked without those whose account has no key, as long as there are others; a cascade is the shorter, too."""
        without_key = keyless(self.world, models)
        for account, why in without_key.items():
            log.warning("account.left_out job=%s partition=%s account=%s %s", job.name, partition, account, why)
        return [model for model in models if model.partition(":")[0] not in without_key]

    def _drop_unopened(self, run_id: str) -> None:
        """Removes a job run's files, unless the ledger holds it after all: a commit may be done, and its acknowledgement lost."""
        try:
            self.ledger.run(run_id)
        except UnknownJobRun:
            self.staging.drop(run_id)
        except LedgerError:
            pass  # it cannot be asked; files too many do no harm

    def _take(self, job: Job, table: Table, files: RunFiles) -> tuple[Snapshot, Question, str]:
        output, question = _question(job)
        table = table.without(KELD_COLUMNS.names)  # an earlier job's, where jobs are chained; its own table keeps them
        _check_clash(job, table.schema.names, output)
        self._check_question(job, question)
        with disk_errors(files.dir, "Nothing was sent."):
            taken = snapshot.take(job, table, files.snapshot, self._marks_cache(job))
            write_file(files.question, [question.to_json()], "staging.question")
        return taken, question, fingerprint(question, job.acceptable)

    def _once(self, files: RunFiles, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sizes with those of the rows at 0 that repeat an earlier row's prompt; whose, is kept."""
        twins, leaders = find_twins(files.snapshot, sizes)
        with disk_errors(files.dir, "Nothing was sent."):
            keep_twins(files.twins, twins, leaders)
        once = sizes.copy()
        once[twins] = 0
        return once

    def _reused(self, job: Job, key: str, question: Question, asked_of: str, files: RunFiles) -> tuple[NDArray[np.bool_], int]:
        """Which rows need not be asked, since it was paid for before, and how many of them are quarantined."""
        wanted = snapshot.sizes(files.snapshot) > 0
        standing, quarantined, output, n = wanted & False, 0, OutputSchema.from_json(question.output), 0
        ours = self.ledger.runs_asking(self.namespace, asked_of, job=job.name, partition=key)
        namespaces = [self.namespace, *([_NAMESPACE] if self._inherits else [])] if job.reuse == "namespace" else []
        everybodys = [run for namespace in namespaces for run in self.ledger.runs_asking(namespace, asked_of)]
        # Whatever was answered comes first; then, of this partition only, what must not be asked again.
        for outcome, sources in ((Outcome.ANSWERED, [*ours, *everybodys]), (Outcome.QUARANTINED, ours)):
            for run in sources:
                old = self.staging.run(run.id)
                if not old.snapshot.exists():
                    continue
                answers = [path for path in [*old.reused, *self._answer_files(run)] if path.exists()]
                hit = reuse(old.snapshot, answers, files.snapshot, wanted & ~standing, output, files.reused_from(n), outcome)
                standing, n = standing | hit, n + 1
                quarantined += int(hit.sum()) if outcome is Outcome.QUARANTINED else 0
        return standing, quarantined

    def _plan(
        self,
        job: Job,
        partition: str,
        taken: Snapshot,
        question: Question,
        files: RunFiles,
        askable: NDArray[np.int64],
        unanswered: int,
        ends_at: datetime | None = None,
    ) -> Plan:
        due_at, basis = due(job, ends_at or partition_end(partition), self.clock())
        ask, fits = self._ask(job, taken, question, files, askable), self._fits(job, question)
        work = ask.work
        if work.requests and all(fit.obstacle for fit in fits.values()):
            raise SchemaError(
                f"{job.name}[{partition}]: none of models can be asked for this output_type. Nothing was sent. "
                + " ".join(f"{name}: {fit.obstacle}" for name, fit in fits.items())
            )
        found, terms = options(self.world, ask, due_at, job.ceiling)
        chosen, most_rows = choose_first(job.name, partition, found, terms) if work.requests else (None, None)
        return Plan(
            job=job.name, partition=partition, rows=taken.rows, unaskable=taken.unaskable, reused=taken.rows - taken.unaskable - unanswered,
            identical=unanswered - work.requests, work=work, options=tuple(found),
            chosen=chosen, most_rows=most_rows, due=due_at, due_basis=basis, ceiling_usd=job.ceiling,
            probability=job.probability, lane=terms.lane, skipped=dict(taken.skipped),
            left_out={name: fit.obstacle for name, fit in fits.items() if fit.obstacle},
            notes={name: fit.note for name, fit in fits.items() if fit.note},
        )  # fmt: skip

    def _fits(self, job: Job, question: Question) -> dict[str, Fit]:
        """Whether each of the acceptable models can be asked this question."""
        names = {name: name.partition(":") for name in job.acceptable}
        return {name: self.provider(account).fit(question, model) for name, (account, _, model) in names.items()}

    def _terms(self, job: Job, taken: Snapshot, question: Question) -> dict[str, Any]:
        """The job run's terms: only the models that can be asked are known to it, or all, where there are none."""
        able = [name for name, fit in self._fits(job, question).items() if fit.obstacle is None]
        marked = taken.marks_cache or self._marks_cache(job)(one_line(dict(job.params)))
        return _terms(job, able or job.acceptable, marked=marked)

    def _marks_cache(self, job: Job) -> Callable[[bytes], bool]:
        """Whether a prompt, or the job's parameters, say by themselves what is to be cached, in the words of any of its models' providers."""
        accounts = {name.partition(":")[0] for name in job.acceptable}
        return marks_of(frozenset[str]().union(*(self.provider(account).cache_fields() for account in accounts)))

    def _check_question(self, job: Job, question: Question) -> None:
        """Passes if what the job says in the providers' own words can be sent.

        Raises:
            InvalidJob: `params` or `endpoint` cannot.
        """
        for name in job.acceptable:
            account, _, model = name.partition(":")
            self.provider(account).check(question, model, job.name)

    def _ask(self, job: Job, taken: Snapshot, question: Question, files: RunFiles, askable: NDArray[np.int64]) -> Ask:
        return Ask(
            question=question,
            sizes=askable,
            terms=self._terms(job, taken, question),
            job=(self.namespace, job.name),
            snapshot=files.snapshot,
        )

    def _shards(
        self, job: Job, taken: Snapshot, run_id: str, plan: Plan, question: Question, files: RunFiles, askable: NDArray[np.int64]
    ) -> list[Shard]:
        chosen = plan.chosen
        assert chosen is not None
        ask, provider = self._ask(job, taken, question, files, askable), self.provider(chosen.provider)
        ask = ask if plan.most_rows is None else ask.limited(plan.most_rows)
        too_large = ~fitting(askable, overhead(provider, question, chosen.model), ask.limits(provider, chosen.lane))
        _set_aside(files, question, (askable > 0) & too_large)
        ahead = plan.in_lane(Lane.STANDARD)
        if job.probe and chosen.lane is Lane.BATCH and ahead is not None and ahead.obstacle is None:
            ask, chosen = probe_of(ask, f"{chosen.provider}:{chosen.model}"), ahead
        return plan_shards(self.world, files, ask, chosen, run_id=run_id, first=0, round_=0)

    def _answer_files(self, run: JobRun) -> list[Path]:
        shards = sorted(self.ledger.shards(run.id), key=lambda shard: (shard.round, shard.ordinal))
        return [self.staging.run(run.id).shard(shard.id).answers for shard in shards]

    def _give_up_early(self, status: Status, fruitless: int) -> None:
        """Nothing was accepted and the provider will not have it: better said now than after a night of tries."""
        if status.problem_kind == "AccessRefused":
            raise AccessRefused(status.problem)
        if fruitless >= 3:
            said = "Nothing was accepted" if status.sent else "Nothing was sent"
            raise ProviderUnreachable(f"{status.problem} {said} so far; run the same command again when the provider is back.")

    def _wait_s(self, status: Status, poll_s: float | None, fruitless: int) -> float:
        if status.ready and status.problem is None:
            return 0.0
        if fruitless:
            return float(2**fruitless)  # nothing is under way yet: a few quick tries, then give up
        until = (status.next_check_at - self.clock()).total_seconds() if status.next_check_at else 1.0
        return max(0.05, min(until, poll_s) if poll_s is not None else until)


def _lost(runs: Sequence[JobRun], where: str) -> LedgerError:
    some = ", ".join(f"{run.job}[{run.partition}]" for run in runs[:5]) + (", ..." if len(runs) > 5 else "")
    return LedgerError(
        f"The ledger at {where} lost {len(runs):,} job runs that staging still has, with batches at a provider or rows that must not be asked "
        f"again: {some}. It was deleted, emptied, or restored from a backup. Nothing was sent. `keld reconcile --from-staging` rebuilds them. "
        "Where they are to be given up, with all that was paid, remove the staging directory, too."
    )


def _is_stuck(run: JobRun) -> bool:
    """Whether every row has its outcome, and the output could not be written."""
    return run.state is RunState.WRITING and run.problem is not None


def _enriched_schema(files: RunFiles, question: Question) -> pa.Schema:
    return enriched_schema(source_schema(files.snapshot), OutputSchema.from_json(question.output))


def _question(job: Job) -> tuple[OutputSchema, Question]:
    """What a job asks of every row, and what an answer must look like."""
    output = output_schema(job.output_type, prefix=job.output_prefix)
    return output, Question(
        system=job.system,
        output=output.to_json(),
        params=dict(job.params),
        max_output_tokens=job.max_output_tokens,
        endpoint=job.endpoint,
    )


def _identity(job: Job, source: Any, key: str, owner: str | None, source_name: str | None) -> Identity:
    question = _question(job)[1]
    return Identity(
        owner=owner or job.name,
        source=source_name or name_of(source, key),
        fingerprint=fingerprint(question, job.acceptable),
        declared=declared(job, question),
    )


def _anothers(job: Job, mine: Identity, theirs: JobRun) -> InvalidJob:
    changed = mine.changed_since(theirs.fingerprint, theirs.declared, theirs.source) or "the source, as far as it has a name"
    return InvalidJob(
        f"{job.name}: {theirs.owner} declares a job of this name in the namespace {theirs.namespace!r}, and {mine.owner} asks otherwise "
        f"({changed}). Nothing was sent. Give one of them another name=, or another namespace; or if it is the same job, renamed and changed at once, "
        f"say so once: Keld.hand_over({job.name!r}, {mine.owner!r})."
    )


def _check_kept(run: JobRun) -> None:
    """Passes if the answers of a job run are still there."""
    if run.removed_at is None:
        return
    output = (run.output or {}).get("uri")
    raise StagingError(
        f"The answers of {run.job}[{run.partition}] were removed by `keld gc` on {run.removed_at:%Y-%m-%d}. Nothing was sent. "
        + (f"They were written to {output}. " if output else "")
        + "To ask, and pay for, every row anew, give force=True (`keld run --force`)."
    )


def _nothing_to_ask(run: JobRun) -> bool:
    """Whether every row of a job run is answered, or cannot be asked (again)."""
    return run.answered + run.quarantined + run.unaskable == run.rows


def _keepable(key: str) -> str:
    """The partition's key, if a database can hold it."""
    if "\0" in key or (not key.isascii() and any("\ud800" <= char <= "\udfff" for char in key)):
        raise InvalidJob(
            f"partition={key!a} holds a NUL or a lone surrogate, which no ledger can keep. Nothing was sent. Name it otherwise."
        )
    return key


def _absolute(sink: Any) -> str:
    """A sink as any worker finds it, wherever it was started."""
    if not isinstance(sink, str | os.PathLike):
        raise InvalidJob(f"sink is of type {type(sink).__name__}. Nothing was sent. Give a path or URI, or none and `Keld.read`.")
    text = os.fspath(sink)
    if "://" in text:
        return text
    return os.path.abspath(os.path.expanduser(text)) + ("/" if text.endswith("/") else "")


def _set_aside(files: RunFiles, question: Question, too_large: NDArray[np.bool_]) -> None:
    """Keeps the outcome of the rows that no batch is large enough for."""
    positions = too_large.nonzero()[0]
    if not len(positions):
        return
    output = OutputSchema.from_json(question.output)
    with AnswerSink(files.unsent, output, positions, 0) as sink:
        sink.add(same(positions.tolist(), Outcome.UNASKABLE, "the request is larger than a batch may be", None, output))


def _check_clash(job: Job, table: Sequence[str], output: OutputSchema) -> None:
    """Passes if the answer's columns are neither the table's nor Keld's own."""
    own = [name for name in output.columns.names if name.lower().startswith("keld_")]
    if own:
        raise InvalidJob(
            f"{job.name}: the answer's columns {', '.join(map(repr, own))} begin as Keld's own do. Nothing was sent. "
            "Rename the fields of output_type, or give output_prefix, e.g. output_prefix='llm_'."
        )
    taken = [name for name in output.columns.names if name in table]
    if taken:
        raise InvalidJob(
            f"{job.name}: the answer's columns {', '.join(map(repr, taken))} are columns of the table already. Nothing was sent. "
            "Give output_prefix, e.g. output_prefix='llm_', or rename one of them."
        )


def _terms(job: Job, models: Sequence[str], *, marked: bool) -> dict[str, Any]:
    return {
        "models": list(models),
        "max_attempts": job.max_attempts,
        "max_shard_rows": job.max_shard_rows,
        "max_shard_bytes": job.max_shard_bytes,
        "lane": job.lane,
        "cache": "own" if marked else job.cache,
        "probability": job.probability,
        "priority": job.priority,
        "accept": seal(job.name, job.accept, output_schema(job.output_type, prefix=job.output_prefix)),
        "probe": job.probe,
        "hedge": job.hedge,
        "prices": {name: {rate: str(value) for rate, value in given.items()} for name, given in job.prices.items()},
    }


def _plan_facts(plan: Plan) -> dict[str, Any]:
    chosen = plan.chosen
    if chosen is None:
        return {"model": None}
    return {
        "model": f"{chosen.provider}:{chosen.model}",
        "lane": chosen.lane.value,
        "expected_usd": str(chosen.expected_usd),
        "worst_usd": str(chosen.worst_usd),
        "rates": chosen.rates_source,
        "input_tokens": chosen.usage.input_tokens,
        "output_tokens": chosen.usage.output_tokens,
    }
