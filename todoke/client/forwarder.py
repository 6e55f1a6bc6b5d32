"""Posts an event as the notifier would: the same bytes and id, freshly signed, nothing followed, nothing kept."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Self

import httpx

from todoke.client.api import USER_AGENT, checked_url, is_loopback
from todoke.wire.signing import parse_secret, signed_headers

SECONDS = 15.0
BODY_SECONDS = 1.0
BODY_BYTES_MAX = 16 * 1024
HEADERS = {
    "content-type": "application/json",
    "user-agent": USER_AGENT,
    "accept": "*/*",
    "accept-encoding": "identity",
}


@dataclass(frozen=True)
class Posted:
    """What a receiver answered. status: None when no answer came, and `reason` says why.

    is_down: nothing listens there, so nothing was refused.
    """

    status: int | None
    reason: str
    seconds: float
    is_down: bool = False

    @property
    def is_taken(self) -> bool:
        """A 2xx: the receiver has the event."""
        return self.status is not None and 200 <= self.status < 300


class Forwarder:
    """url: the receiver's. secret: `whsec_…`. Raises InvalidInput for either. Used with `async with`."""

    def __init__(self, url: str, secret: str, seconds: float = SECONDS) -> None:
        parse_secret(secret)
        self._url, self._secret, self._seconds = checked_url("the receiver's address", url), secret, seconds

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(timeout=None, trust_env=not is_loopback(self._url))  # noqa: S113 - below
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def post(self, webhook_id: str, body: bytes, attempt: int) -> Posted:
        """Post it once, within one deadline from name to head. Never raises."""
        began = time.monotonic()
        status: int | None = None
        reason, is_down = "", False
        try:
            async with asyncio.timeout(self._seconds):
                status = await self._post(webhook_id, body, attempt)
        except TimeoutError:
            reason = "timeout"
        except httpx.ConnectError as error:
            reason, is_down = str(error) or "connect_failed", True
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
        return Posted(status, reason, time.monotonic() - began, is_down)

    async def _post(self, webhook_id: str, body: bytes, attempt: int) -> int:
        signed = signed_headers(self._secret, webhook_id, int(time.time()), body)
        headers = {**HEADERS, "todoke-attempt": str(attempt), **signed}
        async with self._client.stream("POST", self._url, content=body, headers=headers) as response:
            # The notifier keeps none either.
            self._client.cookies.clear()
            # The head decides. The body is read a little, so that the connection lives on.
            with contextlib.suppress(TimeoutError, httpx.HTTPError):
                async with asyncio.timeout(BODY_SECONDS):
                    await _read(response)
            return response.status_code


async def _read(response: httpx.Response) -> None:
    left = BODY_BYTES_MAX
    async for chunk in response.aiter_raw():
        left -= len(chunk)
        if left < 0:
            return
