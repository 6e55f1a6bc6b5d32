"""The peers of the streams benchmark: the least app each library's documentation leads to, run by the same uvicorn.

    python -m benchmarks.peers.stream_apps sse-starlette|fastapi|bare PORT

`GET /events` streams, `POST /publish` gives its body to every stream, `GET /metrics` tells the loop's delay.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn
from fastapi import FastAPI
from fastapi.sse import EventSourceResponse as FastApiResponse
from fastapi.sse import ServerSentEvent
from prometheus_client import generate_latest
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from todoke.runtime.loop_watch import watched_loop

HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]

queues: set["asyncio.Queue[str]"] = set()
# The bare app's readers: nothing but the way to each.
readers: set[Send] = set()


@contextlib.contextmanager
def queue() -> Iterator["asyncio.Queue[str]"]:
    """A queue that gets what is published during the block."""
    mine: asyncio.Queue[str] = asyncio.Queue()
    queues.add(mine)
    try:
        yield mine
    finally:
        queues.discard(mine)


async def publish(request: Request) -> Response:
    """To every stream."""
    text = (await request.body()).decode()
    for each in queues:
        each.put_nowait(text)
    return Response(status_code=204)


async def metrics(_request: Request) -> Response:
    """As Todoke shows them."""
    return Response(generate_latest())


@contextlib.asynccontextmanager
async def lifespan(_app: object) -> AsyncIterator[None]:
    """Todoke's own watch over the loop."""
    async with watched_loop():
        yield


SHARED: list[BaseRoute] = [Route("/publish", publish, methods=["POST"]), Route("/metrics", metrics)]


def sse_starlette() -> ASGIApp:
    """Plain sse-starlette: a generator that waits on a queue of its own."""

    async def frames() -> AsyncIterator[dict[str, str]]:
        with queue() as mine:
            yield {"comment": "hello"}
            while True:
                yield {"data": await mine.get()}

    async def events(_request: Request) -> Response:
        return EventSourceResponse(frames())

    return Starlette(routes=[Route("/events", events), *SHARED], lifespan=lifespan)


def fastapi() -> ASGIApp:
    """FastAPI's own SSE: the endpoint is the generator."""
    app = FastAPI(lifespan=lifespan, routes=SHARED)

    async def events() -> AsyncIterator[ServerSentEvent]:
        with queue() as mine:
            yield ServerSentEvent(comment="hello")
            while True:
                yield ServerSentEvent(raw_data=await mine.get())

    app.get("/events", response_class=FastApiResponse)(events)
    return app


def bare() -> ASGIApp:
    """No framework: one task a stream, which waits for the reader to go; what is published is written by the POST."""
    others = Starlette(routes=[Route("/metrics", metrics)], lifespan=lifespan)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == "/metrics":
            await others(scope, receive, send)
        elif scope["path"] == "/publish":
            text = (await Request(scope, receive).body()).decode()
            message = {"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True}
            for reader in tuple(readers):
                await reader(message)
            await Response(status_code=204)(scope, receive, send)
        else:
            await _stream(receive, send)

    return app


async def _stream(receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b": hello\n\n", "more_body": True})
    readers.add(send)
    try:
        while (await receive())["type"] != "http.disconnect":
            pass
    finally:
        readers.discard(send)


APPS: dict[str, Callable[[], ASGIApp]] = {"sse-starlette": sse_starlette, "fastapi": fastapi, "bare": bare}

if __name__ == "__main__":
    # As Todoke's own process runs it.
    uvicorn.run(
        APPS[sys.argv[1]](),
        port=int(sys.argv[2]),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
