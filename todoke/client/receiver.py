"""A small HTTP server that receives and verifies webhooks: for the demo, and for tests of one's own callbacks."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

from todoke.model.errors import InvalidInput
from todoke.wire.signing import verify


@dataclass(frozen=True)
class Received:
    """A webhook that came: its event, its headers (lower case), its exact bytes, and whether its signature holds."""

    event: dict[str, Any]
    headers: dict[str, str]
    body: bytes
    is_verified: bool


class Receiver:
    """Listens on loopback while open; `url` is the callback URL to give at submit."""

    def __init__(self, secret: str) -> None:
        self._secret = secret
        self._arrived: asyncio.Queue[Received] = asyncio.Queue()
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/webhook", self._on_post)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/webhook"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def next(self) -> Received:
        """Wait for the next webhook."""
        return await self._arrived.get()

    async def _on_post(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        received = Received(json.loads(body), headers, body, self._holds(headers, body))
        self._arrived.put_nowait(received)
        return web.Response(status=204 if received.is_verified else 401)

    def _holds(self, headers: dict[str, str], body: bytes) -> bool:
        try:
            verify(self._secret, headers, body)
        except InvalidInput:
            return False
        return True
