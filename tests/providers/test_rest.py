"""The calls of one account without an SDK, made to a host whose wire resembles nobody's: every failure is a `Fault`, and a create is sent once."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from keld import Account
from keld.emulator import Emulator
from keld.errors import AccessRefused
from keld.patience import Patience
from keld.providers.fault import Fault, Sent
from keld.providers.kinds import preset_of
from keld.providers.part import Connection
from keld.providers.transports.rest import Rest
from tests.support.ticket_job import fault

BODY = {"model": "gpt-oss-120b", "messages": [{"role": "user", "content": "Where is my invoice?"}]}
LINES = b"".join(json.dumps({"label": f"r-{n}", "request": {**BODY, "user": str(n)}}).encode() + b"\n" for n in range(7))


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    monkeypatch.syspath_prepend(Path(__file__).parent / "otherhost")
    with Emulator(frozen=True, latency_s=100) as emulator:
        yield emulator


@pytest.fixture
def rest(emulator: Emulator) -> Iterator[Rest]:
    made = rest_at(emulator.url_of("otherhost"), emulator.api_key)
    yield made
    made.close()


def rest_at(url: str, key: str) -> Rest:
    preset = preset_of("otherhost", "other")
    connection = Connection(account=Account(kind="otherhost"), base_url=url, key=lambda: key, patience=Patience())
    return Rest(connection, preset.auth, preset.error_in)


def job(rest: Rest) -> dict[str, object]:
    """A job over an input that is sent in pieces."""
    staged = json.loads(rest.send("POST", "/objects", iter([LINES[:100], LINES[100:]])).content)
    body = {"object": staged["object"], "endpoint": "/v1/chat/completions", "model": "gpt-oss-120b", "labels": {"keld": "a-1"}}
    return rest.create("/jobs", body)


def jobs_created(emulator: Emulator) -> int:
    return sum((call.method, call.path) == ("POST", "/otherhost/v1/jobs") for call in emulator.requests())


def test_a_job_goes_its_way_without_an_sdk(rest: Rest, emulator: Emulator) -> None:
    made = job(rest)
    assert rest.post(f"/jobs/{made['job']}/stop")["state"] == "STOPPING"
    assert [one["job"] for one in rest.get("/jobs", {"page_size": 5})["jobs"]] == [made["job"]]
    assert rest.get(f"/jobs/{made['job']}")["labels"] == {"keld": "a-1"}


def test_a_result_is_read_from_any_byte_on(rest: Rest, emulator: Emulator) -> None:
    made = job(rest)
    emulator.advance(100)
    url = rest.get(f"/jobs/{made['job']}")["outputs"][0]["url"]
    with rest.open(url, 0, "") as whole:
        content, validator = b"".join(whole.chunks), whole.validator
        assert not whole.resumed
    with rest.open(url, 10, validator) as rest_of_it:
        assert rest_of_it.resumed
        assert b"".join(rest_of_it.chunks) == content[10:]


def test_a_create_is_sent_once_and_a_look_is_repeated(rest: Rest, emulator: Emulator) -> None:
    fault(emulator, "create", "status", status=503)
    with pytest.raises(Fault) as failed:
        job(rest)
    assert (failed.value.status, failed.value.own, jobs_created(emulator)) == (503, True, 1)
    fault(emulator, "list", "status", status=503)
    assert rest.get("/jobs")["jobs"] == []


def test_the_error_is_read_in_the_hosts_own_shape(rest: Rest) -> None:
    with pytest.raises(Fault) as missing:
        rest.get("/jobs/no-such-job")
    assert (missing.value.status, missing.value.code, missing.value.own) == (404, "UNKNOWN", True)


def test_a_page_with_a_good_status_is_no_object(rest: Rest, emulator: Emulator) -> None:
    """A job may have been created behind it."""
    fault(emulator, "create", "garbage", status=200)
    with pytest.raises(Fault) as unclear:
        job(rest)
    assert (unclear.value.sent, unclear.value.code) == (Sent.ANSWERED, "unreadable")


def test_a_lost_reply_may_have_been_done_and_a_refused_connection_was_not(rest: Rest, emulator: Emulator) -> None:
    fault(emulator, "create", "drop_after")
    with pytest.raises(Fault) as lost:
        job(rest)
    assert lost.value.sent is Sent.MAYBE
    with pytest.raises(Fault) as refused:
        rest_at("http://127.0.0.1:9", "any").create("/jobs", {})
    assert refused.value.sent is Sent.NO


def test_the_key_goes_to_the_accounts_own_host_only(rest: Rest, emulator: Emulator) -> None:
    """A reply that names a URL at another host, such as an upload's, must not lead the key there."""
    assert rest.get("http://elsewhere.invalid/otherhost/v1/jobs?page_size=3")["jobs"] == []
    assert emulator.requests()[-1].path == "/otherhost/v1/jobs"


@pytest.mark.parametrize("address", ["http://[::1]x/v1", "http://\u2603.example/v1"])
def test_an_address_that_the_library_cannot_read_is_a_fault_and_nothing_was_sent(rest: Rest, address: str) -> None:
    for call in (lambda: rest_at(address, "any").create("/jobs", {}), lambda: rest.get("http://[x/jobs")):
        with pytest.raises(Fault, match="its address cannot be read") as unread:
            call()
        assert unread.value.sent is Sent.NO


@pytest.mark.parametrize("name", [".", ".."])
def test_an_id_that_leads_to_another_path_is_not_asked_for(rest: Rest, emulator: Emulator, name: str) -> None:
    """Not every host is careful with what it calls an id, and a removal would go to the folder above."""
    with pytest.raises(Fault, match="its address cannot be read") as unread:
        rest.delete(f"/objects/{name}")
    assert unread.value.sent is Sent.NO and emulator.requests() == []


@pytest.mark.usefixtures("emulator")
@pytest.mark.parametrize("host", ["127.0.0.1", "user:pw@127.0.0.1", "[::1]"])
def test_a_whole_url_is_asked_for_at_the_very_address_of_the_account(host: str) -> None:
    """A gateway's password is sent with a download as with each other call, and the brackets of IPv6 belong to it."""
    heard: list[tuple[str, str | None]] = []

    class Host(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, self.headers["authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    class Server(HTTPServer):
        address_family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET

    try:
        server = Server(("::1" if host == "[::1]" else "127.0.0.1", 0), Host)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        asked = rest_at(f"http://{host}:{server.server_port}/v1", "any")
        asked.get("/jobs")
        asked.get("https://elsewhere.invalid/results?n=1")
        asked.close()
        server.shutdown()
    assert [path for path, _ in heard] == ["/v1/jobs", "/results?n=1"]
    assert heard[0][1] == heard[1][1] and ("pw" not in host or str(heard[0][1]).startswith("Basic "))


def test_a_missing_key_is_told_before_anything_is_sent(emulator: Emulator) -> None:
    def key() -> str:
        raise AccessRefused("No key for other.")

    preset = preset_of("otherhost", "other")
    connection = Connection(account=Account(kind="otherhost"), base_url=emulator.url_of("otherhost"), key=key, patience=Patience())
    with pytest.raises(AccessRefused):
        Rest(connection, preset.auth).create("/jobs", {})
    assert emulator.requests() == []
