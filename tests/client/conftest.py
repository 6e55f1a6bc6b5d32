"""An API, jobs that end, and a listener between them and a receiver."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import standardwebhooks

from tests.conftest import REPOSITORY, SIGNING_SECRET, until
from tests.environment import environment_of
from tests.make import accept, succeed
from tests.notifier.receiver import Receiver
from todoke.client.api import Api
from todoke.client.feed import Feed
from todoke.client.forwarder import Forwarder
from todoke.client.listening import Forwarded, Listener
from todoke.model.event import TERMINAL
from todoke.runtime.settings import Settings
from todoke.store.ledger import Ledger


@dataclass
class Listening:
    """A running listener and what it has said."""

    task: "asyncio.Task[None] | None" = None
    told: list[Forwarded] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    @property
    def fates(self) -> list[str]:
        return [each.fate for each in self.told]

    def has_said(self, words: str) -> bool:
        return any(words in sentence for sentence in self.said)


@contextlib.asynccontextmanager
async def listening(api_url: str, receiver_url: str, **options: Any) -> AsyncIterator[Listening]:
    """Forward in this process; by default the ends of jobs, from now on. Ready when the API has answered."""
    state = Listening()
    feed = Feed(
        Api(api_url, options.get("key")),
        options.get("types", TERMINAL),
        options.get("job_types", ()),
        options.get("cursor", ""),
        state.said.append,
        options.get("silence_seconds", 20),
    )
    forwarder = Forwarder(receiver_url, SIGNING_SECRET, options.get("seconds", 5))
    listener = Listener(
        feed,
        forwarder,
        keep=state.kept.append,
        told=state.told.append,
        tell=state.said.append,
        is_strict=options.get("is_strict", False),
    )
    state.task = asyncio.create_task(listener.run())
    try:
        if not options.get("cursor"):
            await until(lambda: state.has_said("from now on") or state.task is None or state.task.done())
        yield state
    finally:
        state.task.cancel()
        await asyncio.wait({state.task})


async def finish_jobs(ledger: Ledger, count: int = 1, **changes: Any) -> list[UUID]:
    """Jobs that have succeeded, in this order."""
    ids = [await accept(ledger, **changes) for _ in range(count)]
    for job_id in ids:
        [attempt] = await ledger.claim([job_id], [changes.get("type", "generate-report")], "worker-of-the-test", 60)
        await succeed(ledger, attempt)
    return ids


def names(ids: Iterable[UUID], sequence: int = 3) -> list[str]:
    """What a receiver knows the ends of these jobs by."""
    return [f"evt_{job_id.hex}_{sequence}" for job_id in ids]


def verified(receiver: Receiver) -> list[str]:
    """The ids of what came, each verified by the independent library."""
    for received in receiver.received:
        standardwebhooks.Webhook(SIGNING_SECRET).verify(received.body, received.headers)
    return [received.webhook_id for received in receiver.received]


@contextlib.asynccontextmanager
async def api_on(settings: Settings, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """An API process on this very port; killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        cwd=REPOSITORY,
        env=environment_of(settings.model_copy(update={"port": port})),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await _ready(f"http://127.0.0.1:{port}", process)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _ready(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(base_url=url) as client:
        while True:
            assert process.returncode is None, "the API has ended"
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


@dataclass
class Command:
    """`todoke webhooks …` as it is typed."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    complaints: str = ""

    def has_said(self, words: str) -> bool:
        return any(words in line for line in self.lines)

    async def read(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip("\n"))
        self.complaints = (await self.process.stderr.read()).decode()

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), 20)


@contextlib.asynccontextmanager
async def command(*words: str) -> AsyncIterator[Command]:
    """Run it; killed at the end of the block if it still runs, and read to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "todoke",
        "webhooks",
        *words,
        cwd=REPOSITORY,
        env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Command(process)
    reading = asyncio.create_task(running.read())
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading
