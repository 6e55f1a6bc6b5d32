"""What a caller is told of a result or a job that was there once."""

import httpx

from tests.make import accept, fail, start, succeed
from todoke.model.job import Artifact
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.retention import Retention

REPORT = Artifact("report.html", "text/html", 4, "00" * 32, content=b"<p/>")


async def test_an_expired_result_is_gone_and_its_job_is_not(
    api: httpx.AsyncClient, ledger: Ledger, database: Database
) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id), artifacts=(REPORT,))
    tag = (await api.get(f"/jobs/{job_id}")).headers["etag"]
    assert (await api.get(f"/jobs/{job_id}")).json()["resultExpiredAt"] is None
    assert await Retention(database).expire_results(0, 10) == 1
    status = await api.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})
    assert status.status_code == 200
    body = status.json()
    assert (body["status"], body["downloadUrl"], body["artifacts"]) == ("success", f"/jobs/{job_id}/result", [])
    again = await api.get(f"/jobs/{job_id}", headers={"If-None-Match": status.headers["etag"]})
    assert again.status_code == 304
    result = await api.get(f"/jobs/{job_id}/result")
    assert result.status_code == 410
    expected = {
        "code": "RESULT_EXPIRED",
        "type": "urn:todoke:problem:result-expired",
        "jobId": str(job_id),
        "jobType": "generate-report",
        "status": 410,
        "jobStatus": "success",
        "finishedAt": body["finishedAt"],
        "resultExpiredAt": body["resultExpiredAt"],
    }
    assert result.json() | expected == result.json()


async def test_a_failed_job_has_no_result_that_could_expire(
    api: httpx.AsyncClient, ledger: Ledger, database: Database
) -> None:
    job_id = await accept(ledger)
    await fail(ledger, await start(ledger, job_id))
    await Retention(database).expire_results(0, 10)
    assert (await api.get(f"/jobs/{job_id}")).json()["resultExpiredAt"] is None
    assert (await api.get(f"/jobs/{job_id}/result")).json()["code"] == "JOB_FAILED"


async def test_an_erased_job_is_gone_for_its_tenant_and_unknown_to_others(
    api: httpx.AsyncClient, ledger: Ledger, database: Database
) -> None:
    erased, foreign = await accept(ledger), await accept(ledger, tenant_id="another")
    for job_id in (erased, foreign):
        await succeed(ledger, await start(ledger, job_id))
    finished = (await api.get(f"/jobs/{erased}")).json()["finishedAt"]
    retention = Retention(database)
    await retention.expire_results(0, 10)
    assert await retention.erase_jobs(0, 10) == 2
    for suffix in ("", "/result", "/events"):
        gone = await api.get(f"/jobs/{erased}{suffix}")
        assert (gone.status_code, gone.json()["code"]) == (410, "GONE")
        told = gone.json()
        expected = {"jobId": str(erased), "jobType": "generate-report", "jobStatus": "success", "finishedAt": finished}
        assert told | expected == told
        assert told["erasedAt"] > finished
        unknown = await api.get(f"/jobs/{foreign}{suffix}")
        assert (unknown.status_code, unknown.json()["detail"]) == (404, "job not found")
    for action in ("cancel", "retry"):
        assert (await api.post(f"/jobs/{erased}/{action}")).json()["code"] == "GONE"
        assert (await api.post(f"/jobs/{foreign}/{action}")).json()["code"] == "NOT_FOUND"
