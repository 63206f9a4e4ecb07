"""Webhook: a provider's message that a batch has ended, checked before it is believed.

Beside the road: a user's own function (a route, a Lambda) calls `verify` with what it received, then `Keld.wake`.  OpenAI and Gemini sign by
Standard Webhooks (https://www.standardwebhooks.com, read 2026-11-30).  Gemini's other way, a URL in the request of a batch, signs with a token of its
own, and is refused here.  A message carries no result and changes no decision: it only
makes the next look at the provider come sooner, so that a lost, late, repeated or forged one costs no row and no money.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from keld.errors import InvalidJob, WebhookRefused

_OF_BATCHES = "batch."
_GEMINIS = (
    "batches/"  # its API names a batch so; its page on webhooks shows `batch_123456` (ai.google.dev/gemini-api/docs/webhooks, 2026-07-30)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent:
    """What a provider says has happened; `id` stays the same when it is sent again."""

    id: str
    type: str  # in the provider's words, e.g. `batch.completed`
    batch_id: str | None  # None: it is about something else


def verify(headers: Mapping[str, str], body: bytes, secret: str) -> WebhookEvent:
    """The event of a message that the provider signed within the last five minutes.

    Args:
        headers: of the request, in upper or lower case; while a secret is rotated `webhook-signature` holds several signatures, of which one must fit.
        body: the bytes as they were received; JSON that was parsed and written again has another signature.
        secret: what the provider showed when the endpoint was made: `whsec_...`.

    Raises:
        WebhookRefused: it is not signed with this secret, or too old, or from the future, or no event; answer 400.
        InvalidJob: the secret is none, or `keld[webhook]` is not installed.
    """
    try:
        from standardwebhooks import Webhook, WebhookVerificationError
    except ImportError as missing:
        raise InvalidJob("A webhook needs standardwebhooks, which is not installed.  pip install 'keld[webhook]'") from missing
    try:
        signed = Webhook(secret)
    except Exception:  # noqa: BLE001  # empty, or no base64; the chained error would show it
        raise InvalidJob(
            "The secret of the webhook is empty, or is not the `whsec_...` that the provider showed.", field="secret"
        ) from None
    try:
        event = signed.verify(body, dict(headers))
    except WebhookVerificationError as why:
        raise WebhookRefused(f"The message was not believed: {why}. Nothing was changed.") from None
    except (ValueError, TypeError, OverflowError):
        # Not UTF-8, no base64, no JSON: what anybody may send to an open address, and the library does not expect.
        raise WebhookRefused("The message was not believed: its signature or its body cannot be read. Nothing was changed.") from None
    return _event(event, next(value for name, value in headers.items() if name.lower() == "webhook-id"))


def _event(said: object, delivery_id: str) -> WebhookEvent:
    match said:
        case {"type": str(kind), "data": {"id": str(subject)}} if kind.startswith(_OF_BATCHES):
            return WebhookEvent(id=delivery_id, type=kind, batch_id=subject.removeprefix(_GEMINIS))
        case {"type": str(kind)}:
            return WebhookEvent(id=delivery_id, type=kind, batch_id=None)
        case _:
            raise WebhookRefused("The message is signed, but no event: it has no `type`. Nothing was changed.")
