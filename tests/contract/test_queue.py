"""One suite for the queue, against every endpoint it is meant to work with."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import boto3
import pytest
from moto import mock_aws

from todoke.dev.aws import REGION, Emulator
from todoke.model.errors import Unavailable
from todoke.model.ids import new_id
from todoke.queue.sqs import SqsQueue, body, parse_body


# moto stands inside boto3, so that it hears nothing of what does not go through it.
@pytest.fixture(params=["moto", "ministack", "ministack, lean"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def is_lean(way: str) -> bool:
    return way.endswith("lean")


@pytest.fixture
def endpoint(way: str, request: pytest.FixtureRequest) -> Iterator[str | None]:
    if way == "moto":
        with mock_aws():
            yield None
    else:
        emulator: Emulator = request.getfixturevalue("emulator")
        yield emulator.url


@pytest.fixture
def url(endpoint: str | None) -> Iterator[str]:
    client = boto3.client("sqs", endpoint_url=endpoint, region_name=REGION)
    yield client.create_queue(QueueName=f"test-{secrets.token_hex(6)}")["QueueUrl"]
    client.close()


@pytest.fixture
async def queue(endpoint: str | None, is_lean: bool, url: str) -> AsyncIterator[SqsQueue]:
    queue = SqsQueue(url, region=REGION, endpoint_url=endpoint, is_lean=is_lean)
    yield queue
    await queue.aclose()


async def test_what_is_sent_is_received(queue: SqsQueue) -> None:
    jobs = [new_id() for _ in range(10)]
    assert await queue.send(jobs) == []
    got = [message async for message in _all(queue, 10)]
    assert {message.job_id for message in got} == set(jobs)
    assert {message.receive_count for message in got} == {1}


async def test_deleted_messages_stay_away_and_deleting_again_is_no_error(queue: SqsQueue) -> None:
    await queue.send([new_id()])
    [message] = await queue.receive(1, 2)
    await queue.defer([message.receipt], 0)
    [again] = await queue.receive(1, 2)
    await queue.delete([again.receipt])
    await queue.delete([again.receipt])
    assert await queue.receive(10, 0) == []


async def test_a_deferred_message_comes_back_and_counts(queue: SqsQueue) -> None:
    job = new_id()
    await queue.send([job])
    [first] = await queue.receive(10, 2)
    await queue.defer([first.receipt], 0)
    [second] = await queue.receive(10, 2)
    assert (second.job_id, second.receive_count) == (job, 2)
    await queue.defer([second.receipt], 60)
    assert await queue.receive(10, 0) == []


async def test_an_empty_queue_answers_with_nothing(queue: SqsQueue) -> None:
    assert await queue.receive(10, 0) == []
    await queue.delete([])
    await queue.defer([], 5)
    assert await queue.send([]) == []


async def test_one_bad_receipt_does_not_spoil_its_batch(queue: SqsQueue) -> None:
    await queue.send([new_id()])
    [message] = await queue.receive(1, 2)
    await queue.delete(["no-receipt-of-ours", message.receipt])
    assert await queue.receive(10, 0) == []


async def test_a_foreign_body_has_no_job(queue: SqsQueue, endpoint: str | None, url: str) -> None:
    client = boto3.client("sqs", endpoint_url=endpoint, region_name=REGION)
    client.send_message(QueueUrl=url, MessageBody="hello")
    client.close()
    [message] = await queue.receive(1, 2)
    assert message.job_id is None


async def test_a_long_poll_does_not_hold_up_a_send(queue: SqsQueue) -> None:
    polls = [asyncio.create_task(queue.receive(1, 5)) for _ in range(3)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(3):
        await queue.send([new_id() for _ in polls])
    async with asyncio.timeout(5):
        assert [len(got) for got in await asyncio.gather(*polls)] == [1, 1, 1]


async def test_a_queue_that_is_gone_is_unavailable(queue: SqsQueue, endpoint: str | None, url: str) -> None:
    client = boto3.client("sqs", endpoint_url=endpoint, region_name=REGION)
    client.delete_queue(QueueUrl=url)
    client.close()
    with pytest.raises(Unavailable):
        await queue.receive(1, 0)
    with pytest.raises(Unavailable):
        await queue.send([new_id()])


async def test_an_endpoint_that_refuses_is_unavailable() -> None:
    queue = SqsQueue("http://127.0.0.1:9/000000000000/q", region=REGION, endpoint_url="http://127.0.0.1:9")
    for call in (queue.receive(1, 0), queue.send([new_id()]), queue.delete(["x"]), queue.defer(["x"], 1)):
        with pytest.raises(Unavailable):
            await call
    queue.close()


async def test_a_queue_without_a_url_is_unavailable() -> None:
    queue = SqsQueue("", region=REGION)
    with pytest.raises(Unavailable, match="SQS_QUEUE_URL"):
        await queue.send([new_id()])
    queue.close()


def test_the_body_is_exact() -> None:
    job = new_id()
    assert body(job) == f'{{"jobId":"{job}"}}'
    assert parse_body(body(job)) == job


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "null",
        '{"jobId":1}',
        '{"jobId":"x"}',
        '{"jobId":null}',
        "{}",
        "[" * 100_000,
        '{"jobId":"\\ud800"}',
        body(UUID(int=7))[:-1] + ',"more":1}',
    ],
)
def test_anything_else_is_no_hint(text: str) -> None:
    assert parse_body(text) is None


async def _all(queue: SqsQueue, count: int):  # type: ignore[no-untyped-def]
    got = 0
    async with asyncio.timeout(10):
        while got < count:
            for message in await queue.receive(10, 1):
                got += 1
                yield message


async def test_what_a_batch_left_undone_is_asked_for_again(queue: SqsQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQS answers 200 and does a part only; the stub does what is asked but for some entries of the first call."""
    real = queue._call
    asked: list[list[str]] = []

    async def partly(operation: str, request: dict[str, Any]) -> dict[str, Any]:
        entries = request["Entries"]
        asked.append([entry["Id"] for entry in entries])
        left = [entry["Id"] for entry in entries if len(asked) == 1 and entry["Id"] in ("1", "3")]
        done = [entry for entry in entries if entry["Id"] not in left]
        answer = await real(operation, {**request, "Entries": done})
        failed = [{"Id": key, "Code": "InternalError", "SenderFault": False} for key in left]
        return {**answer, "Failed": [*answer.get("Failed", []), *failed]}

    monkeypatch.setattr(queue, "_call", partly)
    jobs = [new_id() for _ in range(4)]
    assert await queue.send(jobs) == []
    got = [message async for message in _all(queue, 4)]
    assert {message.job_id for message in got} == set(jobs)
    assert asked == [["0", "1", "2", "3"], ["1", "3"]]
    asked.clear()
    await queue.defer([message.receipt for message in got], 0)
    again = [message async for message in _all(queue, 4)]
    assert [len(keys) for keys in asked] == [4, 2]
    asked.clear()
    await queue.delete([message.receipt for message in again])
    assert [len(keys) for keys in asked] == [4, 2]
    assert await queue.depth() == 0


async def test_what_stays_undone_is_told(queue: SqsQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    async def never(operation: str, request: dict[str, Any]) -> dict[str, Any]:
        calls.append(operation)
        failed = [{"Id": entry["Id"], "Code": "InternalError", "SenderFault": False} for entry in request["Entries"]]
        return {"Failed": failed}

    monkeypatch.setattr(queue, "_call", never)
    jobs = [new_id(), new_id()]
    assert await queue.send(jobs) == jobs
    with pytest.raises(Unavailable, match="InternalError"):
        await queue.delete(["x"])
    assert calls == ["SendMessageBatch"] * 3 + ["DeleteMessageBatch"] * 3


async def test_a_message_says_what_it_is(queue: SqsQueue) -> None:
    assert await queue.send_bodies(["hello"]) == [True]
    [message] = await queue.receive(1, 2)
    assert (message.body, message.job_id) == ("hello", None)
    assert message.id
    assert message.sent_at is not None
    assert abs((datetime.now(UTC) - message.sent_at).total_seconds()) < 60
