"""How callbacks fare, disabling and enabling them, and what submits and polls say of that."""

import asyncio
import json
from collections.abc import Sequence
from uuid import UUID

import httpx
import pytest

from service.callbacks import CallbackWarnings
from tests.make import TENANT, WORKER, accept, start, succeed
from tests.owing import URL, delivery_row, disable, endpoint, owe, owe_parked, park, put
from todoke.model.errors import Unavailable
from todoke.model.ids import new_id
from todoke.model.job import Progress
from todoke.runtime.settings import Settings
from todoke.store.announcing import Off
from todoke.store.database import Database
from todoke.store.endpoints import Endpoints
from todoke.store.ledger import Ledger

OTHER = "https://example.org/other"


async def endpoints(api: httpx.AsyncClient, **query: object) -> list[dict[str, object]]:
    answer = await api.get("/webhooks/endpoints", params=query)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()["endpoints"]
    return found


async def test_an_endpoint_is_listed_once_it_failed(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    await owe(ledger)
    assert await endpoints(api) == []
    endpoint_id = await endpoint(database, failures=3, failing_since="2026-01-01 00:00+00", cap=2, strain=1)
    await owe_parked(ledger, database)
    await put(database, await owe(ledger), "PENDING", "held")
    [found] = await endpoints(api)
    assert str(found.pop("updatedAt")).endswith("Z")
    assert found == {
        "id": str(endpoint_id),
        "callbackUrl": URL,
        "state": "active",
        "disabledReason": None,
        "disabledAt": None,
        "failures": 3,
        "failingSince": "2026-01-01T00:00:00.000000Z",
        "warning": "failing_for_72_hours",
        "breaker": "closed",
        "blockedUntil": None,
        "cap": 2,
        "parked": 1,
        "held": 1,
    }


@pytest.mark.parametrize(
    ("columns", "breaker"),
    [
        ({"is_open": True, "blocked_until": "2100-01-01"}, "open"),
        ({"is_open": True, "blocked_until": "2026-01-01"}, "open"),
        ({"is_open": True}, "open"),
        ({"blocked_until": "2100-01-01"}, "cooling"),
        ({"blocked_until": "2026-01-01"}, "closed"),
        ({"state": "DISABLED", "blocked_until": "2100-01-01"}, "closed"),
        ({}, "closed"),
    ],
    ids=str,
)
async def test_breaker(api: httpx.AsyncClient, database: Database, columns: dict[str, object], breaker: str) -> None:
    await endpoint(database, **columns)
    [found] = await endpoints(api)
    assert found["breaker"] == breaker
    is_blocked = breaker != "closed" and columns.get("blocked_until") == "2100-01-01"
    assert (found["blockedUntil"] is not None) == is_blocked


@pytest.mark.parametrize(
    ("hours", "warning"),
    [(23.9, None), (24.1, "failing_for_24_hours"), (71.9, "failing_for_24_hours"), (72.1, "failing_for_72_hours")],
)
async def test_warning(api: httpx.AsyncClient, database: Database, hours: float, warning: str | None) -> None:
    await endpoint(database)
    await database.fetch("UPDATE endpoint SET failing_since = now() - $1::float8 * interval '1 hour'", hours)
    [found] = await endpoints(api)
    assert found["warning"] == warning
    await database.fetch("UPDATE endpoint SET state = 'DISABLED'")
    [found] = await endpoints(api)
    assert found["warning"] is None, "that it is disabled says it all"


async def test_the_list_is_walked_and_filtered(api: httpx.AsyncClient, database: Database) -> None:
    ids = sorted([str(await endpoint(database, f"https://example.com/{number}")) for number in range(7)])
    off = str(await disable(database, OTHER))
    seen: list[str] = []
    query: dict[str, object] = {"limit": 3}
    while True:
        body = (await api.get("/webhooks/endpoints", params=query)).json()  # type: ignore[arg-type]
        seen += [each["id"] for each in body["endpoints"]]
        if not body["hasMore"]:
            break
        query["after"] = body["cursor"]
    assert seen == sorted([*ids, off])
    assert [each["id"] for each in await endpoints(api, state="disabled")] == [off]
    assert [each["id"] for each in await endpoints(api, state="active")] == ids
    for bad in ("state=x", "limit=0", "limit=501", "after=x"):
        assert (await api.get(f"/webhooks/endpoints?{bad}")).status_code == 422, bad


async def test_disabling_one_that_never_failed(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    known = (await api.post("/webhooks/endpoints", json={"callbackUrl": URL})).json()
    assert (known["callbackUrl"], known["state"], known["failures"]) == (URL, "active", 0)
    again = (await api.post("/webhooks/endpoints", json={"callbackUrl": URL})).json()
    assert again == known
    answer = await api.post(f"/webhooks/endpoints/{known['id']}/disable")
    assert (answer.status_code, answer.json()["state"]) == (200, "disabled")
    assert answer.json()["disabledReason"] == "disabled_by_api"
    assert answer.json()["disabledAt"]
    owed = await delivery_row(database, await owe(ledger))
    assert (owed["state"], owed["last_reason"]) == ("PARKED", "endpoint_disabled")
    repeated = (await api.post(f"/webhooks/endpoints/{known['id']}/disable")).json()
    assert {**repeated, "parked": 0} == answer.json(), "the first time counts"
    other = await delivery_row(database, await owe(ledger, URL + "?other"))
    assert other["state"] == "PENDING", "exactly this URL"


async def test_a_url_this_service_does_not_call_has_no_endpoint(api: httpx.AsyncClient, database: Database) -> None:
    for body in ({"callbackUrl": "https://10.0.0.1/"}, {"callbackUrl": "x"}, {}, {"callbackUrl": "https://a/\x00"}):
        answer = await api.post("/webhooks/endpoints", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT"), body
    assert await database.fetch("SELECT FROM endpoint") == []


async def test_the_reason_an_endpoint_was_disabled_for_stays(api: httpx.AsyncClient, database: Database) -> None:
    endpoint_id = await disable(database, reason="gone")
    answer = await api.post(f"/webhooks/endpoints/{endpoint_id}/disable")
    assert answer.json()["disabledReason"] == "gone"


async def test_enabling_owes_anew_what_was_parked_for_that(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    endpoint_id = await disable(database)
    waited = [await owe(ledger) for _ in range(3)]
    tried, gone = await owe(ledger), await owe(ledger)
    await park(database, tried, "endpoint_disabled")
    await park(database, gone, "gone")
    other = await owe_parked(ledger, database, url=OTHER, reason="endpoint_disabled")
    await database.fetch("UPDATE delivery SET owed_since = now() - interval '30 days'")
    answer = await api.post(f"/webhooks/endpoints/{endpoint_id}/enable")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["state"], body["disabledReason"], body["failures"], body["owed"], body["more"]) == (
        "active",
        None,
        0,
        4,
        False,
    )
    for job_id in (*waited, tried):
        row = await delivery_row(database, job_id)
        assert (row["state"], row["standing"], row["attempt"], row["last_reason"]) == ("PENDING", "ready", 0, None)
        assert row["owed_seconds"] < 60, "or it would be parked at once, its window over"
        assert row["finished_at"] is None
    for job_id in (gone, other):
        assert (await delivery_row(database, job_id))["state"] == "PARKED"
    before = await database.fetch("SELECT * FROM delivery")
    again = (await api.post(f"/webhooks/endpoints/{endpoint_id}/enable")).json()
    assert (again["owed"], again["more"]) == (0, False)
    assert await database.fetch("SELECT * FROM delivery") == before


async def test_enabling_goes_on_where_there_is_more(
    database: Database, settings: Settings, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("todoke.store.endpoints.REPLAY_MAX", 2)
    endpoint_id = await disable(database)
    for _ in range(5):
        await owe(ledger)
    rooms = Endpoints(database, settings.notify_channel, Off())
    assert await rooms.enable(endpoint_id, TENANT) == (2, True)
    await database.fetch("UPDATE endpoint SET failures = 5, is_open = true, blocked_until = now() + interval '1 hour'")
    assert await rooms.enable(endpoint_id, TENANT) == (2, True)
    [row] = await database.fetch("SELECT * FROM endpoint")
    assert (row["failures"], row["is_open"]) == (5, True), "what it came to since stays"
    assert await rooms.enable(endpoint_id, TENANT) == (1, False)
    assert await rooms.enable(endpoint_id, TENANT) == (0, False)
    assert await rooms.enable(endpoint_id, "another") is None
    assert await rooms.disable(endpoint_id, "another") is False


async def test_enabling_waits_for_whoever_records_and_not_for_deliveries_others_hold(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    endpoint_id = await disable(database)
    held, free = await owe(ledger), await owe(ledger)
    async with database.transaction() as connection:
        await connection.execute("SELECT FROM delivery WHERE job_id = $1 FOR UPDATE", held)
        answer = await asyncio.wait_for(api.post(f"/webhooks/endpoints/{endpoint_id}/enable"), 10)
        assert answer.json()["owed"] == 1
    assert (await delivery_row(database, free))["state"] == "PENDING"
    async with database.transaction() as connection:
        await connection.execute("UPDATE endpoint SET state = 'DISABLED', disabled_reason = 'gone'")
        enabling = asyncio.create_task(api.post(f"/webhooks/endpoints/{endpoint_id}/enable"))
        await _until_someone_waits_for_a_lock(database)
        assert not enabling.done()
    assert (await enabling).json()["state"] == "active"
    assert (await delivery_row(database, held))["state"] == "PENDING"


async def test_unknown_endpoints(api: httpx.AsyncClient) -> None:
    for name in (str(new_id()), "x", "%00"):
        for action in ("enable", "disable"):
            answer = await api.post(f"/webhooks/endpoints/{name}/{action}")
            assert (answer.status_code, answer.json()["detail"]) == (404, "endpoint not found")


async def test_a_submit_to_a_disabled_callback_is_accepted_with_a_warning(
    api: httpx.AsyncClient, database: Database
) -> None:
    asked = {"callbackUrl": URL, "callbackEvents": ["job.accepted"]}
    assert "warnings" not in (await api.post("/generate-report", json=asked)).json()
    await disable(database)
    headers = {"Idempotency-Key": "once"}
    for _ in range(2):
        answer = await api.post("/generate-report", json=asked, headers=headers)
        assert answer.status_code == 202
        [warning] = answer.json()["warnings"]
        assert warning["code"] == "CALLBACK_DISABLED"
        assert "enabled" in warning["detail"]
    status = (await api.get(f"/jobs/{answer.json()['jobId']}")).json()
    assert status["delivery"] == {
        "state": "parked",
        "attempt": 0,
        "reason": "endpoint_disabled",
        "nextAttemptAt": None,
    }
    many = await asyncio.gather(
        *(api.post("/generate-report", json={"callbackUrl": url}) for url in (URL, OTHER) * 10),
        *(api.post("/generate-report") for _ in range(10)),
    )
    assert ["warnings" in answer.json() for answer in many] == [True, False] * 10 + [False] * 10


class Away:
    """Callbacks whose database has just gone, or does not answer."""

    def __init__(self, *, is_silent: bool) -> None:
        self._is_silent = is_silent

    async def are_disabled(self, callbacks: Sequence[tuple[str, str]]) -> list[bool]:
        if self._is_silent:
            await asyncio.Event().wait()
        raise Unavailable("away")


@pytest.mark.parametrize("is_silent", [False, True])
async def test_a_submit_that_is_kept_is_answered_without_knowing_more(
    is_silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.callbacks.ASK_SECONDS", 0.01)
    warnings = CallbackWarnings(Away(is_silent=is_silent))  # type: ignore[arg-type]
    assert await asyncio.wait_for(warnings.about(TENANT, URL), 10) == []
    assert await warnings.about(TENANT, None) == []


async def test_a_status_shows_the_newest_delivery(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    async def shown(job_id: UUID) -> object:
        return (await api.get(f"/jobs/{job_id}")).json()["delivery"]

    assert await shown(await accept(ledger)) is None
    job_id = await accept(ledger, callback_url=URL, callback_events=("job.started", "job.progress", "job.succeeded"))
    assert await shown(job_id) is None, "nothing is owed yet"
    attempt = await start(ledger, job_id)
    await put(database, job_id, "DELIVERED", "waiting")
    await ledger.report([Progress(job_id, attempt.lease, 30, "reading")], WORKER)
    assert await shown(job_id) == {"state": "delivered", "attempt": 1, "reason": None, "nextAttemptAt": None}
    await succeed(ledger, attempt)
    found = await shown(job_id)
    assert isinstance(found, dict)
    assert found.pop("nextAttemptAt").endswith("Z")
    assert found == {"state": "pending", "attempt": 0, "reason": None}
    await endpoint(database, blocked_until="2100-01-01 00:00+00")
    for standing, expected in (("leased", None), ("held", "2100-01-01T00:00:00.000000Z")):
        await put(database, job_id, "PENDING", standing)
        found = await shown(job_id)
        assert isinstance(found, dict)
        assert found["nextAttemptAt"] == expected


async def test_the_etag_does_not_follow_deliveries(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    job_id = await owe(ledger)
    tag = (await api.get(f"/jobs/{job_id}")).headers["etag"]
    await park(database, job_id)
    assert (await api.get(f"/jobs/{job_id}")).headers["etag"] == tag
    assert (await api.get(f"/jobs/{job_id}", headers={"If-None-Match": tag})).status_code == 304


async def test_progress_may_be_asked_for_and_is_not_the_default(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    asked = {"callbackUrl": URL, "callbackEvents": ["job.progress", "job.failed"], "metadata": {"a": 1}}
    told = UUID((await api.post("/generate-report", json=asked)).json()["jobId"])
    plain = UUID((await api.post("/generate-report", json={"callbackUrl": URL})).json()["jobId"])
    for job_id in (told, plain):
        attempt = await start(ledger, job_id)
        await ledger.report([Progress(job_id, attempt.lease, 30, "reading")], WORKER)
    rows = await database.fetch("SELECT job_id, sequence FROM delivery")
    assert [(row["job_id"], row["sequence"]) for row in rows] == [(told, -1)]


async def test_what_is_sent_says_what_the_submit_said(database: Database, ledger: Ledger) -> None:
    body = json.loads((await delivery_row(database, await owe(ledger)))["body"])
    assert body["data"]["metadata"] == {"order": "届け"}


async def _until_someone_waits_for_a_lock(database: Database) -> None:
    async with asyncio.timeout(10):
        while not await database.fetch(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.02)
