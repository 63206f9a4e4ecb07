"""Open: a submission -> the job run of its partition: the existing one, or a new one, planned and recorded.

The first step of a job run, before `runner` advances it.  The source is read only if rows may have to be asked: they are kept
as they are now, earlier answers are found, a model and a lane are chosen, and shards are cut.  Nothing is sent.
"""

from __future__ import annotations

import secrets
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from msgspec.structs import replace

from keld.errors import LedgerError, UnknownJobRun
from keld.ledger import JobRun, Ledger
from keld.namespace import Namespace
from keld.plan import Plan
from keld.runner.context import Environment, log, question_of
from keld.runner.first import First, cut_first, facts_of, first_of, plan_first, terms_of
from keld.runner.output import check_kept, check_sink, schema_of, try_sink_of
from keld.runner.owner import check_owner, claim
from keld.runner.runner import Runner
from keld.runner.submission import Submission
from keld.runner.take import Left, Taken, all_left, left_of, take
from keld.schema import OutputSchema
from keld.staging import RunFiles
from keld.state import RunState
from keld.table import Table, check_apart, open_table, try_sink


class Opener(msgspec.Struct, frozen=True):
    """Opens the job runs of one namespace."""

    environment: Environment
    runner: Runner
    namespace: Namespace

    @property
    def ledger(self) -> Ledger:
        return self.environment.ledger

    def plan(self, asked: Submission) -> Plan:
        """What a run of this partition would do, its cost and its time; keeps nothing."""
        check_owner(self.environment, self.namespace, asked)
        table = open_table(asked.source, partition=asked.partition, reading=asked.reading)
        with TemporaryDirectory(prefix="keld-plan-") as directory:
            taken = take(self.environment, asked, table, RunFiles(Path(directory)))
            plan = plan_first(self.environment, self._first(taken, all_left(taken)))
            return replace(plan, table_notes=table.notes)

    def open(self, asked: Submission) -> JobRun:
        """The job run of this partition; see `Keld.submit`."""
        check_sink(self.environment, self.namespace, asked)
        check_apart(asked.source, asked.target, asked.partition)
        before = claim(self.environment, self.namespace, asked)
        if before is not None and _is_stuck(before) and (asked.force or asked.target is None or _outdated(before, asked)):
            before = self._without_output(before)
        if before is not None and self._is_under_way(before):
            return self._attach(before, asked)
        table = open_table(asked.source, partition=asked.partition, reading=asked.reading)
        run_id = secrets.token_hex(16)
        opened = self._open_as(run_id, asked, table, before)
        return opened if opened.id == run_id else self._attach(opened, asked)

    # -- the existing one --------------------------------------------------------------------------------------

    def _is_under_way(self, run: JobRun) -> bool:
        """True if a job run is open and something of it was sent: then it is not planned again."""
        if run.over:
            return False
        self.ledger.recovery.check(run.id)  # else shards that were sent might count as unsent
        return not all(shard.unsent for shard in self.ledger.shards(run.id))

    def _attach(self, run: JobRun, asked: Submission) -> JobRun:
        """The job run with the caller's sink, if it asks the same as the caller; if not, with a note of the difference."""
        sink, outdated = asked.target, _outdated(run, asked)
        if outdated != run.outdated:
            self.ledger.catalog.note_outdated(run.id, outdated)
        if outdated is not None:
            log.warning("run.outdated run=%s job=%s partition=%s changed=%s", run.id, run.job, run.partition, outdated)
        elif sink is not None and run.over and not (run.removed_at is not None and sink == run.sink):
            check_kept(run)
            try_sink_of(self.environment, run, sink)
            self.ledger.control.write_again(run.id, sink, self.environment.clock())
        elif sink is not None and sink != run.sink:
            try_sink_of(self.environment, run, sink)
            self.ledger.control.set_sink(run.id, sink, self.environment.clock())
        return run

    def _without_output(self, run: JobRun) -> JobRun:
        """The job run, over, without the output that could not be written; its rows can be read and written elsewhere."""
        self.ledger.control.set_sink(run.id, None, self.environment.clock())
        return self.runner.advance(run.id, timedelta(seconds=5))

    # -- a new one --------------------------------------------------------------------------------------------

    def _open_as(self, run_id: str, asked: Submission, table: Table, before: JobRun | None) -> JobRun:
        """A new job run of this id; or another one, if there is nothing new to ask or another worker was faster."""
        files = self.environment.staging.make(run_id)
        try:
            opened = self._open(run_id, asked, take(self.environment, asked, table, files), before)
        except BaseException:
            self._drop_unopened(run_id)
            raise
        if opened is None or opened.id != run_id:
            self.environment.staging.drop(run_id)
        return opened or self._quicker(asked)

    def _open(self, run_id: str, asked: Submission, taken: Taken, before: JobRun | None) -> JobRun | None:
        """The new job run, or the one before it; None if another worker has opened one just now."""
        renames = False
        if before is not None and _asks_nothing_new(before, taken, asked.force):
            if not _is_renamed(before, asked):
                self.ledger.catalog.redeclare(before.id, asked.mine.declared, asked.mine.source)
                return self.ledger.run(before.id)
            if renames := before.over:  # a new job run with all its answers; never one that buys them again, for want of them
                check_kept(before)
                question_of(self.environment.staging.run(before.id))
        if asked.sink is not None:
            output = OutputSchema.from_json(taken.question.output)
            try_sink(asked.sink, schema_of(taken.files, output), partition=asked.partition or None)
        if before is not None and not before.over and not self.runner.supersede(before.id):
            return before  # another worker has just begun to send it
        again = asked.force or (asked.job.reuse == "never" and not renames)
        left = all_left(taken) if again else left_of(self.environment, self.namespace, taken)
        taken.keep()
        return self._record(run_id, asked, taken, left, 1 if before is None else before.generation + 1)

    def _record(self, run_id: str, asked: Submission, taken: Taken, left: Left, generation: int) -> JobRun | None:
        """The planned job run in the ledger; None if another worker has opened one just now."""
        job, mine, rows = asked.job, asked.mine, taken.snapshot
        first = self._first(taken, left)
        plan = plan_first(self.environment, first, asked.ends_at)
        shards = cut_first(self.environment, first, plan, run_id)
        row = {
            "id": run_id, "namespace": self.namespace.name, "job": job.name, "partition": taken.key, "generation": generation,
            "fingerprint": taken.fingerprint, "input_digest": rows.digest, "rows": rows.rows, "reused": plan.reused,
            "answered": plan.reused - left.quarantined, "quarantined": left.quarantined, "unaskable": rows.unaskable,
            "terms": terms_of(self.environment, first, plan), "tags": dict(job.tags), "plan": facts_of(plan),
            "ceiling_usd": job.ceiling, "deadline_at": plan.due, "deadline_basis": plan.due_basis, "sink": asked.target,
            "owner": mine.owner, "source": mine.source, "declared": dict(mine.declared),
        }  # fmt: skip
        with taken.files.naming() as objects:
            return self.ledger.open_run(row, shards, self.environment.clock(), objects=objects)

    def _first(self, taken: Taken, left: Left) -> First:
        return first_of(self.environment, self.namespace.name, taken, left)

    def _drop_unopened(self, run_id: str) -> None:
        """Removes a job run's files, unless it is in the ledger after all: a commit may succeed although its acknowledgement was lost."""
        try:
            self.ledger.run(run_id)
        except UnknownJobRun:
            self.environment.staging.drop(run_id)
        except LedgerError:
            pass  # it cannot be read; extra files do no harm

    def _quicker(self, asked: Submission) -> JobRun:
        """The job run that another worker opened first."""
        run = claim(self.environment, self.namespace, asked)
        if run is None:
            raise UnknownJobRun(
                f"No job run of {asked.job.name}[{asked.key}] in this ledger.", job=asked.job.name, partition=asked.key or None
            )
        return run


def _is_stuck(run: JobRun) -> bool:
    """True if every row has its outcome, and the output could not be written."""
    return run.state is RunState.WRITING and run.problem is not None


def _outdated(run: JobRun, asked: Submission) -> str | None:
    """What has changed in the declaration since an open job run was sent, in words; None: nothing."""
    return None if run.over else asked.mine.changed_since(run.fingerprint, run.declared, run.source)


def _is_renamed(before: JobRun, asked: Submission) -> bool:
    """True if the columns of the answers have other names now."""
    return (before.declared or {}).get("prefix") != asked.mine.declared.get("prefix")


def _asks_nothing_new(before: JobRun, taken: Taken, force: bool) -> bool:
    """True if the job run has the same rows and prompts, and is open, or has an answer to every row that can be asked."""
    if force or (before.input_digest, before.fingerprint) != (taken.snapshot.digest, taken.fingerprint):
        return False
    return not before.over or before.answered + before.quarantined + before.unaskable == before.rows
