"""One provider, driven by hand, against the emulator: what the runner asks of it, without the runner."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from keld import Account
from keld.emulator import Emulator
from keld.job import Job
from keld.patience import Patience
from keld.prompt import renderer
from keld.providers.account import TYPES
from keld.providers.base import Created, RemoteBatch, Submission
from keld.providers.provider import Provider, connect
from keld.reply import Reply
from keld.request import Question
from keld.schema import output_schema
from tests.support.ticket_job import Label, Peer


class Wire:
    """An account at the emulator, and the shortest way to a batch."""

    def __init__(self, peer: Peer, emulator: Emulator, folder: Path) -> None:
        self.peer, self.emulator, self.folder = peer, emulator, folder
        self.provider = self.connect()

    def connect(self, patience: Patience | None = None, **account: Any) -> Provider:
        """Another client of the same account, as another process has."""
        made = TYPES.get(self.peer.name, Account)
        return connect(self.peer.name, made(**{"kind": self.peer.name, **account}), patience)

    def read(self, block: bytes) -> list[Reply]:
        """What a block of result lines says."""
        return self.provider.reader(Question(system=None, output=output_schema(Label).to_json()), self.peer.model).results(block)

    def file(self, prompts: list[Any], nonce: str = "a" * 10, **question: Any) -> Path:
        """The shard file of these prompts, at positions 0, 1, ..."""
        import numpy as np
        import pyarrow as pa

        shared = Question(**{"system": "Be brief.", "output": output_schema(Label).to_json(), "max_output_tokens": 256, **question})
        encoder = self.provider.encoder(shared, self.peer.model, nonce)
        rows = pa.record_batch({"n": list(range(len(prompts)))})
        asked = renderer(lambda _: prompts)(rows).fragments
        path = self.folder / f"{nonce}.jsonl"
        path.write_bytes(b"".join(encoder.file([(np.arange(len(asked)), asked)])))
        return path

    def submission(self, rows: int = 3, nonce: str = "a" * 10, **question: Any) -> Submission:
        """A create, ready to be sent."""
        path = self.file([f"ticket {n}" for n in range(rows)], nonce, **question)
        return Submission(
            key=f"{nonce}-1",
            path=path,
            input_ref=self.provider.upload(path, nonce),
            model=self.peer.model,
            endpoint=question.get("endpoint", "/v1/chat/completions"),
            requests=rows,
        )

    def create(self, rows: int = 3, nonce: str = "a" * 10, **question: Any) -> RemoteBatch:
        outcome = self.provider.create(self.submission(rows, nonce, **question))
        assert isinstance(outcome, Created), outcome
        return outcome.batch

    def ended(self, rows: int = 3, nonce: str = "a" * 10, **question: Any) -> RemoteBatch:
        """A batch whose time has come; looked at soon after it, since some hosts keep results for a day only."""
        batch = self.create(rows, nonce, **question)
        self.emulator.advance(timedelta(minutes=2))
        found = self.look(batch)
        if not found.state.ended:
            self.emulator.advance((self.provider.traits.window or timedelta(hours=24)) + timedelta(hours=1))
            found = self.look(batch)
        return found

    def look(self, batch: RemoteBatch) -> RemoteBatch:
        found = self.provider.get(batch.id)
        assert found is not None
        return found

    def into(self, n: int) -> Path:
        return self.folder / f"result-{n}.jsonl"

    def replies(self, batch: RemoteBatch) -> list[Reply]:
        """What all result files say."""
        files = self.provider.download(batch, self.into, 1 << 30)
        return [reply for path in files for reply in self.read(path.read_bytes())]


@pytest.fixture
def open_wire(emulator: Emulator, tmp_path: Path) -> Iterator[Callable[[Peer], Wire]]:
    wires: list[Wire] = []

    def start(peer: Peer) -> Wire:
        wires.append(Wire(peer, emulator, tmp_path))
        return wires[-1]

    yield start
    for wire in wires:
        wire.provider.close()


@pytest.fixture
def wire(open_wire: Callable[[Peer], Wire], peer: Peer) -> Wire:
    """Once for each provider: the suite that every provider file passes."""
    return open_wire(peer)


@pytest.fixture
def job() -> Callable[..., Job]:
    """A job whose prompt is a column."""
    return lambda **terms: Job(**{"name": "job", "key": "id", "prompt": "{body}", "models": "openai:gpt-5-mini", **terms})
