"""Front door of the API process: `python -m service`."""

import socket
import sys
from types import FrameType

import structlog
import uvicorn
from sse_starlette.sse import AppStatus

from service.app import create_app
from service.hub import Hub
from todoke.model.errors import InvalidInput
from todoke.runtime.hiding import hide_memory
from todoke.runtime.settings import Settings, is_loopback, load_settings, unknown_variables
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

    def stop(self) -> None:
        """End from inside, as after a signal."""
        self.should_exit = True


def main() -> int:
    """Serve until SIGTERM. Exit code 2: the settings do not allow to start, or to hear NOTIFY."""
    hide_memory()
    try:
        settings = load_settings()
        _refuse_strangers(settings)
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
    server.hub, app.state.stop = app.state.hub, server.stop
    server.run(sockets=_inherited(settings))
    if app.state.fault:
        print(f"todoke api: {app.state.fault}", file=sys.stderr)  # noqa: T201 - one line for whoever started it
        return 2
    return 0 if server.started else 1


def _inherited(settings: Settings) -> list[socket.socket] | None:
    return None if settings.listen_fd is None else [socket.socket(fileno=settings.listen_fd)]


def _refuse_strangers(settings: Settings) -> None:
    """Without API keys everyone who can connect is the default tenant, so nobody but this machine may."""
    if not is_loopback(settings.host):
        raise InvalidInput(
            f"TODOKE_HOST={settings.host} would serve other machines, and there are no API keys yet: "
            "bind 127.0.0.1 and put a gateway with authentication in front"
        )


if __name__ == "__main__":
    sys.exit(main())
