"""The adversary itself: that it shares nothing with what it plays against, and that its bill, its proxy and its faults are what they say."""

import ast
import http.client
import json
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from keld import Account, Keld, Settings
from keld.emulator import Emulator
from tests.adversary.host import SHAPES, Clock, Host
from tests.adversary.mode import QUIRKS, REPLIES, Fault, Plan
from tests.adversary.play import START, Play, host_of, impatient
from tests.adversary.proxy import Proxy
from tests.adversary.wire import Wire
from tests.support.ticket_job import Peer, check_promise, finish, tickets, triage

SERVER = ("wire", "mode", "record", "shape", "cloud", "host", "answerer", "proxy")


@pytest.mark.parametrize("name", SERVER)
def test_the_server_imports_the_standard_library_alone(name: str) -> None:
    """Whoever imagines the question with the answer's own code asks nothing."""
    tree = ast.parse((Path(__file__).parent / f"{name}.py").read_text())
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    assert not [one for one in named if one.startswith(("keld", "openai", "anthropic", "httpx2", "msgspec", "starlette", "tests.support"))]


def asked(wire: Wire, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """What a client of the standard library is told."""
    host = urlsplit(wire.url)
    connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=30)
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    return reply.status, reply.read()


BATCH = {
    "requests": [{"custom_id": f"c{n}", "params": {"model": "m", "messages": [{"role": "user", "content": f"q{n}"}]}} for n in range(4)]
}


def opened(*faults: Fault, quirks: tuple[str, ...] = ()) -> tuple[Host, Wire]:
    host = Host("anthropic", Clock(START), frozenset(quirks), Plan(list(faults)))
    return host, Wire(host.answer)


def test_a_row_is_on_the_bill_from_the_instant_it_is_answered_and_a_cancel_ends_that() -> None:
    host, wire = opened()
    batch = json.loads(asked(wire, "POST", "/v1/messages/batches", json.dumps(BATCH).encode())[1])["id"]
    assert host.bill() == []
    host.clock.turn(timedelta(seconds=61))
    assert [entry.prompt for entry in host.bill()] == ["q0", "q1"]
    asked(wire, "POST", f"/v1/messages/batches/{batch}/cancel")
    host.clock.turn(timedelta(hours=1))
    assert [entry.prompt for entry in host.bill()] == ["q0", "q1"]
    wire.close()


def test_a_create_that_is_sent_twice_on_the_way_is_two_batches_on_the_bill() -> None:
    host, wire = opened(Fault(at="create", how="404 html", calls=2))
    assert asked(wire, "POST", "/v1/messages/batches", json.dumps(BATCH).encode())[0] == 404
    host.clock.turn(timedelta(hours=1))
    assert sorted(entry.prompt for entry in host.bill()) == sorted([f"q{n}" for n in range(4)] * 2)
    wire.close()


@pytest.mark.parametrize("how", REPLIES)
def test_every_reply_can_be_sent(how: str) -> None:
    """Or the connection ends, for those that are none."""
    _, wire = opened(Fault(at="list", how=how))
    wire.patience_s = 0.2
    try:
        status, _ = asked(wire, "GET", "/v1/messages/batches")
        assert status in (200, 204) or status >= 300
    except (http.client.HTTPException, OSError):
        assert how in ("dropped", "half", "never", "trickle", "trickled head")
    wire.close()


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_host_of_no_quirk_does_is_answered_at_every_shape(shape: str) -> None:
    """Else every case would fail for a reason of its own."""
    rows = max(4, SHAPES[shape].least_rows)
    with impatient():
        play = Play(host_of(shape, rows=rows), rows=rows)
        try:
            status = play.finish()
            assert status is not None
            assert (status.answered, play.check()) == (rows, [])
        finally:
            play.close()


def test_every_habit_is_played_by_a_case_or_a_mix() -> None:
    from tests.adversary.case import CASES
    from tests.adversary.mix import LISTS, LIVES, RESULTS

    drawn = {*LISTS, *LIVES, *RESULTS}
    assert set(QUIRKS) == drawn | {quirk for case in CASES for quirk in case.quirks}


# --- the proxy, before the emulator -------------------------------------------------------------------------------------


@pytest.mark.share(2)
@pytest.mark.parametrize(
    "fault",
    [
        Fault(at="create", how="404 html"),
        Fault(at="create", how="dropped"),
        Fault(at="create", how="502 html", lands_s=100),
        Fault(at="list", how="half", times=2),
        Fault(at="get", how="200 html", times=3),
        Fault(at="download", how="dropped", times=2),
    ],
    ids=str,
)
def test_a_proxy_before_the_emulator_loses_no_row_and_buys_none_twice(emulator: Emulator, peer: Peer, tmp_path: Path, fault: Fault) -> None:
    """The proxy knows nothing of what stands behind it, and the emulator's bill nothing of the proxy."""
    proxy = Proxy(emulator.env()[f"{peer.name.upper()}_BASE_URL"].removesuffix("/v1"), Plan([fault]), emulator.now)
    base = proxy.url + ("/v1" if peer.name == "openai" else "")
    account = Account(kind=peer.name, base_url=base, api_key=lambda: "sk-any")
    patience = Settings(poll_least=timedelta(seconds=30))
    with impatient(), Keld(home=tmp_path, accounts={peer.name: account}, clock=emulator.now, settings=patience) as keld:
        status = keld.submit(triage(peer), tickets())
        for _ in range(9):  # in small steps, so that what is late is handed on when it is due
            keld.advance(status.id)
            proxy.deliver()
            emulator.advance(timedelta(seconds=20))
        check_promise(keld, emulator, finish(keld, emulator, status.id), tickets())
    proxy.close()
