"""Submitting: what is accepted is kept exactly once, what is refused leaves nothing behind."""

import asyncio
import json

import httpx
import pytest

from tests.conftest import serve
from todoke.queue.sqs import SqsQueue
from todoke.runtime.settings import Settings
from todoke.store.database import Database

BAD_BODIES = {
    "not JSON": (b"{", 400),
    "half a string": (b'"abc', 400),
    "NaN": (b'{"metadata": {"x": NaN}}', 400),
    "a number without bounds": (b'{"params": {"rows": [{"x": 1e999}]}}', 422),
    "a number with 5,000 digits": (b'{"params": {"rows": [{"x": ' + b"9" * 5000 + b"}]}}", 400),
    "not UTF-8": (b'{"metadata": {"x": "\xff"}}', 400),
    "an array": (b"[]", 422),
    "null": (b"null", 422),
    "a number": (b"1", 422),
    "an unknown member": (b'{"titel": "x"}', 422),
    "an unknown param": (b'{"params": {"titel": "x"}}', 422),
    "params of another kind": (b'{"params": []}', 422),
    "a title of another type": (b'{"params": {"title": 3}}', 422),
    "metadata that is no object": (b'{"metadata": [1]}', 422),
    "metadata too large": (json.dumps({"metadata": {"x": "y" * 3000}}).encode(), 422),
    "a NUL in metadata": (b'{"metadata": {"x": "\\u0000"}}', 422),
    "half a surrogate pair": (b'{"metadata": {"x": "\\ud800"}}', 400),
    "nesting without end": (b'{"metadata":' + b"[" * 5000 + b"]" * 5000 + b"}", 422),
    "a callback nobody can reach": (b'{"callbackUrl": "ftp://example.com/"}', 422),
    "a callback into the private network": (b'{"callbackUrl": "http://10.0.0.1/"}', 422),
    "a callback to the metadata service": (b'{"callbackUrl": "http://169.254.169.254/latest"}', 422),
    "an unknown event": (b'{"callbackUrl": "https://example.com/", "callbackEvents": ["job.done"]}', 422),
}


async def count(database: Database, table: str) -> int:
    return int((await database.fetch(f"SELECT count(*) FROM {table}"))[0]["count"])


async def test_a_submit_leaves_one_job_one_event_and_one_hint(
    api: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    answer = await api.post("/generate-report", json={"metadata": {"order": 7}})
    job_id = answer.json()["jobId"]
    assert (await count(database, "job"), await count(database, "event")) == (1, 1)
    queue = SqsQueue.from_settings(settings)
    [message] = await queue.receive(10, 5)
    queue.close()
    assert str(message.job_id) == job_id
    status = (await api.get(f"/jobs/{job_id}")).json()
    assert (status["metadata"], status["phase"], status["sequence"]) == ({"order": 7}, "queued", 1)


async def test_bad_bodies_are_refused_with_a_problem_and_nothing_is_kept(
    api: httpx.AsyncClient, database: Database
) -> None:
    for name, (body, status) in BAD_BODIES.items():
        answer = await api.post("/generate-report", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, (name, answer.text)
        assert answer.headers["content-type"] == "application/problem+json", name
        problem = answer.json()
        assert problem["status"] == status
        assert problem["detail"], name
        assert problem["type"], name
    assert await count(database, "job") == 0


async def test_a_body_that_is_not_json_and_says_so_is_415(api: httpx.AsyncClient) -> None:
    answer = await api.post("/generate-report", content=b"a=b", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


async def test_the_place_of_a_mistake_is_named(api: httpx.AsyncClient) -> None:
    answer = await api.post("/generate-report", json={"params": {"title": 3}})
    assert answer.json()["errors"][0]["pointer"] == "/params/title"
    answer = await api.post("/generate-report", json={"params": {"csv": " "}})
    assert "Value error" not in answer.text, "pydantic's own words say nothing to a caller"


async def test_a_body_too_large_is_refused_before_it_is_read(settings: Settings) -> None:
    small = settings.model_copy(update={"body_bytes_max": 2000})

    async def drip():  # type: ignore[no-untyped-def]
        for _ in range(100):
            yield b" " * 100

    async with serve(small) as url, httpx.AsyncClient(base_url=url) as api:
        refused = await api.post("/generate-report", content=b" " * 2001)
        assert (refused.status_code, refused.json()["code"]) == (413, "CONTENT_TOO_LARGE")
        assert (await api.post("/generate-report", content=drip())).status_code == 413
        assert (await api.post("/generate-report", content=b"{}" + b" " * 1998)).status_code == 202


async def test_the_same_key_and_body_is_the_same_job(api: httpx.AsyncClient, database: Database) -> None:
    body = {"metadata": {"a": 1, "b": 2}}
    first = await api.post("/generate-report", json=body, headers={"Idempotency-Key": '"k 1"'.replace(" ", "-")})
    other_spelling = json.dumps({"metadata": {"b": 2, "a": 1}}, indent=2)
    again = await api.post("/generate-report", content=other_spelling, headers={"Idempotency-Key": "k-1"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json()["jobId"] == again.json()["jobId"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert await count(database, "job") == 1


async def test_the_same_key_and_another_body_is_refused(api: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k"}
    await api.post("/generate-report", headers=headers)
    answer = await api.post("/generate-report", json={"metadata": {"a": 1}}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")


async def test_no_body_and_an_empty_object_are_the_same_body(api: httpx.AsyncClient) -> None:
    answers = [
        await api.post("/generate-report", content=body, headers={"Idempotency-Key": "k"}) for body in (b"", b"{}")
    ]
    assert answers[0].json()["jobId"] == answers[1].json()["jobId"]


@pytest.mark.parametrize("key", ["", '""', "a" * 256])
async def test_a_key_that_is_none_is_refused(api: httpx.AsyncClient, key: str) -> None:
    answer = await api.post("/generate-report", headers={"Idempotency-Key": key})
    assert answer.status_code == 422


async def test_a_hundred_submits_at_once_with_one_key_are_one_job(api: httpx.AsyncClient, database: Database) -> None:
    answers = await asyncio.gather(
        *(api.post("/generate-report", headers={"Idempotency-Key": "k"}) for _ in range(100))
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["jobId"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert await count(database, "job") == 1


async def test_without_a_signing_secret_no_callback_is_accepted(settings: Settings, database: Database) -> None:
    unsigned = settings.model_copy(update={"signing_secret": None})
    async with serve(unsigned) as url, httpx.AsyncClient(base_url=url) as api:
        answer = await api.post("/generate-report", json={"callbackUrl": "https://example.com/"})
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT")
        assert "POST /webhooks/secrets" in answer.json()["detail"]
        assert await count(database, "job") == 0


async def test_a_submit_is_kept_while_the_queue_is_away(settings: Settings, database: Database) -> None:
    away = settings.model_copy(update={"aws_endpoint_url": "http://127.0.0.1:9"})
    async with serve(away) as url, httpx.AsyncClient(base_url=url) as api:
        answer = await api.post("/generate-report")
        assert answer.status_code == 202
    assert await count(database, "job") == 1


async def test_a_submit_that_cannot_be_kept_is_503(settings: Settings) -> None:
    async with (
        serve(settings) as url,
        httpx.AsyncClient(base_url=url) as api,
        Database(settings.database_url.get_secret_value()) as database,
    ):
        name = settings.database_url.get_secret_value().rsplit("/", 1)[1]
        async with database.transaction() as connection:
            await connection.execute("LOCK TABLE job IN ACCESS EXCLUSIVE MODE")
            submit = asyncio.create_task(api.post("/generate-report"))
            # The submit is tried once more by itself, because the answer of a commit may have been lost.
            while not submit.done():
                # Within a transaction the picture of the others stays as it was first seen.
                await connection.execute("SELECT pg_stat_clear_snapshot()")
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = $1 AND wait_event_type = 'Lock'",
                    name,
                )
                await asyncio.sleep(0.01)
            answer = await submit
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
