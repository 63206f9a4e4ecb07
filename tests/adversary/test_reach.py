"""A provider that cannot be reached: the cause in words, and nothing sent; a slow one: another worker takes over."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from keld import Account, Job, Keld, KeldError
from tests.adversary.mode import Fault
from tests.adversary.play import MODELS, Play, host_of, impatient, table_of
from tests.adversary.record import PRICES


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    with impatient():
        yield


def told(home: Path, shape: str, base_url: str) -> str:
    """What is told of a provider at this address."""
    job = Job(name="reach", key="id", prompt="{body}", models=[MODELS[shape]], prices={MODELS[shape]: PRICES})
    try:
        account = Account(kind=shape, base_url=base_url, api_key=lambda: "sk-any")
        with Keld(home=home, accounts={shape: account}) as keld:
            status = keld.advance(keld.submit(job, table_of(2)).id, budget_s=5)
            assert not status.sent
            return status.problem or ""
    except KeldError as error:
        return str(error)


def _closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@pytest.mark.parametrize("shape", ["openai", "anthropic"])
def test_why_a_provider_cannot_be_reached_is_told_in_words(tmp_path: Path, shape: str) -> None:
    """ "ConnectError" sends a person to the source code; which of four things it was sends them to the right place."""
    plain = socket.create_server(("127.0.0.1", 0))

    def speaks_no_tls() -> None:
        while True:
            try:
                connection, _ = plain.accept()
            except OSError:
                return
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            connection.close()

    threading.Thread(target=speaks_no_tls, daemon=True).start()
    said = {
        "refused": told(tmp_path / "a", shape, f"http://127.0.0.1:{_closed_port()}/v1"),
        "name": told(tmp_path / "b", shape, "http://no-such-host.invalid/v1"),
        "tls": told(tmp_path / "c", shape, f"https://127.0.0.1:{plain.getsockname()[1]}/v1"),
        "scheme": told(tmp_path / "d", shape, "127.0.0.1:9/v1"),
    }
    plain.close()
    assert "refused" in said["refused"].lower(), said
    assert any(word in said["name"].lower() for word in ("resolve", "name", "dns")), said
    assert any(word in said["tls"].lower() for word in ("tls", "ssl", "certificate")), said
    assert any(word in said["scheme"].lower() for word in ("scheme", "http://", "https://")), said


def test_a_worker_that_hangs_in_a_trickle_comes_back_and_another_finishes() -> None:
    """Two workers at once: the first gets a download a byte at a time, the second starts while it hangs."""
    play = Play(host_of("openai", Fault(at="download", how="trickle"), crowd=0))
    try:
        play.submit()
        assert play.run_id is not None
        run_id, first = play.run_id, play.keld
        while (status := play.status()) is not None and not status.ready:
            play.tick()
        hangs = threading.Thread(target=lambda: first.advance(run_id, budget_s=play.budget_s))
        hangs.start()
        while not play.wire.slow and hangs.is_alive():
            hangs.join(0.01)
        play.keld = play.open_keld()
        status = play.finish()
        hangs.join()
        assert status is not None
        assert (status.answered, play.check(), play.host.creates()) == (4, [], 1)
    finally:
        play.close()
