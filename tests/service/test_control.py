"""Canceling and retrying over a real socket: whose job it is decides, and a repeat changes nothing."""

from uuid import UUID, uuid4

import httpx
import pytest

from tests.make import accept, fail, start, succeed
from todoke.queue.sqs import SqsQueue
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

ACTIONS = ("cancel", "retry")

BAD_TERMS = [
    ("delaySeconds", -1),
    ("delaySeconds", 30 * 86400 + 1),
    ("delaySeconds", None),
    ("delaySeconds", "5"),
    ("delaySeconds", True),
    ("timeoutSeconds", 0),
    ("timeoutSeconds", 10_000),
    ("priority", 10),
    ("priority", -10),
    ("priority", 1.5),
    ("priority", True),
    ("expiresSeconds", 0),
    ("expiresSeconds", -3),
    ("expiresSeconds", 1e300),
]


async def row(database: Database, job_id: str) -> dict[str, object]:
    [found] = await database.fetch(
        "SELECT *, extract(epoch FROM due_at - created_at)::float8 AS delay,"
        " extract(epoch FROM expires_at - due_at)::float8 AS expires FROM job WHERE id = $1",
        UUID(job_id),
    )
    return dict(found)


@pytest.mark.parametrize(("name", "value"), BAD_TERMS, ids=str)
async def test_bad_terms_are_named(api: httpx.AsyncClient, name: str, value: object) -> None:
    answer = await api.post("/generate-report", json={name: value})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"] == f"/{name}"


async def test_terms_are_kept_and_a_delayed_job_has_no_hint_yet(
    api: httpx.AsyncClient, settings: Settings, database: Database
) -> None:
    asked = {"delaySeconds": 60, "timeoutSeconds": 7, "priority": 3, "expiresSeconds": 90}
    job_id = (await api.post("/generate-report", json=asked)).json()["jobId"]
    kept = await row(database, job_id)
    assert (kept["delay"], kept["timeout_seconds"], kept["priority"], kept["expires"]) == (60, 7, 3, 90)
    assert kept["max_losses"] == settings.losses_max
    now = (await api.post("/generate-report")).json()["jobId"]
    queue = SqsQueue.from_settings(settings)
    messages = await queue.receive(10, 5)
    queue.close()
    assert [str(message.job_id) for message in messages] == [now]


async def test_a_queued_job_is_canceled_at_once_and_again(api: httpx.AsyncClient) -> None:
    submit = (await api.post("/generate-report")).json()
    assert submit["cancelUrl"] == f"/jobs/{submit['jobId']}/cancel"
    answers = [await api.post(submit["cancelUrl"]) for _ in range(2)]
    for answer in [*answers, await api.get(submit["statusUrl"])]:
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["errorCode"]) == ("failed", "CANCELED")
    assert answers[0].json()["jobId"] == answers[1].json()["jobId"]


async def test_a_running_jobs_holder_is_asked(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    answer = await api.post(f"/jobs/{job_id}/cancel")
    assert answer.status_code == 202
    assert (answer.json()["status"], answer.json()["cancelRequested"]) == ("running", True)
    assert (await api.post(f"/jobs/{job_id}/cancel")).json() == answer.json()
    await succeed(ledger, attempt)
    ended = await api.post(f"/jobs/{job_id}/cancel")
    assert (ended.status_code, ended.json()["status"]) == (200, "success")


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_strangers_job_is_an_unknown_one(
    api: httpx.AsyncClient, ledger: Ledger, database: Database, action: str
) -> None:
    theirs = await accept(ledger, tenant_id="another")
    for job_id in (theirs, uuid4(), "x", "1" * 36, "%00", "a" * 300):
        answer = await api.post(f"/jobs/{job_id}/{action}")
        assert (answer.status_code, answer.json()["detail"]) == (404, "job not found")
    assert (await row(database, str(theirs)))["state"] == "PENDING"
    assert (await row(database, str(theirs)))["cancel_requested_at"] is None
    assert len(await database.fetch("SELECT 1 FROM job")) == 1


async def test_a_retry_is_a_new_job_with_the_old_ones_wishes(
    api: httpx.AsyncClient, ledger: Ledger, database: Database
) -> None:
    wishes = {
        "params": {"title": "届け"},
        "metadata": {"order": 7},
        "callbackUrl": "https://example.com/hook",
        "callbackEvents": ["job.failed"],
        "timeoutSeconds": 5,
    }
    headers = {"Idempotency-Key": "k"}
    old = (await api.post("/generate-report", json=wishes, headers=headers)).json()["jobId"]
    unfinished = await api.post(f"/jobs/{old}/retry")
    assert (unfinished.status_code, unfinished.json()["code"]) == (409, "NOT_FINISHED")
    await fail(ledger, await start(ledger, UUID(old)))
    answer = await api.post(f"/jobs/{old}/retry")
    assert answer.status_code == 202
    assert answer.headers["location"] == answer.json()["statusUrl"]
    new = answer.json()["jobId"]
    before, after = await row(database, old), await row(database, new)
    for column in ("params", "metadata", "callback_url", "callback_events", "type", "tenant_id"):
        assert after[column] == before[column], column
    assert (after["idempotency_key"], after["state"], after["attempt"]) == (None, "PENDING", 0)
    assert after["timeout_seconds"] != 5, "limits are those of today's catalog"
    assert (await api.get(f"/jobs/{new}")).json()["retryOf"] == old
    assert (await api.get(f"/jobs/{old}")).json()["status"] == "failed"


async def test_a_repeated_retry_with_a_key_makes_one_job(api: httpx.AsyncClient, ledger: Ledger) -> None:
    first, second = await accept(ledger), await accept(ledger)
    for job_id in (first, second):
        await succeed(ledger, await start(ledger, job_id))
    headers = {"Idempotency-Key": "again"}
    answers = [await api.post(f"/jobs/{first}/retry", headers=headers) for _ in range(2)]
    assert answers[0].json()["jobId"] == answers[1].json()["jobId"]
    assert answers[1].headers["idempotent-replayed"] == "true"
    other = await api.post(f"/jobs/{second}/retry", headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert (await api.post(f"/jobs/{first}/retry", headers={"Idempotency-Key": ""})).status_code == 422


async def test_a_job_type_that_is_gone_cannot_be_retried(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger, type="gone-away")
    await ledger.cancel(job_id, "default")
    answer = await api.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "JOB_TYPE_UNKNOWN")


async def test_params_that_no_longer_fit_cannot_be_retried(api: httpx.AsyncClient, ledger: Ledger) -> None:
    job_id = await accept(ledger, params='{"title": 3}')
    await ledger.cancel(job_id, "default")
    answer = await api.post(f"/jobs/{job_id}/retry")
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT")
    assert "title" in answer.json()["detail"]


async def test_both_are_documented(api: httpx.AsyncClient) -> None:
    paths = (await api.get("/openapi.json")).json()["paths"]
    for action in ACTIONS:
        assert {"202", "404"} <= set(paths[f"/jobs/{{job_id}}/{action}"]["post"]["responses"])
    assert paths["/jobs/{job_id}/retry"]["post"]["parameters"][-1]["name"] == "Idempotency-Key"
