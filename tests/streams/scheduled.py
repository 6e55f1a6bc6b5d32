"""Attach, read and go live, with commits at exact steps in between, in an order drawn from a seed.

Real: the whole application from its ASGI entry down (routes, streams, hub, topics, the LISTEN connection), PostgreSQL
and every transaction and NOTIFY. Not real: sockets and HTTP framing (the reader is an ASGI server's side), and time: at
each step below the application is held until what is due there has been committed.

Steps: a call of a method of the store's Reader is `asked` and `answered`, the response is `begun`, a chunk is `sent`.
"""

import asyncio
import contextlib
import functools
import inspect
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from service.app import create_app
from service.hub import Hub
from tests.make import TENANT, TYPE, WORKER, make_job
from tests.streams.event_source import Parser
from todoke.model.event import Hint
from todoke.model.job import Outcome, Progress, State
from todoke.runtime.settings import Settings
from todoke.wire.notice import payloads
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.wire.sse import Frame

STEPS_MAX = 14
BATCH = 200
# A moment without a step: what is left to do is done now.
QUIET_SECONDS = 0.001
PATIENCE_SECONDS = 10.0
UNHEARD = "unheard"

Action = Callable[[], Awaitable[None]]


class Steps:
    """Counts the application's steps and does at each what is due there. One run at a time."""

    def __init__(self) -> None:
        self.taken = 0
        self.hits: Counter[str] = Counter()
        self._due: deque[tuple[int, str, Action]] = deque()
        # Actions follow one another, as a job's changes do; whoever takes a step meanwhile waits as well.
        self._acting = asyncio.Lock()
        self._doing: set[asyncio.Task[None]] = set()

    def begin(self, script: Iterable[tuple[int, str, Action]]) -> None:
        self.taken, self._due = 0, deque(script)

    async def at(self, name: str) -> None:
        """One step. Whoever takes it waits for what is due."""
        self.taken += 1
        while self._due and self._due[0][0] <= self.taken:
            # The application may give up what waits here, a writer whose reader has left; the commit is none of its.
            await asyncio.shield(self._begun(self._do(name)))

    async def finish(self) -> None:
        """Whenever nothing moves, do the next of what is left, until all is done."""
        while self._due:
            seen = self.taken
            await asyncio.sleep(QUIET_SECONDS)
            if seen == self.taken:
                await self._do("quiet")
        while self._doing:
            await asyncio.wait(self._doing)

    def _begun(self, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(doing)
        self._doing.add(task)
        task.add_done_callback(self._doing.discard)
        return task

    async def _do(self, name: str) -> None:
        async with self._acting:
            if not self._due:
                return  # somebody else has done it
            _, kind, action = self._due.popleft()
            if kind == "commit":
                self.hits[name] += 1
            await action()


class Watcher:
    """One reader of a job's events, where an ASGI server would be. `after`: see oracle.check."""

    def __init__(self, app: Any, steps: Steps, job: UUID, cursor: str | None) -> None:
        self._app, self._steps, self._job, self._cursor = app, steps, job, cursor
        self.after = 0 if cursor else None
        self.frames: list[Frame] = []
        self.statuses: list[int] = []
        self.is_complete = False
        self._last_event_id = ""
        self._gone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def connect(self) -> None:
        self._gone = asyncio.Event()
        self._task = asyncio.create_task(self._run(self._gone, Parser(self._last_event_id)))

    async def cut(self) -> None:
        """Leave, whatever is on its way, and come back with the cursor."""
        if not self.is_complete:
            self._gone.set()
            self.connect()

    async def ended(self) -> None:
        while not self.is_complete:
            assert self._task is not None
            task = self._task
            await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
            assert task.done(), f"told {[(frame.event, frame.last_event_id) for frame in self.frames]}, and no more"
            task.result()
            if task is self._task and not self.is_complete:
                self.connect()

    async def _run(self, gone: asyncio.Event, parser: Parser) -> None:
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if gone.is_set():
                return  # as a server does with what nobody receives any more
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
                await self._steps.at("begun")
                return
            self.frames += parser.feed(message.get("body", b""))
            self._last_event_id = parser.last_event_id
            if message.get("more_body"):
                await self._steps.at("sent")
            else:
                self.is_complete = True
                gone.set()

        await self._app(self._scope(), receive, send)

    def _scope(self) -> dict[str, Any]:
        headers = [(b"host", b"127.0.0.1:8080"), (b"accept", b"text/event-stream")]
        headers += [(b"last-event-id", self._last_event_id.encode())] if self._last_event_id else []
        path = f"/jobs/{self._job}/events"
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": f"lastEventId={self._cursor}".encode() if self._cursor else b"",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
        }


class LongPoll:
    """One who waits on the hub itself, as long polls do."""

    def __init__(self, hub: Hub, job: UUID) -> None:
        self.seen: list[int] = []
        self._hub, self._job = hub, job
        self._task: asyncio.Task[None] | None = None

    def connect(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def ended(self) -> None:
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        async with self._hub.watch(self._job, TENANT) as topic:
            self.seen.append(topic.last)
            while not topic.is_terminal:
                assert await topic.changed(PATIENCE_SECONDS), f"saw {self.seen}, and no more"
                self.seen.append(topic.last)


@dataclass
class World:
    """The application and the database it runs on, for one run after another."""

    app: Any
    database: Database
    channel: str
    steps: Steps
    jobs: list[UUID] = field(default_factory=list)

    async def job(self) -> UUID:
        """One that has just been accepted."""
        if not self.jobs:
            fresh = [make_job() for _ in range(BATCH)]
            await Ledger(self.database, UNHEARD).accept(fresh, 600)
            self.jobs = [job.id for job in fresh]
        return self.jobs.pop()


class Run:
    """One job's life and everybody who watches it, drawn from a seed."""

    def __init__(self, world: World, job: UUID, seed: int) -> None:
        self.world, self.job, self.rng = world, job, random.Random(seed)
        self.watchers: list[Watcher] = []
        self.polls: list[LongPoll] = []
        self._lease, self._sequence, self._progress = 0, 1, 0

    async def play(self) -> None:
        """Watch the job while it lives, to its end."""
        self.world.steps.begin(self._script())
        await self._join()
        await self.world.steps.finish()
        # The last word is never lost; all others may be.
        await self._ring(self.world.channel)
        for watcher in (*self.watchers, *self.polls):
            await watcher.ended()

    def _script(self) -> list[tuple[int, str, Action]]:
        actions: list[tuple[str, Action]] = []
        for _ in range(self.rng.choice((0, 0, 1))):
            actions += [("commit", self._claim), ("commit", functools.partial(self._settle, State.PROCESSING))]
        actions += [("commit", self._claim), ("commit", functools.partial(self._settle, State.SUCCESS))]
        extras: list[Action] = [self._join, self._poll, self._cut, self._report]
        for extra in self.rng.choices(extras, k=self.rng.choice((0, 1, 2, 3))):
            actions.insert(self.rng.randint(0, len(actions)), ("extra", extra))
        places = sorted(self.rng.randint(0, STEPS_MAX) for _ in actions)
        return [(place, kind, action) for place, (kind, action) in zip(places, actions, strict=True)]

    async def _join(self) -> None:
        watcher = Watcher(self.world.app, self.world.steps, self.job, self.rng.choice((None, "earliest", "earliest")))
        self.watchers.append(watcher)
        watcher.connect()

    async def _poll(self) -> None:
        poll = LongPoll(self.world.app.state.hub, self.job)
        self.polls.append(poll)
        poll.connect()

    async def _cut(self) -> None:
        if self.watchers:
            await self.rng.choice(self.watchers).cut()

    async def _claim(self) -> None:
        async with self._told() as ledger:
            [attempt] = await ledger.claim([self.job], [TYPE], WORKER, 600)
            self._lease = attempt.lease

    async def _settle(self, state: State) -> None:
        code = None if state is State.SUCCESS else "WORKER_STOPPED"
        async with self._told() as ledger:
            assert await ledger.settle([Outcome(self.job, self._lease, state, code)], WORKER) == [True]

    async def _report(self) -> None:
        ledger = Ledger(self.world.database, self.rng.choice((self.world.channel, UNHEARD)))
        await ledger.report([Progress(self.job, self._lease, self.rng.random() * 100, "")], WORKER)

    @contextlib.asynccontextmanager
    async def _told(self) -> AsyncIterator[Ledger]:
        """A ledger for one commit, whose NOTIFY is heard, lost, doubled, or comes before what it tells of."""
        way = self.rng.choice(("heard", "heard", "lost", "doubled", "early"))
        self._sequence += 1
        if way == "early":
            await self._ring(self.world.channel)
        is_heard = way in ("heard", "doubled")
        yield Ledger(self.world.database, self.world.channel if is_heard else UNHEARD)
        if way == "doubled":
            await self._ring(self.world.channel)

    async def _ring(self, channel: str) -> None:
        [payload] = payloads([Hint(self.job, self._sequence, 0)])
        await self.world.database.fetch("SELECT pg_notify($1, $2)", channel, payload)


@contextlib.asynccontextmanager
async def open_world(settings: Settings, patch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """The application, started as a server starts it, with a step at each end of every read."""
    steps = Steps()
    for name, method in list(vars(Reader).items()):
        if inspect.iscoroutinefunction(method):
            patch.setattr(Reader, name, _stepped(name, method, steps))
    app = create_app(settings)
    async with Database(settings.database_url.get_secret_value()) as database, _started(app):
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not app.state.hub.is_ready:
                await asyncio.sleep(0.01)
        yield World(app, database, settings.notify_channel, steps)


def _stepped(name: str, method: Callable[..., Awaitable[Any]], steps: Steps) -> Callable[..., Awaitable[Any]]:
    async def stepped(*args: Any, **kwargs: Any) -> Any:
        await steps.at(f"{name} asked")
        answer = await method(*args, **kwargs)
        await steps.at(f"{name} answered")
        return answer

    return stepped


@contextlib.asynccontextmanager
async def _started(app: Any) -> AsyncIterator[None]:
    """ASGI's lifespan."""
    ended, said = asyncio.Event(), asyncio.Queue[str]()
    words = iter(["lifespan.startup"])

    async def receive() -> dict[str, Any]:
        if (word := next(words, None)) is None:
            await ended.wait()
            word = "lifespan.shutdown"
        return {"type": word}

    async def send(message: Any) -> None:
        said.put_nowait(message["type"])

    task = asyncio.create_task(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    try:
        assert await said.get() == "lifespan.startup.complete"
        yield
    finally:
        ended.set()
        await task
