"""Submission: what a caller asks to be opened: the job, its source, its sink, its partition; checked without looking anything up.

Above `open`, which finds or makes the job run; below `environment`, whose `submit` and `plan` make one.  It uses no ledger and no provider: every
error here is in the caller's arguments, and nothing was sent.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

import msgspec

from keld.errors import InvalidJob
from keld.identity import Identity, declared, key_of, name_of, question_of_job
from keld.instant import utc
from keld.job import Job
from keld.path import absolute_path, check_path, check_sink_path, is_utf8
from keld.reading import Reading
from keld.request import fingerprint


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A job, its source and its sink, as a caller asks for them.

    Args:
        partition: the key; None: the table has no partitions.
        sink: an absolute path or a URI, which any worker can write; a path of an open file system, which only the caller can write; or None.
        ends_at: the partition's end, where its key does not say it.
        force: every row is asked, even if it was answered before.
        mine: the owner, the question and the source.
    """

    job: Job
    source: Any
    partition: str | None
    sink: Any = None
    ends_at: datetime | None = None
    force: bool = False
    reading: Reading
    mine: Identity

    @property
    def key(self) -> str:
        """The partition's key; empty for a table without partitions."""
        return key_of(self.partition)

    @property
    def target(self) -> str | None:
        """The sink, if any worker can write it."""
        return self.sink if isinstance(self.sink, str) else None


def submission(
    job: Job,
    source: Any,
    *,
    partition: str | None,
    sink: Any = None,
    ends_at: datetime | None = None,
    force: bool = False,
    owner: str | None,
    source_name: str | None,
    reading: Reading,
) -> Submission:
    """The submission for these arguments of `Keld.submit`.

    Raises:
        InvalidJob, SchemaError, SinkRefused: an argument that is not valid.
    """
    key = _keepable(key_of(partition))
    ends_at = None if ends_at is None else utc(ends_at, f"{job.name}[{key}]: ends_at")
    check_path(source, "source")
    check_sink_path(sink, "sink")
    return Submission(
        job=job,
        source=source,
        partition=partition,
        sink=sink if sink is None or hasattr(sink, "protocol") else _absolute(sink),
        ends_at=ends_at,
        force=force,
        reading=reading,
        mine=identity(job, source, key, owner, source_name),
    )


def identity(job: Job, source: Any, key: str, owner: str | None, source_name: str | None) -> Identity:
    """The owner, the question and the source; the owner of a job without one is the job's name."""
    _, question = question_of_job(job)
    return Identity(
        owner=owner or job.name,
        source=source_name or name_of(source, key),
        fingerprint=fingerprint(question, job.acceptable),
        declared=declared(job, question),
    )


def _keepable(key: str) -> str:
    """The partition's key, if a database can hold it."""
    if not isinstance(key, str):  # what users write: a date, or a number
        raise InvalidJob(
            f"partition={key!a} is of type {type(key).__name__}. Nothing was sent. Give text, e.g. '2026-11-19'.", field="partition"
        )
    if "\0" in key or not is_utf8(key):
        raise InvalidJob(
            f"partition={key!a} has a NUL or a lone surrogate, which no ledger can store. Nothing was sent. Use another name.",
            field="partition",
        )
    return key


def _absolute(sink: Any) -> str:
    """A sink as an absolute path or a URI, which is the same for any worker."""
    if not isinstance(sink, str | os.PathLike):
        raise InvalidJob(
            f"sink is of type {type(sink).__name__}. Nothing was sent. Give a path or URI, or none and `Keld.read`.", field="sink"
        )
    return absolute_path(os.fspath(sink))
