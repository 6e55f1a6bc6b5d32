"""A rolling upgrade: the version before this one works on our schema, beside ours and under load, without an error."""

import ast
import asyncio
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import REPOSITORY, SIGNING_SECRET
from tests.faults.house import PATIENT, House
from tests.faults.processes import Process
from tests.upgrade.conftest import PREVIOUS
from todoke.client.receiver import Receiver
from todoke.store.tables import metadata
from todoke.wire import sse

SETTINGS = PATIENT

KINDS = ("api", "worker", "notifier")
AT_ONCE = 32


def test_the_version_before_is_one_schema_behind(previous: Path) -> None:
    """Or this test would upgrade from a version nobody runs any more."""
    ours, theirs = (
        sorted(path.name for path in (root / "todoke/store/migrations/versions").glob("0*.py"))
        for root in (REPOSITORY, previous)
    )
    assert ours[:-1] == theirs, f"move PREVIOUS (now {PREVIOUS[:7]}) to the commit before the newest migration"


@pytest.mark.parametrize("jobs", [24, pytest.param(1_000, marks=[pytest.mark.full, pytest.mark.timeout(600)])])
async def test_the_version_before_runs_on_our_schema_beside_ours(house: House, previous: Path, jobs: int) -> None:
    async with Receiver(SIGNING_SECRET) as receiver:
        old, new = await _versions(house, previous)
        load = Load(house, [old[0].url, new[0].url], receiver.url)
        # What is submitted to one version is watched and polled at the other, whoever's worker runs it.
        await load.run(jobs // 2)
        # As a deploy does: the old one drains while work goes on.
        going = asyncio.gather(*(house.terminate(process) for process in old))
        load.urls = [new[0].url]
        await load.run(jobs // 2)
        assert await going == [0] * len(old)
        webhooks = await _webhooks(receiver, load.ends)
    history = await house.verdict(is_duplicates_only=True)
    assert {row["state"] for row in history.rows.values()} == {"SUCCESS"}
    # A webhook of either notifier is what every channel said.
    assert webhooks == load.ends
    assert _runners(history.rows) == 2, "workers of both versions took part"
    for process in (*old, *new):
        assert not [line for line in process.lines if line.get("level") in ("error", "critical")], process.lines


async def test_nothing_of_the_old_schema_is_gone(previous: Path) -> None:
    """Expand, then contract a version later: what the version before reads and writes by name is there."""
    names = (previous / "todoke/store/tables.py").read_text()
    gone = [
        f"{table}.{column}"
        for table, columns in _tables(names).items()
        for column in columns
        if table not in metadata.tables or column not in metadata.tables[table].columns
    ]
    assert gone == []


class Load:
    """Jobs submitted at one API and looked at from another, until their end. `ends`: job id to its last event."""

    def __init__(self, house: House, urls: Sequence[str], callback_url: str) -> None:
        self.house, self.urls, self.callback_url = house, list(urls), callback_url
        self.ends: dict[str, str] = {}
        self._numbers = itertools.count()
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(self, jobs: int) -> None:
        async with httpx.AsyncClient(timeout=30) as client, asyncio.TaskGroup() as group:
            for _ in range(jobs):
                group.create_task(self._in_turn(client, next(self._numbers)))

    async def _in_turn(self, client: httpx.AsyncClient, number: int) -> None:
        async with self._places:
            await self._one(client, number)

    async def _one(self, client: httpx.AsyncClient, number: int) -> None:
        here, there = self.urls[number % len(self.urls)], self.urls[(number + 1) % len(self.urls)]
        key = f"key-{number}"
        body = {
            "params": {
                "path": str(self.house.effects),
                "seconds": 0.2 if number % 3 else 0,
                "failures": number % 4 == 0,
            },
            "callbackUrl": self.callback_url,
            "metadata": {"number": number},
        }
        submitted = await client.post(f"{here}/act", json=body, headers={"Idempotency-Key": key})
        job_id = str(self.house.accept(submitted, key))
        again = await client.post(f"{there}/act", json=body, headers={"Idempotency-Key": key})
        assert (again.json()["jobId"], again.headers["idempotent-replayed"]) == (job_id, "true")
        frames = await _watched(client, f"{there}/jobs/{job_id}/events?lastEventId=earliest")
        for url in (here, there):
            polled = await client.get(f"{url}/jobs/{job_id}")
            assert (polled.status_code, polled.json()["status"]) == (200, "success"), polled.text
            log = await client.get(f"{url}/jobs/{job_id}/events", headers={"Accept": "application/json"})
            assert log.text == "[" + ",".join(frames) + "]"
        self.ends[job_id] = frames[-1]


async def _versions(house: House, previous: Path) -> tuple[list[Process], list[Process]]:
    """Three processes of each version, running."""
    started = await asyncio.gather(
        *(house.start(kind, root=previous) for kind in KINDS), *(house.start(kind) for kind in KINDS)
    )
    return started[: len(KINDS)], started[len(KINDS) :]


async def _watched(client: httpx.AsyncClient, url: str) -> list[str]:
    """The numbered events of a job's stream, to its end."""
    decoder, frames = sse.Decoder(), []
    async with asyncio.timeout(60), client.stream("GET", url) as answer:
        async for chunk in answer.aiter_bytes():
            frames += decoder.feed(chunk)
    assert frames[-1].event in ("job.succeeded", "job.failed"), frames[-1]
    return [frame.data for frame in frames if frame.event != "job.progress"]


async def _webhooks(receiver: Receiver, owed: dict[str, str]) -> dict[str, str]:
    """The last event of each job, as its webhook brought it; waits until all that are owed have come."""
    came: dict[str, str] = {}
    async with asyncio.timeout(30):
        while len(came) < len(owed):
            received = await receiver.next()
            assert received.is_verified
            came[received.event["data"]["jobId"]] = received.body.decode()
    return came


def _runners(rows: dict[Any, dict[str, Any]]) -> int:
    return len({row["worker_id"] for row in rows.values()})


def _tables(text: str) -> dict[str, list[str]]:
    """Each table a version names, with its columns, read from its tables.py without running it."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    tables = [call for call in calls if ast.unparse(call.func) == "Table"]
    return {_first(table): [_first(part) for part in table.args[2:] if _is_column(part)] for table in tables}


def _is_column(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("Column", "_moment")


def _first(node: ast.expr) -> str:
    assert isinstance(node, ast.Call)
    return str(ast.literal_eval(node.args[0]))
