"""The frozen polling contract. Clients of years ago rely on every line here: nothing in it may ever be loosened."""

import re
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.make import accept, fail, start, succeed
from todoke.model.job import Artifact
from todoke.store.ledger import Ledger

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
REPORT = Artifact("report.html", "text/html; charset=utf-8", 4, "00" * 32, content=b"<p/>")

SUBMITS: dict[str, dict[str, Any]] = {
    "no body": {},
    "no body, a form's content type": {"headers": {"content-type": "application/x-www-form-urlencoded"}},
    "no body, JSON's content type": {"headers": {"content-type": "application/json"}},
    "no body, a strange content type": {"headers": {"content-type": "x/y; z"}},
    "an empty object": {"json": {}},
    "an empty object as curl -d sends it": {
        "content": b"{}",
        "headers": {"content-type": "application/x-www-form-urlencoded"},
    },
    "an empty object without content type": {"content": b"{}"},
}

MALFORMED = [
    "x",
    "a" * 300,
    "%00",
    "..%2Fx",
    "..",
    "%F0%9F%93%A6",
    "%E5%B1%8A%E3%81%91",
    "1" * 36,
    "null",
    "{id}",
    "%ff",
    "'",
]


@pytest.mark.parametrize("way", SUBMITS)
async def test_submit(api: httpx.AsyncClient, way: str) -> None:
    answer = await api.post("/generate-report", **SUBMITS[way])
    assert answer.status_code == 202
    body = answer.json()
    assert UUID.fullmatch(body["jobId"])
    assert body["statusUrl"] == f"/jobs/{body['jobId']}"
    assert answer.headers["location"] == f"/jobs/{body['jobId']}"
    assert answer.headers["retry-after"] == "3"
    assert answer.headers["content-type"] == "application/json"


async def test_pending(api: httpx.AsyncClient) -> None:
    job_id = (await api.post("/generate-report")).json()["jobId"]
    assert_running(await api.get(f"/jobs/{job_id}"))


async def test_processing(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await start(ledger, job_id)
    assert_running(await api.get(f"/jobs/{job_id}"))


async def test_success(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id), artifacts=(REPORT,))
    answer = await api.get(f"/jobs/{job_id}")
    assert answer.status_code == 200
    expected = {"status": "success", "downloadUrl": f"/jobs/{job_id}/result", "error": None}
    assert answer.json() | expected == answer.json()
    result = await api.get(answer.json()["downloadUrl"])
    assert (result.status_code, result.content) == (200, b"<p/>")


async def test_a_large_result_is_a_redirect(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    large = Artifact("report.html", "text/html", 4, "00" * 32, object_key="a/b")
    await succeed(ledger, await start(ledger, job_id), artifacts=(large,))
    answer = await api.get(f"/jobs/{job_id}/result")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("http")


async def test_failed(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    await fail(ledger, await start(ledger, job_id), "it broke")
    answer = await api.get(f"/jobs/{job_id}")
    assert answer.status_code == 200
    expected = {"status": "failed", "downloadUrl": None, "error": "it broke"}
    assert answer.json() | expected == answer.json()
    result = await api.get(f"/jobs/{job_id}/result")
    assert (result.status_code, result.json()["detail"]) == (409, "job not finished")


async def test_a_result_before_the_end_is_409(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    answers = [await api.get(f"/jobs/{job_id}/result")]
    await start(ledger, job_id)
    answers.append(await api.get(f"/jobs/{job_id}/result"))
    assert [(answer.status_code, answer.json()["detail"]) for answer in answers] == [(409, "job not finished")] * 2


async def test_a_failed_job_has_another_problem_type(api: httpx.AsyncClient, ledger: Ledger) -> None:
    running, failed = await accept(ledger), await accept(ledger)
    await fail(ledger, await start(ledger, failed))
    types = {(await api.get(f"/jobs/{job_id}/result")).json()["type"] for job_id in (running, failed)}
    assert len(types) == 2


async def test_a_malformed_id_is_an_unknown_job(api: httpx.AsyncClient) -> None:
    for job_id in MALFORMED:
        for suffix in ("", "/result", "/events"):
            # Sent raw: clients would tidy `..` away.
            target = f"/jobs/{job_id}{suffix}".encode()
            assert_unknown(await api.send(httpx.Request("GET", api.base_url, extensions={"target": target})))


async def test_an_unknown_job(api: httpx.AsyncClient) -> None:
    assert_unknown(await api.get(f"/jobs/{uuid4()}"))
    assert_unknown(await api.get(f"/jobs/{uuid4()}/result"))


async def test_another_tenants_job_answers_as_an_unknown_one(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger, tenant_id="another")
    for suffix in ("", "/result", "/events"):
        assert_unknown(await api.get(f"/jobs/{job_id}{suffix}"))


def assert_running(answer: httpx.Response) -> None:
    assert answer.status_code == 202
    assert answer.json()["status"] == "running"
    assert re.fullmatch("[2-5]", answer.headers["retry-after"])


def assert_unknown(answer: httpx.Response) -> None:
    assert answer.status_code == 404
    assert answer.json()["detail"] == "job not found"
