"""Polling beyond the legacy contract: more to see, cheaper to ask."""

import httpx

from tests.make import WORKER, accept, start, succeed
from todoke.model.job import Artifact, Progress
from todoke.store.ledger import Ledger


async def test_what_a_poll_shows_while_the_job_runs(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger, metadata='{"a":1}')
    attempt = await start(ledger, job_id)
    await ledger.report([Progress(job_id, attempt.lease, 30, "reading")], WORKER)
    body = (await api.get(f"/jobs/{job_id}")).json()
    expected = {
        "jobId": str(job_id),
        "jobType": "generate-report",
        "phase": "processing",
        "sequence": 2,
        "attempt": 1,
        "progress": {"percent": 30, "message": "reading"},
        "metadata": {"a": 1},
        "artifacts": [],
        "errorCode": None,
        "finishedAt": None,
    }
    assert body | expected == body
    assert 2000 <= body["pollAfterMs"] <= 5000


async def test_nothing_new_is_304(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    tag = (await api.get(f"/jobs/{job_id}")).headers["etag"]
    assert (await api.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})).status_code == 304
    await ledger.report([Progress(job_id, attempt.lease, 30, "")], WORKER)
    assert (await api.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})).status_code == 202


async def test_results_leave_as_harmless_downloads(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    made = (
        Artifact("届け.html", "text/html", 9, "ab" * 32, content=b"<script/>"),
        Artifact("result.json", "application/json", 2, "cd" * 32, content=b"{}"),
    )
    await succeed(ledger, await start(ledger, job_id), artifacts=made)
    body = (await api.get(f"/jobs/{job_id}")).json()
    assert body["artifacts"][0] == {
        "name": "届け.html",
        "mediaType": "text/html",
        "bytes": 9,
        "sha256": "ab" * 32,
    }
    answer = await api.get(f"/jobs/{job_id}/result")
    assert answer.headers["content-type"] == "text/html"
    name = "filename=\"__.html\"; filename*=UTF-8''%E5%B1%8A%E3%81%91.html"
    assert answer.headers["content-disposition"] == f"attachment; {name}"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox;")
    inline = await api.get(f"/jobs/{job_id}/result", params={"inline": "1"})
    assert inline.headers["content-disposition"] == f"inline; {name}"
    other = await api.get(f"/jobs/{job_id}/result", params={"artifact": "result.json"})
    assert other.json() == {}
    missing = await api.get(f"/jobs/{job_id}/result", params={"artifact": "x"})
    assert missing.status_code == 404


async def test_wrong_paths_and_methods_are_problems(api: httpx.AsyncClient) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("GET", "/generate-report", 405), ("PUT", "/jobs/x", 405)):
        answer = await api.request(method, path)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


async def test_health(api: httpx.AsyncClient) -> None:
    assert (await api.get("/healthz")).json() == {"status": "ok"}
    parts = {"postgres": "ok", "listener": "ok", "queue": "ok"}
    assert (await api.get("/readyz")).json() == {"status": "ready"} | parts
    assert "process_cpu_seconds_total" in (await api.get("/metrics")).text


async def test_the_documented_api(api: httpx.AsyncClient) -> None:
    document = (await api.get("/openapi.json")).json()
    submit = document["paths"]["/generate-report"]["post"]
    schema = submit["requestBody"]["content"]["application/json"]["schema"]
    assert {"params", "callbackUrl", "callbackEvents", "metadata"} <= set(schema["properties"])
    page = (await api.get("/docs")).text
    assert "https://" not in page, "the docs page works without the internet"
