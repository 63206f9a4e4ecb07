"""Provider: an emulated one for the demo, whose batches take some time and whose answers are those of a very simple model.

It replaces every provider that the demo may ask; with a real one nothing of this file is used.
"""

from typing import Any

from keld.emulator import Emulator

_CATEGORIES = {
    "billing": ("charged", "invoice", "bill ", "card on file", "plan is suspended"),
    "bug": ("crashes", "error", "are lost", "do not add up", "never finish"),
    "account": ("two-factor", "ownership", "invitation", "Delete my account", "add "),
}
_URGENT = ("all of them", "closing", "crashes", "error", "suspended", "second time")


def emulated_provider(latency_s: float) -> Emulator:
    """A provider on this machine whose batches take `latency_s` real seconds."""
    return Emulator(latency_s=latency_s, responder=_answer)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """A triage by keywords."""
    text = _text(request.get("messages", request.get("contents", []))[-1])
    category = next((name for name, words in _CATEGORIES.items() if any(word in text for word in words)), "question")
    urgency = min(5, 1 + sum(word in text for word in _URGENT) + ("enterprise" in text))
    sentiment = "happy" if "love" in text else "angry" if urgency >= 4 or "second time" in text else "neutral"
    return {"category": category, "urgency": urgency, "sentiment": sentiment}


def _text(said: Any) -> str:
    """The text of a message, in whichever form a provider's requests have it: a text, or parts with texts."""
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        return " ".join(map(_text, said))
    return _text(said.get("content") or said.get("parts") or said.get("text") or "")
