"""Messages nobody could take: kept, judged by their jobs' rows, listed and sent again."""

import asyncio
import json
import secrets
import subprocess
import sys
from collections.abc import Iterator

import boto3
import pytest

from tests.worker.conftest import Office, StartWorker, environment, until
from todoke.dev.aws import REGION, Emulator
from todoke.model.ids import new_id
from todoke.queue.sqs import body
from todoke.runtime.settings import Settings


@pytest.fixture
def dlq_url(emulator: Emulator) -> Iterator[str]:
    client = boto3.client("sqs", endpoint_url=emulator.url, region_name=REGION)
    url = client.create_queue(QueueName=f"test-dlq-{secrets.token_hex(6)}")["QueueUrl"]
    yield url
    client.delete_queue(QueueUrl=url)
    client.close()


async def test_letters_are_kept_and_judged(start_worker: StartWorker, office: Office, dlq_url: str) -> None:
    dead = await office.submit("not-known-here", is_hinted=False)
    await office.database.fetch("UPDATE job SET dispatch_count = 3, redispatch_at = now() + interval '1 h'")
    good = await office.submit("double", {"number": 1}, is_hinted=False)
    letters = office.queue.beside(dlq_url)
    assert await letters.send_bodies(["hello", body(dead), body(good), body(new_id())]) == [True] * 4
    worker = await start_worker(dlq_url=dlq_url)
    row = await office.end(dead)
    assert (row["state"], row["error_code"]) == ("FAILED", "DEAD_LETTERED")
    assert await office.result(good) == {"number": 2}
    await until(lambda: bool(worker.logged("dead_letters.kept")))
    rows = await office.database.fetch("SELECT body, verdict, sent_at FROM dead_letter")
    assert {(row["body"], row["verdict"]) for row in rows} >= {("hello", "unparseable"), (body(dead), "failed")}
    assert sorted(row["verdict"] for row in rows) == ["dropped", "dropped", "failed", "unparseable"]
    assert all(row["sent_at"] for row in rows)
    await Office(office.ledger, office.reader, office.database, letters).until_queue_is_empty()


async def test_an_operator_lists_and_redrives(
    start_worker: StartWorker, office: Office, settings: Settings, dlq_url: str
) -> None:
    letters = office.queue.beside(dlq_url)
    await letters.send_bodies(["one", "two"])
    worker = await start_worker(dlq_url=dlq_url)
    await until(lambda: bool(worker.logged("dead_letters.kept")))
    worker.process.kill()
    await worker.ended()

    def todoke(*words: str) -> str:
        run = subprocess.run(
            [sys.executable, "-m", "todoke", "dlq", *words],
            env=environment(settings),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return run.stdout + run.stderr

    found = json.loads(await asyncio.to_thread(todoke, "list", "--json"))
    assert {(letter["body"], letter["verdict"], letter["redrivenAt"]) for letter in found} == {
        ("one", "unparseable", None),
        ("two", "unparseable", None),
    }
    assert "2 dead letters would be sent again" in await asyncio.to_thread(todoke, "redrive", "--all", "--dry-run")
    assert await office.queue.receive(10, 0) == []
    assert "1 dead letters sent again" in await asyncio.to_thread(todoke, "redrive", found[0]["id"])
    [again] = await office.queue.receive(10, 2)
    assert again.body == found[0]["body"]
    assert len(json.loads(await asyncio.to_thread(todoke, "list", "--json"))) == 1
    assert len(json.loads(await asyncio.to_thread(todoke, "list", "--json", "--all"))) == 2
    assert "1 dead letters sent again" in await asyncio.to_thread(todoke, "redrive", "--all")
    assert "no such dead letter: nobody" in await asyncio.to_thread(todoke, "redrive", "nobody")
    assert "name the dead letters" in await asyncio.to_thread(todoke, "redrive")
