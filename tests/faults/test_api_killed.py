"""kill -9 of the API around a submit (rows 1 to 3), and one idempotency key from many clients (row 31)."""

import asyncio
import contextlib

import httpx
import pytest

from tests.faults.house import PATIENT, House

SETTINGS = PATIENT

ACCEPT = "todoke.store.ledger:Ledger.accept"
SEND = "todoke.queue.sqs:SqsQueue.send"


async def submit(url: str, house: House, key: str) -> httpx.Response | None:
    """One submit; None when the API died on it."""
    async with httpx.AsyncClient(base_url=url, timeout=10) as client:
        with contextlib.suppress(httpx.TransportError):
            return await client.post(
                "/act", json={"params": {"path": str(house.effects)}}, headers={"Idempotency-Key": key}
            )
    return None


@pytest.mark.parametrize(
    ("when", "target", "rows"),
    [("before", ACCEPT, 0), ("after", ACCEPT, 1), ("answer", SEND, 1)],
    ids=["1-before-its-commit", "2-between-commit-and-send", "3-after-send-before-the-answer"],
)
async def test_an_api_killed_around_a_submit_keeps_one_job_a_key(
    house: House, when: str, target: str, rows: int
) -> None:
    doomed = await house.start("api", "kill", when, target)
    told = await submit(doomed.url, house, "one")
    # The hint goes out beside the answer, which may be the sooner of the two.
    assert told is None or (target == SEND and house.accept(told, "one"))
    await house.struck(doomed)
    found = await house.database.fetch("SELECT id FROM job")
    assert len(found) == rows
    api = await house.start("api")
    await house.start()
    answer = await submit(api.url, house, "one")
    assert answer is not None
    job = house.accept(answer, "one")
    assert answer.headers.get("Idempotent-Replayed") == ("true" if rows else None)
    assert [row["id"] for row in found] == [job][:rows]
    assert (await house.end(job))["attempt"] == 1
    await house.verdict(is_duplicates_only=True)


async def test_one_key_from_a_hundred_clients_is_one_job(house: House) -> None:
    """Row 31, over two APIs at once."""
    apis = [await house.start("api"), await house.start("api")]
    await house.start()
    body = {"params": {"path": str(house.effects)}}
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=a.url, timeout=20)) for a in apis]
        answers = await asyncio.gather(
            *(clients[n % 2].post("/act", json=body, headers={"Idempotency-Key": "k"}) for n in range(100))
        )
        other = await clients[0].post("/act", json=body | {"metadata": {"a": 1}}, headers={"Idempotency-Key": "k"})
    assert {answer.status_code for answer in answers} == {202}
    assert len({house.accept(answer, "k") for answer in answers}) == 1
    assert sum("Idempotent-Replayed" not in answer.headers for answer in answers) == 1
    assert other.status_code == 422
    history = await house.verdict(is_duplicates_only=True)
    assert len(history.rows) == 1
