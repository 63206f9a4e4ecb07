"""The adversary at Google's shape: each reply to each call, and the habits of hosts that can be had there."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from keld.providers.transports import gemini
from tests.adversary.case import CASES, EITHER, Case, every_reply, played
from tests.adversary.play import impatient

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = "gemini"
_EVERY = 7  # one in so many cases is in the fast suite


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(gemini, "_PAUSES_S", (0, 0))
    with impatient():
        yield
