"""Front door of the API process: `python -m service`."""

import socket
import sys
from types import FrameType

import structlog
import uvicorn
from sse_starlette.sse import AppStatus

from service.app import create_app, sealing_keys
from service.hub import Hub
from todoke.model.errors import InvalidInput
from todoke.runtime.hiding import hide_memory
from todoke.runtime.settings import Settings, load_settings, unknown_variables
from todoke.runtime.telemetry import configure_logging

log = structlog.get_logger()

# Open streams are told to reconnect at once; this bounds what is left, a slow download for instance.
SHUTDOWN_SECONDS = 5


class Server(uvicorn.Server):
    """Uvicorn that ends open streams politely first and exits 0 on SIGTERM."""

    hub: Hub | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Called from the signal handler: the first signal drains, a second one stops waiting."""
        self.force_exit = self.should_exit
        self.should_exit = True
        if self.hub is not None:
            self.hub.drain()


def main() -> int:
    """Serve until SIGTERM. Exit code 2: the settings do not allow to start."""
    hide_memory()
    try:
        settings = load_settings()
        sealing_keys(settings)
    except InvalidInput as error:
        print(f"todoke api: {error}", file=sys.stderr)  # noqa: T201 - logging is not up yet
        return 2
    configure_logging("api", settings.log_level)
    for name in unknown_variables():
        log.warning("settings.unknown", variable=name)
    # It would cut every stream at once; ours tells each reader when to come back.
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    app = create_app(settings)
    server = Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )
    server.hub = app.state.hub
    server.run(sockets=_inherited(settings))
    return 0 if server.started else 1


def _inherited(settings: Settings) -> list[socket.socket] | None:
    return None if settings.listen_fd is None else [socket.socket(fileno=settings.listen_fd)]


if __name__ == "__main__":
    sys.exit(main())
