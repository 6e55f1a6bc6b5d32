"""The event feed of a Todoke API, followed over every cut: reconnects for ever, and goes on behind a cursor."""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence

import httpx

from todoke.client.api import Api, check_header
from todoke.model.errors import Refused, Unavailable
from todoke.wire.sse import Decoder, Frame

# An API beats at least every 18 seconds unless it was told otherwise.
SILENCE_SECONDS = 45.0
PAUSE_SECONDS = (0.5, 10.0)
RETRY_SECONDS_MAX = 30.0
# A frame that only moves the cursor.
CHECKPOINT = ""


class Feed:
    """types, job_types: only these; empty for all. cursor: sent at each connect, empty for the end of the feed.

    Whoever follows moves `cursor` behind what is safe. tell: is given sentences about the connection.
    """

    def __init__(
        self,
        api: Api,
        types: Sequence[str],
        job_types: Sequence[str],
        cursor: str,
        tell: Callable[[str], None],
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        check_header("the cursor", cursor)
        self._api = api
        self._params = {"type": list(types), "jobType": list(job_types)}
        self._tell = tell
        self._silence_seconds = silence_seconds
        self._is_away = False
        self.cursor = cursor

    async def follow(self) -> AsyncGenerator[Frame, None]:
        """Frames, for ever; those of CHECKPOINT have no data. Raises Refused when the API will not be read."""
        pause = PAUSE_SECONDS[0]
        while True:
            decoder = Decoder()
            try:
                async with self._api.opened(self._silence_seconds) as client, self._asked(client) as response:
                    pause = PAUSE_SECONDS[0]
                    self._back()
                    async for frame in _frames(response, decoder):
                        yield frame
            except (httpx.TransportError, Unavailable) as error:
                self._away(str(error) or type(error).__name__)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
                pause = min(PAUSE_SECONDS[1], pause * 2)
            else:
                await asyncio.sleep(min((decoder.retry_milliseconds or 0) / 1000, RETRY_SECONDS_MAX))

    @contextlib.asynccontextmanager
    async def _asked(self, client: httpx.AsyncClient) -> AsyncIterator[httpx.Response]:
        headers = {"accept": "text/event-stream", "cache-control": "no-cache"}
        if self.cursor:
            headers["last-event-id"] = self.cursor
        async with client.stream("GET", "/events", params=self._params, headers=headers) as response:
            await self._api.check(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise Refused(f"{client.base_url} answers /events without a stream: this is no Todoke API")
            yield response

    def _away(self, why: str) -> None:
        """Said once for each outage."""
        if not self._is_away:
            self._tell(f"the API is away ({why}); trying again until it is back")
        self._is_away = True

    def _back(self) -> None:
        if self._is_away:
            self._tell("the API is back")
        self._is_away = False


async def _frames(response: httpx.Response, decoder: Decoder) -> AsyncIterator[Frame]:
    cursor = ""
    async for chunk in response.aiter_raw():
        for frame in decoder.feed(chunk):
            cursor = frame.last_event_id
            yield frame
        if decoder.last_event_id != cursor:
            cursor = decoder.last_event_id
            yield Frame(CHECKPOINT, "", cursor)
