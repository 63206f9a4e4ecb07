"""Server: the emulator as a thing to start and stop.

Starlette routes over the two dialects and the control side, in uvicorn, in a daemon thread (`Emulator`) or in the
foreground (`serve`).
"""

import asyncio
import ipaddress
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .answer import Answerer, Responder
from .anthropic import Anthropic
from .batch import Pace
from .bill import BillEntry, BillSum, entries, summary
from .clock import Clock
from .control import Control
from .error import ApiError
from .fault import Faults, Firing
from .gate import Call, Gate
from .openai import OpenAI
from .rate import Rates
from .store import Settings, Store
from .wire import Connections, protocol_class

_DEFAULT_KEY = "sk-keld-emulator"


class Emulator:
    """The providers, on a port of this machine.

    Args:
        latency_s: from a batch's start to its end, on the emulator's clock.
        rows_per_s: makes a batch last at least rows / this.
        validate_s, finalize_s: time in `validating` and `finalizing`.
        cancel_s: time in `cancelling`; None: a tenth of the latency, ten minutes at most.
        realtime_latency_s: real seconds before a realtime call is answered.
        requests_per_minute, tokens_per_minute: realtime calls and tokens (bytes / 4, and the most the answer may have) of a model, over which
            one is answered with 429; None: any number.
        frozen: the clock stands still but for `advance`; else it is real time plus what it was advanced by.
        host: other than loopback only with a `token`.
        port: 0 takes a free one.
        token: every request, control included, must carry it as its API key.
        api_keys: the keys that are accepted; None: any that is not empty.
        list_lag_s: how long a new batch is missing from lists.
        enqueued_token_limit: tokens (bytes / 4) that may wait per OpenAI model, over which a batch fails validation.
        responder: answers instead of the deterministic one; called with the request's body, in a worker thread.

    Raises:
        ValueError: `host` is not loopback and there is no `token`.
    """

    def __init__(
        self,
        *,
        latency_s: float = 0.0,
        rows_per_s: float | None = None,
        validate_s: float = 0.0,
        finalize_s: float = 0.0,
        cancel_s: float | None = None,
        realtime_latency_s: float = 0.0,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        frozen: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        api_keys: Iterable[str] | None = None,
        list_lag_s: float = 0.0,
        enqueued_token_limit: int | None = None,
        responder: Responder | None = None,
    ) -> None:
        if not token and not is_loopback(host):
            raise ValueError(f"host {host} can be reached from other machines: give a token, or use 127.0.0.1")
        pace = Pace(
            latency_s=latency_s,
            rows_per_s=rows_per_s,
            validate_s=validate_s,
            finalize_s=finalize_s,
            cancel_s=cancel_s,
        )
        self._settings = Settings(
            pace=pace,
            list_lag_s=list_lag_s,
            realtime_latency_s=realtime_latency_s,
            enqueued_token_limit=enqueued_token_limit,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
        )
        self._host, self._port, self._token = host, port, token
        self._api_keys = frozenset([token]) if token else None if api_keys is None else frozenset(api_keys)
        self._responder = responder
        self._clock = Clock(frozen=frozen)
        self._faults = Faults(self._clock)
        self._running: _Running | None = None

    def __repr__(self) -> str:
        return f"<Emulator {self.url if self._running else 'stopped'} {self._clock!r}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen, and serve in a daemon thread."""
        if self._running is not None:
            raise RuntimeError("this emulator is already running")
        self._running = self._open()
        self._running.start_thread()
        return self

    def stop(self) -> None:
        """Stop serving and remove all files; a second call does nothing."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def run(self, on_ready: Callable[[Self], None] | None = None) -> None:
        """Serve in this thread, which must be the main one, until SIGTERM or SIGINT; then return."""
        # Uvicorn stops cleanly at a signal and then raises it again, with the handler that was there before it.
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            self._running = self._open()
            self._running.serve((lambda: on_ready(self)) if on_ready else None)
        except KeyboardInterrupt:
            pass
        finally:
            signal.signal(signal.SIGTERM, before)
            self.stop()

    def _open(self) -> "_Running":
        folder = Path(tempfile.mkdtemp(prefix="keld-emulator-"))
        store = Store(clock=self._clock, faults=self._faults, settings=self._settings, folder=folder)
        answerer = Answerer(self._responder)
        rates = Rates(
            clock=self._clock,
            requests_per_minute=self._settings.requests_per_minute,
            tokens_per_minute=self._settings.tokens_per_minute,
        )
        gate = Gate(store=store, faults=self._faults, api_keys=self._api_keys, rates=rates)
        openai, anthropic = OpenAI(store, answerer), Anthropic(store, answerer)
        control = Control(store=store, gate=gate, openai=openai, anthropic=anthropic, token=self._token)
        return _Running(store, gate, control, application(control), _listen(self._host, self._port))

    @property
    def _live(self) -> "_Running":
        if self._running is None:
            raise RuntimeError("the emulator is not running; use it as a context manager, or call start()")
        return self._running

    # --- addresses ----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        host, port = self._live.socket.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound
        return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"

    @property
    def openai_url(self) -> str:
        return self.url + "/v1"

    @property
    def anthropic_url(self) -> str:
        return self.url

    @property
    def api_key(self) -> str:
        """A key that is accepted."""
        return min(self._api_keys) if self._api_keys else _DEFAULT_KEY

    def env(self) -> dict[str, str]:
        """The environment variables that lead the official SDKs here."""
        return {
            "OPENAI_BASE_URL": self.openai_url,
            "OPENAI_API_KEY": self.api_key,
            "ANTHROPIC_BASE_URL": self.anthropic_url,
            "ANTHROPIC_API_KEY": self.api_key,
        }

    # --- the other side -----------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        return self._clock.now()

    def advance(self, span: float | timedelta) -> datetime:
        """Turn the clock forward by seconds or a `timedelta`; returns when every batch has kept up with it."""
        now = self._clock.advance(span)
        self._live.store.wait()
        return now

    def bill(self) -> list[BillEntry]:
        """Every row paid until now: batches in the order of their creation, then realtime calls."""
        return list(entries(self._live.store.slips()))

    def bill_summary(self) -> list[BillSum]:
        return summary(self._live.store.slips())

    def faults(self, plan: dict[str, Any]) -> None:
        """Add a plan (see `keld.emulator.fault`).

        Raises:
            UnknownFault: it names a point, fault, argument or match that does not exist.
        """
        self._faults.add(plan)

    def clear_faults(self) -> None:
        self._faults.clear()

    def fault_rules(self) -> list[dict[str, Any]]:
        """The rules in force, each with its `hits`."""
        return self._faults.rules()

    def fault_log(self) -> list[Firing]:
        return list(self._faults.log)

    def batches(self) -> list[dict[str, Any]]:
        """Every batch as its service would show it, newest first, with `provider`; hidden and unlisted ones too."""
        self._live.store.wait()
        return self._live.control.batches(self.url)

    def requests(self) -> list[Call]:
        """Every call that came in, in the order of the answers; control calls are not among them."""
        return list(self._live.gate.calls)


def serve(*, host: str = "127.0.0.1", port: int = 8700, token: str | None = None, **options: Any) -> None:
    """Run an emulator in the foreground until SIGTERM or SIGINT; prints its addresses when it listens.

    Args:
        host, port, token, options: see `Emulator`.
    """
    Emulator(host=host, port=port, token=token, **options).run(_announce)


def _announce(emulator: Emulator) -> None:
    print(f"keld emulator: OpenAI at {emulator.openai_url}, Anthropic at {emulator.anthropic_url}", flush=True)  # noqa: T201  a command's output


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def application(control: Control) -> Starlette:
    """All routes."""
    gate, openai, anthropic = control.gate, control.openai, control.anthropic
    messages, batches = "/v1/messages/batches", "/v1/batches"

    async def models(request: Request) -> Response:
        # Both services have this path; only Anthropic's clients name their version.
        return await (anthropic if "anthropic-version" in request.headers else openai).list_models(request)

    async def unknown(request: Request, error: Exception) -> Response:
        message = f"Invalid URL ({request.method} {request.url.path})"
        dialect = anthropic if request.url.path.startswith("/v1/messages") else openai
        response = JSONResponse(dialect.error_body(ApiError(status=404, message=message)), 404)
        gate.note(request, response)
        return response

    routes = [
        Route("/v1/files", gate.guard("upload", "openai", openai, openai.upload), methods=["POST"]),
        Route("/v1/files", gate.guard("list", "openai", openai, openai.list_files)),
        Route("/v1/files/{file_id}/content", gate.guard("download", "openai", openai, openai.file_content)),
        Route("/v1/files/{file_id}", gate.guard("get", "openai", openai, openai.get_file)),
        Route("/v1/files/{file_id}", gate.guard("delete", "openai", openai, openai.delete_file), methods=["DELETE"]),
        Route(batches, gate.guard("create", "openai", openai, openai.create_batch), methods=["POST"]),
        Route(batches, gate.guard("list", "openai", openai, openai.list_batches)),
        Route(batches + "/{batch_id}", gate.guard("get", "openai", openai, openai.get_batch)),
        Route(
            batches + "/{batch_id}/cancel",
            gate.guard("cancel", "openai", openai, openai.cancel_batch),
            methods=["POST"],
        ),
        *(
            Route(path, gate.guard("realtime", "openai", openai, openai.realtime), methods=["POST"])
            for path in ("/v1/chat/completions", "/v1/responses", "/v1/embeddings")
        ),
        Route("/v1/models", gate.guard("get", "openai", openai, models)),
        Route(messages, gate.guard("create", "anthropic", anthropic, anthropic.create_batch), methods=["POST"]),
        Route(messages, gate.guard("list", "anthropic", anthropic, anthropic.list_batches)),
        Route(messages + "/{batch_id}", gate.guard("get", "anthropic", anthropic, anthropic.get_batch)),
        Route(
            messages + "/{batch_id}",
            gate.guard("delete", "anthropic", anthropic, anthropic.delete_batch),
            methods=["DELETE"],
        ),
        Route(
            messages + "/{batch_id}/cancel",
            gate.guard("cancel", "anthropic", anthropic, anthropic.cancel_batch),
            methods=["POST"],
        ),
        Route(messages + "/{batch_id}/results", gate.guard("download", "anthropic", anthropic, anthropic.results)),
        Route("/v1/messages", gate.guard("realtime", "anthropic", anthropic, anthropic.realtime), methods=["POST"]),
        Route(
            "/v1/messages/count_tokens",
            gate.guard("get", "anthropic", anthropic, anthropic.count_tokens),
            methods=["POST"],
        ),
        Route("/_keld/bill", control.guard(control.bill)),
        Route("/_keld/clock", control.guard(control.clock), methods=["GET", "POST"]),
        Route("/_keld/faults", control.guard(control.faults), methods=["GET", "POST", "DELETE"]),
        Route("/_keld/objects", control.guard(control.objects)),
        Route("/_keld/requests", control.guard(control.requests)),
    ]
    return Starlette(routes=routes, exception_handlers={404: unknown, 405: unknown})


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.listen(256)
    return listener


class _Server(uvicorn.Server):
    """Says when it is ready, and stops within 20 ms instead of 200: a test suite starts and stops hundreds."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self.on_ready: Callable[[], None] | None = None
        self._connections = connections

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks = (ticks + 1) % 864_000
            await asyncio.sleep(0.02)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.on_ready is not None:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Uvicorn's own gives clients time to leave; ours are sent away.
        for server in self.servers:
            server.close()
        for transport in list(self._connections.values()):
            transport.abort()
        for server in self.servers:
            await server.wait_closed()


class _Running:
    """One start of an emulator, until its stop."""

    def __init__(self, store: Store, gate: Gate, control: Control, app: Starlette, listener: socket.socket) -> None:
        self.store, self.gate, self.control, self.socket = store, gate, control, listener
        connections: Connections = {}
        app.state.connections = connections
        config = uvicorn.Config(
            app,
            http=protocol_class(connections),
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            # Behind no proxy; and `connections` are looked up by the peer's true address.
            proxy_headers=False,
            date_header=False,  # the gate's, by the emulator's clock
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config, connections)
        self._thread: threading.Thread | None = None

    def start_thread(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self.serve, args=(ready.set,), name="keld-emulator", daemon=True)
        self._thread.start()
        if not ready.wait(30):
            raise RuntimeError("the emulator did not start within 30 s")

    def serve(self, on_ready: Callable[[], None] | None) -> None:
        self._server.on_ready = on_ready
        self._server.run(sockets=[self.socket])

    def stop(self) -> None:
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(30)
        self.socket.close()
        self.store.close()
        shutil.rmtree(self.store.folder, ignore_errors=True)
