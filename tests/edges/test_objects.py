"""`keld.objects` over real HTTP: at the emulator's two faces, and at moto, which others wrote."""

import itertools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from keld.emulator import Emulator
from keld.errors import InvalidJob
from keld.objects import AccessDenied, Bucket, NoSuchObject, ObjectError, OtherVersion, Unreachable
from keld.patience import Patience
from keld.providers.transports.stored import Stored

LARGE = os.urandom(20 << 20)
# Azurite's, the same for everybody: github.com/Azure/Azurite#default-storage-account
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_count = itertools.count()


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def azurite() -> Iterator[str]:
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no Azure: azurite-blob (npm install -g azurite) is not on the path")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["--blobPort", str(port), "--skipApiVersionCheck", "--inMemoryPersistence", "--disableTelemetry"]
    process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any("successfully listen" in line for line in process.stdout)  # to its end, if it does not start
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture(params=["s3", "gs", "moto", "azurite"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A bucket's prefix; each test runs at each store."""
    match request.param:
        case "s3" | "gs" as scheme:
            lead(request.getfixturevalue("emulator"), monkeypatch)
            return Bucket.at(f"{scheme}://bkt/pre fix")
        case "moto":
            import boto3

            url = request.getfixturevalue("moto")
            keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
            boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket="bkt")
            return Bucket.at(
                f"s3://bkt/{next(_count)}", {"endpoint": url, "region": "us-east-1", "access_key_id": "k", "secret_access_key": "s"}
            )
        case _:
            from azure.storage.blob import ContainerClient

            url, container = request.getfixturevalue("azurite"), f"bkt-{next(_count)}"
            ContainerClient(f"{url}/{_ACCOUNT}", container, credential=_ACCOUNT_KEY).create_container()
            names = {"account_name": _ACCOUNT, "account_key": _ACCOUNT_KEY, "endpoint": f"{url}/{_ACCOUNT}"}
            return Bucket.at(f"az://{container}/pre fix", names)


def lead(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in emulator.env().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def s3(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    lead(emulator, monkeypatch)
    return Bucket.at("s3://bkt/run", call_s=2)


def calls(emulator: Emulator) -> list[tuple[str, int | None]]:
    return [(call.method, call.status) for call in emulator.requests()]


# --- the same everywhere ------------------------------------------------------------------------------------------------


def test_objects_come_back(bucket: Bucket) -> None:
    version = bucket.put("a/ä b%2F", b"one")
    found = bucket.find("a/ä b%2F")
    assert found is not None
    assert (found.size_bytes, found.version) == (3, version)
    assert bucket.read("a/ä b%2F") == b"one"
    assert bucket.put("a/ä b%2F", b"two") != version
    bucket.delete("a/ä b%2F")
    bucket.delete("a/ä b%2F")
    assert bucket.find("a/ä b%2F") is None
    with pytest.raises(NoSuchObject):
        bucket.read("a/ä b%2F")


def test_create_is_for_one_writer(bucket: Bucket) -> None:
    assert bucket.create("seg/1", b"mine")
    assert bucket.create("seg/1", b"mine")
    assert not bucket.create("seg/1", b"other")
    assert bucket.read("seg/1") == b"mine"


def test_of_many_creates_at_once_one_wins(bucket: Bucket) -> None:
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: won.append(n) if bucket.create("fence", b"%d" % n) else None)  # type: ignore[misc]
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [b"%d" % n for n in won] == [bucket.read("fence")]


def test_list_is_sorted_and_goes_on_after_a_name(bucket: Bucket) -> None:
    for name in ("j/2", "j/10", "j/1", "k/1", "jj/1"):
        bucket.put(name, b"")
    assert list(bucket.names("j")) == ["j/1", "j/10", "j/2"]
    assert list(bucket.names("j", after="j/10")) == ["j/2"]
    assert list(bucket.names()) == ["j/1", "j/10", "j/2", "jj/1", "k/1"]
    assert list(bucket.names("nothing")) == []


@pytest.mark.share(2)
def test_large_object_goes_up_in_parts_and_comes_down_in_pieces(bucket: Bucket) -> None:
    version = bucket.upload("large", (LARGE[at : at + 300_000] for at in range(0, len(LARGE), 300_000)))
    with bucket.open("large", 12_345, version) as piece:
        assert piece.size_bytes == len(LARGE)
        assert b"".join(piece.chunks) == LARGE[12_345:]


def test_upload_that_breaks_off_leaves_no_object(bucket: Bucket) -> None:
    def stops() -> Iterator[bytes]:
        yield LARGE
        raise RuntimeError("the answers ran out")

    with pytest.raises(RuntimeError, match="ran out"):
        bucket.upload("cut", stops())
    assert bucket.find("cut") is None


def test_an_empty_upload_is_an_object(bucket: Bucket) -> None:
    bucket.upload("empty", iter(()))
    with bucket.open("empty") as piece:
        assert b"".join(piece.chunks) == b""


@pytest.mark.share(2)
def test_a_reader_never_mixes_two_versions(bucket: Bucket) -> None:
    """Bytes of two versions would be a result that nobody wrote."""
    version = bucket.upload("large", iter([LARGE]))
    with pytest.raises(OtherVersion), bucket.open("large") as piece:
        next(piece.chunks)
        bucket.upload("large", iter([LARGE[::-1]]))
        next(piece.chunks)
    with pytest.raises(OtherVersion), bucket.open("large", 5, version):
        pass


def test_results_are_looked_up_once_and_read_from_the_beginning_if_they_changed(s3: Bucket, emulator: Emulator) -> None:
    version = s3.put("results", b"0123")
    stored = Stored("s3://bkt/run", Patience(), options=dict)
    seen = len(calls(emulator))
    with stored.open("s3://bkt/run/results", 2, version) as piece:
        assert (piece.resumed, b"".join(piece.chunks)) == (True, b"23")
    assert [method for method, _ in calls(emulator)[seen:]] == ["HEAD", "GET"]
    s3.put("results", b"4567")
    with stored.open("s3://bkt/run/results", 2, version) as piece:
        assert (piece.resumed, b"".join(piece.chunks)) == (False, b"4567")


# --- failures -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [{"do": "drop_before"}, {"do": "drop_after"}, {"do": "status", "status": 503}, {"do": "status", "after": True}]
)
def test_create_knows_its_own_object_after_a_lost_reply(s3: Bucket, emulator: Emulator, fault: dict[str, Any]) -> None:
    emulator.faults({"rules": [{"at": "upload", **fault}]})
    assert s3.create("seg/1", b"mine")
    assert not s3.create("seg/1", b"other")


def test_conflict_of_two_creates_is_no_loss(s3: Bucket, emulator: Emulator) -> None:
    """S3 answers 409 to a create-only PUT beside another: it is not "exists"."""
    emulator.faults({"rules": [{"at": "upload", "do": "status", "status": 409}]})
    assert s3.create("seg/1", b"mine")
    assert calls(emulator) == [("PUT", 409), ("GET", 404), ("PUT", 200)]


def test_cut_reply_is_read_to_its_end(s3: Bucket, emulator: Emulator) -> None:
    s3.put("k", LARGE[:100_000])
    emulator.faults({"rules": [{"at": "download", "do": "truncate", "bytes": 1000}, {"at": "download", "do": "drop_before"}]})
    with s3.open("k") as piece:
        assert b"".join(piece.chunks) == LARGE[:100_000]


def test_refused_credentials_are_told_apart_and_not_retried(s3: Bucket, emulator: Emulator) -> None:
    emulator.faults({"rules": [{"at": "upload", "do": "status", "status": 403}, {"at": "get", "do": "status", "status": 403}]})
    with pytest.raises(AccessDenied, match="s3://bkt/run/k: the credentials"):
        s3.put("k", b"")
    with pytest.raises(AccessDenied):
        s3.find("k")
    assert calls(emulator) == [("PUT", 403), ("HEAD", 403)]


@pytest.mark.parametrize("at", ["upload", "download", "list", "get", "delete"])
def test_a_conflict_where_nothing_is_created_is_a_fault_for_now(s3: Bucket, emulator: Emulator, at: str) -> None:
    """A gateway may answer 409 to anything; obstore calls that "already exists", and its text must not reach a caller."""
    emulator.faults({"rules": [{"at": at, "do": "status", "status": 409, "times": None, "match": {"provider": "s3"}}]})
    calls: dict[str, Callable[[], object]] = {
        "upload": lambda: s3.put("o", b"x"),
        "download": lambda: s3.read("o"),
        "list": lambda: list(s3.names()),
        "get": lambda: s3.find("o"),
        "delete": lambda: s3.delete("o"),
    }
    with pytest.raises(Unreachable) as told:
        calls[at]()
    assert "Debug source" not in str(told.value)


def test_every_call_ends(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes the request and never answers must not hold a worker."""
    lead(emulator, monkeypatch)
    bucket = Bucket.at("s3://bkt/run", call_s=0.3)
    emulator.faults({"rules": [{"at": "any", "do": "delay", "delay_s": 30, "times": None}]})
    for call in (lambda: bucket.put("k", b""), lambda: bucket.create("k", b""), lambda: bucket.find("k"), lambda: list(bucket.names())):
        with pytest.raises(Unreachable, match="no reply within its time"):
            call()


def test_a_redirect_to_another_host_takes_neither_the_signature_nor_an_object_there() -> None:
    """obstore has no setting by which a redirect is not followed; S3 redirects the requests of a bucket that was just made."""
    arrived: list[tuple[set[str], bytes]] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            arrived.append(({name.lower() for name in self.headers}, body))
            self.send_error(404)

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

    class Redirects(Elsewhere):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(307)
            self.send_header("location", f"http://127.0.0.1:{elsewhere.server_port}/trap")
            self.send_header("content-length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_PUT = do_GET

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere, ThreadingHTTPServer(("127.0.0.1", 0), Redirects) as first:
        for server in (elsewhere, first):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        keys = {"access_key_id": "k", "secret_access_key": "s", "region": "us-east-1"}
        bucket = Bucket.at("s3://bkt/x", {"endpoint": f"http://127.0.0.1:{first.server_port}", **keys}, call_s=5)
        calls: list[Callable[[], object]] = [
            lambda: bucket.put("o", b"a prompt"),
            lambda: bucket.upload("o", iter([b"a prompt"])),
            lambda: bucket.read("o"),
            lambda: bucket.find("o"),
        ]
        for call in calls:
            with suppress(ObjectError):
                call()
        for server in (elsewhere, first):
            server.shutdown()
    assert arrived, "it is followed"
    assert [(sorted(names & {"authorization", "x-api-key"}), body) for names, body in arrived] == [([], b"")] * len(arrived)


def test_error_never_has_the_text_of_the_server(s3: Bucket, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may quote an address with a signature, or a prompt."""
    secret = {"body": "sig=SECRET", "status": 400, "times": None}
    emulator.faults({"rules": [{"at": "upload", "do": "garbage", **secret}, {"at": "get", "do": "garbage", **secret}]})
    for call in (lambda: s3.put("k", b"prompt"), lambda: s3.find("k")):
        with pytest.raises(Unreachable) as failed:
            call()
        assert str(failed.value) == "s3://bkt/run/k: HTTP 400"
        assert failed.value.__cause__ is None
        assert failed.value.__suppress_context__


@pytest.mark.parametrize(
    "uri", ["/tmp/x", "file:///tmp/x", "http://host/b", "s3://", "s3:/b", "az://c/p?sig=SECRET", "s3://key:SECRET@b/p"]
)
def test_only_a_bucket_is_a_bucket(uri: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        Bucket.at(uri)
    assert "SECRET" not in str(refused.value)
