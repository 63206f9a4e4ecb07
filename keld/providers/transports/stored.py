"""Stored: the inputs and results of batches as objects in the user's own bucket.

A part of the transports `bedrock` and `vertex`, over `keld.objects`.  An input has a name of its own each time it is staged: a late create must never find the
input of a later one.  Every failure of the bucket is a `Fault`, and a transfer reports its progress.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

from keld import http
from keld.objects import AccessDenied, Bucket, Credentials, NoSuchObject, ObjectError, ObjectInfo, OtherVersion, WrongRegion
from keld.patience import Patience
from keld.providers.download import Broken, Piece
from keld.providers.fault import Fault, Sent

_CHUNK = 1 << 20


class Stored:
    """The objects of one account; a bucket is opened at the first call to it.

    Args:
        root: `s3://bucket/prefix` or `gs://bucket/prefix`, below which inputs are kept.
        options: obstore's own; asked for before each call, and when they are others than before, the bucket is opened again.
        credentials: for the bucket; None: those in `options`, else those that obstore finds.
    """

    def __init__(
        self,
        root: str,
        patience: Patience,
        *,
        options: Callable[[], Mapping[str, str]] = dict,
        credentials: Credentials | None = None,
    ) -> None:
        self.root, self._patience, self._options, self._credentials = root.rstrip("/"), patience, options, credentials
        self._scheme = urlsplit(root).scheme
        self._buckets: dict[str, tuple[Mapping[str, str], Bucket]] = {}  # with the options that they were opened with

    def put(self, path: Path, key: str) -> str:
        """Uploads an input; its address."""
        uri = f"{self.root}/in/{key}-{secrets.token_hex(4)}.jsonl"
        with self._object(uri) as (bucket, name), path.open("rb") as file:
            bucket.upload(name, self._beating(iter(lambda: file.read(_CHUNK), b"")))
        return uri

    def remove(self, uri: str) -> None:
        """Removes an object; "not there" is success."""
        with self._object(uri) as (bucket, name):
            bucket.delete(name)

    def below(self, folder: str) -> list[tuple[str, ObjectInfo]]:
        """The address of each object below a folder, and what it is, by the bytes of their names."""
        with self._object(folder.rstrip("/")) as (bucket, name):
            return [(bucket.address(one), info) for one, info in bucket.entries(name)]

    def find(self, uri: str) -> ObjectInfo | None:
        """What an object is now; None: there is none."""
        with self._object(uri) as (bucket, name):
            return bucket.find(name)

    def read(self, uri: str) -> bytes | None:
        """The bytes of a small object; None: there is none."""
        with self._object(uri) as (bucket, name):
            try:
                return bucket.read(name)
            except NoSuchObject:
                return None

    @contextmanager
    def open(self, uri: str, start: int = 0, validator: str = "") -> Iterator[Piece]:
        """An object from byte `start` on, if it still has `validator` ("": any), else from its beginning."""
        with self._object(uri) as (bucket, name):
            try:
                opened, resumed = bucket.open(name, start, validator), start > 0
                piece = opened.__enter__()
            except OtherVersion:
                opened, resumed = bucket.open(name), False
                piece = opened.__enter__()
        try:
            yield Piece(resumed=resumed, validator=piece.version, chunks=self._chunks(piece.chunks))
        finally:
            opened.__exit__(None, None, None)

    def _chunks(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from self._beating(chunks)
        except ObjectError as broken:
            raise Broken(broken.why) from broken

    def _beating(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            http.beat(self._patience.call_s)
            yield chunk

    def _bucket(self, name: str) -> Bucket:
        options = self._options()
        opened_with, bucket = self._buckets.get(name, ({}, None))
        if bucket is None or opened_with != options:
            bucket = Bucket.at(f"{self._scheme}://{name}", options, call_s=self._patience.call_s, credentials=self._credentials)
            self._buckets[name] = options, bucket
        return bucket

    @contextmanager
    def _object(self, uri: str) -> Iterator[tuple[Bucket, str]]:
        """The bucket and the name of an object.

        Raises:
            Fault: a call to the bucket failed.
            AccessRefused: there are no credentials.
        """
        if self._credentials is not None:
            self._credentials()  # here, since obstore hides what they raise
        parts = urlsplit(uri)
        bucket = self._bucket(parts.netloc)
        http.beat(self._patience.call_s)
        try:
            yield bucket, parts.path.lstrip("/")
        except NoSuchObject as missing:
            raise Fault(sent=Sent.ANSWERED, status=HTTPStatus.NOT_FOUND, code="no_such_object", message=str(missing), own=True) from None
        except (AccessDenied, WrongRegion) as denied:
            code = "bucket_access_denied" if isinstance(denied, AccessDenied) else "bucket_in_another_region"
            raise Fault(sent=Sent.ANSWERED, status=HTTPStatus.FORBIDDEN, code=code, message=str(denied), own=True) from None
        except ObjectError as error:
            raise Fault(sent=Sent.MAYBE, cause=f"{error.address}: {error.why}") from None
