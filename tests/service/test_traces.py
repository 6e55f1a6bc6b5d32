"""Which trace a job belongs to: that of the call it came by."""

from uuid import UUID

import httpx

from tests.make import start, succeed
from todoke.store.database import Database
from todoke.store.ledger import Ledger


def traceparent(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


async def test_a_job_belongs_to_the_trace_of_the_call_it_came_by(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    async def trace_of(job_id: str) -> str | None:
        [row] = await database.fetch("SELECT trace FROM job WHERE id = $1", UUID(job_id))
        return str(row["trace"]) if row["trace"] is not None else None

    key = {"Idempotency-Key": "k"}
    first = (await api.post("/generate-report", headers=key | {"traceparent": traceparent(1)})).json()["jobId"]
    again = (await api.post("/generate-report", headers=key | {"traceparent": traceparent(2)})).json()["jobId"]
    assert (again, await trace_of(first)) == (first, traceparent(1))
    await succeed(ledger, await start(ledger, UUID(first)))
    retried = await api.post(f"/jobs/{first}/retry", headers={"traceparent": traceparent(3)})
    assert await trace_of(retried.json()["jobId"]) == traceparent(3)
    body = {"jobs": [{"type": "generate-report"}] * 2}
    batch = await api.post("/jobs/batch", json=body, headers={"traceparent": traceparent(4)})
    assert {await trace_of(job["jobId"]) for job in batch.json()["jobs"]} == {traceparent(4)}
    for bad in ("", "x", traceparent(0), traceparent(5).upper().replace("00-", "FF-", 1)):
        answer = await api.post("/generate-report", headers={"traceparent": bad})
        assert await trace_of(answer.json()["jobId"]) is None
