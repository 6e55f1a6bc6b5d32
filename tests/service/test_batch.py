"""Many jobs in one commit: all of them or none, each as its own submit would have made it."""

import asyncio
from typing import Any

import httpx
import pytest

from todoke.model.job import NewJob
from todoke.queue.sqs import SqsQueue
from todoke.runtime.settings import Settings
from todoke.store.database import Database

REPORT = {"type": "generate-report"}


async def batch(api: httpx.AsyncClient, *jobs: object, **query: str) -> httpx.Response:
    return await api.post("/jobs/batch", json={"jobs": jobs}, params=query)


async def count(database: Database) -> int:
    return int((await database.fetch("SELECT count(*) FROM job"))[0]["count"])


def pointers(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 422, answer.text
    return [error["pointer"] for error in answer.json()["errors"]]


async def test_jobs_of_a_batch_stand_in_the_order_asked(
    api: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    asked = [REPORT | {"clientRef": f"row {number}", "metadata": {"n": number}} for number in range(25)]
    answer = await batch(api, *asked)
    assert (answer.status_code, answer.headers["cache-control"]) == (202, "no-store")
    body = answer.json()
    assert [job["clientRef"] for job in body["jobs"]] == [f"row {number}" for number in range(25)]
    assert not any(job["isReplay"] for job in body["jobs"])
    for number in (0, 24):
        status = (await api.get(body["jobs"][number]["statusUrl"])).json()
        assert (status["metadata"], status["clientRef"], status["phase"]) == ({"n": number}, f"row {number}", "queued")
    assert answer.headers["location"] == f"/jobs?batchId={body['batchId']}"
    listed = (await api.get(answer.headers["location"] + "&limit=100")).json()["jobs"]
    assert {job["jobId"] for job in listed} == {job["jobId"] for job in body["jobs"]}
    queue, hinted = SqsQueue.from_settings(settings), set()
    async with asyncio.timeout(20):
        while len(hinted) < 25:
            hinted |= {str(message.job_id) for message in await queue.receive(10, 1)}
    queue.close()
    assert hinted == {job["jobId"] for job in body["jobs"]}
    [row] = await database.fetch("SELECT count(DISTINCT xid) AS commits FROM event")
    assert row["commits"] == 1


async def test_a_thousand_are_taken_and_one_more_is_not(api: httpx.AsyncClient, database: Database) -> None:
    assert len((await batch(api, *[REPORT] * 1000)).json()["jobs"]) == 1000
    assert (await batch(api, *[REPORT] * 1001)).status_code == 422
    assert await count(database) == 1000


async def test_every_mistake_is_named_and_nothing_is_kept(api: httpx.AsyncClient, database: Database) -> None:
    answer = await batch(
        api,
        REPORT,
        REPORT | {"params": {"title": 3}},
        {"type": "no-such"},
        REPORT | {"metadata": [], "priority": 10},
        [],
        {},
        REPORT | {"idempotencyKey": ""},
        REPORT | {"clientRef": "x" * 201},
    )
    assert pointers(answer) == [
        "/jobs/1/params/title",
        "/jobs/2/type",
        "/jobs/3/metadata",
        "/jobs/3/priority",
        "/jobs/4/type",
        "/jobs/5/type",
        "/jobs/6/idempotencyKey",
        "/jobs/7/clientRef",
    ]
    assert "generate-report" in answer.json()["errors"][1]["detail"], "which types there are"
    assert len(pointers(await batch(api, *[{}] * 500))) == 100
    assert await count(database) == 0


@pytest.mark.parametrize(
    "body",
    ["[]", "{}", "null", '{"jobs": []}', '{"jobs": {}}', '{"jobs": null}', '{"jobs": [{}], "more": 1}'],
)
async def test_what_is_no_batch(api: httpx.AsyncClient, body: str) -> None:
    answer = await api.post("/jobs/batch", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT")


async def test_names_and_keys_are_of_one_job(api: httpx.AsyncClient, database: Database) -> None:
    asked: list[dict[str, Any]] = [REPORT | {"clientRef": "a", "idempotencyKey": "k"} for _ in range(2)]
    assert pointers(await batch(api, *asked)) == [
        "/jobs/0/clientRef",
        "/jobs/0/idempotencyKey",
        "/jobs/1/clientRef",
        "/jobs/1/idempotencyKey",
    ]
    assert await count(database) == 0


async def test_a_key_is_one_job_whether_in_a_batch_or_alone(api: httpx.AsyncClient, database: Database) -> None:
    alone = await api.post("/generate-report", json={"metadata": {"n": 1}}, headers={"Idempotency-Key": "k1"})
    asked = [REPORT | {"metadata": {"n": number}, "idempotencyKey": f"k{number}"} for number in range(3)]
    first, again = await batch(api, *asked), await batch(api, *reversed(asked))
    jobs = first.json()["jobs"]
    assert [job["isReplay"] for job in jobs] == [False, True, False]
    assert jobs[1]["jobId"] == alone.json()["jobId"]
    assert [job["jobId"] for job in again.json()["jobs"]] == [job["jobId"] for job in reversed(jobs)]
    assert all(job["isReplay"] for job in again.json()["jobs"])
    replay = await api.post("/generate-report", json={"metadata": {"n": 2}}, headers={"Idempotency-Key": "k2"})
    assert (replay.json()["jobId"], replay.headers["idempotent-replayed"]) == (jobs[2]["jobId"], "true")
    assert await count(database) == 3


async def test_one_reused_key_refuses_the_batch(api: httpx.AsyncClient, database: Database) -> None:
    await api.post("/generate-report", headers={"Idempotency-Key": "taken"})
    answer = await batch(api, REPORT, REPORT | {"idempotencyKey": "taken", "priority": 1}, REPORT)
    assert (answer.json()["code"], pointers(answer)) == ("IDEMPOTENCY_KEY_REUSED", ["/jobs/1/idempotencyKey"])
    assert await count(database) == 1


async def test_batches_at_once_with_the_same_keys_are_one(api: httpx.AsyncClient, database: Database) -> None:
    asked = [REPORT | {"idempotencyKey": f"k{number}"} for number in range(20)]
    turned = [asked[number:] + asked[:number] for number in range(8)]
    answers = await asyncio.gather(*(batch(api, *jobs) for jobs in turned))
    assert {answer.status_code for answer in answers} == {202}
    assert await count(database) == 20
    assert sum(not job["isReplay"] for answer in answers for job in answer.json()["jobs"]) == 20


async def test_callbacks_of_a_batch_are_checked(api: httpx.AsyncClient, database: Database) -> None:
    good, bad = {"callbackUrl": "https://example.com/"}, {"callbackUrl": "https://10.0.0.1/"}
    answer = await batch(api, REPORT | good, REPORT | good, REPORT | bad, REPORT | bad)
    assert pointers(answer) == ["/jobs/2/callbackUrl"]
    assert await count(database) == 0


async def test_only_validated(api: httpx.AsyncClient, database: Database) -> None:
    answer = await batch(api, REPORT, validateOnly="true")
    assert (answer.status_code, answer.json()) == (200, {"isValid": True})
    assert pointers(await batch(api, REPORT | {"priority": 99}, validateOnly="true")) == ["/jobs/0/priority"]
    alone = await api.post("/generate-report?validateOnly=true", headers={"Idempotency-Key": "k"})
    assert (alone.status_code, alone.json()) == (200, {"isValid": True})
    bad = await api.post("/generate-report?validateOnly=true", json={"callbackUrl": "https://127.0.0.2:1/a"})
    assert bad.status_code in (200, 422)
    assert await count(database) == 0


async def test_jobs_of_a_batch_may_be_due_later(api: httpx.AsyncClient, database: Database) -> None:
    await batch(api, REPORT | {"delaySeconds": 3600})
    [row] = await database.fetch("SELECT due_at > now() + interval '50 minutes' AS is_later FROM job")
    assert row["is_later"]


def test_new_jobs_carry_their_batch() -> None:
    assert "batch_id" in NewJob.__dataclass_fields__
