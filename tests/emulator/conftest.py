"""Factories for the emulator's own tests: the official SDKs over real HTTP, no mocks, no sleeps."""

import json
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import anthropic
import openai
import pytest

from keld.emulator import Emulator

SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": ["billing", "bug"]},
        "urgency": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["category", "urgency"],
    "additionalProperties": False,
}
PLAIN = {**SCHEMA, "properties": {**SCHEMA["properties"], "urgency": {"type": "integer"}}}  # type: ignore[dict-item]  # bounds are not everybody's
FORMAT = {"type": "json_schema", "json_schema": {"name": "label", "schema": SCHEMA, "strict": True}}


class Desk:
    """An emulator with a client of either SDK, and the shortest way to a batch."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.emulator.openai_url, api_key=self.emulator.api_key, max_retries=0)

    @cached_property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.emulator.anthropic_url, api_key=self.emulator.api_key, max_retries=0)

    def upload(self, content: bytes, name: str = "in.jsonl") -> str:
        return self.openai.files.create(file=(name, content), purpose="batch").id

    def create(self, content: bytes, endpoint: Any = "/v1/chat/completions", **options: Any) -> str:
        file_id = self.upload(content)
        options = {"completion_window": "24h", **options}
        return self.openai.batches.create(input_file_id=file_id, endpoint=endpoint, **options).id

    def chat_batch(self, count: int = 10, **options: Any) -> str:
        return self.create(chat_lines(count), **options)

    def message_batch(self, count: int = 4, **params: Any) -> str:
        requests = [{"custom_id": f"r-{n}", "params": message_params(n) | params} for n in range(count)]
        return self.anthropic.messages.batches.create(requests=requests).id  # type: ignore[arg-type]  # plain dicts

    def content(self, file_id: str | None) -> bytes:
        assert file_id
        return self.openai.files.content(file_id).content

    def output(self, batch_id: str) -> list[dict[str, Any]]:
        return read(self.content(self.openai.batches.retrieve(batch_id).output_file_id))

    def errors(self, batch_id: str) -> list[dict[str, Any]]:
        return read(self.content(self.openai.batches.retrieve(batch_id).error_file_id))

    def fault(self, at: str, do: str, **more: Any) -> None:
        self.emulator.faults({"rules": [{"at": at, "do": do, **more}]})


def line(number: int, url: str, body: dict[str, Any]) -> bytes:
    return json.dumps({"custom_id": f"r-{number}", "method": "POST", "url": url, "body": body}).encode()


def chat_lines(count: int, **body: Any) -> bytes:
    message = {"role": "user", "content": "Where is my invoice?"}
    shared = {"model": "gpt-5-mini", "messages": [message], "response_format": FORMAT} | body
    return b"\n".join(line(n, "/v1/chat/completions", {**shared, "user": str(n)}) for n in range(count))


def message_params(number: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Ticket {number}"}]
    return {"model": "claude-haiku-4-5", "max_tokens": 256, "messages": messages}


def read(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(one) for one in content.split(b"\n") if one]


@pytest.fixture
def open_desk() -> Iterator[Callable[..., Desk]]:
    """A desk with settings of the test's choice; frozen unless it says otherwise."""
    emulators: list[Emulator] = []

    def start(**settings: Any) -> Desk:
        emulators.append(Emulator(**{"frozen": True, **settings}).start())
        return Desk(emulators[-1])

    yield start
    for emulator in emulators:
        emulator.stop()


@pytest.fixture
def desk(open_desk: Callable[..., Desk]) -> Desk:
    """Batches take no time."""
    return open_desk()


@pytest.fixture
def slow_desk(open_desk: Callable[..., Desk]) -> Desk:
    """Batches take 100 s on a frozen clock, cancelling takes 10 s."""
    return open_desk(latency_s=100)
