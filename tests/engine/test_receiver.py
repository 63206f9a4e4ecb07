"""The receiver of docs/how-to/webhooks.md, as it stands there: a signed message wakes the job run it is about, anything else does nothing."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from standardwebhooks import Webhook
from starlette.testclient import TestClient

from keld import Keld, Settings
from keld.emulator import Emulator
from tests.support.documents import DOCS, blocks
from tests.support.ticket_job import finish, openai, tickets, triage

SECRET = "whsec_Q0FOQVJZLVNFQ1JFVCAyNCBieXRlcyEh"
HOUR = timedelta(hours=1)


@pytest.fixture
def keld(open_keld: Callable[..., Keld]) -> Keld:
    """It looks once an hour, as one does that relies on webhooks."""
    return open_keld(settings=Settings(poll_least=HOUR, poll_most=HOUR))


@pytest.fixture
def receiver(keld: Keld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """On another machine: it has the ledger and a secret, and none of the staged files."""
    monkeypatch.setenv("KELD_LEDGER_URL", keld.ledger_url)
    monkeypatch.setenv("KELD_HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("OPENAI_WEBHOOK_SECRET", SECRET)
    page: dict[str, object] = {}
    exec(next(block.text for block in blocks(DOCS / "how-to" / "webhooks.md") if block.title == "receiver.py"), page)
    with TestClient(page["app"]) as client:  # type: ignore[arg-type]
        yield client
    page["keld"].close()  # type: ignore[attr-defined]


def post(receiver: TestClient, event: object, secret: str = SECRET) -> int:
    """The status of the reply to a message as OpenAI sends it."""
    body, at = json.dumps(event), datetime.now(UTC)
    signature = Webhook(secret).sign(msg_id="wh_1", timestamp=at, data=body)
    headers = {"webhook-id": "wh_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
    return receiver.post("/openai", content=body, headers=headers).status_code


def sent(keld: Keld, emulator: Emulator) -> tuple[str, dict[str, object]]:
    """A job run at the provider, and what OpenAI sends when its batch has ended."""
    run_id = keld.submit(triage(openai), tickets()).id
    batch_id = keld.advance(run_id).batches[0].batch_id
    emulator.advance(70)
    event = {"id": "evt_1", "object": "event", "type": "batch.completed", "created_at": 1719168000, "data": {"id": batch_id}}
    return run_id, event


def test_a_signed_message_wakes_its_job_run(keld: Keld, emulator: Emulator, receiver: TestClient) -> None:
    run_id, event = sent(keld, emulator)
    assert [post(receiver, event), post(receiver, event)] == [204, 204]
    assert keld.due([run_id]) == [run_id]
    assert finish(keld, emulator, run_id).answered == 6


def test_a_forged_message_is_refused_and_wakes_nothing(keld: Keld, emulator: Emulator, receiver: TestClient) -> None:
    run_id, event = sent(keld, emulator)
    assert post(receiver, event, "whsec_" + "A" * 32) == 400
    assert receiver.post("/openai", content=b"\xff", headers={"webhook-signature": "v1"}).status_code == 400
    assert keld.due([run_id]) == []
    finish(keld, emulator, run_id)


@pytest.mark.parametrize("about", [{"type": "batch.completed", "data": {"id": "batch_of_others"}}, {"type": "response.completed"}])
def test_a_message_about_something_else_is_accepted_so_that_it_is_not_repeated(
    keld: Keld, emulator: Emulator, receiver: TestClient, about: object
) -> None:
    run_id, _ = sent(keld, emulator)
    assert post(receiver, about) == 204
    assert keld.due([run_id]) == []
    finish(keld, emulator, run_id)
