"""The same submit again is the same job: however it is spelled, whoever asks at once, as long as it is kept."""

import asyncio
import contextlib

import httpx
import pytest

from tests.conftest import serve
from tests.service.callers import door, make_key
from todoke.runtime.settings import Settings
from todoke.store.database import Database

KEY = "Idempotency-Key"


async def submit(api: httpx.AsyncClient, key: str, body: str = "{}", **headers: str) -> httpx.Response:
    return await api.post("/generate-report", content=body, headers={KEY: key, **headers})


async def count(database: Database) -> int:
    return int((await database.fetch("SELECT count(*) FROM job"))[0]["count"])


async def test_quoted_and_bare_are_one_key(api: httpx.AsyncClient) -> None:
    answers = [await submit(api, key) for key in ("k", '"k"')]
    assert answers[0].json()["jobId"] == answers[1].json()["jobId"]
    assert "idempotent-replayed" not in answers[0].headers
    assert answers[1].headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("key", [" ~", "a" * 255, '"', 'a"b', "{}'\\"])
async def test_any_printable_characters(api: httpx.AsyncClient, key: str) -> None:
    # Blanks around a value belong to the header, not to it.
    quoted = f'"{key}"'
    assert (await submit(api, quoted)).json()["jobId"] == (await submit(api, quoted)).json()["jobId"]


@pytest.mark.parametrize("key", ["", '""', "a" * 256, '"' + "a" * 256 + '"', "a\tb", "é".encode().decode("latin-1")])
async def test_what_is_no_key(api: httpx.AsyncClient, database: Database, key: str) -> None:
    answer = await api.post("/generate-report", headers=[(KEY.encode(), key.encode("latin-1"))])
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT")
    assert await count(database) == 0


async def test_two_keys_are_none(api: httpx.AsyncClient, database: Database) -> None:
    answer = await api.post("/generate-report", headers=[(KEY, "a"), (KEY, "b")])
    assert answer.status_code == 422
    assert await count(database) == 0


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ('{"priority": 1, "metadata": {"a": 1, "b": 2}}', '{"metadata":{"b":2,"a":1},"priority":1}', True),
        ("", "{}", True),
        ("{}", " \n{ }\t", True),
        ('{"metadata": {"a": 1.0}}', '{"metadata": {"a": 1.00}}', True),
        ('{"metadata": {"a": "\\u00e9"}}', '{"metadata": {"a": "é"}}', True),
        ('{"metadata": {"a": 1}}', '{"metadata": {"a": 1.0}}', False),
        ('{"metadata": {"a": [1, 2]}}', '{"metadata": {"a": [2, 1]}}', False),
        ("{}", '{"metadata": null}', False),
    ],
)
async def test_what_is_the_same_body(api: httpx.AsyncClient, one: str, other: str, *, is_same: bool) -> None:
    first, second = await submit(api, "k", one), await submit(api, "k", other)
    assert first.status_code == 202
    assert second.status_code == (202 if is_same else 422)
    assert second.json().get("code") == (None if is_same else "IDEMPOTENCY_KEY_REUSED")


async def test_a_refused_submit_leaves_its_key_free(api: httpx.AsyncClient) -> None:
    assert (await submit(api, "k", '{"priority": 99}')).status_code == 422
    assert "idempotent-replayed" not in (await submit(api, "k", '{"priority": 9}')).headers


async def test_a_key_lives_as_long_as_its_job(api: httpx.AsyncClient) -> None:
    """However it ended: what runs it again is `retry`."""
    job_id = (await submit(api, "k")).json()["jobId"]
    await api.post(f"/jobs/{job_id}/cancel")
    replay = await submit(api, "k", Prefer="wait=5")
    assert (replay.status_code, replay.json()["jobId"], replay.json()["status"]) == (200, job_id, "failed")
    assert replay.headers["idempotent-replayed"] == "true"
    again = [await api.post(f"/jobs/{job_id}/retry", headers={KEY: "again"}) for _ in range(2)]
    assert again[0].json()["jobId"] == again[1].json()["jobId"] != job_id
    assert again[1].headers["idempotent-replayed"] == "true"
    assert (await submit(api, "again")).status_code == 422


async def test_keys_are_of_a_tenant(settings: Settings, database: Database) -> None:
    async with door(settings) as api:
        ids = set()
        for tenant in ("default", "another"):
            _, key = await make_key(database, tenant=tenant)
            answer = await submit(api, "k", **key)
            assert "idempotent-replayed" not in answer.headers
            ids.add(answer.json()["jobId"])
    assert len(ids) == 2


async def test_a_hundred_at_once_at_two_apis_are_one_job(settings: Settings, database: Database) -> None:
    async with contextlib.AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(serve(settings)) for _ in range(2)]
        clients = [await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=20)) for url in urls]
        answers = await asyncio.gather(*(submit(clients[number % 2], "k") for number in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["jobId"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert await count(database) == 1
