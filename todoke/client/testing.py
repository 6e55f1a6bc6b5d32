"""Asks an API to test a callback, and waits for the graded report."""

import asyncio
from typing import Any

import httpx

from todoke.client.api import Api
from todoke.model.errors import Unavailable

WAIT_SECONDS = 900.0
PAUSE_SECONDS = 1.0


async def run_test(api: Api, url: str, *, is_self_test: bool, pause_seconds: float = PAUSE_SECONDS) -> dict[str, Any]:
    """The test as `GET /webhooks/tests/{id}` shows it when it is done. Raises Refused, Unavailable."""
    asked = {"callbackUrl": url, "kind": "self_test" if is_self_test else "ping"}
    try:
        async with api.opened() as client, asyncio.timeout(WAIT_SECONDS):
            async with client.stream("POST", "/webhooks/tests", json=asked) as response:
                await api.check(response, 202)
                location = response.headers["location"]
            while True:
                found = await _shown(api, client, location)
                if found["state"] == "done":
                    return found
                await asyncio.sleep(pause_seconds)
    except TimeoutError:
        raise Unavailable("the test was not done in time: look whether a notifier runs") from None
    except httpx.TransportError as error:
        raise Unavailable(f"the API cannot be reached ({str(error) or type(error).__name__}): check --api") from error


async def _shown(api: Api, client: httpx.AsyncClient, location: str) -> dict[str, Any]:
    async with client.stream("GET", location) as response:
        await api.check(response)
        found: dict[str, Any] = httpx.Response(200, content=await response.aread()).json()
        return found
