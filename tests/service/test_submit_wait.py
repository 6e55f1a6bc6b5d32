"""Submit and retry with `Prefer: wait`: 200 only for an end that came in time, else the 202 of always."""

import asyncio
from uuid import UUID

import httpx

from tests.make import accept, fail, start, succeed
from tests.service.test_long_poll import LONG, hold
from todoke.model.job import Artifact
from todoke.store.database import Database
from todoke.store.ledger import Ledger

SHORT = {"Prefer": "wait=1"}
REPORT = Artifact("report.html", "text/html; charset=utf-8", 4, "00" * 32, content=b"<p/>")


async def newest(database: Database) -> UUID:
    [row] = await database.fetch("SELECT id FROM job ORDER BY id DESC LIMIT 1")
    return UUID(str(row["id"]))


async def test_a_fast_job_is_answered_whole(api: httpx.AsyncClient, ledger: Ledger, database: Database) -> None:
    task = await hold(api, "/generate-report", LONG, "POST")
    job_id = await newest(database)
    await succeed(ledger, await start(ledger, job_id), artifacts=(REPORT,))
    answer = await task
    assert answer.status_code == 200
    assert answer.headers["content-location"] == answer.headers["location"] == f"/jobs/{job_id}"
    assert answer.headers["preference-applied"] == "wait=30"
    polled = await api.get(f"/jobs/{job_id}")
    assert answer.json() == polled.json()
    assert answer.json()["status"] == "success"
    assert answer.headers["etag"] == polled.headers["etag"]


async def test_a_failed_job_is_an_answer_too(api: httpx.AsyncClient, ledger: Ledger, database: Database) -> None:
    task = await hold(api, "/generate-report", LONG, "POST")
    await fail(ledger, await start(ledger, await newest(database)), "it broke")
    answer = await task
    assert (answer.status_code, answer.json()["status"], answer.json()["error"]) == (200, "failed", "it broke")


async def test_a_slow_job_is_the_202_of_always(api: httpx.AsyncClient) -> None:
    plain, waited = await asyncio.gather(api.post("/generate-report"), api.post("/generate-report", headers=SHORT))
    assert waited.status_code == 202
    assert waited.headers["preference-applied"] == "wait=1"
    assert "content-location" not in waited.headers
    assert waited.headers["retry-after"] == plain.headers["retry-after"] == "3"
    assert waited.headers["location"] == f"/jobs/{waited.json()['jobId']}"
    assert list(waited.json()) == list(plain.json())


async def test_what_is_no_end_is_waited_through(api: httpx.AsyncClient, ledger: Ledger, database: Database) -> None:
    task = await hold(api, "/generate-report", {"Prefer": "wait=1"}, "POST")
    await start(ledger, await newest(database))
    assert (await task).status_code == 202


async def test_a_replay_waits_as_well(api: httpx.AsyncClient, ledger: Ledger, database: Database) -> None:
    key = {"Idempotency-Key": "k"}
    await api.post("/generate-report", headers=key)
    slow = await api.post("/generate-report", headers=SHORT | key)
    assert (slow.status_code, slow.headers["idempotent-replayed"]) == (202, "true")
    task = await hold(api, "/generate-report", LONG | key, "POST")
    await succeed(ledger, await start(ledger, await newest(database)))
    for answer in (await task, await api.post("/generate-report", headers=LONG | key)):
        assert (answer.status_code, answer.headers["idempotent-replayed"]) == (200, "true")
    plain = await api.post("/generate-report", headers=key)
    assert plain.status_code == 202, "who does not ask to wait gets what it always got"


async def test_a_retry_waits_as_well(api: httpx.AsyncClient, ledger: Ledger, database: Database) -> None:
    original = await accept(ledger)
    await fail(ledger, await start(ledger, original))
    task = await hold(api, f"/jobs/{original}/retry", LONG, "POST")
    job_id = await newest(database)
    await succeed(ledger, await start(ledger, job_id))
    answer = await task
    assert (answer.status_code, answer.json()["retryOf"]) == (200, str(original))
    assert answer.headers["content-location"] == f"/jobs/{job_id}"


async def test_waiting_is_documented(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/openapi.json")).json()["paths"]
    poll = paths["/jobs/{job_id}"]["get"]
    for operation in (poll, paths["/generate-report"]["post"], paths["/jobs/{job_id}/retry"]["post"]):
        assert "Prefer" in [item["name"] for item in operation["parameters"]]
        assert {"200", "202"} <= set(operation["responses"])
    assert {"200", "202", "304", "404", "410", "503"} <= set(poll["responses"])
    assert {"ETag", "Retry-After", "Preference-Applied"} <= set(poll["responses"]["202"]["headers"])
