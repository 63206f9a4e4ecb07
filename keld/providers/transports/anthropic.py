"""Anthropic: message batches, the whole input in the create, the results in one stream.

One of the transports.  A batch carries no mark of ours before it has ended, so a create of unknown outcome is looked for by its time and its
number of requests, and proven by the nonce in its custom_ids.  Wire: docs/notes/providers.md.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from keld.providers.account import origin
from keld.providers.base import NO_STATUS, BatchState, RemoteBatch, Submission
from keld.providers.download import Piece, ResultFile
from keld.providers.page import Page, id_of, instant, said
from keld.providers.part import Auth, Connection, Fixed
from keld.providers.transports.ambient import custom_headers
from keld.providers.transports.rest import Rest, read

_PATH = "/v1/messages/batches"
_VERSION = "2026-10-21"  # of the API, as the official SDK names it (2.11 to 2.14)


def auth(connection: Connection) -> Auth:
    """The key and the version of the API."""
    custom = custom_headers(
        connection.base_url, domain="anthropic.com", host_in="ANTHROPIC_BASE_URL", headers_in="ANTHROPIC_CUSTOM_HEADERS"
    )
    return Fixed({"authorization": f"Bearer {connection.key()}", "anthropic-version": _VERSION, **custom})


class AnthropicBatches:
    """`Batches` of one account at Anthropic, or at a host of its shape."""

    def __init__(self, connection: Connection) -> None:
        self._rest, self._host = Rest(connection, auth), origin(connection.base_url)

    def stage(self, path: Path, key: str) -> str | None:
        return None  # the input is sent with the create

    def create(self, submission: Submission) -> RemoteBatch:
        size = submission.path.stat().st_size
        headers = {"content-type": "application/json", "content-length": str(size)}
        with submission.path.open("rb") as file:
            return _remote(read(self._rest.send("POST", _PATH, file, headers=headers), _Batch))

    def get(self, batch_id: str) -> RemoteBatch | None:
        batch = self._rest.find(f"{_PATH}/{quote(batch_id, safe='')}", _Batch)
        return None if batch is None else _remote(batch)

    def page(self, after: str | None, size: int) -> Page:
        found = read(self._rest.ask("GET", _PATH, params={"limit": size} | ({"after_id": after} if after else {})), _Page)
        batches = [_remote(batch) for batch in found.data or ()]
        return Page(batches=batches, after=batches[-1].id if batches else None, more=said(found.has_more))

    def cancel(self, batch_id: str) -> None:
        self._rest.cancel(f"{_PATH}/{quote(batch_id, safe='')}/cancel", _Batch)

    def results(self, batch: RemoteBatch) -> list[ResultFile]:
        return [ResultFile(id=batch.id, what=f"the results of {batch.id}", lines=batch.requests)]

    def size_bytes(self, file: ResultFile) -> int | None:
        return None  # its lines are counted instead

    def fetch(self, batch: RemoteBatch, file: ResultFile, start: int, validator: str) -> AbstractContextManager[Piece]:
        return self._rest.open(self._results_path(batch), start, validator)

    def unstage(self, input_ref: str) -> None:
        return  # the input was sent with the create

    def close(self) -> None:
        self._rest.close()

    def _results_path(self, batch: RemoteBatch) -> str:
        """Where the results are, on the configured host only.

        A `results_url` on another host (from a gateway that forwards the provider's own, or from a hostile reply) is not used,
        since the key would be sent there: the documented path on our host is used instead.
        """
        url = batch.result_refs[0] if batch.result_refs else ""
        try:
            ours = url.isprintable() and origin(url) == self._host and bool(urlsplit(url).path)
        except ValueError:  # no URL at all
            ours = False
        return url if ours else f"{_PATH}/{quote(batch.id, safe='')}/results"


# -- the objects ----------------------------------------------------------------------------------------------


class _Counts(msgspec.Struct, gc=False):
    processing: int | None = None
    succeeded: int | None = None
    errored: int | None = None
    canceled: int | None = None
    expired: int | None = None


class _Batch(msgspec.Struct, gc=False):
    id: str | int | None = None  # some hosts use numbers as ids
    processing_status: str | None = None
    created_at: Any = None
    cancel_initiated_at: str | None = None
    request_counts: _Counts | None = None
    results_url: str | None = None


class _Page(msgspec.Struct, gc=False):
    data: list[_Batch] | None  # required: an error with status 200 must not pass for an empty list
    has_more: Any = None


def _remote(batch: _Batch) -> RemoteBatch:
    counts = batch.request_counts or _Counts()
    ended = (counts.succeeded or 0) + (counts.errored or 0) + (counts.canceled or 0) + (counts.expired or 0)
    total = ended + (counts.processing or 0)
    return RemoteBatch(
        id=id_of(batch.id),
        state=_state(batch, counts),
        native=batch.processing_status or NO_STATUS,
        created_at=instant(batch.created_at),
        requests=total or None,
        succeeded=counts.succeeded,
        done=ended if batch.processing_status == "ended" else None,  # before the end the counts are zeros, not progress
        result_refs=(batch.results_url,) if batch.results_url else (),
    )


def _state(batch: _Batch, counts: _Counts) -> BatchState:
    match batch.processing_status:
        case "ended" if batch.cancel_initiated_at:
            return BatchState.CANCELLED
        case "ended" if counts.expired:
            return BatchState.EXPIRED
        case "ended":
            return BatchState.COMPLETED
        case "canceling":
            return BatchState.CANCELLING
        case _:
            return BatchState.IN_PROGRESS
