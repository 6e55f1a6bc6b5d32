"""The list of a tenant's jobs: what is in it, in which order, part by part, and whose it is."""

import asyncio
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import UUID

import asyncpg
import httpx
import pytest

from tests.make import accept, fail, start, succeed
from tests.service.callers import door, make_key
from todoke.model.ids import first_id, new_id
from todoke.model.job import State
from todoke.runtime.settings import Settings
from todoke.store import listing
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.listing import Listing, Wanted


async def listed(api: httpx.AsyncClient, **query: object) -> list[str]:
    """The ids of the whole list, walked to its end as a client does, by `Link` alone."""
    ids: list[str] = []
    answer = await api.get("/jobs", params=query)  # type: ignore[arg-type]
    while True:
        assert answer.status_code == 200, answer.text
        body = answer.json()
        ids += [job["jobId"] for job in body["jobs"]]
        assert body["hasMore"] == ("next" in answer.links) == (body["cursor"] is not None)
        if not body["hasMore"]:
            return ids
        answer = await api.get(answer.links["next"]["url"])


async def test_a_list_shows_each_job_as_a_poll_does(api: httpx.AsyncClient, ledger: Ledger) -> None:
    waiting, ended = await accept(ledger, client_ref="a"), await accept(ledger, metadata='{"n": 1}')
    await succeed(ledger, await start(ledger, ended))
    answer = await api.get("/jobs")
    assert answer.headers["cache-control"] == "private, no-cache"
    newest, oldest = answer.json()["jobs"]
    assert (newest["jobId"], oldest["jobId"], oldest["clientRef"]) == (str(ended), str(waiting), "a")
    for shown in (newest, oldest):
        polled = (await api.get(f"/jobs/{shown['jobId']}")).json()
        assert polled | {"estimate": None, **shown} == {**shown, **polled} | {"estimate": None}


@pytest.mark.parametrize("looked_at_max", [2_000, 3])
async def test_parts_and_filters(
    api: httpx.AsyncClient, ledger: Ledger, database: Database, monkeypatch: pytest.MonkeyPatch, looked_at_max: int
) -> None:
    """However few jobs one request looks at, the whole list is the same."""
    monkeypatch.setattr(listing, "LOOKED_AT_MAX", looked_at_max)
    batch = new_id()
    # Jobs of one millisecond have ids in no order; made from numbers that grow, these have one.
    ids = sorted(new_id() for _ in range(9))
    for number, job_id in enumerate(ids):
        marks = {"client_ref": f"ref {number % 3}", "batch_id": batch if number < 4 else None}
        await accept(ledger, id=job_id, type="a" if number % 2 else "b", **marks)
    await accept(ledger, tenant_id="another", batch_id=batch)
    attempts = await ledger.claim(ids[:4], ["a", "b"], "worker-of-the-test", 60)
    for attempt in attempts[:2]:
        await succeed(ledger, attempt)
    await fail(ledger, attempts[2])
    newest = [str(job_id) for job_id in reversed(ids)]
    ended = {str(attempt.id) for attempt in attempts[:2]}
    failed = {str(attempts[2].id)}
    for query, expected in (
        ({}, newest),
        ({"limit": 2}, newest),
        ({"limit": 4, "status": "success"}, [job_id for job_id in newest if job_id in ended]),
        ({"status": "failed"}, list(failed)),
        ({"status": "running", "limit": 1}, [job_id for job_id in newest if job_id not in ended | failed]),
        ({"type": "a", "limit": 2}, newest[1::2]),
        ({"clientRef": "ref 2"}, newest[0::3]),
        ({"batchId": str(batch), "limit": 3}, newest[5:]),
        ({"batchId": str(new_id())}, []),
    ):
        assert await listed(api, **query) == expected, query


async def test_by_time(api: httpx.AsyncClient, ledger: Ledger, database: Database) -> None:
    old, new = await accept(ledger), await accept(ledger)
    made = datetime.fromisoformat((await api.get(f"/jobs/{new}")).json()["createdAt"])
    assert await listed(api, createdAfter=made.isoformat()) == [str(new)]
    assert await listed(api, createdBefore=made.isoformat()) == [str(old)]
    assert await listed(api, createdAfter=(made + timedelta(days=400)).isoformat()) == []
    assert await listed(api, createdBefore="1970-01-01T00:00:00Z") == []
    # The same moment, as clocks elsewhere spell it.
    assert await listed(api, createdAfter=made.astimezone().isoformat()) == [str(new)]


async def test_jobs_that_come_while_a_list_is_read_move_nothing(api: httpx.AsyncClient, ledger: Ledger) -> None:
    ids = sorted([str(await accept(ledger)) for _ in range(5)])
    first = (await api.get("/jobs", params={"limit": 2})).json()
    await asyncio.gather(*(accept(ledger) for _ in range(3)))
    rest = await api.get("/jobs", params={"limit": 2, "after": first["cursor"]})
    assert [job["jobId"] for job in first["jobs"] + rest.json()["jobs"]] == ids[:0:-1]


async def test_more_than_a_hundred_are_a_hundred(api: httpx.AsyncClient, ledger: Ledger) -> None:
    await asyncio.gather(*(accept(ledger) for _ in range(101)))
    body = (await api.get("/jobs", params={"limit": 10**9})).json()
    assert (len(body["jobs"]), body["hasMore"]) == (100, True)


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "status=",
        "limit=0",
        "limit=x",
        "limit=" + "9" * 5_000,
        "type=%00",
        "type=" + "t" * 201,
        "clientRef=%00",
        "batchId=1",
        "createdAfter=yesterday",
        "createdAfter=2026-01-01T00:00:00",
        "createdBefore=9999-12-31T23:59:59Z",
        "createdAfter=0001-01-01T00:00:00%2B23:59",
        "after=",
        "after=x",
        "after=%00",
        "after=" + "a" * 3_000,
        "state=FAILED",
    ],
)
async def test_what_makes_no_sense_is_said_to(api: httpx.AsyncClient, query: str) -> None:
    answer = await api.get(f"/jobs?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT"), answer.text


async def test_a_list_and_its_cursors_are_one_tenants(settings: Settings, database: Database, ledger: Ledger) -> None:
    async with door(settings) as api:
        (_, ours), (_, theirs) = await make_key(database), await make_key(database, tenant="another")
        for _ in range(2):
            await accept(ledger)
            await accept(ledger, tenant_id="another")
        cursor = (await api.get("/jobs?limit=1", headers=ours)).json()["cursor"]
        for query, headers in (("", theirs), ("&status=running", ours)):
            answer = await api.get(f"/jobs?limit=1&after={quote(cursor)}{query}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT")
        found = (await api.get("/jobs", headers=theirs)).json()["jobs"]
        rows = await database.fetch("SELECT id FROM job WHERE tenant_id = 'another'")
        assert {job["jobId"] for job in found} == {str(row["id"]) for row in rows}


async def test_every_part_walks_an_index(database: Database, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "SET session_replication_role = replica; "
        "INSERT INTO job (id, tenant_id, type, state, params, max_attempts, timeout_seconds, due_at, created_at,"
        " updated_at, finished_at, batch_id) SELECT gen_random_uuid(), 'default', 't',"
        " CASE WHEN n % 500 = 0 THEN 'FAILED' ELSE 'SUCCESS' END, '{}', 5, 60, now(), now(), now(), now(),"
        " CASE WHEN n % 1000 = 0 THEN gen_random_uuid() END FROM generate_series(1, 30000) AS n; ANALYZE job"
    )
    now = datetime.now(UTC)
    for wanted, index in (
        (Wanted(), "job_newest"),
        (Wanted(type="u", created_after=now, created_before=now), "job_newest"),
        (Wanted(states=(State.FAILED,)), "job_failed"),
        (Wanted(batch_id=new_id()), "job_batch"),
    ):
        asked = listing._looked_at("default", wanted, new_id())
        text = str(asked.compile(dialect=database._engine.dialect, compile_kwargs={"literal_binds": True}))
        plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN {text}"))
        assert index in plan, plan
        assert "Seq Scan" not in plan, plan
    page = await Listing(database).page("default", Wanted(states=(State.FAILED,)), None, 100)
    assert (len(page.ids), page.end is None) == (60, True)
    await connection.close()


def test_ids_of_a_moment_lie_behind_its_first() -> None:
    before = first_id(datetime.now(UTC))
    made = new_id()
    assert before <= made < first_id(datetime.now(UTC) + timedelta(milliseconds=2))
    assert first_id(datetime(1, 1, 1, tzinfo=UTC)) == UUID(int=0)
