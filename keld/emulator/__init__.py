"""Emulator: a local server in place of the providers, to test a pipeline without costs.

An HTTP server that replaces OpenAI, Anthropic and others, batch and realtime, so that the official SDKs run
unmodified; with a clock that tests can advance, a bill, and faults as data.  It imports nothing of the rest of `keld`.

    with Emulator(latency_s=3600, frozen=True) as emulator:
        os.environ.update(emulator.env())
        ...
        emulator.advance(3600)
        assert len(emulator.bill()) == 100

The rooms, in the order of a call; only `services/`, `dialects/`, `kind` and `address` name a vendor:

    server       the emulator as a thing to start and stop
    address      shorthands for the addresses that tests ask for most
    running      one start of it: socket, uvicorn, thread
    kind         which services there are, here and from other packages
    application  the routes of all services
    gate         the checks of every call: log, key, HTTP faults, rate limits
    rate         how many realtime calls and tokens a minute are admitted
    engine       how a server that serves models itself behaves when it is busy
    service      what a service is: addresses, routes, errors, limits
    services/    the services, a few files each
    realtime     a call that is answered at once
    host         what all services with batches have in common
    page         one page of a list
    result       the result files of a batch that has ended
    store        the files and batches that the services hold
    bucket       the objects of the bucket stores
    batch        one batch as a function of the clock
    life         the statuses of a batch, and how long it stays in each
    row          the request rows of a batch
    envelope     how a line wraps an id and a body; a row is answered
    progress     totals over the first finished rows
    damage       the `lines` faults, applied to a result line
    dialect      what a dialect is: a body in, an answer out
    dialects/    the dialects, a few files each
    cache        the prompt caches
    answer       what the model says, and its tokens
    schema       JSON Schema -> conforming documents
    scalar       the same of constants, numbers and strings
    dice         choices drawn from a digest
    pattern      a regular expression -> a text that matches
    error        one refusal, before a service gives it its shape
    wire         responses that break or slow a connection
    fault        what goes wrong, as data (the table is there)
    rule         one planned fault, and whether it applies
    clock        the one time of the emulator
    bill         every paid row
    control      /_keld, the emulator's own side
    fixture      the pytest fixture `keld_emulator`
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answer import Responder
    from .bill import BillEntry, BillSum
    from .engine import Engine
    from .error import ApiError
    from .fault import UnknownFault
    from .gate import Call
    from .server import Emulator, serve
    from .service import Endpoint, Service

__all__ = ["ApiError", "BillEntry", "BillSum", "Call", "Emulator", "Endpoint", "Engine", "Responder", "Service", "UnknownFault", "serve"]

_HOMES = {
    "ApiError": "error",
    "BillEntry": "bill",
    "BillSum": "bill",
    "Call": "gate",
    "Emulator": "server",
    "Endpoint": "service",
    "Engine": "engine",
    "Responder": "answer",
    "Service": "service",
    "UnknownFault": "fault",
    "serve": "server",
}


if not TYPE_CHECKING:  # a type checker that saw this function would take any misspelt name for an object of type Any

    def __getattr__(name: str) -> Any:
        # On demand: pytest loads `keld.emulator.fixture`, and so this module, in every run; Starlette only where needed.
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
