"""A Todoke of a test's own: database with the log of changes, queue behind a proxy, real processes, one history."""

import asyncio
import contextlib
import hashlib
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import boto3
import httpx

from tests.conftest import make_settings
from tests.faults.history import Bounds, Deed, History, Kept, Left, Seen, install
from tests.faults.invariants import check
from tests.faults.processes import ROOT, Process, answers, launch, until
from tests.faults.proxy_aws import AwsProxy
from tests.make import make_job
from todoke.dev.aws import REGION, Emulator
from todoke.dev.postgres import Postgres
from todoke.queue.sqs import SqsQueue, parse_body
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.repair import Repair

QUICK: dict[str, Any] = {
    "lease_seconds": 2.0,
    "heartbeat_seconds": 0.5,
    "sweep_seconds": 0.3,
    "redispatch_seconds": 1.0,
    "receive_wait_seconds": 1,
    "visibility_seconds": 3,
    "slots": 4,
    "jobs": ("tests.faults.fault_jobs",),
    "log_level": "INFO",
}
# For tests in which no lease is to run out, however busy the machine is.
PATIENT: dict[str, Any] = {"lease_seconds": 20.0, "heartbeat_seconds": 1.0}
# Lease, sweep, receive and a start of a child on a busy machine.
RECOVERY_SECONDS = 2.0 + 0.3 + 1.0 + 3.0


class House:
    """Everything one test of faults needs. What it does is written into `history`."""

    def __init__(
        self, settings: Settings, database: Database, aws: AwsProxy, folder: Path, dead_letter_url: str
    ) -> None:
        self.settings, self.database, self.aws, self.folder = settings, database, aws, folder
        self.ledger, self.reader = Ledger(database, settings.notify_channel), Reader(database)
        self.repair = Repair(database, settings.notify_channel)
        self.queue = SqsQueue.from_settings(settings)
        self.dead_letter_url = dead_letter_url
        self.history = History()
        self.effects = folder / "effects"
        self.processes: list[Process] = []
        self.offered_keys: set[str] = set()

    async def start(
        self, kind: str = "worker", *at: str, is_ready: bool = True, root: Path = ROOT, **overrides: Any
    ) -> Process:
        """Start a process. `at`: action, when, target for tests.faults.at. root: the folder whose code runs."""
        chosen = self.settings.model_copy(update=overrides)
        process = await launch(kind, at, chosen, self.folder, root=root)
        self.processes.append(process)
        if is_ready and kind == "api":
            await answers(process)
        elif is_ready:
            await until(lambda: bool(process.logged(f"{kind}.started")), what=lambda: process.lines[-20:])
        return process

    def params(self, **values: Any) -> str:
        """The params of one of the fault jobs, which leaves its lines where this house looks."""
        return json.dumps({"path": str(self.effects)} | values)

    async def submit(self, type_: str = "act", *, copies: int = 1, **values: Any) -> UUID:
        """Accept one job and send `copies` of its hint, as the API does. Values that NewJob knows go there."""
        known = {name: values.pop(name) for name in list(values) if name in make_job().__dict__}
        job = make_job(type=type_, params=self.params(**values), **{"timeout_seconds": 60.0} | known)
        await self.ledger.accept([job], self.settings.redispatch_seconds)
        self.history.accepted[job.id] = job.idempotency_key
        if copies:
            await self.queue.send([job.id] * copies)
        return job.id

    def accept(self, answer: httpx.Response, key: str | None = None) -> UUID:
        """Remember what an API has promised with a 202."""
        assert answer.status_code == 202, answer.text
        job = UUID(answer.json()["jobId"])
        self.history.accepted[job] = key
        return job

    def offer(self, key: str) -> None:
        """Remember a submit without an answer: its job may be there or not."""
        self.offered_keys.add(key)

    async def row(self, job: UUID) -> dict[str, Any]:
        [row] = await self.database.fetch("SELECT * FROM job WHERE id = $1", job)
        return dict(row)

    async def when(self, job: UUID, condition: Callable[[dict[str, Any]], bool], seconds: float = 20) -> dict[str, Any]:
        """The row as soon as the condition holds for it."""
        deadline = time.monotonic() + seconds
        while not condition(row := await self.row(job)):
            assert time.monotonic() < deadline, self.told(row)
            await asyncio.sleep(0.02)
        return row

    async def end(self, job: UUID, seconds: float = 20) -> dict[str, Any]:
        return await self.when(job, lambda row: row["state"] in ("SUCCESS", "FAILED"), seconds)

    async def started(self, job: UUID, lease: int = 1, what: str = "start") -> int:
        """Wait until job code began (or did `what`) under this lease; its process id."""
        found: list[int] = []

        def look() -> bool:
            lines = self.effects.read_text().splitlines() if self.effects.exists() else []
            found[:] = [int(w[3]) for line in lines if (w := line.split())[:3] == [str(job), str(lease), what]]
            return bool(found)

        await until(look, what=lambda: self.told(None))
        return found[0]

    def kill(self, process: Process, name: str = "") -> None:
        process.signal(signal.SIGKILL)
        self.deed("kill", name or process.name)

    def stop(self, process: Process) -> None:
        process.signal(signal.SIGSTOP)
        self.deed("stop", process.name)

    def go_on(self, process: Process) -> None:
        process.signal(signal.SIGCONT)

    async def terminate(self, process: Process, seconds: float = 25) -> int:
        """SIGTERM, and wait for the end; its exit code."""
        process.signal(signal.SIGTERM)
        self.deed("term", process.name)
        code = await process.ended(seconds)
        self.deed("exit", process.name)
        return code

    async def struck(self, process: Process, seconds: float = 20) -> None:
        """Wait until the process has killed itself at its step."""
        assert await process.ended(seconds) == -signal.SIGKILL, process.lines[-20:]
        self.deed("kill", process.name)

    def deed(self, kind: str, by: str) -> None:
        self.history.deeds.append(Deed(kind, by, time.time()))

    async def seen(self, client: httpx.AsyncClient, job: UUID) -> dict[str, Any]:
        """Poll once, as a client does, and remember what it said."""
        answer = await client.get(f"/jobs/{job}")
        body: dict[str, Any] = answer.json()
        if answer.status_code == 503:
            return body
        percent = (body.get("progress") or {}).get("percent")
        self.history.seen.append(
            Seen(job, body["status"], body["sequence"], body["attempt"], percent, body.get("errorCode"))
        )
        return body

    async def at_rest(self, seconds: float = 30) -> None:
        """Wait until every job has ended, promised or only offered, and no message is left."""
        deadline = time.monotonic() + seconds
        while rows := await self.database.fetch("SELECT * FROM job WHERE state NOT IN ('SUCCESS', 'FAILED')"):
            assert time.monotonic() < deadline, [self.told(dict(row)) for row in rows[:3]]
            await asyncio.sleep(0.05)
        while True:
            self.history.left = await asyncio.to_thread(self.left)
            if not (self.history.left.visible or self.history.left.hidden):
                return
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.05)

    async def verdict(self, seconds: float = 30, **bounds: Any) -> History:
        """Come to rest, gather everything recorded, and check it."""
        await self.at_rest(seconds)
        history = self.history
        history.bounds = Bounds(**{"slots": self.settings.slots} | bounds)
        history.traffic = list(self.aws.log)
        history.read_effects(self.effects)
        connection = await asyncpg.connect(self.settings.database_url.get_secret_value())
        try:
            await history.read_database(connection)
        finally:
            await connection.close()
        history.offered |= {job for job, row in history.rows.items() if row["idempotency_key"] in self.offered_keys}
        history.kept = await self._kept()
        check(history)
        return history

    def told(self, row: dict[str, Any] | None) -> str:
        """What to print when a wait was in vain."""
        logs = [
            f"--- {p.kind} {p.name} {p.process.returncode}\n" + "\n".join(map(str, p.lines[-15:]))
            for p in self.processes
        ]
        return "\n".join([str(row), *logs])

    def left(self) -> Left:
        """What the queues hold now; blocks."""
        names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        # Straight at the emulator: what the proxy does to others is no fault of the test's own eyes.
        client = boto3.client("sqs", endpoint_url=self.aws.target_url, region_name=REGION)
        try:
            found = client.get_queue_attributes(QueueUrl=self.queue._url, AttributeNames=names)["Attributes"]
            dead: list[UUID | None] = []
            # Looked at, not taken: a worker may be there to keep them.
            for message in client.receive_message(
                QueueUrl=self.dead_letter_url, MaxNumberOfMessages=10, VisibilityTimeout=0
            ).get("Messages", []):
                dead.append(parse_body(message["Body"]))
        finally:
            client.close()
        return Left(*(int(found[name]) for name in names), tuple(dead))

    async def _kept(self) -> list[Kept]:
        rows = await self.database.fetch("SELECT * FROM artifact")
        client = boto3.client("s3", endpoint_url=self.aws.target_url, region_name=REGION)
        try:
            return [await asyncio.to_thread(_look, client, self.settings.s3_bucket, dict(row)) for row in rows]
        finally:
            client.close()


MakeHouse = Callable[..., contextlib.AbstractAsyncContextManager[House]]


@contextlib.asynccontextmanager
async def open_house(
    postgres: Postgres, emulator: Emulator, folder: Path, *, receives_max: int = 100, **overrides: Any
) -> AsyncIterator[House]:
    """A house with a migrated database, queues and a proxy of its own; its processes end with it."""
    name = f"faults_{secrets.token_hex(6)}"
    base = postgres.url.rsplit("/", 1)[0]
    await _execute(f"{base}/postgres", f"CREATE DATABASE {name} TEMPLATE todoke")
    await install(f"{base}/{name}")
    client = boto3.client("sqs", endpoint_url=emulator.url, region_name=REGION)
    queue_url, dead_letter_url = await asyncio.to_thread(_queues, client, receives_max)
    async with contextlib.AsyncExitStack() as stack:
        aws = await stack.enter_async_context(AwsProxy(emulator.url))
        parts = {"aws_endpoint_url": aws.url, "sqs_queue_url": aws.moved(queue_url)}
        settings = make_settings(f"{base}/{name}", queue_url, emulator, **QUICK | parts | overrides)
        database = await stack.enter_async_context(Database(f"{base}/{name}"))
        house = House(settings, database, aws, folder, dead_letter_url)
        stack.callback(house.queue.close)
        try:
            yield house
        finally:
            for process in house.processes:
                process.signal(signal.SIGKILL)
            for process in house.processes:
                await process.ended()
    for url in (queue_url, dead_letter_url):
        client.delete_queue(QueueUrl=url)
    client.close()
    await _execute(f"{base}/postgres", f"DROP DATABASE {name} WITH (FORCE)")


async def together(*works: Awaitable[object]) -> None:
    """Do everything at once; the first failure is told, the rest is canceled."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_as_coroutine(work)) for work in works]
    assert not any(task.cancelled() for task in tasks)


async def _as_coroutine(work: Awaitable[object]) -> None:
    await work


def _queues(client: Any, receives_max: int) -> Sequence[str]:
    name = f"faults-{secrets.token_hex(6)}"
    dead = client.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(receives_max)})
    return client.create_queue(QueueName=name, Attributes={"RedrivePolicy": redrive})["QueueUrl"], dead


def _look(client: Any, bucket: str, row: dict[str, Any]) -> Kept:
    content = row["content"]
    if row["object_key"] is not None:
        try:
            content = client.get_object(Bucket=bucket, Key=row["object_key"])["Body"].read()
        except client.exceptions.NoSuchKey:
            content = None
    found = None if content is None else hashlib.sha256(content).hexdigest()
    result = json.loads(content) if content and row["name"] == "result.json" else None
    return Kept(row["job_id"], row["object_key"], row["sha256"], found, result)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
