"""Ticket: the benchmarks' data, the same at every run: support tickets of 200 to 2,000 characters, and what a provider answers.

Quotes, backslashes, newlines, Cyrillic, CJK and emoji are in it, since escaping is what an encoder does.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

SYSTEM = "You triage support tickets. Answer with the category and the urgency. " * 20
SCHEMA = {
    "title": "Label",
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": ["billing", "bug", "account", "other"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["category", "urgency"],
    "additionalProperties": False,
}
PROMPT = "Classify this ticket:\n\n{body}"
_WORDS = [
    "refund",
    "café",
    "платёж",
    "退款",
    '"quoted"',
    "line\nbreak",
    "back\\slash",
    "ordinary",
    "ticket",
    "customer",
    "😀",
    "please",
    "the",
    "of",
    "and",
]


def write_tickets(path: Path, rows: int, *, short: bool = False) -> None:
    """A Parquet file of `rows` tickets: id, body, order_value; `short`: bodies of about 200 bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dice = random.Random(7)
    writer = None
    for start in range(0, rows, 10_000):
        n = min(10_000, rows - start)
        bodies = [" ".join(dice.choices(_WORDS, k=dice.randint(15, 35) if short else dice.randint(30, 300))) for _ in range(n)]
        table = pa.table({"id": [f"t{start + i}" for i in range(n)], "body": bodies, "order_value": [float(i) for i in range(n)]})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def write_results(path: Path, rows: int, nonce: str) -> None:
    """An OpenAI output file of `rows` lines in random order, 1 % of them errors, each about 1 KB."""
    dice = random.Random(11)
    order = list(range(rows))
    dice.shuffle(order)
    with path.open("w") as file:
        for position in order:
            file.write(json.dumps(result(dice, position, nonce)) + "\n")


def result(dice: random.Random, position: int, nonce: str) -> dict[str, object]:
    custom_id = f"{nonce}-{position:08d}"
    if dice.random() < 0.01:
        body: dict[str, object] = {"error": {"message": "The server had an error.", "type": "server_error", "param": None, "code": None}}
        return {
            "id": f"batch_req_{position}",
            "custom_id": custom_id,
            "response": {"status_code": 500, "request_id": "r", "body": body},
            "error": None,
        }
    content = json.dumps({"category": dice.choice(["billing", "bug", "account", "other"]), "urgency": dice.randint(1, 5)})
    message = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    usage = {
        "prompt_tokens": dice.randint(400, 900), "completion_tokens": 14, "total_tokens": 800,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    }  # fmt: skip
    body = {
        "id": f"chatcmpl-{position:029d}", "object": "chat.completion", "created": 1_790_000_000, "model": "gpt-5-mini-2025-08-07",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}], "usage": usage, "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
    }  # fmt: skip
    response = {"status_code": 200, "request_id": f"req_{position:032d}", "body": body}
    return {"id": f"batch_req_{position:024d}", "custom_id": custom_id, "response": response, "error": None}
