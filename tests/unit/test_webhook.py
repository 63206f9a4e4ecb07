"""A provider's message: believed when it is signed with the secret and sent just now, and refused in words otherwise."""

import base64
import hashlib
import hmac
import json
import time

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from keld import InvalidJob, WebhookRefused
from keld.webhook import verify

SECRET = "whsec_" + base64.b64encode(b"CANARY-SECRET 24 bytes!!").decode()
OLD_SECRET = "whsec_" + base64.b64encode(b"the secret of last month").decode()
# As the reference of OpenAI has it: https://platform.openai.com/docs/api-reference/webhook-events/batch/completed (read 2026-11-30)
BODY = b'{"id": "evt_abc123", "object": "event", "type": "batch.completed", "created_at": 1719168000, "data": {"id": "batch_abc123"}}'


def signature(body: bytes, secret: str, at: int, id: str = "wh_1") -> str:
    """By the text of the standard, with no line of its library."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return "v1," + base64.b64encode(hmac.new(key, f"{id}.{at}.".encode() + body, hashlib.sha256).digest()).decode()


def signed(body: bytes = BODY, *secrets: str, age_s: int = 0) -> dict[str, str]:
    at = int(time.time()) - age_s
    signatures = " ".join(signature(body, secret, at) for secret in secrets or (SECRET,))
    return {"Webhook-Id": "wh_1", "Webhook-Timestamp": str(at), "Webhook-Signature": signatures, "Content-Type": "application/json"}


def test_a_signed_message_names_the_batch_that_ended() -> None:
    event = verify(signed(), BODY, SECRET)
    assert (event.id, event.type, event.batch_id) == ("wh_1", "batch.completed", "batch_abc123")


@pytest.mark.parametrize("name", ["batch_123456", "batches/batch_123456"])
def test_a_message_of_geminis_names_the_batch_as_keld_does(name: str) -> None:
    """The envelope of https://ai.google.dev/gemini-api/docs/webhooks (2026-07-30); its API writes `batches/` before the name."""
    said = {
        "type": "batch.succeeded",
        "version": "v1",
        "timestamp": "2026-01-22T12:00:00Z",
        "data": {"id": name, "output_file_uri": "gs://b/r.jsonl"},
    }
    body = json.dumps(said).encode()
    event = verify(signed(body), body, SECRET)
    assert (event.type, event.batch_id) == ("batch.succeeded", "batch_123456")


def test_the_token_with_which_gemini_signs_for_one_request_is_refused() -> None:
    """Its dynamic webhooks put a JSON Web Token into the header of the signature."""
    headers = signed() | {"Webhook-Signature": "eyJhbGciOiJSUzI1NiJ9.eyJ0eXBlIjoiYmF0Y2guc3VjY2VlZGVkIn0.c2lnbmF0dXJl"}
    with pytest.raises(WebhookRefused):
        verify(headers, BODY, SECRET)


@pytest.mark.parametrize("secrets", [(OLD_SECRET, SECRET), (SECRET, OLD_SECRET)])
def test_while_a_secret_is_rotated_one_signature_of_two_is_enough(secrets: tuple[str, str]) -> None:
    """For a day after a rotation the provider signs with both."""
    assert verify(signed(BODY, *secrets), BODY, SECRET).batch_id == "batch_abc123"


def test_a_message_about_something_else_names_no_batch() -> None:
    body = b'{"type": "response.completed", "data": {"id": "resp_1"}}'
    assert verify(signed(body), body, SECRET).batch_id is None


@pytest.mark.parametrize("age_s", [400, -400])
def test_a_message_that_was_recorded_and_sent_again_later_is_refused(age_s: int) -> None:
    with pytest.raises(WebhookRefused, match=r"too (old|new)"):
        verify(signed(age_s=age_s), BODY, SECRET)


@pytest.mark.parametrize(
    "body",
    [BODY + b" ", BODY.replace(b"abc123", b"abc124"), json.dumps(json.loads(BODY), separators=(",", ":")).encode(), b"", b"\xff"],
    ids=["a space", "another batch", "written again", "empty", "no text"],
)
def test_a_body_that_was_changed_by_a_byte_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRefused, match="not believed"):
        verify(signed(), body, SECRET)


@pytest.mark.parametrize(
    "changed",
    [
        {"Webhook-Signature": ""},
        {"Webhook-Signature": "v1"},
        {"Webhook-Signature": "v1,é"},
        {"Webhook-Signature": "v1,===="},
        {"Webhook-Signature": "v2,AAAA"},
        {"Webhook-Timestamp": "soon"},
        {"Webhook-Timestamp": "9" * 400},
        {"Webhook-Timestamp": "nan"},
        {"Webhook-Id": ""},
        {"Webhook-Id": "wh_2"},
    ],
    ids=str,
)
def test_headers_that_anybody_may_send_are_refused_in_words(changed: dict[str, str]) -> None:
    """The address is open to the world: an exception of another kind would be a 500, and a log full of traces."""
    with pytest.raises(WebhookRefused, match="not believed"):
        verify({**signed(), **changed}, BODY, SECRET)


@pytest.mark.parametrize("missing", ["Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"])
def test_a_message_without_a_header_is_refused(missing: str) -> None:
    with pytest.raises(WebhookRefused, match="not believed"):
        verify({name: value for name, value in signed().items() if name != missing}, BODY, SECRET)


@pytest.mark.parametrize("body", [b"[]", b"{}", b"null", b'{"type": 7}'])
def test_a_signed_message_that_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(WebhookRefused, match="no event"):
        verify(signed(body), body, SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_é", "whsec_a"])
def test_a_secret_that_is_none_is_the_receivers_fault_and_is_not_shown(secret: str) -> None:
    with pytest.raises(InvalidJob, match="whsec_") as refused:
        verify(signed(), BODY, secret)
    assert refused.value.field == "secret"
    assert refused.value.__suppress_context__


def test_openais_own_library_believes_and_refuses_the_same() -> None:
    """Its server signs as its library checks."""
    client = OpenAI(api_key="none")
    client.webhooks.verify_signature(BODY, signed(), secret=SECRET)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.verify_signature(BODY, signed(BODY, OLD_SECRET), secret=SECRET)
    with pytest.raises(WebhookRefused):
        verify(signed(BODY, OLD_SECRET), BODY, SECRET)
