"""Audit result: what `keld audit --json` says of a made-up month, for the tests of the report that shows it."""

import json
from datetime import UTC, datetime
from pathlib import Path

from keld.audit import examine
from tests.audit.workload import conversations, month, nightly
from tests.audit.writer import litellm


def write_result(folder: Path) -> Path:
    """The path of the result: people who talk, and a nightly classification."""
    (folder / "spend.jsonl").write_bytes(litellm(month(1, groups={"chat": conversations, "classify": nightly})))
    found = examine([str(folder / "spend.jsonl")], now=datetime(2026, 11, 30, tzinfo=UTC))
    (folder / "audit.json").write_text(json.dumps(found.to_json()))
    return folder / "audit.json"
