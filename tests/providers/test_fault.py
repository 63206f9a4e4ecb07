"""Why there was no reply, and what says that there is no money: in words that a person can act upon, at every call."""

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from keld.errors import AccessRefused, ProviderUnreachable
from keld.providers.base import OutcomeUnknown, QueueFull, Refused
from tests.providers.conftest import Wire
from tests.support.ticket_job import Peer, fault


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that does `serve` with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    serve(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def plain(connection: socket.socket) -> None:
    connection.recv(1 << 16)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


def hangs_up(connection: socket.socket) -> None:
    connection.recv(1 << 16)


def speaks_tls(folder: Path) -> Callable[[socket.socket], None]:
    """With a certificate that nobody has signed."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, dt.datetime(2020, 1, 1), dt.datetime(2040, 1, 1)).sign(
        key, hashes.SHA256()
    )
    (folder / "cert").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    as_text = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key").write_bytes(key.private_bytes(*as_text))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            plain(secure)

    return serve


def tell(wire: Wire, url: str) -> str:
    """What is said of a look at an account there."""
    with pytest.raises(ProviderUnreachable) as told:
        wire.connect(base_url=url).get("batch_1")
    return str(told.value)


def test_the_cause_is_told_in_words(wire: Wire, tmp_path: Path) -> None:
    assert "the connection was refused: nothing listens there" in tell(wire, "http://127.0.0.1:9")
    assert "its name is not known (DNS); check base_url= of the account" in tell(wire, "http://no-such-host.invalid")
    with listening(plain) as port:
        assert "that port does not use TLS" in tell(wire, f"https://127.0.0.1:{port}")
    with listening(hangs_up) as port:
        assert "the connection was closed without a whole reply" in tell(wire, f"http://127.0.0.1:{port}")
    with listening(speaks_tls(tmp_path)) as port:
        said = tell(wire, f"https://127.0.0.1:{port}")
        assert "its TLS certificate is not trusted (" in said
        assert "SSL_CERT_FILE" in said


def test_a_create_without_a_connection_was_not_sent_and_says_why(wire: Wire) -> None:
    outcome = wire.connect(base_url="http://127.0.0.1:9").create(wire.submission())
    assert isinstance(outcome, Refused)
    assert not outcome.sent
    assert "nothing listens there" in outcome.message
    with listening(hangs_up) as port:
        lost = wire.connect(base_url=f"http://127.0.0.1:{port}").create(wire.submission())
    assert isinstance(lost, OutcomeUnknown)
    assert "closed without a whole reply" in lost.reason


OWN = [(400, "x", False), (404, "x", False), (413, "x", False), (401, "x", True), (403, "x", True), (402, "x", True)]


@pytest.mark.parametrize(("status", "code", "access"), OWN)
def test_whose_words_a_refusal_is_in_is_told_by_its_shape(wire: Wire, status: int, code: str, access: bool) -> None:
    submission = wire.submission()
    fault(wire.emulator, "create", "status", status=status, code=code)
    own = wire.provider.create(submission)
    fault(wire.emulator, "create", "garbage", status=status)
    page = wire.provider.create(submission)
    assert isinstance(own, Refused)
    assert isinstance(page, Refused)
    assert (own.own, own.access, page.own) == (True, access, False)


@pytest.mark.parametrize(
    "body", ["[]", "null", '"x"', '{"error": null}', '{"error": "x"}', '{"error": {}}', '{"detail": "Not Found"}', "{", ""]
)
def test_json_of_another_shape_is_not_the_providers_own(wire: Wire, body: str) -> None:
    submission = wire.submission()
    for status in (404, 429):
        fault(wire.emulator, "create", "garbage", status=status, body=body)
        outcome = wire.provider.create(submission)
        assert isinstance(outcome, Refused | QueueFull)
        assert not outcome.own


NO_MONEY: list[dict[str, Any]] = [
    *({"status": status, "code": code} for status, code in (
        (429, "insufficient_quota"), (429, "billing_not_active"), (400, "billing_hard_limit_reached"), (401, "account_deactivated"),
        (400, "organization_restricted"), (429, "budget_exceeded"),
    )),
    *({"status": status, "message": words} for status, words in (
        (400, "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."),
        (400, "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC."),
        (400, "You have reached your specified workspace API usage limits. You will regain access later."),
        (400, "This organization has been disabled."),
        (400, "Budget has been exceeded! Current cost: 26.075, Max budget: 0.25"),
    )),
]  # fmt: skip


@pytest.mark.parametrize("said", NO_MONEY, ids=lambda said: str(said.get("code") or said["message"][:40]))
def test_no_money_and_no_account_are_refused_access_at_every_call(
    open_wire: Callable[[Peer], Wire], peer: Peer, said: dict[str, Any]
) -> None:
    """Told as a full queue it was tried for ever; told as a bad file it cost every row its answer."""
    wire = open_wire(peer)
    if peer.name == "anthropic" and "code" in said:
        pytest.skip("Anthropic has no codes, only types and words")
    submission = wire.submission()
    fault(wire.emulator, "create", "status", **said)
    outcome = wire.provider.create(submission)
    assert isinstance(outcome, Refused)
    assert (outcome.access, outcome.permanent) == (True, False)
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: wire.provider.get("batch_1"), "list": wire.provider.newest, "cancel": lambda: wire.provider.cancel("batch_1"),
    }  # fmt: skip
    if peer.name == "openai":
        calls["upload"] = lambda: wire.provider.upload(submission.path, "k")
    for at, call in calls.items():
        if at == "cancel" and said["status"] == 400:
            continue  # "ended already" is said with 400, too; the next look tells
        fault(wire.emulator, at, "status", times=3, retry_after=0.001, **said)
        with pytest.raises(AccessRefused):
            call()
