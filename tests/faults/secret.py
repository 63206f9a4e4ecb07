"""Secret: what must not be told, said back by a hostile provider wherever it may say anything."""

from __future__ import annotations

from typing import Any

from tests.support.ticket_job import SYSTEM

KEY = "sk-CANARY-4f9a7c21d8e34b60"
ROW = "CANARY-ROW ticket 1: the invoice is wrong"
# In the shapes of every kind: what a provider, a cloud or its storage may quote back.
SHAPES = (
    f"Bearer {KEY}", KEY, "AIzaSyCANARY4f9a7c21d8e34b60xyz", "ya29.CANARY4f9a7c21d8e34b60", "AKIACANARYQ4F9A7C21D", "ASIACANARYQ4F9A7C21D",
    "ABSKCANARY4f9a7c21d8e34b60=", "gsk_CANARY4f9a7c21d8e34b60", "eyJhbGciOiJSUzI1NiJ9.CANARY4f9a7c21d8e34b60.s-CANARY",
    "4f9a7c21d8e34b604f9a7c21d8e34b60", "https://store.invalid/in.jsonl?sv=2026&sig=CANARY4f9a7c21d8e34b60%3D&se=1",
    "AccountName=a;AccountKey=CANARY4f9a7c21d8e34b60==;EndpointSuffix=b", "X-Amz-Security-Token=CANARY4f9a7c21d8e34b60&X-Amz-Signature=CANARY4f9a7c21d8e34b60",
    "api-key: CANARY4f9a7c21d8e34b60", "A1" * 38 + "CANARY4f",
)  # fmt: skip
QUOTED = f"Incorrect key {' '.join(SHAPES)} for prompt '{SYSTEM}' and '{ROW}'"


def echoing(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same rules, with key and prompts in every word that the provider has to say."""
    return [_echoing(rule) for rule in rules]


def _echoing(rule: dict[str, Any]) -> dict[str, Any]:
    match rule["at"], rule["do"]:
        case "rows", "error":
            return {"message": QUOTED, **rule}
        case _, "status" if rule["at"] != "life":
            # A code is what a key or a prompt would be quoted in by a provider that means harm.
            return {"message": QUOTED, "code": KEY if rule.get("status", 500) % 2 else ROW, **rule}
        case at, "garbage" if at != "lines":
            return {"body": f"<html>{QUOTED}</html>", **rule}
        case _, "redirect":
            return {"location": f"http://other-host.invalid/?key={KEY}&prompt={ROW.replace(' ', '+')}", **rule}
        case "life", "fail":
            return {"message": QUOTED, **rule, "code": ROW}
        case "results", "results_url":
            return {"url": f"http://other-host.invalid/{KEY}/{ROW.replace(' ', '+')}", **rule}
        case _:
            return rule


def found_in(text: str | bytes) -> list[str]:
    """The secrets that stand in a text."""
    told = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return [secret for secret in (KEY, "4f9a7c21d8e34b60", "CANARY-ROW", "CANARY-SYSTEM", "CANARY") if secret in told]
