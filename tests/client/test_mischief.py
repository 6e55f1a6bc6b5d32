"""The listener between a line that is cut anywhere and a receiver of bad manners: nothing is lost or turned around."""

import asyncio
import contextlib
import json
import random
import re
from collections.abc import AsyncIterator

import pytest

from tests.client.conftest import listening
from tests.conftest import until
from tests.notifier.receiver import OK, Received, receiving
from tests.streams.scripted import HEAD
from todoke.client import feed
from todoke.client import listening as listening_module
from todoke.model.ids import new_id
from todoke.wire import sse

EVENTS = 40


class CutFeed:
    """Serves all events behind the cursor it is asked for, with checkpoints between, and cuts the line somewhere."""

    def __init__(self, rng: random.Random, count: int) -> None:
        self._rng = rng
        self.ids = [new_id() for _ in range(count)]
        self.connects = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.connects += 1
            cursor = re.search(r"last-event-id: (\d+)", head, re.IGNORECASE)
            frames = HEAD + sse.opening() + self._behind(int(cursor[1]) if cursor else 0)
            whole = self.connects > 1 and self._rng.random() < 0.1
            for piece in self._pieces(frames if whole else frames[: self._rng.randrange(len(frames))]):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        writer.transport.abort() if self._rng.random() < 0.5 else writer.close()

    def _behind(self, place: int) -> bytes:
        chunks = [b""]
        for number in range(place, len(self.ids)):
            body = json.dumps({"data": {"jobId": str(self.ids[number]), "sequence": 3}})
            chunks.append(sse.frame("job.succeeded", body, str(number + 1)))
            if self._rng.random() < 0.3:
                chunks.append(sse.comment("heartbeat") + sse.checkpoint(str(number + 1)))
        return b"".join(chunks)

    def _pieces(self, data: bytes) -> list[bytes]:
        size = self._rng.choice([1, 7, 100, 5000])
        return [data[start : start + size] for start in range(0, len(data), size)]


@contextlib.asynccontextmanager
async def cut_feed(rng: random.Random) -> AsyncIterator[CutFeed]:
    server = CutFeed(rng, EVENTS)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


async def test_whatever_is_cut_every_event_is_taken_in_order(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "PAUSE_SECONDS", (0.001, 0.01))
    monkeypatch.setattr(feed, "RETRY_SECONDS_MAX", 0.01)
    monkeypatch.setattr(listening_module, "RETRY_SECONDS", (0.001,) * 50)
    rng = random.Random(seed)
    taken: list[str] = []

    async def moody(received: Received, writer: asyncio.StreamWriter) -> None:
        mood = rng.random()
        if mood < 0.2:
            writer.transport.abort()
        elif mood < 0.4:
            writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n")
        else:
            taken.append(received.webhook_id)
            writer.write(OK)

    async with cut_feed(rng) as server, receiving(*[moody] * 5000) as receiver:
        async with listening(server.url, receiver.url, cursor="0") as state:
            await until(lambda: len(set(taken)) == EVENTS, 60)
    wanted = [f"evt_{job_id.hex}_3" for job_id in server.ids]
    assert list(dict.fromkeys(taken)) == wanted
    assert taken == sorted(taken, key=wanted.index), "an event that comes again comes before the next one"
    assert "given_up" not in state.fates
    assert server.connects > 1
    assert [int(cursor) for cursor in state.kept] == sorted({int(cursor) for cursor in state.kept})
