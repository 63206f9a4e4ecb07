"""The limit of a call, against a server on bare sockets that takes its time: no SDK bounds a whole call, so these would else hang for ever.

The limits are made small; a test that is not bounded hangs, and is given up by `bounded`, whose bound is generous.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpcore2
import httpx2
import pytest

from keld import Account, http
from keld.errors import ProviderUnreachable
from keld.patience import Patience
from keld.providers.base import BatchState, InDoubt, OutcomeUnknown, RemoteBatch, SendOutcome, Submission
from keld.providers.provider import Provider, connect
from tests.support.slow_server import BODY, ENDLESS, HEAD, SILENT, UNREAD, SlowServer, slow_server
from tests.support.ticket_job import Peer

QUICK = Patience(call_s=0.2, reply_s=0.2, stall_s=0.2, least_bytes=16 << 10)
SURE = Patience(call_s=0.2, reply_s=0.2, stall_s=20.0)  # of a create: surely sent, on the slowest machine, before its time is over
GENEROUS_S = 60.0  # of what takes half a second: only a call without a limit is slower


def bounded(work: Callable[[], object]) -> object:
    """What `work` gives, or the error it raises; fails, and does not hang, where it does not come back."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(GENEROUS_S)
    assert found, "the call did not come back: it has no limit"
    return found[0]


@pytest.fixture
def provider(peer: Peer) -> Iterator[Callable[..., Provider]]:
    made: list[Provider] = []

    def start(server: SlowServer, patience: Patience = QUICK) -> Provider:
        url = server.url + ("/v1" if peer.name == "openai" else "")
        made.append(connect(peer.name, Account(kind=peer.name, base_url=url, api_key=lambda: "sk-any"), patience))
        return made[-1]

    yield start
    for one in made:
        one.close()


def ended(id_: str = "batch_1") -> RemoteBatch:
    return RemoteBatch(
        id=id_, state=BatchState.COMPLETED, native="completed", created_at=datetime.now(UTC), requests=3, result_refs=("file-1",),
    )  # fmt: skip


def submission(folder: Path, size_bytes: int = 1_000) -> Submission:
    path = folder / "input.jsonl"
    path.write_bytes(b"x" * size_bytes)
    return Submission(key="a" * 10 + "-1", path=path, input_ref="file-1", model="m", endpoint="/v1/chat/completions", requests=3)


CALLS: dict[str, Callable[[Provider, Path], object]] = {
    "get": lambda provider, _: provider.get("batch_1"),
    "list": lambda provider, _: list(provider.batches(datetime.now(UTC) - timedelta(days=1))),
    "newest": lambda provider, _: provider.newest(),
    "cancel": lambda provider, _: provider.cancel("batch_1"),
    "delete": lambda provider, _: provider.delete_input("file-1"),
    "upload": lambda provider, folder: provider.upload(submission(folder).path, "a" * 10),
    "download": lambda provider, folder: provider.download(ended(), lambda n: folder / f"result-{n}.jsonl", 1 << 30),
    "sample": lambda provider, _: provider.sample(ended()),
}
_NO_CALL = {("anthropic", "delete"), ("anthropic", "upload"), ("openai", "sample")}


@pytest.mark.parametrize("mode", [SILENT, HEAD, BODY])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_comes_back_from_a_server_that_takes_its_time(
    provider: Callable[..., Provider], peer: Peer, tmp_path: Path, call: str, mode: str
) -> None:
    """A byte a second outlives every timeout of the SDKs: the worker, and its lease, would be held for ever."""
    if (peer.name, call) in _NO_CALL:
        pytest.skip("no call")
    with slow_server(mode) as server:
        found = bounded(lambda: CALLS[call](provider(server), tmp_path))
    assert isinstance(found, ProviderUnreachable), repr(found)


@pytest.mark.parametrize("mode", [SILENT, HEAD, BODY])
def test_a_create_that_takes_too_long_is_of_unknown_outcome_and_sent_once(
    provider: Callable[..., Provider], peer: Peer, tmp_path: Path, mode: str
) -> None:
    """It may have been done: it is looked for, not sent again."""
    with slow_server(mode) as server:
        found = bounded(lambda: provider(server, SURE).create(submission(tmp_path)))
        assert isinstance(found, OutcomeUnknown), repr(found)
        assert len(server.asked) <= 1


def test_an_input_that_nobody_reads_is_not_sent_for_ever(provider: Callable[..., Provider], peer: Peer, tmp_path: Path) -> None:
    """A write has a timeout of its own for each piece; 40 MB are many pieces."""
    asked = submission(tmp_path, 40 << 20)
    with slow_server(UNREAD) as server:
        made = provider(server)
        found = bounded(lambda: made.create(asked) if peer.name == "anthropic" else made.upload(asked.path, "a" * 10))
    assert isinstance(found, OutcomeUnknown if peer.name == "anthropic" else ProviderUnreachable), repr(found)


def test_a_reply_without_end_is_broken_off(provider: Callable[..., Provider], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a look: by its size, before its time is over and the memory full."""
    monkeypatch.setattr(http, "_REPLY_BYTES", 1 << 20)
    with slow_server(ENDLESS) as server:
        found = bounded(lambda: provider(server).get("batch_1"))
    assert isinstance(found, ProviderUnreachable), repr(found)


def test_a_download_takes_as_long_as_it_moves(provider: Callable[..., Provider], tmp_path: Path) -> None:
    """Its whole time has no limit, only its speed; and each time it has moved by the least, its worker is heard."""
    body, heard = b'{"custom_id":"x"}\n' * 4_000, list[float]()

    def answer(method: str, path: str, head: bytes, sent: bytes) -> bytes:
        return body if path.endswith(("/content", "/results")) else b"{}"

    with slow_server(BODY, answer) as server, http.reporting_progress(heard.append):
        made = provider(server, Patience(call_s=20, reply_s=20, stall_s=20, least_bytes=1_000))
        (path,) = made.download(ended(), lambda n: tmp_path / f"result-{n}.jsonl", 1 << 30)
    assert path.read_bytes() == body
    assert len(heard) > 2


@pytest.mark.parametrize("mode", [SILENT, HEAD, BODY])
def test_a_request_of_a_fast_lane_that_takes_too_long_is_in_doubt(provider: Callable[..., Provider], peer: Peer, mode: str) -> None:
    """Half of a reply says that it was sent, and nothing of what it cost."""

    async def ask(made: Provider) -> SendOutcome:
        async with made.sender("/v1/chat/completions" if peer.name == "openai" else "/v1/messages", lambda: 1.5, 4) as send:
            return await send("aaaaaaaaaa-00000001", b"{}")

    with slow_server(mode) as server:
        found = bounded(lambda: asyncio.run(ask(provider(server))))
        assert isinstance(found, InDoubt), repr(found)
        assert len(server.asked) == 1


def test_a_verb_has_no_more_time_for_its_calls_than_it_was_given(provider: Callable[..., Provider]) -> None:
    """The look that is under way is cut short, and none is begun after it."""
    with slow_server(SILENT) as server:
        made = provider(server, Patience(call_s=1_000))

        def look() -> list[str]:
            told = []
            with http.within(time.monotonic() + 0.1):
                for _ in range(2):
                    with pytest.raises(ProviderUnreachable) as over:
                        made.get("batch_1")
                    told.append(str(over.value))
            return told

        told = bounded(look)
        assert isinstance(told, list)
        assert "time for this look was over" in told[1]
        assert len(server.asked) <= 1


def test_the_pool_of_this_httpx2_takes_our_network_backend() -> None:
    """It is set in a private attribute: a release that renames it must fail here, and at once where a client is made, not hang for ever in production."""
    client = http.client(QUICK)
    for transport in (client._transport, *client._mounts.values()):
        assert transport is None or isinstance(transport._pool._network_backend, http._Backend)  # type: ignore[attr-defined]
    assert client.headers["accept-encoding"] == "identity"
    assert client.follow_redirects is False
    client._transport._pool._network_backend = None  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="no limit"):
        http._set_backend(client, http._Backend)


def test_a_proxy_of_the_environment_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pool is another one, with a backend of its own."""
    with slow_server(HEAD) as server:
        monkeypatch.setenv("http_proxy", server.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        client = http.client(QUICK)

        def ask() -> object:
            with http.asking(QUICK):
                return client.get("http://somewhere.invalid/v1/batches")

        found = bounded(ask)
        assert isinstance(found, httpx2.TimeoutException), repr(found)
        assert server.asked[0] == ("GET", "http://somewhere.invalid/v1/batches")


def test_what_cannot_be_read_is_refused_before_it_is_read() -> None:
    """Brotli, where no library for it is there, would be taken for a broken body."""
    request = httpx2.Request("GET", "http://localhost/")
    for coding in ("br", "zstd", "x-unheard-of"):
        with pytest.raises(http.UnreadableEncoding):
            http.check_encoding(httpx2.Response(200, headers={"content-encoding": coding}, request=request))
    http.check_encoding(httpx2.Response(200, headers={"content-encoding": "gzip"}, request=request))


def test_a_limit_is_never_lengthened_by_a_timeout_of_the_sdk() -> None:
    """The shorter one counts; and nothing left is a timeout, whose kind says whether anything was sent."""
    bound = http._Bound(QUICK, 10.0)
    assert bound.capped(0.1, httpcore2.ReadTimeout) == 0.1
    assert 9 < bound.capped(600.0, httpcore2.ReadTimeout) <= 10
    assert 9 < bound.capped(None, httpcore2.ReadTimeout) <= 10
    with pytest.raises(httpcore2.ConnectTimeout):
        http._Bound(QUICK, 0.0).capped(5.0, httpcore2.ConnectTimeout)


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "by a proxy"])
@pytest.mark.parametrize("lane", ["batch", "fast"])
def test_the_connections_of_both_clients_are_kept_alive(lane: str, proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway drops a connection that is silent for minutes, while the answer is made that will be paid."""
    for variable in ("no_proxy", "NO_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with slow_server(SILENT, lambda *asked: b"{}") as server:
        url = server.url
        if proxied:
            monkeypatch.setenv("http_proxy", server.url)
            url = "http://somewhere.invalid"
        kept = _kept_alive_in_fast_lane(url) if lane == "fast" else _kept_alive(http.client(Patience()).get(url))
        assert server.asked == [("GET", "http://somewhere.invalid/" if proxied else "/")]
        assert kept == (1, 60)


def _kept_alive_in_fast_lane(url: str) -> tuple[int, int]:
    async def ask() -> tuple[int, int]:
        async with http.async_client(httpx2.create_ssl_context(), 30) as client:
            return _kept_alive(await client.get(url))

    return asyncio.run(ask())


def _kept_alive(reply: httpx2.Response) -> tuple[int, int]:
    """Whether the reply's connection is kept alive, and after how many seconds of silence."""
    connection = reply.extensions["network_stream"].get_extra_info("socket")
    idle = getattr(socket, "TCP_KEEPIDLE", None) or socket.TCP_KEEPALIVE
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), connection.getsockopt(socket.IPPROTO_TCP, idle)


# --- what a reply says of the next try --------------------------------------------------------------------------------

_DATE = "Tue, 01 Dec 2026 03:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "3"}, 3),
        ({"retry-after": "Tue, 01 Dec 2026 03:00:30 GMT", "date": _DATE}, 30),
        ({"retry-after": "Tue, 01 Dec 2026 02:59:00 GMT", "date": _DATE}, 0),
        ({"retry-after": "Tue, 01 Dec 2099 03:00:00 GMT"}, None),
        ({"retry-after": "Tue, 01 Dec 2026 03:00:30 -0000", "date": _DATE}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_a_wait_is_read_in_each_form_that_the_vendors_sdks_read(headers: dict[str, str], seconds: float | None) -> None:
    assert http.retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("503 Busy\r\nretry-after: 30", 1),  # the next look comes later
        ("503 Busy\r\nretry-after-ms: 20", 2),  # longer than the pause, and short enough to wait for
        ("429 Busy\r\nretry-after-ms: 30000", 1),
        ("503 Busy\r\nretry-after-ms: 1", 2),
        ("503 Busy", 2),
        ("500 Oh\r\nx-should-retry: false", 1),
        ("409 Locked\r\nx-should-retry: true", 2),
        ("409 Locked", 1),
    ],
)
def test_a_look_is_repeated_as_its_reply_asks(said: str, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_PAUSES_S", (0.01,))
    replies = iter([f"HTTP/1.1 {said}\r\ncontent-length: 0\r\n\r\n", *["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"] * 5])
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while request := connection.recv(1 << 16):
                    heard.append(request)
                    connection.sendall(next(replies).encode())

        threading.Thread(target=serve, daemon=True).start()
        with http.client(Patience()) as client, http.asking(Patience()):
            client.get(f"http://127.0.0.1:{listener.getsockname()[1]}/v1/batches")
    assert len(heard) == asked


def test_certificates_are_read_once_and_anew_where_the_environment_names_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client of a sensor's tick read them again, 60 ms each; but a setting that is wrong must not be hidden by what was read before."""
    first = http.trust()
    assert http.trust() is first
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    with pytest.raises(ProviderUnreachable, match=r"SSL_CERT_FILE .*No call was made"):
        http.trust()
