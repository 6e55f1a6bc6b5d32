"""Hints on their way to a queue that does not answer: bounded, and never the submit's trouble."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from service import dispatcher as module
from service.dispatcher import Dispatcher
from tests.conftest import until
from todoke.model.errors import Unavailable
from todoke.model.ids import new_id
from todoke.queue.sqs import SqsQueue


async def test_a_queue_that_is_away_is_asked_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = SqsQueue("", region="us-east-1")
    calls: list[int] = []
    answering = asyncio.Event()

    async def send(ids: Sequence[UUID]) -> list[UUID]:
        calls.append(len(ids))
        await answering.wait()
        raise Unavailable("gone")

    monkeypatch.setattr(queue, "send", send)
    monkeypatch.setattr(module, "WAITING_MAX", 100)
    dispatcher = Dispatcher(queue)
    for _ in range(500):
        dispatcher.hint(new_id())
    assert len(dispatcher._waiting) == 100
    await until(lambda: bool(calls))
    answering.set()
    async with asyncio.timeout(5):
        await dispatcher.drain()
    assert len(calls) == 1
    assert dispatcher._dropped == 500
    queue.close()
