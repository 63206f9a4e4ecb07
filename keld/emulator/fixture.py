"""Fixture: `keld_emulator` for pytest, registered as a plugin.

The server is imported when a test asks for it: this module is loaded in every pytest run of everyone who has Keld.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import Emulator


@pytest.fixture
def keld_emulator(monkeypatch: pytest.MonkeyPatch) -> "Iterator[Emulator]":
    """A running emulator with a frozen clock and batches that take no time; the SDKs' environment leads to it."""
    from .server import Emulator  # see the module's header

    with Emulator(frozen=True) as emulator:
        for name, value in emulator.env().items():
            monkeypatch.setenv(name, value)
        yield emulator
