"""The real service behind a gateway, in a thread of its own, noting every request that reaches it."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from service.__main__ import config_of
from service.app import create_app
from todoke.runtime.settings import Settings

SECONDS_MAX = 15


@dataclass(frozen=True)
class Seen:
    """One request as the API got it. `path` is raw; `headers` may hold a name more than once."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]


@dataclass
class Behind:
    """A running API. `seen` grows; questions of the gateway are in `asked`."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    asked: list[Seen] = field(default_factory=list)

    def note(self, scope: Scope) -> None:
        """Called for each request, in the API's thread."""
        headers = tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in scope["headers"])
        raw = scope["raw_path"].decode("latin-1")
        seen = Seen(scope["method"], raw, scope["query_string"].decode("latin-1"), headers)
        (self.asked if scope["path"] == "/internal/auth" else self.seen).append(seen)


@contextlib.contextmanager
def behind(settings: Settings) -> Iterator[Behind]:
    """The API on a port of its own, ready for jobs to be watched."""
    noted, app = Behind(), create_app(settings)
    config = config_of(app, settings.model_copy(update={"port": 0}))
    config.app = _noting(app, noted)
    server, loops = uvicorn.Server(config), list[asyncio.AbstractEventLoop]()

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(run(),), name="api")
    thread.start()
    try:
        _wait_until_ready(server, app.state.hub, thread)
        noted.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield noted
    finally:
        for loop in loops:
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(app.state.streams.drain, 0)
        server.should_exit = True
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()


def _noting(app: ASGIApp, noted: Behind) -> ASGIApp:
    async def note(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            noted.note(scope)
        await app(scope, receive, send)

    return note


def _wait_until_ready(server: uvicorn.Server, hub: Any, thread: threading.Thread) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not (server.started and hub.is_ready):
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
