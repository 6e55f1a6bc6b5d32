"""Erasing a job: what goes, what stays, and what everyone who still deals with it is told."""

import asyncio

import asyncpg
import httpx
import pytest

from tests.make import WORKER, accept, fail, start, succeed
from tests.owing import owe, put
from tests.service.callers import door, make_key
from todoke.model.event import TERMINAL
from todoke.model.ids import new_id
from todoke.model.job import Artifact, Progress
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.delivery_log import DeliveryLog
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.retention import Retention

LARGE = Artifact("report.html", "text/html", 5, "00" * 32, object_key="default/j/1/report.html")
AS_LIST = {"Accept": "application/json"}


async def counts(database: Database) -> dict[str, int]:
    tables = ("job", "event", "delivery", "delivery_attempt", "artifact", "tombstone", "orphan")
    asked = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in tables)
    [row] = await database.fetch(f"SELECT {asked}")
    return {table: count for table, count in row.items() if count}


async def test_all_that_belongs_to_a_job_goes_and_its_tombstone_stays(
    api: httpx.AsyncClient, ledger: Ledger, database: Database
) -> None:
    job_id = await accept(
        ledger, callback_url="https://example.com/", callback_events=TERMINAL, metadata='{"secret": 1}'
    )
    await succeed(ledger, await start(ledger, job_id), artifacts=(LARGE,))
    shown = (await api.get(f"/jobs/{job_id}")).json()
    answer = await api.delete(f"/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert await counts(database) == {"tombstone": 1, "orphan": 1}
    [row] = await database.fetch("SELECT reason FROM tombstone")
    assert row["reason"] == "erased"
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/result"),
        ("GET", "/artifacts/report.html"),
        ("GET", "/events"),
        ("POST", "/tokens"),
        ("DELETE", "/tokens"),
        ("GET", "/deliveries"),
        ("POST", "/deliveries/3/redeliver"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ):
        gone = await api.request(method, f"/jobs/{job_id}{path}", headers=AS_LIST)
        assert (gone.status_code, gone.json()["code"]) == (410, "GONE"), path
        remains = {name: gone.json()[name] for name in ("jobId", "jobType", "finishedAt")}
        assert remains == {name: shown[name] for name in remains}
        assert (gone.json()["status"], gone.json()["jobStatus"]) == (410, shown["status"])
        assert "secret" not in gone.text
    assert (await api.get("/jobs")).json()["jobs"] == []


async def test_a_job_that_runs_is_not_erased(api: httpx.AsyncClient, ledger: Ledger) -> None:
    waiting, running = await accept(ledger), await accept(ledger)
    await start(ledger, running)
    for job_id in (waiting, running):
        answer = await api.delete(f"/jobs/{job_id}")
        assert (answer.status_code, answer.json()["code"]) == (409, "NOT_FINISHED")
        assert "cancel" in answer.json()["detail"]
        assert (await api.get(f"/jobs/{job_id}")).status_code == 202
    await api.post(f"/jobs/{waiting}/cancel")
    assert (await api.delete(f"/jobs/{waiting}")).status_code == 204


async def test_nobody_erases_anothers(settings: Settings, database: Database, ledger: Ledger) -> None:
    job_id = await accept(ledger, tenant_id="another")
    await succeed(ledger, await start(ledger, job_id))
    async with door(settings) as api:
        _, ours = await make_key(database)
        foreign = await api.delete(f"/jobs/{job_id}", headers=ours)
        unknown = await api.delete(f"/jobs/{new_id()}", headers=ours)
    assert (foreign.status_code, foreign.json() | {"traceId": ""}) == (404, unknown.json() | {"traceId": ""})
    assert await Reader(database).status(job_id, "another") is not None


async def test_its_idempotency_key_is_free_again(api: httpx.AsyncClient, ledger: Ledger) -> None:
    submitted = [await api.post("/generate-report", headers={"Idempotency-Key": "k"}) for _ in range(2)]
    job_id = submitted[0].json()["jobId"]
    assert submitted[1].json()["jobId"] == job_id
    await api.post(f"/jobs/{job_id}/cancel")
    assert (await api.delete(f"/jobs/{job_id}")).status_code == 204
    again = await api.post("/generate-report", headers={"Idempotency-Key": "k"})
    assert again.status_code == 202
    assert again.json()["jobId"] != job_id


async def test_two_at_once_erase_it_once(api: httpx.AsyncClient, ledger: Ledger) -> None:
    for _ in range(5):
        job_id = await accept(ledger)
        await fail(ledger, await start(ledger, job_id))
        answers = await asyncio.gather(*(api.delete(f"/jobs/{job_id}") for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [204] + [410] * 7


async def test_a_stale_attempt_finds_nothing_to_write(
    ledger: Ledger, database: Database, api: httpx.AsyncClient
) -> None:
    job_id = await accept(ledger)
    stale = await start(ledger, job_id, lease_seconds=0)
    await succeed(ledger, await start(ledger, job_id))
    assert (await api.delete(f"/jobs/{job_id}")).status_code == 204
    assert not await succeed(ledger, stale, artifacts=(LARGE,))
    await ledger.report([Progress(job_id, stale.lease, 50, "")], WORKER)
    assert await ledger.renew([(job_id, stale.lease)], WORKER, 60) == {}
    assert await counts(database) == {"tombstone": 1, "orphan": 1}, "the stale attempt may have left objects"


async def test_races_with_all_who_touch_a_finished_job(
    settings: Settings, ledger: Ledger, database: Database, reader: Reader
) -> None:
    """Whoever comes first, nothing is left half erased, and nobody gets a fault."""
    retention, log = Retention(database), DeliveryLog(database, settings.notify_channel)
    jobs = [await owe(ledger) for _ in range(12)]
    for job_id in jobs[::2]:
        await put(database, job_id, "PARKED", "waiting")

    async def settle(attempt_of: object) -> None:
        attempt = await start(ledger, attempt_of)  # type: ignore[arg-type]
        await succeed(ledger, attempt)

    others = [await accept(ledger) for _ in range(6)]
    await asyncio.gather(
        *(retention.erase(job_id, "default") for job_id in jobs),
        *(log.redeliver(job_id, 3, "default") for job_id in jobs),
        retention.expire_results(0, 100),
        retention.erase_jobs(0, 100),
        *(settle(job_id) for job_id in others),
        *(reader.status(job_id, "default") for job_id in jobs),
    )
    for job_id in jobs:
        assert await reader.status(job_id, "default") is None
        assert (await reader.tombstone(job_id, "default") or {})["jobId"] == str(job_id)
    rows = await database.fetch(
        "SELECT job_id FROM event WHERE job_id = ANY ($1) UNION ALL SELECT job_id FROM delivery WHERE job_id = ANY ($1)"
        " UNION ALL SELECT job_id FROM delivery_attempt WHERE job_id = ANY ($1)",
        jobs,
    )
    assert rows == []


async def test_a_stream_of_an_erased_job_ends(api: httpx.AsyncClient, ledger: Ledger) -> None:
    """A browser that comes back to it is told `410`, on which EventSource stops for good."""
    job_id = await accept(ledger)
    async with asyncio.timeout(20), api.stream("GET", f"/jobs/{job_id}/events") as answer:
        lines = answer.aiter_lines()
        while "event: snapshot" not in await anext(lines):
            pass
        await succeed(ledger, await start(ledger, job_id))
        await api.delete(f"/jobs/{job_id}")
        async for _ in lines:
            pass
    assert (await api.get(f"/jobs/{job_id}/events")).status_code == 410


@pytest.mark.parametrize("state", ["PENDING", "PROCESSING"])
async def test_the_database_itself_keeps_a_job_that_runs(ledger: Ledger, database: Database, state: str) -> None:
    job_id = await accept(ledger)
    if state == "PROCESSING":
        await start(ledger, job_id)
    with pytest.raises(asyncpg.CheckViolationError):
        await database.fetch("DELETE FROM job WHERE id = $1", job_id)
