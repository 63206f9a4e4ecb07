"""Running: one start of an emulator, until its stop: a listening socket, uvicorn, a thread."""

import asyncio
import shutil
import socket
import threading
from collections.abc import Callable, Mapping

import uvicorn

from .answer import Answerer
from .application import application
from .control import Control
from .gate import Gate
from .service import Service
from .store import Store
from .wire import Connections, protocol_class


def listen(host: str, port: int) -> socket.socket:
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


class Running:
    """One start of an emulator, until its stop.

    Args:
        answerer: speaks for the models of all services.
        services: by kind.
    """

    def __init__(
        self, *, store: Store, gate: Gate, answerer: Answerer, services: Mapping[str, Service], token: str | None, listener: socket.socket
    ) -> None:
        self.store, self.gate, self.answerer, self.services, self.socket = store, gate, answerer, services, listener
        self.control = Control(store=store, gate=gate, services=services, token=token)
        app = application(services.values(), gate, self.control)
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
