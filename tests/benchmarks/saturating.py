"""Saturating: a simulated engine with continuous batching, and what a rule for the number at once gets out of it; in simulated time.

The engine runs at most `slots` requests; a step gives each of them one token and costs `step_s + slot_s * running` seconds, so more at once is
faster in total until all slots are taken, and only waits after that.  Shared by `make bench` and `tests/engine/test_goodput.py`.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

_IDLE_S = 0.01  # of simulated time, when nothing runs and the rule waits


class Pacer(Protocol):
    def wait(self, now: float, in_flight: int, tokens: float) -> float | None: ...
    def begin(self, now: float, tokens: float) -> int: ...
    def on_success(self, number: int, now: float, work: float, in_flight: int) -> None: ...
    def on_rejected(self, number: int, now: float, retry_after_s: float | None) -> None: ...


class Fixed:
    """Always the same number at once: what a person would set by hand."""

    def __init__(self, at_once: int) -> None:
        self._at_once, self._begun = at_once, 0

    def wait(self, now: float, in_flight: int, tokens: float) -> float | None:
        return None if in_flight >= self._at_once else 0.0

    def begin(self, now: float, tokens: float) -> int:
        self._begun += 1
        return self._begun

    def on_success(self, number: int, now: float, work: float, in_flight: int) -> None: ...

    def on_rejected(self, number: int, now: float, retry_after_s: float | None) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The constants of an engine; `queue` is the most that may wait, None: any number."""

    slots: int
    step_s: float
    slot_s: float
    queue: int | None = None

    @property
    def best_tokens_per_s(self) -> float:
        """The most tokens a second, with every slot taken."""
        return self.slots / (self.step_s + self.slot_s * self.slots)


@dataclass
class Done:
    """What became of a run: its length in simulated seconds, and the number at once over time."""

    seconds: float = 0.0
    tokens: int = 0
    refused: int = 0
    at_once: list[int] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def lengths(rows: int, seed: int = 1) -> list[int]:
    """The tokens of each answer: 20 to 180, evenly spread."""
    draw = random.Random(seed)
    return [draw.randint(20, 180) for _ in range(rows)]


def played(engine: Engine, pacer: Pacer, answers: list[int]) -> Done:
    """A run over all `answers` (tokens of each), with as many at once as the pacer allows."""
    now, done, todo = 0.0, Done(), deque(answers)
    running: dict[int, list[int]] = {}  # number -> [tokens left, tokens]
    waiting: deque[tuple[int, int]] = deque()
    while todo or running or waiting:
        while todo and pacer.wait(now, len(running) + len(waiting), 1.0) == 0:
            number = pacer.begin(now, 1.0)
            if engine.queue is not None and len(running) == engine.slots and len(waiting) >= engine.queue:
                done.refused += 1
                pacer.on_rejected(number, now, None)
                break
            waiting.append((number, todo.popleft()))
            while waiting and len(running) < engine.slots:
                first, tokens = waiting.popleft()
                running[first] = [tokens, tokens]
        if not running:
            now += _IDLE_S
            continue
        now += engine.step_s + engine.slot_s * len(running)
        done.at_once.append(len(running) + len(waiting))
        for number in list(running):
            running[number][0] -= 1
            if running[number][0] == 0:
                in_flight = len(running) + len(waiting)
                _, tokens = running.pop(number)
                done.tokens += tokens
                pacer.on_success(number, now, tokens, in_flight)
        while waiting and len(running) < engine.slots:
            first, tokens = waiting.popleft()
            running[first] = [tokens, tokens]
    done.seconds = now
    return done


ENGINES = {
    "serial": (Engine(slots=1, step_s=0.02, slot_s=0.0), 400),
    "4 slots": (Engine(slots=4, step_s=0.02, slot_s=0.001), 1_000),
    "64 slots": (Engine(slots=64, step_s=0.02, slot_s=0.0003), 4_000),
    "256 slots": (Engine(slots=256, step_s=0.02, slot_s=0.0001), 8_000),
    "256 slots, queue of 128": (Engine(slots=256, step_s=0.02, slot_s=0.0001, queue=128), 8_000),
}


def best_fixed(engine: Engine, answers: list[int]) -> tuple[int, Done]:
    """The best of all fixed numbers at once: powers of two up to twice the slots, without refusals."""
    tried = [1]
    while tried[-1] < 2 * engine.slots:
        tried.append(tried[-1] * 2)
    found = [(n, played(engine, Fixed(n), answers)) for n in tried]
    return max((one for one in found if not one[1].refused), key=lambda one: one[1].tokens_per_s)
