"""Provider: the state of an emulator, as JSON: what its services held at one instant, put away and put back.

Contents stand as they were answered then: a later emulator may answer otherwise, and what was paid must not change by that.
"""

from __future__ import annotations

from array import array
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

from keld.emulator import Emulator
from keld.emulator.batch import Batch
from keld.emulator.progress import Totals
from keld.emulator.row import Rows
from keld.emulator.services.anthropic import Anthropic
from keld.emulator.services.anthropic_envelope import AnthropicEnvelope
from keld.emulator.services.openai import OpenAI
from keld.emulator.services.openai_envelope import OpenAIEnvelope
from keld.emulator.store import StoredFile

_FILE = ("id", "filename", "purpose", "size_bytes", "created_at", "expires_at", "ordinal")
_BATCH = (
    "id", "ordinal", "provider", "created_at", "endpoint", "input_file_id", "model", "metadata", "enqueued_tokens", "cancel_at",
    "get_from", "list_from", "input_lost", "deleted", "output_file_id", "error_file_id", "sealed",
)  # fmt: skip


def put_away(emulator: Emulator) -> dict[str, Any]:
    """Everything that its services hold."""
    store = emulator._live.store
    store.wait()
    return {
        "at": emulator._clock.time(),
        "files": [{name: getattr(file, name) for name in _FILE} | {"content": _text(file.path)} for file in store._files.values()],
        "batches": [_told(batch) for batch in store._batches.values()],
        "realtime": _text(store.realtime_bill._path),
    }


def put_back(emulator: Emulator, held: dict[str, Any]) -> None:
    """Lets an emulator that has served nobody yet hold all of it, at the instant at which it was put away."""
    emulator._clock._frozen_at, emulator._clock._offset_s = held["at"], 0.0
    live = emulator._live
    store, openai, anthropic = live.store, live.services["openai"], live.services["anthropic"]
    assert isinstance(openai, OpenAI)
    assert isinstance(anthropic, Anthropic)
    for file in held["files"]:
        path = _written(store.folder / f"{file['id']}.upload", file["content"])
        store._files[file["id"]] = StoredFile(owner="openai", path=path, **{name: file[name] for name in _FILE})
        store._ordinal = max(store._ordinal, file["ordinal"])
    for told in held["batches"]:
        batch = Batch(
            pace=store.settings.pace, folder=store.folder,
            envelope=OpenAIEnvelope() if told["provider"] == "openai" else AnthropicEnvelope(),
            dialect=openai.dialects[told["endpoint"]] if told["provider"] == "openai" else anthropic.messages,
            rules=[_rule(rule) for rule in told["rules"]], **{name: told[name] for name in _BATCH},
        )  # fmt: skip
        batch.problems = [_problem(problem) for problem in told["problems"]]
        for name, content in told["contents"].items():
            _written(getattr(batch, name), content)
        if told["rows"] is not None:
            batch.rows = _rows(told, store.folder)
        batch.progress._table = array("q", told["progress"])
        batch.progress._last = Totals(*told["progress"][-len(Totals._fields) :])
        batch.work.set_result(None)
        store._batches[batch.id] = batch
    store.realtime_bill._path.write_bytes(b64decode(held["realtime"]))


def _told(batch: Batch) -> dict[str, Any]:
    contents = {name: _text(path) for name in ("out_path", "error_path", "bill_path") if (path := getattr(batch, name)).exists()}
    rows = None if batch.rows is None else [b64encode(row).decode() for row in batch.rows]
    return {name: getattr(batch, name) for name in _BATCH} | {
        "rules": [rule.as_dict() for rule in batch.rules],
        "problems": [{"code": one.code, "message": one.message} for one in batch.problems],
        "rows": rows,
        "contents": contents,
        "progress": batch.progress._table.tolist(),
    }


def _rows(told: dict[str, Any], folder: Path) -> Rows:
    path = folder / f"{told['id']}.requests"
    path.write_bytes(b"".join(b64decode(row) + b"\n" for row in told["rows"]))
    return Rows.of_lines(path)


def _rule(told: dict[str, Any]) -> Any:
    from keld.emulator.fault import read_rule

    return read_rule({name: value for name, value in told.items() if name != "hits"})


def _problem(told: dict[str, Any]) -> Any:
    from keld.emulator.batch import Problem

    return Problem(**told)


def _text(path: Path) -> str:
    return b64encode(path.read_bytes()).decode() if path.exists() else ""


def _written(path: Path, content: str) -> Path:
    path.write_bytes(b64decode(content))
    return path
