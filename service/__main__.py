"""Front door of the API process: `python -m service`."""

import asyncio
import socket
import sys
from types import FrameType

import structlog
import uvicorn
from sse_starlette.sse import AppStatus

from service.app import create_app
from service.connection import Connection
from service.front import Front
from service.listening import bind, tune
from service.streams import Streams
from todoke.model.errors import InvalidInput
from todoke.runtime.collector import calm_collector
from todoke.runtime.hiding import hide_memory
from todoke.runtime.sealing_keys import sealing_keys
from todoke.runtime.settings import Settings, load_settings, unknown_variables
from todoke.runtime.telemetry import configure_logging
from todoke.wire.destination import Rules

log = structlog.get_logger()

# What is left when all streams have been asked to go: a slow download, a reader that takes nothing.
GRACE_SECONDS = 10
# Balancers look at /readyz every few seconds, and send nobody here once they have seen it.
UNREADY_SECONDS = 5.0


class Server(uvicorn.Server):
    """Uvicorn that sends open streams away one by one, and exits 0 on SIGTERM."""

    drain_seconds = 0.0
    streams: Streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called from the signal handler: the first signal drains, a second one stops waiting."""
        if self.streams.is_draining:
            self.force_exit = self.should_exit = True
            return
        asyncio.get_running_loop().call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """Not ready at once; closed to new connections once balancers know; the streams go meanwhile."""
        self.streams.drain(self.drain_seconds)
        asyncio.get_running_loop().call_later(min(UNREADY_SECONDS, self.drain_seconds), self.stop)

    def stop(self) -> None:
        """Close the port, and end when the last answer has."""
        self.should_exit = True


def main() -> int:
    """Serve until SIGTERM. Exit code 2: the settings do not allow to start, or to hear NOTIFY."""
    hide_memory()
    calm_collector()
    try:
        settings = load_settings()
        sealing_keys(settings)
        Rules.of(settings)
        configure_logging("api", settings.log_level)
        app = create_app(settings)
    except InvalidInput as error:
        print(f"todoke api: {error}", file=sys.stderr)  # noqa: T201 - logging may not be up yet
        return 2
    for name in unknown_variables():
        log.warning("settings.unknown", variable=name)
    # It would cut every stream at once; ours tells each reader when to come back.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    server = Server(config_of(app, settings))
    server.streams, server.drain_seconds = app.state.streams, settings.stream_drain_seconds
    app.state.stop = server.stop
    server.run(sockets=[tune(_listener(settings))])
    if app.state.fault:
        print(f"todoke api: {app.state.fault}", file=sys.stderr)  # noqa: T201 - one line for whoever started it
        return 2
    return 0 if server.started else 1


def config_of(app: Front, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves the API."""
    return uvicorn.Config(
        app,
        http=Connection,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=int(settings.stream_drain_seconds) + GRACE_SECONDS,
    )


def _listener(settings: Settings) -> socket.socket:
    if settings.listen_fd is not None:
        return socket.socket(fileno=settings.listen_fd)
    return bind(settings.host, settings.port)


if __name__ == "__main__":
    sys.exit(main())
