"""Emulator: the other side of the wire, to test a pipeline without spending.

An HTTP server that speaks the OpenAI and Anthropic dialects, batch and realtime, so that the official SDKs run
unmodified; with a clock that can be turned, a bill, and faults as data.  It imports nothing of the rest of `keld`.

    with Emulator(latency_s=3600, frozen=True) as emulator:
        os.environ.update(emulator.env())
        ...
        emulator.advance(3600)
        assert len(emulator.bill()) == 100

    server      the emulator as a thing to start and stop      gate        what every call passes
    openai      the dialect: routes and shapes                 anthropic   the other dialect
    batch       one batch as a function of the clock           store       files and batches
    answer      what the model says, and its tokens            schema      JSON Schema -> conforming documents
    openai_schema, anthropic_schema                            what each service refuses in a JSON Schema
    bill        every paid row                                 fault       what goes wrong, as data (the table is there)
    control     /_keld, the emulator's own side                fixture     the pytest fixture `keld_emulator`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answer import Responder
    from .bill import BillEntry, BillSum
    from .fault import UnknownFault
    from .gate import Call
    from .server import Emulator, serve

__all__ = ["BillEntry", "BillSum", "Call", "Emulator", "Responder", "UnknownFault", "serve"]

_HOMES = {
    "BillEntry": "bill",
    "BillSum": "bill",
    "Call": "gate",
    "Emulator": "server",
    "Responder": "answer",
    "UnknownFault": "fault",
    "serve": "server",
}


def __getattr__(name: str) -> Any:
    # On demand: pytest loads `keld.emulator.fixture`, and so this module, in every run; Starlette only where needed.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
