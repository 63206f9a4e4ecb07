"""Environment: `Keld(...)`, where jobs run: one ledger, one staging root, the provider accounts; and the few verbs.

The front door: every call of a user or an orchestrator comes in here.  `submit` takes the snapshot and plans; it sends
nothing.  `advance` and `poll` are the runner's.  The identity of a job run is (namespace, job, partition), never a caller's run id.
A verb imports what it works with when it is called: `keld status` and an orchestrator's definitions load no table library, SDK or HTTP client.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from keld.accounts import Accounts
from keld.errors import InvalidJob, LedgerError, ProviderUnreachable, StagingError
from keld.follow import advance_until_waiting, finish
from keld.instant import utcnow
from keld.job import Job
from keld.ledger import Attachment, JobRun, Ledger, Shard, is_missing, shown
from keld.namespace import Namespace
from keld.notice import Hook, Notifier, hook_named
from keld.objects import Bucket
from keld.path import check_sink_path, is_utf8
from keld.price import Lane
from keld.providers.account import Account, account_names
from keld.reading import Reading
from keld.retention import Removal, removable, remove
from keld.runner.settings import Settings
from keld.spend import Report, days, report
from keld.staging import Staging
from keld.state import AT_PROVIDER, RunState
from keld.status import Status, status_of
from keld.stored import Store, StoredName
from keld.turnaround import Turnaround, turnaround

if TYPE_CHECKING:
    import pyarrow as pa

    from keld.plan import Plan
    from keld.price import Quote
    from keld.providers.check import Check
    from keld.providers.provider import Provider
    from keld.report.overview import Overview
    from keld.runner.context import Environment
    from keld.runner.finding import Finding
    from keld.runner.open import Opener
    from keld.runner.runner import Runner
    from keld.telemetry import Telemetry


class Submit(TypedDict, total=False):
    """The keywords of `Keld.submit`."""

    partition: str | None
    sink: Any
    ends_at: datetime | None
    force: bool
    owner: str | None
    source_name: str | None
    types: Any
    encoding: str | None
    delimiter: str | None
    quote: str | None


log = logging.getLogger("keld")

_OFF = ("", "0", "false", "no", "off")  # of a variable that turns something on, as people and charts write it


class Keld:
    """Where jobs run.

    Args:
        home: the directory of ledger and staging; default `KELD_HOME`, else `.keld`.
        staging: a bucket for the staged files, `s3://bucket/prefix`, `gs://...` or `az://container/prefix`, for workers that share no disk;
            default `KELD_STAGING`, else a directory in `home`, which all workers must share.  Local copies are made in `KELD_SCRATCH`, by default the
            system's directory for temporary files.
        ledger_url: `sqlite:///...` or `postgresql://...`; default `KELD_LEDGER_URL`, else an SQLite file in `home`.
        namespace: keeps several teams apart in one ledger; default `KELD_NAMESPACE`, else `default_namespace`, else `default`.
        default_namespace: if no namespace is chosen; an orchestrator gives its code location's name.  An earlier job run under `default`
            that asks the same is moved to it when it is submitted again.
        accounts: more providers, or other settings of the known ones, by the name before the colon in `models`.
        clock: returns now, aware UTC; for tests.
        settings: the runner's timeouts and intervals.
        on_event: called with each `Notice` (finished, late, quarantined, over the ceiling, paid twice), once each, from whichever process looks next;
            default the function that `KELD_ON_EVENT` names as `module:function`, else none.  It runs in a thread; if it fails or hangs, the job runs go on.
    """

    def __init__(
        self,
        *,
        home: str | os.PathLike[str] | None = None,
        ledger_url: str | None = None,
        staging: str | None = None,
        namespace: str | None = None,
        default_namespace: str | None = None,
        accounts: Mapping[str, Account] | None = None,
        clock: Callable[[], datetime] = utcnow,
        settings: Settings | None = None,
        on_event: Hook | None = None,
    ) -> None:
        self.home = Path(_expanded(home or _variable("KELD_HOME") or ".keld")).absolute()
        if not is_utf8(str(self.home)):
            raise InvalidJob(
                f"The home {str(self.home)!a} is no UTF-8 in this locale. Nothing was sent. Set LC_ALL=C.UTF-8, or KELD_HOME to another directory.",
                field="home",
            )
        address = ledger_url or _variable("KELD_LEDGER_URL") or f"sqlite:///{self.home / 'ledger.db'}"
        file = address.removeprefix("sqlite:///")
        self.ledger_url = address if file == address else f"sqlite:///{_expanded(file)}"
        self._namespace = Namespace.of(namespace or _variable("KELD_NAMESPACE"), default_namespace)
        self.clock = clock
        self.settings = settings or Settings()
        self.staging = self._staging_at(staging or _variable("KELD_STAGING"))
        self._accounts = Accounts(accounts or {}, self.settings.patience)
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._replaced: Ledger | None = None  # the one in memory, from before there was another
        self._compared = False  # the ledger, with what staging remembers
        self._moved = False  # the same, with what it remembers of ledgers at other addresses
        self._runner: Runner | None = None
        self._telemetry: Telemetry | None = None
        self._notifiers = list(self._notifiers_of(on_event))

    @property
    def namespace(self) -> str:
        """The namespace whose job runs the verbs see."""
        return self._namespace.name

    @property
    def accounts(self) -> Mapping[str, Account]:
        """The provider accounts, by the name before the colon in a job's `models`."""
        return self._accounts.known

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
        """What a run of this partition would do, what it would cost and how long it would take; sends and stores nothing.

        Args:
            owner, source_name: as of `submit`.
            types, encoding, delimiter, quote: how text files are read; see `submit`.

        Raises:
            SourceError, SchemaError, PriceUnknown, CeilingTooLow, DeadlinePassed, InvalidJob.
        """
        from keld.runner.submission import submission

        reading = Reading(types=types, encoding=encoding, delimiter=delimiter, quote=quote)
        asked = submission(job, source, partition=partition, owner=owner, source_name=source_name, reading=reading)
        return self._opener.plan(asked)

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
        """The job run of this partition: a new one, or the existing one.

        An open one is attached to, unless nothing of it was sent and the table or the declaration has changed: then it is planned
        again.  One that was sent with another declaration (see `identity`) is returned as `outdated`: finish it, then submit again to ask
        what is declared now, as `run` does.  One that answered every row of the same table, by the same
        declaration, is returned as it is (with a sink, its output is written again).  Otherwise a next generation asks the rows that are not
        answered yet.  Nothing is sent here: `advance` does.

        Args:
            source: see `table.open_table`; `{partition}` in a path stands for the key.
            sink: a path or URI for the enriched partition, `{partition}` as above; None keeps it in staging, for `read`.  A path
                of an open file system (such as a UPath) is only checked: call `write` when the job run is over.
            ends_at: the partition's end, aware, if its key does not say (see `job.partition_end`).
            force: ask every row again, also those that were answered and paid before.
            owner: who declares the job, as the caller names it (an asset, a task); default the job's name.  It is no part of the identity.
            source_name: a name for the source, if it is no path.
            types: of the columns of CSV and JSON Lines, and of those that Hive directories name: a dict like `{"amount": "decimal(12,2)"}`, or a
                `pyarrow.Schema`.  Other columns of a CSV file are text, as it is written.
            encoding: of text files; default UTF-8, or UTF-16 by its byte order mark.
            delimiter, quote: of CSV; default a comma (in `.tsv` a tab) and `"`; `quote=""`: nothing is quoted.

        Raises:
            SourceError, SchemaError, PriceUnknown, CeilingTooLow, DeadlinePassed, AccessRefused, InvalidJob, SinkRefused, StagingError: nothing was sent.
        """
        from keld.runner.submission import submission

        asked = submission(
            job,
            source,
            partition=partition,
            sink=sink,
            ends_at=ends_at,
            force=force,
            owner=owner,
            source_name=source_name,
            reading=Reading(types=types, encoding=encoding, delimiter=delimiter, quote=quote),
        )
        self._make_ledger()
        self._compare_elsewhere()
        return self._told([self.status(self._opener.open(asked).id)])[0]

    def compare(self, run_id: str, job: Job, source: Any = None, *, owner: str | None = None, source_name: str | None = None) -> Status:
        """The status of a job run, open or over, with the parts of the declaration that have changed since it was sent in `outdated`.

        For callers that hand out the rows of a job run that was submitted earlier.  The source is not read, and nothing is sent.

        Raises:
            UnknownJobRun: there is none.
        """
        from keld.runner.submission import identity

        run = self.ledger.run(run_id)
        mine = identity(job, source, run.partition, owner, source_name)
        outdated = mine.changed_since(run.fingerprint, run.declared, run.source)
        if outdated != run.outdated:
            self.ledger.catalog.note_outdated(run.id, outdated)
        return self.status(run_id)

    def advance(self, run_id: str, *, budget_s: float = 60.0) -> Status:
        """The status after doing what is due for a job run, for about `budget_s`; idempotent, may be called from any process."""
        run = self.runner.advance(run_id, timedelta(seconds=budget_s))
        return self._told([status_of(run, self.ledger.shards(run_id), self.clock())])[0]

    def poll(self, run_ids: Sequence[str] | None = None, *, jobs: Collection[str] | None = None, budget_s: float = 10.0) -> list[Status]:
        """The statuses after reading the providers' state of these or all open job runs; never uploads, downloads or pays.

        Args:
            jobs: of all that are open, only those of these jobs.
        """

        def read() -> list[JobRun]:
            if run_ids is not None:
                return self.ledger.runs(run_ids)
            found = self.ledger.catalog.runs(self.namespace, open_only=True)
            return [run for run in found if jobs is None or run.job in jobs]

        polled, now = self.runner.poll(read, timedelta(seconds=budget_s)), self.clock()
        return self._told([status_of(one.run, one.shards, now, one.noted) for one in polled])

    def wake(self, account: str, batch_id: str) -> Status | None:
        """The status of the job run that a batch belongs to, of whatever namespace, after its next look is set to now; calls no provider.

        For what a provider says has ended (see `webhook`); a job run that is over stays as it is.  Idempotent; polling goes on without it, too.

        Returns:
            None: this ledger has no such batch of this account: it is another program's, or its create is not recorded yet.
        """
        run_id = self.ledger.control.wake(account, batch_id, self.clock())
        return None if run_id is None else self.status(run_id)

    def due(self, run_ids: Collection[str]) -> list[str]:
        """Those of these job runs at which a look is due by now, in no order; calls no provider.

        For callers that wait until `Status.next_check_at`: a wake may have made it earlier since they read it.
        """
        return self.ledger.catalog.due(run_ids, self.clock())

    def advance_until_waiting(self, run_id: str, *, budget_s: float = 3600.0) -> Status:
        """The status after advancing until there is nothing to do but wait for the provider, or there is a problem.

        Args:
            budget_s: for the uploads or downloads of one partition; a step that has begun is finished.
        """
        return advance_until_waiting(lambda seconds: self.advance(run_id, budget_s=seconds), budget_s)

    def run(
        self,
        job: Job,
        source: Any,
        *,
        poll_s: float | None = None,
        progress: Callable[[Status], None] | None = None,
        **how: Unpack[Submit],
    ) -> Status:
        """Submits, advances to the end and returns the status; called again after an interruption, it continues.

        An open job run with another declaration is finished first.

        Args:
            poll_s: seconds between looks at the provider; None adapts to the batches' age.
            progress: called with the status after every step.
            how: `partition`, `sink` and all other keywords of `submit`.

        Raises:
            AccessRefused, ProviderUnreachable: the provider cannot be used and nothing has been accepted yet.
        """
        while True:
            status = self.submit(job, source, **how)
            done = self.finish(status.id, poll_s=poll_s, progress=progress)
            if status.outdated is None:
                return done

    def finish(self, run_id: str, *, poll_s: float | None = None, progress: Callable[[Status], None] | None = None) -> Status:
        """Advances a job run to its end; see `run`."""
        return finish(lambda seconds: self.advance(run_id, budget_s=seconds), self.clock, poll_s=poll_s, progress=progress)

    def status(self, run_id: str) -> Status:
        """The status of a job run.

        Raises:
            UnknownJobRun.
        """
        return status_of(self.ledger.run(run_id), self.ledger.shards(run_id), self.clock())

    def expected_ends(self, statuses: Sequence[Status], *, share: float = 0.5) -> dict[str, datetime]:
        """By job run, when its batches that are at a provider will have ended with the probability `share`; without those that have none there.

        From how long batches of the same model took, and how old these are; one query for each model.  Rows that wait for one that went ahead
        take as long again.
        """
        now = self.clock()
        found: dict[str, datetime] = {}
        curves: dict[tuple[str, str, str, str], Turnaround] = {}
        for status in statuses:
            for batch in status.batches:
                if batch.state not in AT_PROVIDER or batch.submitted_at is None:
                    continue
                of = (batch.provider, batch.host, batch.model, batch.lane)
                if of not in curves:
                    curves[of] = turnaround(Lane(batch.lane), *self.ledger.history.turnarounds(*of, now))
                ends = batch.submitted_at + curves[of].total(max(now - batch.submitted_at, timedelta(0)), share)
                if status.behind:
                    ends += curves[of].total(timedelta(0), share)
                found[status.id] = max(found.get(status.id, ends), ends)
        return found

    def find(self, job: str, partition: str | None = None) -> Status | None:
        """The youngest job run of (job, partition), or None."""
        run = self._namespace.latest(self.ledger, job, partition or "")
        return None if run is None else self.status(run.id)

    def hand_over(self, job: str, owner: str) -> None:
        """Sets the owner of a job of this namespace, even if it asked something else before; see `identity`."""
        self.ledger.catalog.hand_over(self.namespace, job, owner)

    def namespaces(self) -> dict[str, int]:
        """How many job runs each namespace of this ledger holds; the verbs see only those of their own."""
        return self.ledger.catalog.namespaces()

    def statuses(
        self, *, job: str | None = None, open_only: bool = False, limit: int | None = None, ids: Collection[str] | None = None
    ) -> list[Status]:
        """Job runs of this namespace, the youngest first; or those of `ids` that the ledger has, in no order."""
        if ids is not None:
            return self._by_ids(ids)
        return self._statuses_of(self.ledger.catalog.runs(self.namespace, job=job, open_only=open_only, limit=limit))

    def _by_ids(self, run_ids: Collection[str]) -> list[Status]:
        return self._statuses_of(self.ledger.catalog.by_ids(run_ids))

    def _told(self, statuses: list[Status]) -> list[Status]:
        """The same, after their news were passed to the hook, if there is one."""
        for notifier in self._notifiers:
            notifier.tell(statuses)
        return statuses

    def _notifiers_of(self, on_event: Hook | None) -> Iterator[Notifier]:
        """One for the user's hook, one for telemetry, where they are asked for."""
        if on_event is None and (named := os.environ.get("KELD_ON_EVENT")):
            on_event = hook_named(named)
        if on_event is not None:
            yield Notifier(on_event, lambda: self.ledger, self.namespace, self.clock, self._by_ids)
        if os.environ.get("KELD_TELEMETRY", "").strip().lower() not in _OFF:
            self._telemetry = self._open_telemetry()
            yield Notifier(self._telemetry, lambda: self.ledger, self.namespace, self.clock, self._by_ids, prefix="telemetry.")

    def _open_telemetry(self) -> Telemetry:
        try:
            from keld.telemetry import Telemetry
        except ImportError as missing:
            raise InvalidJob(
                f"KELD_TELEMETRY is set, and {missing.name} is not installed. Nothing was sent. pip install 'keld[otel]'", field="telemetry"
            ) from missing

        def kind_of(account: str) -> str:
            return (self.accounts[account].kind if account in self.accounts else None) or account

        def shards_of(run_id: str) -> Sequence[Shard]:
            return self.ledger.shards(run_id)

        def at_providers() -> Mapping[tuple[str, str], int]:
            # Asked by a thread of the metrics' own, which must not open a ledger that was closed.
            return {} if self._ledger is None else self._ledger.catalog.at_providers()

        return Telemetry(kind_of, shards_of, at_providers)

    def _statuses_of(self, runs: Sequence[JobRun]) -> list[Status]:
        shards, now = self.ledger.catalog.shards_of([run.id for run in runs]), self.clock()
        return [status_of(run, shards.get(run.id, []), now) for run in runs]

    def spend(self, by: str = "job", *, job: str | None = None, since: date | None = None, until: date | None = None) -> Report:
        """What the job runs of this namespace spent and saved, one line for each group; calls no provider.

        Args:
            by: team, project, category, job, partition, day, model, provider, lane, or `tag:NAME`.
            since, until: the first and the last day, in UTC, on which they were submitted.

        Raises:
            InvalidJob: `by` is none of these.
        """
        after, before = days(since, until)
        # The cost lines first, so that each has its job run in what is read next.
        lines = self.ledger.costs.lines(self.namespace, job=job, since=after, until=before)
        return report(self.ledger.catalog.runs(self.namespace, job=job, since=after, until=before), lines, by)

    def write_report(
        self,
        path: str | os.PathLike[str],
        *,
        by: str = "team",
        since: date | None = None,
        until: date | None = None,
        audit: str | os.PathLike[str] | None = None,
    ) -> Report:
        """Writes a page about the job runs of this namespace, and returns the spend report by `by` that is on it; calls no provider.

        Args:
            path: of the page, one file of HTML that needs nothing else: a local path, or a URI such as `s3://bucket/keld.html`.
            by: what divides the days, as of `spend`.
            since, until: as of `spend`.
            audit: a result of `keld audit --json`, to be shown beside: a local path or a URI.

        Raises:
            InvalidJob: `by` is no dimension.
            SourceError: `audit` cannot be read, or is no such result.
            SinkError: the page cannot be written; an earlier one there is unchanged.
        """
        from keld.report.file import write_page
        from keld.report.page import page_of

        found = self.overview(by, since=since, until=until, audit=audit)
        write_page(path, page_of(found))
        return found.group(by)

    def export_spend(
        self,
        directory: str | os.PathLike[str],
        form: Literal["parquet", "csv", "focus"] = "parquet",
        *,
        since: date | None = None,
        until: date | None = None,
    ) -> list[str]:
        """Writes what the job runs of this namespace cost as tables into a directory, and returns their URIs; calls no provider.

        Args:
            form: `parquet` or `csv`: `cost_line` and `job_run`; `focus`: `focus.csv`, rows of FOCUS 1.4, Cost and Usage (docs/how-to/report.md).
            since, until: as of `spend`.

        Raises:
            SinkError: one cannot be written; an earlier one there is unchanged.
        """
        from keld.report.book import read
        from keld.report.file import write_tables
        from keld.report.focus import focus_table
        from keld.report.tidy import tables

        book = read(self.ledger, self.namespace, self.clock(), since, until)
        if form == "focus":
            return write_tables(directory, {"focus": focus_table(book, self.environment.rates)}, "csv")
        return write_tables(directory, tables(book, safe=form == "csv"), form)

    def overview(
        self,
        by: str = "team",
        *,
        since: date | None = None,
        until: date | None = None,
        audit: str | os.PathLike[str] | None = None,
    ) -> Overview:
        """The figures of `write_report`."""
        from keld.report.audited import audited
        from keld.report.book import read
        from keld.report.overview import overview_of

        beside = None if audit is None else audited(audit)
        return overview_of(read(self.ledger, self.namespace, self.clock(), since, until), by, self.environment.rates, beside)

    def cancel(self, run_id: str) -> Status:
        """The status after the cancel is recorded: `advance` drops what was not sent, cancels the batches at the provider and collects their answers.

        If only the output is still to be written, it is not written: the rows can be read, and written elsewhere.
        """
        self.ledger.run(run_id)  # there is one
        self.ledger.control.ask_cancel(run_id, self.clock())
        if self.ledger.run(run_id).state is RunState.WRITING:
            self.ledger.control.set_sink(run_id, None, self.clock())
        return self.status(run_id)

    def attach(self, run_id: str, holder: str) -> int:
        """Records that `holder`, a name that the caller chooses, waits for a job run; returns the epoch for `detach`."""
        return self.ledger.control.attach(run_id, holder)

    def detach(self, run_id: str, holder: str, epoch: int) -> bool:
        """Records that `holder` waits no longer; True if it was the last one, so that the job run is cancelled, as by `cancel`.

        A holder that has attached again since `epoch` still waits: a late or repeated call changes nothing.
        """
        return self.ledger.control.detach(run_id, holder, epoch, self.clock())

    def leave(self, holder: str) -> None:
        """Records that `holder` waits for no job run any more; they go on."""
        self.ledger.control.leave(holder)

    def holders(self, run_ids: Collection[str]) -> list[Attachment]:
        """Who waits for these job runs, in no order."""
        return self.ledger.control.holders(run_ids)

    def overlooked(self, for_longer_than: timedelta) -> list[Status]:
        """Job runs of this namespace that have a batch in progress, and that nobody has looked at for so long since a look was due."""
        return self._statuses_of(self.ledger.catalog.overlooked(self.namespace, self.clock() - for_longer_than))

    def doctor(
        self, account: str | None = None, *, budget_s: float = 120.0, progress: Callable[[Check], None] | None = None
    ) -> list[Check]:
        """What would stop a job here: the ledger, staging, and each account that is set up; only calls that are not paid.

        An account's settings, key, address, clock, bucket (an object is written, read and removed), models and prices are checked, each as far
        as its kind has it.

        Args:
            account: only this one, also if it is not set up; `account:model` checks that model, too.
            budget_s: no further account is looked at after this time.
            progress: called with each finding.

        Raises:
            InvalidJob: no account has that name.
        """
        from keld.doctor import examine

        found = []
        for check in examine(self.accounts, account, clock=self.clock, ledger_url=self.ledger_url, staging=self.staging, budget_s=budget_s):
            found.append(check)
            if progress is not None:
                progress(check)
        return found

    def reconcile(
        self,
        accounts: Sequence[str] | None = None,
        *,
        since: timedelta = timedelta(days=3),
        dry_run: bool = False,
        budget_s: float = 3600.0,
        progress: Callable[[Finding], None] | None = None,
    ) -> list[Finding]:
        """Batches that the providers have and the ledger does not; adopted, cancelled and counted, as each `verdict` says.

        Args:
            accounts: default: those that this ledger has ever sent to and that are configured here (see `not_configured`).
            since: how far back to look; the provider's results of unmarked batches are read to find out whose they are.
            dry_run: only report.
            budget_s: for all accounts together, about; the error names the accounts that were not read completely in this time.
            progress: called with each finding after it was acted on.

        Raises:
            AccessRefused, ProviderUnreachable: a provider's list cannot be read, or not in this time; earlier findings were acted on.
            InvalidJob: one of `accounts` is not configured.
        """
        for name in accounts or ():
            if name not in self.accounts:
                raise InvalidJob(
                    f"No account is named {name!r}; {account_names(name, self.accounts)}. Nothing was done.",
                    field="accounts",
                )
        if accounts and not dry_run:
            self._make_ledger()  # what is found is recorded
        names = list(accounts) if accounts is not None else [name for name in self.ledger.accounts.names() if name in self.accounts]
        after, end = self.clock() - since, monotonic() + budget_s
        found: list[Finding] = []
        unfinished: list[str] = []
        for n, name in enumerate(names):
            budget = timedelta(seconds=max(end - monotonic(), 0) / (len(names) - n))
            some, complete = self.runner.reconcile(self.provider(name), after, budget, act=not dry_run, progress=progress)
            found += some
            unfinished += [] if complete else [name]
        if unfinished:
            raise ProviderUnreachable(
                f"The {budget_s:,.0f} s for this reconcile were over before all batches of {', '.join(unfinished)} had been looked at. "
                f"{len(found):,} were found{'' if dry_run else ' and acted on'}; the others are unchanged. Run it again with more time "
                "(budget_s=, or `keld reconcile --minutes`), or look less far back (since=, `--days`)."
            )
        return found

    def not_configured(self) -> list[str]:
        """The accounts that this ledger has sent to and that are not configured here, only for others who share it."""
        return [name for name in self.ledger.accounts.names() if name not in self.accounts]

    def rebuild(self, *, moved: bool = False) -> list[Status]:
        """The job runs that were restored from staging into the ledger: all if it was deleted or emptied, the missing ones after a restored backup.

        With `moved` also those of ledgers at other addresses: this one replaces them, and no worker has them open any more.  What staging does
        not have, since `gc` removed it or it is in another staging directory, is not restored; `reconcile` finds batches by asking the providers.
        """
        with closing(self._open_ledger(in_memory=is_missing(self.ledger_url))) as ledger:
            memories = sorted(
                ledger.recovery.memories(moved=moved), key=lambda memory: memory.run.created_at if memory.run else self.clock()
            )
        if not memories:
            return []
        with closing(self._open_ledger()) as ledger:
            found = [memory.run.id for memory in memories if memory.run is not None and ledger.recovery.take_in(memory, self.clock())]
        return [self.status(run_id) for run_id in found]

    def gc(self, older_than: timedelta = timedelta(days=30), *, dry_run: bool = False) -> list[Removal]:
        """Removes the staged files (prompts, answers) of job runs that ended so long ago, and returns what was removed; ledger and outputs stay.

        Such an answer cannot be reused any more: a partition that changed is asked completely.  Job runs with quarantined rows or an
        unsettled batch are kept, and always what ended less than `Settings.sweep_for` ago; of these only half-written files of dead workers
        are removed.  Directories that this ledger does not know are reported, and stay.

        Args:
            dry_run: only report.
        """
        now = self.clock()
        before = now - max(older_than, self.settings.sweep_for)
        found = list(removable(self.ledger, self.staging, before, now))
        return found if dry_run else [one for one in found if not one.known or remove(self.ledger, self.staging, one, now)]

    def prices(self, models: Sequence[str] | None = None) -> list[Quote]:
        """What models cost today, one quote for each lane; by default the batch lane of every model of the accounts with a batch rate.

        Args:
            models: `provider:model`; an unknown one has one quote, without rates.  An account's name alone is every model of it with a batch rate.

        Raises:
            InvalidJob: a name without a provider.
        """
        from keld.pricing import quotes_of, sold_in_batches

        now, rates = self.clock(), self._accounts.rates
        found: list[Quote] = []
        for name in sorted(self.accounts) if models is None else models:
            if name in self.accounts:
                found += sold_in_batches(name, self._accounts.prices(name), now, rates)
            else:
                found += quotes_of([name], now, rates)
        return found

    def read(self, run_id: str) -> pa.RecordBatchReader:
        """The enriched rows of a job run that is over, or whose output cannot be written, streamed, in the order of the table.

        Raises:
            UnknownJobRun: there is none, or rows of it have no outcome yet.
        """
        from keld.runner.output import read

        return read(self.environment, self.ledger.run(run_id))

    def write(self, run_id: str, sink: Any) -> str:
        """Writes the enriched rows of a job run that is over to a path or an open file system's (such as a UPath); returns the URI.

        For places that only the caller can open.  Give other places to `submit` as `sink`, which any worker can write.

        Raises:
            UnknownJobRun: there is none, or it is not over.
            SinkError: it cannot be written; the answers are safe.
        """
        from keld.table import write_table

        check_sink_path(sink, "sink")
        rows = self.read(run_id)
        return write_table(sink, rows.schema, rows, partition=self.ledger.run(run_id).partition or None).uri

    def check_shared(self, elsewhere: Sequence[str], advice: str) -> None:
        """Passes if every worker reaches the ledger: a file is on one host, and two ledgers would pay twice.

        Args:
            elsewhere: what runs workers on other hosts, as the orchestrator names it; empty: all are on this one.
            advice: the setting of the orchestrator that takes a Postgres URL.

        Raises:
            InvalidJob: the ledger is a file, and there are workers elsewhere.
        """
        if elsewhere and self.ledger_url.startswith("sqlite"):
            raise InvalidJob(
                f"The ledger is a file of this host, and {', '.join(elsewhere)} runs tasks on others: each would pay for the same rows. "
                f"Nothing was sent. Give a Postgres: {advice}."
            )

    def close(self) -> None:
        """Closes clients and the ledger."""
        self._accounts.close()
        if self._telemetry is not None:
            self._telemetry.close()
        if self.staging.store is not None:
            self.staging.store.close()
        if self._ledger is not None:
            self._ledger.close()
            if self._replaced is not None:
                self._replaced.close()
            self._ledger = self._replaced = self._runner = None
            self._compared = False

    def __enter__(self) -> Keld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Keld {self.namespace} home={self.home}>"

    # -- what it consists of ----------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """Opened at the first use.  Where there is none yet, an empty one in memory: a question leaves no file; `submit` makes it.

        Raises:
            LedgerError: it cannot be opened, or job runs are missing that staging has with batches at a provider.
        """
        with self._lock:
            if self._ledger is None or self._ledger.in_memory:
                missing = is_missing(self.ledger_url)
                if self._ledger is None or not missing:  # another process may have made it meanwhile
                    self._open_checked(in_memory=missing)
            assert self._ledger is not None
            return self._ledger

    def _make_ledger(self) -> None:
        """Makes the ledger where there is none yet, before something is written to it.

        Raises:
            LedgerError: as `ledger`.
        """
        with self._lock:
            if self._ledger is None or self._ledger.in_memory:
                self._open_checked(in_memory=False)

    def _open_checked(self, *, in_memory: bool) -> None:
        ledger = self._open_ledger(in_memory=in_memory)
        try:
            self._compare(ledger)
        except StagingError as error:  # a look at the ledger needs no bucket; a new job run does
            log.warning("ledger.not_compared %s", error)
        except LedgerError:
            ledger.close()
            raise
        self._replaced, self._ledger = self._ledger, ledger  # not closed yet: another thread may be reading it

    def _compare(self, ledger: Ledger) -> None:
        """Passes if staging has no job run with batches at a provider that the ledger has not.

        Raises:
            LedgerError: it has.
            StagingError: it is a bucket, and cannot be asked.
        """
        if forgotten := ledger.recovery.forgotten():
            raise _lost(forgotten, shown(self.ledger_url))
        self._compared = True

    def _compare_elsewhere(self) -> None:
        """Passes, once, if this ledger replaces none whose batches are out; for those who are about to send: who only looks may have a copy.

        Raises:
            LedgerError: it does.
            StagingError: it is a bucket, and cannot be asked.
        """
        if not self._moved and (left := self.ledger.recovery.left_behind()):
            raise _left_behind(left, shown(self.ledger_url))
        self._moved = True

    def _open_ledger(self, *, in_memory: bool = False) -> Ledger:
        return Ledger(self.ledger_url, staging=self.staging, in_memory=in_memory)

    def _staging_at(self, uri: str | None) -> Staging:
        if uri is None:
            return Staging(self.home / "staging")
        from keld.http import beat

        scratch = _variable("KELD_SCRATCH")
        store = Store(Bucket.at(uri), self._names_of, beat, Path(_expanded(scratch)) if scratch else None)
        return Staging(store.root, store)

    def _names_of(self, run_id: str) -> Mapping[str, StoredName]:
        return self.ledger.objects.of(run_id)

    @property
    def environment(self) -> Environment:
        """What the runner works with: ledger, staging, providers, clock, settings."""
        from keld.runner.context import Environment

        return Environment(self.ledger, self.staging, self._accounts.provider, self.clock, self.settings)

    @property
    def runner(self) -> Runner:
        if self._runner is None or self._runner.environment.ledger is not self.ledger:
            from keld.runner.runner import Runner

            self._runner = Runner(self.environment)
        return self._runner

    @property
    def _opener(self) -> Opener:
        if not self._compared:
            self._compare(self.ledger)
        from keld.runner.open import Opener

        return Opener(self.environment, self.runner, self._namespace)

    def provider(self, name: str) -> Provider:
        """The provider of an account, connected at the first use.

        Raises:
            InvalidJob: no account has that name.
        """
        return self._accounts.provider(name)


def _expanded(place: str | os.PathLike[str]) -> str:
    """A path with its `~` as a directory: no shell has read what comes from a file of variables, or from a container's or a service's settings."""
    return os.path.expanduser(os.fspath(place))


def _some(runs: Sequence[JobRun]) -> str:
    return ", ".join(f"{run.job}[{run.partition}]" for run in runs[:5]) + (", ..." if len(runs) > 5 else "")


def _left_behind(runs: Sequence[JobRun], where: str) -> LedgerError:
    return LedgerError(
        f"Staging has {len(runs):,} job runs with batches at a provider, or rows that must not be asked again, of a ledger at another address: "
        f"{_some(runs)}. The ledger at {where} does not have them, and would pay for them again. Nothing was sent. If it replaces that one, stop "
        "the workers of that one and run `keld reconcile --from-staging --moved`, which takes over all that staging has. If it does not, give it "
        "staging of its own, by KELD_HOME or KELD_STAGING."
    )


def _lost(runs: Sequence[JobRun], where: str) -> LedgerError:
    return LedgerError(
        f"The ledger at {where} lost {len(runs):,} job runs that staging still has, with batches at a provider or rows that must not be asked "
        f"again: {_some(runs)}. It was deleted, emptied, or restored from a backup. Nothing was sent. `keld reconcile --from-staging` rebuilds them. "
        "To give them up, with everything that was paid, remove what staging has, too."
    )


def _variable(name: str) -> str | None:
    """The value of an environment variable that says where job runs are kept; None: it is not set, or empty.

    Raises:
        InvalidJob: it has quotation marks around it, or blanks.  Read as they stand, they are another directory, ledger or namespace, in which
            no job run is found: what was paid would be asked and paid again.
    """
    value = os.environ.get(name) or None
    if value is not None and (value != value.strip() or (len(value) > 1 and value[0] == value[-1] and value[0] in "\"'")):
        raise InvalidJob(
            f"The environment variable {name} has quotation marks or blanks around its value, which a shell removes and a file of variables (docker "
            "--env-file, systemd) does not. Nothing was sent. Write it without them.",  # its value may have a password in it
            field=name,
        )
    return value
