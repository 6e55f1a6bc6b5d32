"""A schedule of random faults, drawn from a seed: kills, stops, restarts, cut commits, broken wires, refused calls."""

import asyncio
import contextlib
import random
import secrets
import signal
import time
from collections.abc import Awaitable, Callable

import httpx

from tests.faults.house import House, Process
from tests.faults.proxy import Proxy
from tests.faults.proxy_postgres import PostgresProxy

KINDS = ("act", "act-async", "act-in-a-thread")
MARKERS = ("INSERT INTO job", "job.lease + 1", "INSERT INTO artifact", "dispatch_count + 1")


class Chaos:
    """API, workers and notifier of a house behind `wire` (PostgreSQL) and `line` (SQS, S3), and what befalls them."""

    def __init__(self, house: House, wire: PostgresProxy, line: Proxy, rng: random.Random) -> None:
        self._house, self._wire, self._line, self._rng = house, wire, line, rng
        self._processes: list[Process] = []
        self._parts = wire.through | {
            "aws_endpoint_url": line.url,
            "sqs_queue_url": line.moved(house.settings.sqs_queue_url),
            "drain_seconds": 1.0,
            "queue_outage_seconds": 1.0,
        }
        self._faults: tuple[Callable[[], Awaitable[None]], ...] = (
            self._kill,
            self._kill,
            self._stop,
            self._restart,
            self._cut_commits,
            self._break_postgres,
            self._break_aws,
            self._refuse,
            self._repeat,
            self._fail_entries,
        )

    async def run(self, seconds: float) -> None:
        """Submit and do harm for `seconds`, then put everything right again."""
        for kind in ("api", "worker", "worker", "notifier"):
            self._processes.append(await self._started(kind))
        self._house.accept(await self._first())
        until = time.monotonic() + seconds
        submitting = asyncio.create_task(self._submit_on(until))
        watching = asyncio.create_task(self._watch_on(until))
        while time.monotonic() < until:
            await self._rng.choice(self._faults)()
            await asyncio.sleep(self._rng.uniform(0.05, 0.4))
        await submitting
        await watching
        await self.calm()

    async def _first(self) -> httpx.Response:
        """The answer to a submit before any harm is done, as soon as the API stands."""
        async with httpx.AsyncClient(base_url=self._processes[0].url, timeout=30) as client:
            return await client.post("/act", json={"params": {"path": str(self._house.effects)}})

    async def calm(self) -> None:
        """Every wire mended, everybody up."""
        self._house.aws.calm()
        await self._wire.mend()
        await self._line.mend()
        for process in self._processes:
            process.signal(signal.SIGCONT)
        for place, process in enumerate(self._processes):
            if not process.is_alive:
                self._processes[place] = await self._started(process.kind)

    async def _started(self, kind: str) -> Process:
        return await self._house.start(kind, is_ready=False, **self._parts)

    def _victim(self) -> int:
        return self._rng.randrange(len(self._processes))

    async def _kill(self) -> None:
        place = self._victim()
        process = self._processes[place]
        self._house.kill(process)
        await process.ended()
        self._processes[place] = await self._started(process.kind)

    async def _stop(self) -> None:
        process = self._processes[self._victim()]
        self._house.stop(process)
        await asyncio.sleep(self._rng.choice((0.2, 1.0, 3.0)))
        self._house.go_on(process)

    async def _restart(self) -> None:
        place = self._victim()
        process = self._processes[place]
        process.signal(signal.SIGTERM)
        self._house.deed("stop", process.name)
        await process.ended(30)
        self._processes[place] = await self._started(process.kind)

    async def _cut_commits(self) -> None:
        self._house.deed("cut", "commit")
        marker, is_delivered = self._rng.choice(MARKERS), self._rng.random() < 0.5
        self._wire.cut_commit(marker, is_delivered=is_delivered, times=self._rng.randint(1, 3))

    async def _break_postgres(self) -> None:
        await self._broken(self._wire)

    async def _break_aws(self) -> None:
        await self._broken(self._line)

    async def _broken(self, proxy: Proxy) -> None:
        self._house.deed("cut", "wire")
        how = self._rng.random()
        if how < 0.4:
            proxy.drop()
        elif how < 0.8:
            await proxy.cut()
            await asyncio.sleep(self._rng.uniform(0.1, 2.5))
            await proxy.mend()
        else:
            proxy.swallow()
            await asyncio.sleep(self._rng.uniform(0.1, 1.5))
            await proxy.mend()

    async def _refuse(self) -> None:
        self._house.deed("cut", "refused")
        action = self._rng.choice(("*", "ReceiveMessage", "SendMessageBatch", "DeleteMessageBatch", "PutObject"))
        self._house.aws.refuse(action, times=self._rng.randint(1, 10))

    async def _repeat(self) -> None:
        copies = self._rng.choice(((0, 0), (0, 2), (1, 3)))
        self._house.aws.send_copies = self._house.aws.receive_copies = copies

    async def _fail_entries(self) -> None:
        action = self._rng.choice(("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"))
        self._house.aws.fail_entries(action, lambda position: position % 2 == 0, times=3)

    async def _submit_on(self, until: float) -> None:
        """A client that gives up on nothing: what was not answered is offered, what was is promised."""
        while time.monotonic() < until:
            await self._submit(secrets.token_hex(8))
            await asyncio.sleep(self._rng.uniform(0, 0.15))

    async def _submit(self, key: str) -> None:
        params = {
            "path": str(self._house.effects),
            "seconds": self._rng.choice((0, 0, 0.1, 0.5, 3)),
            "failures": self._rng.choice((0, 0, 0, 1)),
            "size": self._rng.choice((0, 0, 100_000)),
        }
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(base_url=self._processes[0].url, timeout=2) as client:
                answer = await client.post(
                    f"/{self._rng.choice(KINDS)}", json={"params": params}, headers={"Idempotency-Key": key}
                )
                if answer.status_code == 202:
                    self._house.accept(answer, key)
                    return
                assert answer.status_code == 503, answer.text
        self._house.offer(key)

    async def _watch_on(self, until: float) -> None:
        """A client that polls what it was promised."""
        while time.monotonic() < until:
            await asyncio.sleep(0.1)
            promised = list(self._house.history.accepted)[-20:]
            with contextlib.suppress(httpx.HTTPError):
                async with httpx.AsyncClient(base_url=self._processes[0].url, timeout=2) as client:
                    for job in self._rng.sample(promised, min(3, len(promised))):
                        await self._house.seen(client, job)
