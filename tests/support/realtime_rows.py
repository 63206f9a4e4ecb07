"""Realtime rows: rows that the engine of the fast lanes asks at once, the checks of what came out, and a process that can be killed in it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from keld import Account
from keld.answer import Sent, Tally, judge_results
from keld.emulator import Emulator
from keld.price import Lane
from keld.pricing import rates
from keld.providers.encoder import Encoder, Reader
from keld.providers.provider import Provider, connect
from keld.realtime import Options, RealtimeRun, Time, run_realtime
from keld.request import Question, one_line
from keld.schema import OutputSchema, output_schema
from keld.table import read_parquet
from tests.support.ticket_job import SYSTEM, Label, Peer
from tests.support.worker_process import server

NONCE = "fastfastfa"
DAY = datetime(2026, 11, 20, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows in one lane of one provider, and their journal; small enough to be sent to another process."""

    peer: Peer
    folder: str
    lane: Lane = Lane.STANDARD
    count: int = 6
    question: dict[str, Any] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)

    @property
    def journal(self) -> Path:
        return Path(self.folder) / "shard" / "result-0.jsonl"

    @cached_property
    def provider(self) -> Provider:
        return connect(self.peer.name, Account(**{"kind": self.peer.name, **self.account}))

    @property
    def asked(self) -> Question:
        return Question(**{"system": SYSTEM, "output": output_schema(Label).to_json(), "max_output_tokens": 256, **self.question})

    @cached_property
    def encoder(self) -> Encoder:
        return self.provider.encoder(self.asked, self.peer.model, NONCE)

    @property
    def reader(self) -> Reader:
        return self.provider.reader(self.asked, self.peer.model)

    @property
    def positions(self) -> Any:
        return np.arange(self.count, dtype=np.int64)

    def fragments(self, positions: Any) -> Iterator[tuple[int, bytes]]:
        return ((int(n), one_line(f"CANARY-ROW ticket {n}: the invoice is wrong")) for n in positions)

    def ask(self, **how: Any) -> RealtimeRun:
        """One stretch over all rows; `how` as of `run_realtime`."""
        return run_realtime(self.provider, self.encoder, self.reader, self.lane, NONCE, self.positions, self.fragments, self.journal, **how)

    def collect(self) -> tuple[Tally, list[dict[str, Any]]]:
        """What the journal says, read as a batch's result file is."""
        known, standard = (rates(self.peer.name, self.peer.model, lane, DAY) for lane in (self.lane, Lane.STANDARD))
        assert known is not None
        sent = Sent(nonce=NONCE, positions=self.positions, model=self.peer.models, lane=self.lane.value, rates=known, standard=standard)
        answers = Path(self.folder) / "answers.parquet"
        tally = judge_results([self.journal], self.reader.journal, sent, OutputSchema.from_json(output_schema(Label).to_json()), answers)
        return tally, [row for batch in read_parquet(answers) for row in batch.to_pylist()]

    def paid(self, emulator: Emulator) -> Counter[int]:
        """How often each row was paid, by what was asked: a bill of realtime calls knows no custom_ids."""
        whose = {sha256(self.encoder.body(fragment, self.lane)).hexdigest(): n for n, fragment in self.fragments(self.positions)}
        return Counter(whose[entry.body_sha256] for entry in emulator.bill())


def once(positions: Iterable[int]) -> Counter[int]:
    """Each of them, once."""
    return Counter(dict.fromkeys(positions, 1))


def turning(emulator: Emulator) -> Time:
    """Time that passes on the emulator's clock, at once, when the engine waits."""

    async def sleep(seconds: float) -> None:
        emulator.advance(seconds)
        await asyncio.sleep(0)

    return Time(now=lambda: emulator.now().timestamp(), sleep=sleep)


# --- a process that dies ----------------------------------------------------------------------------------------------


def work(rows: Rows, env: dict[str, str], at_once: int) -> None:
    os.environ.update(env)
    rows.ask(options=Options(begin_with=at_once, most=at_once))


def killed(rows: Rows, env: dict[str, str], failpoint: str, *, nth: int = 1, at_once: int = 4) -> int | None:
    """The exit code of a process that asks the rows and dies at its `nth` pass of `failpoint`."""
    with_kill = {**env, "KELD_FAILPOINT": f"{failpoint}:kill9:{nth}"}
    process = server().Process(target=work, args=(replace(rows), with_kill, at_once))  # a copy: without what is made at first use
    process.start()
    process.join(60)
    return process.exitcode
