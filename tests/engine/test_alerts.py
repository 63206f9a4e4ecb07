"""The functions of docs/how-to/notifications.md, as they stand there: a chat's webhook and a mail server get what they should."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from keld import Keld, Notice
from keld.emulator import Emulator
from tests.support.documents import DOCS, blocks
from tests.support.ticket_job import openai, run, tickets, triage

PAGE = DOCS / "how-to" / "notifications.md"


def hook(title: str) -> Callable[[Notice], None]:
    """The function `tell` of a file of the page."""
    made: dict[str, Any] = {}
    exec(next(block.text for block in blocks(PAGE) if block.title == title), made)
    return made["tell"]


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, str]]]:
    """What a chat was posted."""
    posted: list[dict[str, str]] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("SLACK_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/services/T0/B0/secret")
        yield posted
        server.shutdown()


@pytest.fixture
def post_office(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The mails that a server on bare sockets has taken."""
    mails: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rwb") as wire:

            def say(words: bytes) -> None:
                wire.write(words + b"\r\n")
                wire.flush()

            say(b"220 here")
            while line := wire.readline():
                match line.split()[0].upper():
                    case b"DATA":
                        say(b"354 go on")
                        mails.append(b"".join(iter(wire.readline, b".\r\n")))
                        say(b"250 taken")
                    case b"QUIT":
                        say(b"221 bye")
                        return
                    case _:
                        say(b"250 ok")

    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
    monkeypatch.setenv("SMTP_PORT", str(listening.getsockname()[1]))
    monkeypatch.setenv("ALERTS_TO", "team@example.com")
    yield mails
    listening.close()


def test_a_chat_is_posted_one_line(open_keld: Callable[..., Keld], emulator: Emulator, chat: list[dict[str, str]]) -> None:
    run(open_keld(on_event=hook("alerts.py")), emulator, triage(openai), tickets(), partition="2026-11-19")
    (posted,) = chat
    assert posted["text"].startswith("Keld: finished. triage[2026-11-19] finished: 6 of 6 rows answered, 1 batch, $0.")
    assert "\n" not in posted["text"]
    assert "CANARY" not in posted["text"]


def test_a_mail_is_sent_with_an_id_by_which_a_repeated_one_is_known(
    open_keld: Callable[..., Keld], emulator: Emulator, post_office: list[bytes]
) -> None:
    status = run(open_keld(on_event=hook("mail_alerts.py")), emulator, triage(openai), tickets(), partition="2026-11-19")
    (mail,) = map(message_from_bytes, post_office)
    assert (mail["Subject"], mail["To"]) == ("Keld: triage [2026-11-19] finished", "team@example.com")
    assert mail["Message-ID"] == f"<{status.id}.finished@keld>"
    assert "CANARY" not in mail.as_string()
