"""Server: the emulator as a thing to start and stop, in a daemon thread (`Emulator`) or in the foreground (`serve`)."""

import ipaddress
import os
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from .address import Addresses
from .answer import Answerer, Responder
from .bill import BillEntry, BillSum, entries, summary
from .clock import Clock
from .engine import Engine
from .fault import Faults, Firing
from .gate import Call, Gate
from .kind import Factory, factories
from .life import Pace
from .rate import Rates
from .running import Running, listen
from .store import Settings, Store

_DEFAULT_KEY = "sk-keld-emulator"
_started: list["Emulator"] = []  # in this process, and not stopped


class Emulator(Addresses):
    """The services of the providers, on a port of this machine.

    Args:
        latency_s: from a batch's start to its end, on the emulator's clock.
        rows_per_s: makes a batch last at least rows / this.
        validate_s, finalize_s: time in `validating` and `finalizing`.
        cancel_s: time in `cancelling`; None: a tenth of the latency, ten minutes at most.
        realtime_latency_s: real seconds before a realtime call is answered.
        requests_per_minute, tokens_per_minute: realtime calls and tokens (bytes / 4, and the most the answer may have) of a model, over which
            one is answered with 429; None: any number.
        frozen: only `advance` moves the clock; else it is real time plus what it was advanced by.
        host: other than loopback only with a `token`.
        port: 0 takes a free one.
        token: every request, control included, must carry it as its API key.
        api_keys: the keys that are accepted; None: any that is not empty.
        list_lag_s: how long a new batch is missing from lists.
        enqueued_token_limit: tokens (bytes / 4) that may wait per model, over which a batch fails validation (OpenAI).
        engine: how busy the server of the service `self_hosted` becomes; None: it is never full.
        responder: answers instead of the deterministic one; called with the request's body, in a worker thread.
        services: more services by kind, in addition to Keld's own and those of other packages (see `keld.emulator.kind`).

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
        engine: Engine | None = None,
        services: Mapping[str, Factory] | None = None,
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
            engine=engine,
        )
        self._host, self._port, self._token = host, port, token
        self._api_keys = frozenset([token]) if token else None if api_keys is None else frozenset(api_keys)
        self._responder = responder
        self._factories = factories(services)
        self._clock = Clock(frozen=frozen)
        self._faults = Faults(self._clock)
        self._running: Running | None = None

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
        _started.append(self)
        return self

    def stop(self) -> None:
        """Stop serving and remove all files; a second call does nothing."""
        if self._running is not None:
            self._running.stop()
            self._running = None
            if self in _started:
                _started.remove(self)

    @staticmethod
    def in_environment() -> "Emulator | None":
        """The emulator started in this process to which the environment variables lead; None if they lead elsewhere."""
        return next((one for one in reversed(_started) if one.env().items() <= os.environ.items()), None)

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

    def _open(self) -> Running:
        folder = Path(tempfile.mkdtemp(prefix="keld-emulator-"))
        store = Store(clock=self._clock, faults=self._faults, settings=self._settings, folder=folder)
        answerer = Answerer(self._responder)
        rates = Rates(
            clock=self._clock,
            requests_per_minute=self._settings.requests_per_minute,
            tokens_per_minute=self._settings.tokens_per_minute,
        )
        gate = Gate(store=store, faults=self._faults, api_keys=self._api_keys, rates=rates)
        services = {kind: make(store, answerer) for kind, make in self._factories.items()}
        listener = listen(self._host, self._port)
        return Running(store=store, gate=gate, answerer=answerer, services=services, token=self._token, listener=listener)

    @property
    def _live(self) -> Running:
        if self._running is None:
            raise RuntimeError("the emulator is not running; use it as a context manager, or call start()")
        return self._running

    # --- addresses ----------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        host, port = self._live.socket.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound
        return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"

    def url_of(self, kind: str) -> str:
        """The URL to which a client of this kind is pointed.

        Raises:
            KeyError: there is no service of this kind.
        """
        return self.url + self._live.services[kind].base

    @property
    def api_key(self) -> str:
        """A key that is accepted."""
        return min(self._api_keys) if self._api_keys else _DEFAULT_KEY

    def env(self) -> dict[str, str]:
        """The environment variables that lead the official SDKs here, and Keld's accounts of every kind."""
        found: dict[str, str] = {}
        for kind, service in self._live.services.items():
            found |= service.env(self.url_of(kind), self.api_key)
        return found

    def addresses(self) -> dict[str, str]:
        """Where each service is, by its title."""
        return {service.title: self.url_of(kind) for kind, service in self._live.services.items()}

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
    """Run an emulator in the foreground until SIGTERM or SIGINT; prints its addresses, and the variables that lead there, when it listens.

    Args:
        host, port, token, options: see `Emulator`.
    """
    Emulator(host=host, port=port, token=token, **options).run(partial(_announce, token))


def _announce(token: str | None, emulator: Emulator) -> None:
    shown = ", ".join(f"{title} at {url}" for title, url in emulator.addresses().items())
    print(f"keld emulator: {shown}", flush=True)  # noqa: T201  a command's output
    print("\n".join(exports(emulator.env(), secret=token)), flush=True)  # noqa: T201  a command's output


def exports(variables: Mapping[str, str], *, secret: str | None) -> list[str]:
    """Lines for a shell that set variables; one that is the secret refers to `KELD_EMULATOR_TOKEN` and does not show it.

    >>> exports({"OPENAI_BASE_URL": "http://127.0.0.1:8700/v1", "OPENAI_API_KEY": "s3cret"}, secret="s3cret")
    ['export OPENAI_BASE_URL=http://127.0.0.1:8700/v1', 'export OPENAI_API_KEY="$KELD_EMULATOR_TOKEN"']
    """
    return [f"export {name}=" + ('"$KELD_EMULATOR_TOKEN"' if value == secret else shlex.quote(value)) for name, value in variables.items()]


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
