"""A host that redirects to its results: they are fetched where it says, and the key goes nowhere else."""

import datetime as dt
import ipaddress
import json
import ssl
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from keld import Account
from keld.errors import AccessRefused, ProviderRefused, ProviderUnreachable
from keld.providers.base import BatchState, RemoteBatch
from keld.providers.page import instant
from keld.providers.provider import Provider, connect

LINES = b"".join(json.dumps({"custom_id": f"r-{n}", "response": {"status_code": 200, "body": {}}}).encode() + b"\n" for n in range(90))
Reply = tuple[int, dict[str, str], bytes]
CONTENT = "/v1/files/f-1/content"


def absent(headers: dict[str, str]) -> Reply:
    return 404, {}, b"{}"


class Host:
    """An HTTP host whose replies a test gives by path; it notes what it was asked."""

    def __init__(self, replies: dict[str, Callable[[dict[str, str]], Reply]]) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        asked = self.asked

        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked.append((self.path, headers))
                status, more, body = replies.get(self.path, absent)(headers)
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def encrypt(self, folder: Path) -> Path:
        """Speaks TLS from now on; the certificate that a client must trust."""
        x509 = pytest.importorskip("cryptography.x509")
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        made = x509.CertificateBuilder(name, name, key.public_key(), 1, dt.datetime(2020, 1, 1), dt.datetime(2040, 1, 1))
        made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        cert = folder / "cert"
        cert.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        as_text = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (folder / "key").write_bytes(key.private_bytes(*as_text))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, folder / "key")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = self.url.replace("http://", "https://")
        return cert

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    made: list[Host] = []

    def start(**replies: Callable[[dict[str, str]], Reply]) -> Host:
        made.append(Host(replies))
        return made[-1]

    yield start
    for one in made:
        one.close()


def redirect(to: str, status: int = 302) -> Callable[[dict[str, str]], Reply]:
    return lambda _: (status, {"location": to}, b"")


def file(headers: dict[str, str]) -> Reply:
    """A bucket's object, with ranges."""
    start = int(headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    return 206 if start else 200, {"etag": '"v1"'}, LINES[start:]


def cut_off(after: int) -> Callable[[dict[str, str]], Reply]:
    """The same, whose first reply breaks off."""
    seen: list[int] = []

    def reply(headers: dict[str, str]) -> Reply:
        status, more, body = file(headers)
        seen.append(1)
        return (status, more, body) if len(seen) > 1 else (status, {**more, "content-length": str(len(body))}, body[:after])

    return reply


def provider_at(host: Host) -> Provider:
    return connect("openai", Account(kind="openai", base_url=f"{host.url}/v1", api_key=lambda: "sk-CANARY"))


def results(host: Host, into: Path) -> bytes:
    """The results of a batch of that host, as Keld has them on disk."""
    batch = RemoteBatch(id="b-1", state=BatchState.COMPLETED, native="completed", created_at=instant(1_700_000_000), result_refs=("f-1",))
    (path,) = provider_at(host).download(batch, lambda n: into / f"{n}.jsonl", 1 << 30)
    return path.read_bytes()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_results_behind_a_redirect_are_fetched_there_without_the_key(host: Callable[..., Host], tmp_path: Path, status: int) -> None:
    """A gateway gives a signed URL of its bucket, as some hosts do; the vendors' SDKs follow it, too."""
    bucket = host(**{"/o?sig=1": file})
    gateway = host(**{CONTENT: redirect(f"{bucket.url}/o?sig=1", status)})
    assert results(gateway, tmp_path) == LINES
    assert [headers.get("authorization") for path, headers in gateway.asked if path == CONTENT] == ["Bearer sk-CANARY"]
    assert "CANARY" not in str(bucket.asked)


def test_results_behind_a_redirect_go_on_where_they_broke_off(host: Callable[..., Host], tmp_path: Path) -> None:
    bucket = host(**{"/o?sig=1": cut_off(1_000)})
    gateway = host(**{CONTENT: redirect(f"{bucket.url}/o?sig=1")})
    assert results(gateway, tmp_path) == LINES
    assert [headers.get("range") for _, headers in bucket.asked] == [None, "bytes=488-"]
    assert bucket.asked[1][1]["if-range"] == '"v1"'


def test_a_redirect_within_the_host_is_followed_with_the_key(host: Callable[..., Host], tmp_path: Path) -> None:
    """E.g. to the same path with a slash."""
    gateway = host(**{CONTENT: redirect(f"{CONTENT}/"), f"{CONTENT}/": file})
    assert results(gateway, tmp_path) == LINES
    assert gateway.asked[-1][1]["authorization"] == "Bearer sk-CANARY"


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_what_the_other_host_refuses_says_nothing_of_the_key(host: Callable[..., Host], tmp_path: Path, status: int) -> None:
    """A signed URL that has expired answers 403; the account is not at fault, and the next look has a new URL."""
    bucket = host(**{"/o?sig=1": lambda _: (status, {}, b"<Error/>")})
    gateway = host(**{CONTENT: redirect(f"{bucket.url}/o?sig=1")})
    with pytest.raises(ProviderUnreachable, match=f"HTTP {status} \\(at the address of its redirect\\)") as refused:
        results(gateway, tmp_path)
    assert not isinstance(refused.value, AccessRefused) and "sig" not in str(refused.value)


def test_a_redirect_out_of_encryption_is_not_followed(host: Callable[..., Host], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone on the way could write the answers."""
    bucket = host(**{"/o?sig=1": file})
    gateway = host(**{CONTENT: redirect(f"{bucket.url}/o?sig=1")})
    monkeypatch.setenv("SSL_CERT_FILE", str(gateway.encrypt(tmp_path)))
    with pytest.raises(ProviderRefused, match="redirects the download of results to another address"):
        results(gateway, tmp_path)
    assert bucket.asked == []


def test_no_address_of_a_redirect_is_logged(host: Callable[..., Host], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The host chose it: it may quote a key in its path."""
    bucket = host(**{"/sk-CANARY": file})
    gateway = host(**{CONTENT: redirect(f"{bucket.url}/sk-CANARY")})
    with caplog.at_level("DEBUG"):
        assert results(gateway, tmp_path) == LINES
    assert "CANARY" not in caplog.text


def test_a_redirect_to_itself_ends(host: Callable[..., Host], tmp_path: Path) -> None:
    gateway = host(**{CONTENT: redirect(CONTENT)})
    with pytest.raises(ProviderUnreachable, match="HTTP 302"):
        results(gateway, tmp_path)
    assert len([path for path, _ in gateway.asked if path == CONTENT]) == 6


def test_a_redirect_to_where_nobody_answers_is_told_without_its_address(host: Callable[..., Host], tmp_path: Path) -> None:
    gateway = host(**{CONTENT: redirect("http://no-such-host.invalid/o?sig=1")})
    with pytest.raises(ProviderUnreachable, match="a redirect to an address without a reply") as lost:
        results(gateway, tmp_path)
    assert "sig" not in str(lost.value) and "base_url" not in str(lost.value)
