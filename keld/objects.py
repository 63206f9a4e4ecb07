"""Objects: a bucket of S3, Google Cloud Storage or Azure, over obstore.

Below everything that keeps objects: the transports of providers that read and write a bucket, and `staging`.  Knows bytes and names only.

Every call ends: a request may take `call_s` in all, its body included, and is retried within another `call_s`.  So an object is read in pieces,
a request each, and a large one is written in parts; it appears when its last part is there, or never.

A retried `create` may find its own object, since the reply to the first try was lost (measured 2026-11: obstore sends a create-only PUT that
got 503 again).  So "exists" is believed only after its bytes were compared.

Credentials are those that obstore finds itself: the environment's variables, a role of the machine or the pod.  An error names the object and the
kind of failure only: the text of obstore's own may quote an address with a signature in it, and what the server said.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import urlsplit

import msgspec

from keld.errors import InvalidJob

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az")
Credentials = Callable[[], Mapping[str, Any]]
"""Credentials as obstore takes them: of Google Cloud `{"token": text, "expires_at": instant}`."""
CALL_S = 60.0
_PIECE_BYTES = 8 << 20  # of one request that reads
_PART_BYTES = 8 << 20  # of one request of an upload; S3 takes 10,000 of them: 80 GB
_PARTS_AT_ONCE = 4
_RETRIES = 4
_CREATES = 3
# Words for people, looked for in a text that is never shown; nothing is decided by them.
# What S3, and obstore of its redirect without an address, say to a request that was signed for another region (measured 2026-11, obstore 0.12).
_ELSEWHERE = re.compile(r"incorrectly configured region|PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint").search
_HINTS = {
    r"status code: (\d{3})": r"HTTP \1",
    r"timed? ?out": "no reply within its time",
    r"dns error|resolve": "its host name is not known",
    r"connection refused|error trying to connect|tcp connect": "no connection",
    r"connection closed|IncompleteMessage|reset by peer|error decoding": "the connection broke",
    r"credential|metadata|token": "no credentials",
}


class ObjectError(Exception):
    """A call to a bucket that failed; whether it changed anything is unknown, unless the class says so.

    Attributes:
        address: of the object or the bucket, without any secret.
    """

    def __init__(self, address: str, why: str) -> None:
        super().__init__(f"{address}: {why}")
        self.address, self.why = address, why


class NoSuchObject(ObjectError):
    """The object, or its bucket, does not exist."""


class AccessDenied(ObjectError):
    """The credentials are missing, or not allowed to do this; nothing was done."""


class WrongRegion(ObjectError):
    """The bucket is in another region than it was asked in; nothing was done."""


class OtherVersion(ObjectError):
    """The object is not the version that was asked for any more."""


class Unreachable(ObjectError):
    """No reply, or a server error, at each try: repeat it later."""


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An object as it is now; `version` (its ETag) is another one when its bytes change."""

    size_bytes: int
    version: str
    modified_at: datetime


class ObjectPiece(msgspec.Struct, frozen=True, kw_only=True):
    """An object from some byte on, as a stream.

    Args:
        size_bytes: of the whole object.
        version: all bytes are of this one.
        chunks: the bytes; raises `ObjectError` when the rest cannot be read.
    """

    size_bytes: int
    version: str
    chunks: Iterator[bytes]


class Bucket:
    """The objects below one address; their names are relative to it, with `/` between their parts."""

    def __init__(self, uri: str, store: "ObjectStore") -> None:
        self.uri, self._store = uri.rstrip("/"), store

    def __repr__(self) -> str:
        return f"<Bucket {self.uri}>"

    @classmethod
    def at(
        cls, uri: str, options: Mapping[str, str] | None = None, *, call_s: float = CALL_S, credentials: Credentials | None = None
    ) -> Self:
        """The bucket at `s3://bucket/prefix`, `gs://...` or `az://container/prefix`; the prefix may be missing.  Nothing is called yet.

        Args:
            options: obstore's own, e.g. `{"endpoint": "https://..."}`; what they leave out comes from the environment.
            call_s: seconds that one request may take in all.
            credentials: called when they are needed, and again before they expire; None: those that obstore finds.

        Raises:
            InvalidJob: the address is none of these, or obstore is not installed.
        """
        _check(uri)
        try:
            from obstore.exceptions import BaseError
            from obstore.store import from_url
        except ImportError as missing:
            raise InvalidJob(f"{uri} needs obstore, which is not installed.  Nothing was sent.  pip install 'keld[objects]'") from missing
        limit = timedelta(seconds=call_s)
        config: Any = dict(options or {}) or None  # obstore types each cloud's settings, and checks them itself
        given: Any = {} if credentials is None else {"credential_provider": credentials}
        try:
            store = from_url(
                uri.rstrip("/"),
                config=config,
                **given,
                # Plain http is only used where an address of the environment says http.
                client_options={"timeout": limit, "connect_timeout": min(limit, timedelta(seconds=10)), "allow_http": True},
                retry_config={
                    "max_retries": _RETRIES,
                    "retry_timeout": limit,
                    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
                },
            )
        except BaseError as error:
            raise InvalidJob(f"{uri} cannot be opened with these settings ({type(error).__name__}).  Nothing was sent.") from None
        return cls(uri, store)

    def address(self, name: str) -> str:
        """The whole address of an object."""
        return f"{self.uri}/{name}"

    # --- write --------------------------------------------------------------------------------------------------------

    def put(self, name: str, data: bytes) -> str:
        """The version of the object that now has this name, over any other."""
        import obstore

        with self._failing(name):
            return _version(obstore.put(self._store, name, data, use_multipart=False))

    def create(self, name: str, data: bytes) -> bool:
        """True if the object has these bytes now; False: it existed before, with others."""
        import obstore
        from obstore.exceptions import AlreadyExistsError

        for _ in range(_CREATES):
            try:
                with self._failing(name, but=AlreadyExistsError):
                    obstore.put(self._store, name, data, mode="create", use_multipart=False)
                return True
            except AlreadyExistsError:
                found = self._read(name)
                if found is not None:
                    return found == data
                # Two creates at once, and S3 lets neither win (409), or it was deleted since: ask again.
        raise Unreachable(self.address(name), "it is said to exist, and cannot be found")

    def upload(self, name: str, chunks: Iterable[bytes]) -> str:
        """The version of the object made of `chunks`, over any other.  If `chunks` raises, so does this, and there is no object.

        Memory: some parts of 8 MiB, however large the object is.
        """
        import obstore

        source = _Source(chunks)
        try:
            with self._failing(name):
                made = obstore.put(
                    self._store, name, iter(source), use_multipart=True, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
                )
        except Exception:
            if source.error is not None:
                raise source.error from None
            raise
        return _version(made)

    def delete(self, name: str) -> None:
        """Afterwards there is no such object, as there may have been none before."""
        import obstore

        with suppress(NoSuchObject), self._failing(name):
            obstore.delete(self._store, name)

    # --- read ---------------------------------------------------------------------------------------------------------

    def find(self, name: str) -> ObjectInfo | None:
        """The object of this name; None: there is none."""
        import obstore

        try:
            with self._failing(name):
                meta = obstore.head(self._store, name)
        except NoSuchObject:
            return None
        return _info(meta)

    def read(self, name: str) -> bytes:
        """The bytes of a small object.

        Raises:
            NoSuchObject: there is none.
        """
        import obstore

        with self._failing(name):
            return bytes(obstore.get(self._store, name).bytes())

    @contextmanager
    def open(self, name: str, start: int = 0, version: str = "") -> Iterator[ObjectPiece]:
        """The object from byte `start` on.

        Args:
            version: that it must have; "": any, and then the same for all its bytes.

        Raises:
            NoSuchObject: there is none.
            OtherVersion: it has another version.
        """
        found = self.find(name)
        if found is None:
            raise NoSuchObject(self.address(name), "there is no such object")
        if version and version != found.version:
            raise OtherVersion(self.address(name), "it has changed since it was read first")
        yield ObjectPiece(size_bytes=found.size_bytes, version=found.version, chunks=self._pieces(name, start, found))

    def names(self, folder: str = "", after: str | None = None) -> Iterator[str]:
        """The names of the objects below `folder`, in the order of their bytes; only those behind the name `after`, if there is one."""
        return (name for name, _ in self.entries(folder, after))

    def entries(self, folder: str = "", after: str | None = None) -> Iterator[tuple[str, ObjectInfo]]:
        """As `names`, each with what it is."""
        import obstore

        with self._failing(folder):
            for page in obstore.list(self._store, folder or None, offset=after):
                # Asked again here, since a store may not know the question (measured 2026-11: Azurite lists from the first).
                yield from ((meta["path"], _info(meta)) for meta in page if after is None or meta["path"].encode() > after.encode())

    def _read(self, name: str) -> bytes | None:
        try:
            return self.read(name)
        except NoSuchObject:
            return None

    def _pieces(self, name: str, start: int, whole: ObjectInfo) -> Iterator[bytes]:
        import obstore

        for first in range(start, whole.size_bytes, _PIECE_BYTES):
            end = min(first + _PIECE_BYTES, whole.size_bytes)
            with self._failing(name):
                piece = bytes(obstore.get(self._store, name, options={"range": (first, end), "if_match": whole.version or None}).bytes())
            if len(piece) != end - first:
                raise Unreachable(self.address(name), "a part of it came back with the wrong size")
            yield piece

    @contextmanager
    def _failing(self, name: str, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
        """Turns obstore's errors into ours, but for one whose meaning the caller knows.  Any 409 is "already exists" to obstore."""
        from obstore.exceptions import BaseError

        try:
            yield
        except but:
            raise
        except (BaseError, OSError) as error:
            _fail(self.address(name), error)


class _Source:
    """Chunks on their way to obstore, which replaces an exception of theirs by its own."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except BaseException as error:
            self.error = error
            raise


def _check(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise InvalidJob(f"{uri.partition('?')[0]} is no bucket: write {', '.join(f'{scheme}://bucket/prefix' for scheme in SCHEMES)}.")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidJob(
            f"The address of the bucket {parts.hostname} has more than a bucket and a prefix.  Credentials belong into the environment."
        )


_DENIED, _MISSING = "the credentials do not allow this", "there is no such object or bucket"
# Of a list, obstore gives no class of error, but the status alone (measured 2026-11, obstore 0.12).
_STATUS = re.compile(r"Error performing list request.*status code: (\d{3})", re.DOTALL).search
_OF_A_LIST: Mapping[str, tuple[type[ObjectError], str]] = {
    "401": (AccessDenied, _DENIED),
    "403": (AccessDenied, _DENIED),
    "404": (NoSuchObject, _MISSING),
}


def _fail(address: str, error: Exception) -> NoReturn:
    """Raises:
    ObjectError: of the class that tells what follows from `error`.
    """
    from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

    match error:
        case FileNotFoundError():
            raise NoSuchObject(address, _MISSING) from None
        case PermissionDeniedError() | UnauthenticatedError():
            raise AccessDenied(address, _DENIED) from None
        case PreconditionError():
            raise OtherVersion(address, "it has changed since it was read first") from None
        case _ if (status := _STATUS(str(error))) and status[1] in _OF_A_LIST:
            kind, why = _OF_A_LIST[status[1]]
            raise kind(address, why) from None
        case _ if _ELSEWHERE(str(error)):
            raise WrongRegion(address, "the bucket is in another region than the one that is set") from None
        case _:
            raise Unreachable(address, _hint(str(error))) from None


def _hint(text: str) -> str:
    for pattern, words in _HINTS.items():
        if found := re.search(pattern, text, re.IGNORECASE):
            return found.expand(words) if found.groups() else words
    return "the call failed"


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(size_bytes=meta["size"], version=meta["e_tag"] or "", modified_at=meta["last_modified"])


def _version(result: Mapping[str, Any]) -> str:
    return result["e_tag"] or result["version"] or ""
