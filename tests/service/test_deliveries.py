"""What became of webhooks over a real socket, sending them again, and whose they are."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import httpx
import pytest

from tests.make import accept, start, succeed
from tests.owing import URL, attempted, delivery_row, disable, endpoint, owe, owe_parked, put
from tests.service.callers import door, make_key
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

OTHER = "https://example.org/other?token=a"


async def deliveries(api: httpx.AsyncClient, job_id: UUID) -> list[dict[str, object]]:
    answer = await api.get(f"/jobs/{job_id}/deliveries")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, object]] = answer.json()["deliveries"]
    return found


async def redeliver(api: httpx.AsyncClient, job_id: UUID, sequence: object = 3) -> httpx.Response:
    return await api.post(f"/jobs/{job_id}/deliveries/{sequence}/redeliver")


async def parked(api: httpx.AsyncClient, **query: object) -> list[str]:
    """Job ids of the list, walked to its end."""
    ids: list[str] = []
    while True:
        answer = await api.get("/deliveries", params=query)  # type: ignore[arg-type]
        assert answer.status_code == 200, answer.text
        body = answer.json()
        ids += [each["jobId"] for each in body["deliveries"]]
        if not body["hasMore"]:
            assert body["cursor"] is None
            return ids
        query["after"] = body["cursor"]


async def test_a_jobs_deliveries_show_every_attempt(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    job_id = await owe(ledger)
    await put(database, job_id, "PENDING", "waiting", 2)
    await attempted(database, job_id, 2, status=503, excerpt="\\x1b[31m <b>no</b>")
    await attempted(database, job_id, 1, status=None, reason="timeout", excerpt=None)
    answer = await api.get(f"/jobs/{job_id}/deliveries")
    assert answer.headers["cache-control"] == "no-store"
    [found] = answer.json()["deliveries"]
    attempts = found.pop("attempts")
    assert found.pop("nextAttemptAt").endswith("Z")
    assert found.pop("createdAt").endswith("Z")
    assert found == {
        "jobId": str(job_id),
        "sequence": 3,
        "webhookId": f"evt_{job_id.hex}_3",
        "eventType": "job.succeeded",
        "callbackUrl": URL,
        "state": "pending",
        "standing": "waiting",
        "reason": None,
        "status": None,
        "attempt": 2,
        "finishedAt": None,
    }
    assert [each.pop("startedAt")[-1] for each in attempts] == ["Z", "Z"]
    assert attempts == [
        {"attempt": 1, "seconds": 0.25, "status": None, "reason": "timeout", "excerpt": None},
        {"attempt": 2, "seconds": 0.25, "status": 503, "reason": "http_status", "excerpt": "\\x1b[31m <b>no</b>"},
    ]
    assert "192.0.2.1" not in answer.text, "which address answered is for operators"


async def test_several_deliveries_stand_in_order_and_progress_is_not_among_them(
    api: httpx.AsyncClient, ledger: Ledger, database: Database
) -> None:
    events = ("job.accepted", "job.started", "job.succeeded")
    job_id = await accept(ledger, callback_url=URL, callback_events=events)
    await succeed(ledger, await start(ledger, job_id))
    await database.fetch(
        "INSERT INTO delivery (job_id, sequence, tenant_id, url, due_at, created_at)"
        " VALUES ($1, -1, 'default', $2, now(), now())",
        job_id,
        URL,
    )
    found = await deliveries(api, job_id)
    assert [(each["sequence"], each["eventType"]) for each in found] == list(enumerate(events, 1))
    assert {each["standing"] for each in found} == {"ready"}


async def test_a_job_without_callback_has_none_and_an_unknown_one_is_404(
    api: httpx.AsyncClient, ledger: Ledger
) -> None:
    assert await deliveries(api, await accept(ledger)) == []
    for job_id in (str(new_id()), "x"):
        answer = await api.get(f"/jobs/{job_id}/deliveries")
        assert (answer.status_code, answer.json()["detail"]) == (404, "job not found")


@pytest.mark.parametrize(
    ("state", "standing", "attempt"),
    [
        ("PARKED", "waiting", 12),
        ("DELIVERED", "waiting", 3),
        ("PENDING", "waiting", 5),
        ("PENDING", "held", 5),
        ("PENDING", "ready", 5),
    ],
    ids=str,
)
async def test_redelivering_begins_anew_with_the_same_bytes(
    api: httpx.AsyncClient, database: Database, ledger: Ledger, state: str, standing: str, attempt: int
) -> None:
    job_id = await owe(ledger)
    await put(database, job_id, state, standing, attempt)
    await database.fetch("UPDATE delivery SET last_reason = 'timeout', owed_since = now() - interval '5 days'")
    before = await delivery_row(database, job_id)
    answer = await redeliver(api, job_id)
    assert answer.status_code == 202, answer.text
    owed = answer.json()
    row = await delivery_row(database, job_id)
    assert (owed["state"], owed["standing"], owed["attempt"], owed["finishedAt"]) == ("pending", "ready", 0, None)
    assert (owed["webhookId"], owed["reason"]) == (f"evt_{job_id.hex}_3", None)
    assert (row["state"], row["standing"], row["attempt"]) == ("PENDING", "ready", 0)
    assert row["due_seconds"] <= 0
    assert row["owed_seconds"] < 60
    assert (row["body"], row["created_at"], row["url"]) == (before["body"], before["created_at"], before["url"])
    assert row["lease"] > before["lease"], "what an earlier attempt comes to does not count any more"
    again = await redeliver(api, job_id)
    assert again.status_code == 202
    assert again.json() == owed
    assert await _lease_and_due(database, job_id) == (row["lease"], row["due_at"]), "a second click changes nothing"


async def test_clicks_at_the_same_time_owe_it_once(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    job_id = await owe_parked(ledger, database)
    lease = (await delivery_row(database, job_id))["lease"]
    answers = await asyncio.gather(*(redeliver(api, job_id) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {202}
    assert (await delivery_row(database, job_id))["lease"] == lease + 1


async def test_what_is_being_sent_is_left_alone(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    job_id = await owe(ledger)
    await put(database, job_id, "PENDING", "leased", 4)
    before = await database.fetch("SELECT * FROM delivery")
    answer = await redeliver(api, job_id)
    assert (answer.status_code, answer.json()["standing"], answer.json()["attempt"]) == (202, "sending", 4)
    assert await database.fetch("SELECT * FROM delivery") == before


async def test_a_disabled_endpoint_is_to_be_enabled_first(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    job_id = await owe_parked(ledger, database)
    endpoint_id = await disable(database)
    answer = await redeliver(api, job_id)
    assert (answer.status_code, answer.json()["code"]) == (409, "ENDPOINT_DISABLED")
    assert answer.json()["endpointId"] == str(endpoint_id)
    assert "enable" in answer.json()["detail"]
    assert (await delivery_row(database, job_id))["state"] == "PARKED"
    await api.post(f"/webhooks/endpoints/{endpoint_id}/enable")
    assert (await redeliver(api, job_id)).status_code == 202


@pytest.mark.parametrize("sequence", ["4", "-1", "0", "x", "3.0", "٣", "1" * 40, "03x"])
async def test_there_is_no_such_delivery(
    api: httpx.AsyncClient, database: Database, ledger: Ledger, sequence: str
) -> None:
    job_id = await owe_parked(ledger, database)
    await database.fetch(
        "INSERT INTO delivery (job_id, sequence, tenant_id, url, due_at, created_at)"
        " VALUES ($1, -1, 'default', $2, now(), now())",
        job_id,
        URL,
    )
    answer = await redeliver(api, job_id, sequence)
    assert (answer.status_code, answer.json()["detail"]) == (404, "delivery not found")


async def test_the_bell_rings_for_what_is_owed_again(
    api: httpx.AsyncClient, database: Database, ledger: Ledger, settings: Settings, database_url: str
) -> None:
    job_id, other = await owe_parked(ledger, database), await owe_parked(ledger, database, url=OTHER)
    heard: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(database_url)
    await connection.add_listener(settings.notify_channel, lambda *said: heard.put_nowait(said[-1]))
    try:
        async with asyncio.timeout(10):
            await redeliver(api, job_id)
            while await heard.get() != f"1|{job_id}:3.0":
                pass
            await api.post("/deliveries/replay")
            while await heard.get() != f"1|{other}:3.0":
                pass
    finally:
        await connection.close()


async def test_parked_ones_are_listed_the_latest_first_part_by_part(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    ids = [str(await owe_parked(ledger, database, age_seconds=age)) for age in range(7)]
    await owe(ledger)
    assert await parked(api) == ids
    for limit in (1, 2, 3, 7):
        assert await parked(api, limit=limit) == ids
    [first] = (await api.get("/deliveries", params={"limit": 1})).json()["deliveries"]
    assert (first["state"], first["reason"], first["standing"]) == ("parked", "timeout", None)
    assert "attempts" not in first


async def test_a_walk_misses_nothing_that_stays_while_others_come_and_go(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    stay, go = [], []
    for age in range(20):
        job_id = await owe_parked(ledger, database, age_seconds=100 + age)
        (stay if age % 2 else go).append(job_id)
    seen: list[str] = []
    query: dict[str, object] = {"limit": 3}
    while True:
        body = (await api.get("/deliveries", params=query)).json()  # type: ignore[arg-type]
        seen += [each["jobId"] for each in body["deliveries"]]
        if go:
            await redeliver(api, go.pop())
            await owe_parked(ledger, database)
        if not body["hasMore"]:
            break
        query["after"] = body["cursor"]
    assert len(seen) == len(set(seen))
    assert [each for each in seen if UUID(each) in stay] == list(map(str, stay))


async def test_filters_of_the_list(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    old = str(await owe_parked(ledger, database, reason="gone", age_seconds=7200))
    new = str(await owe_parked(ledger, database, url=OTHER))
    [row] = await database.fetch("SELECT utc(clock_timestamp() - interval '1 hour') AS hour_ago")
    assert await parked(api, reason="gone") == [old]
    assert await parked(api, callbackUrl=OTHER) == [new]
    assert await parked(api, callbackUrl="https://example.com/hoo") == []
    assert await parked(api, since=row["hour_ago"]) == [new]
    assert await parked(api, until=row["hour_ago"]) == [old]
    assert await parked(api, since=row["hour_ago"], reason="gone") == []


async def test_other_states_are_listed_by_job(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    pending = [str(await owe(ledger)) for _ in range(3)]
    delivered = await owe(ledger)
    await put(database, delivered, "DELIVERED", "waiting")
    await owe_parked(ledger, database)
    await accept(ledger)
    assert await parked(api, state="pending", limit=1) == pending[::-1]
    assert await parked(api, state="delivered") == [str(delivered)]
    assert await parked(api, state="pending", callbackUrl=OTHER) == []
    cursor = (await api.get("/deliveries", params={"state": "pending", "limit": 1})).json()["cursor"]
    answer = await api.get("/deliveries", params={"after": cursor})
    assert answer.status_code == 422, "a cursor of another list"


@pytest.mark.parametrize(
    "query",
    [
        "state=gone",
        "state=",
        "reason=nothing",
        "since=yesterday",
        "since=2026-01-01T00:00:00",
        "since=0001-01-01T00:00:00%2B14:00",
        "until=9999-12-31T23:59:59-14:00",
        "limit=0",
        "limit=501",
        "after=x",
        "after=%00",
        "callbackUrl=a%00b",
        "callbackURL=https://example.com/",
    ],
)
async def test_bad_queries_are_refused(api: httpx.AsyncClient, query: str) -> None:
    answer = await api.get(f"/deliveries?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT"), answer.text


async def test_replaying_takes_what_fits_the_longest_parked_first(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    ids = [await owe_parked(ledger, database, age_seconds=age) for age in range(5)]
    gone = await owe_parked(ledger, database, reason="gone")
    other = await owe_parked(ledger, database, url=OTHER)
    answer = await api.post("/deliveries/replay", json={"limit": 2, "callbackUrl": URL, "reason": "timeout"})
    assert answer.status_code == 202, answer.text
    assert answer.json() == {"replayed": 2, "more": True, "disabled": 0}
    rows = {job_id: await delivery_row(database, job_id) for job_id in (*ids, gone, other)}
    assert [rows[job_id]["state"] for job_id in ids] == ["PARKED"] * 3 + ["PENDING"] * 2
    assert rows[ids[4]]["due_at"] < rows[ids[3]]["due_at"], "in the order they were parked"
    assert rows[ids[4]]["due_seconds"] <= 0
    assert rows[ids[4]]["owed_seconds"] < 60
    answer = await api.post("/deliveries/replay", json={"reason": "timeout"})
    assert answer.json() == {"replayed": 4, "more": False, "disabled": 0}
    assert await parked(api) == [str(gone)]
    assert (await api.post("/deliveries/replay")).json() == {"replayed": 1, "more": False, "disabled": 0}
    assert (await api.post("/deliveries/replay")).json() == {"replayed": 0, "more": False, "disabled": 0}


async def test_replaying_leaves_and_counts_those_of_disabled_endpoints(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    kept = [await owe_parked(ledger, database) for _ in range(3)]
    await owe_parked(ledger, database, url=OTHER)
    await disable(database)
    answer = await api.post("/deliveries/replay", json={})
    assert answer.json() == {"replayed": 1, "more": False, "disabled": 3}
    assert set(await parked(api)) == set(map(str, kept))
    answer = await api.post("/deliveries/replay", json={"callbackUrl": URL})
    assert answer.json() == {"replayed": 0, "more": False, "disabled": 3}
    answer = await api.post("/deliveries/replay", json={"callbackUrl": OTHER})
    assert answer.json() == {"replayed": 0, "more": False, "disabled": 0}


async def test_replays_at_the_same_time_share_the_work(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    ids = [await owe_parked(ledger, database, age_seconds=age) for age in range(10)]
    leases = {row["job_id"]: row["lease"] for row in await database.fetch("SELECT job_id, lease FROM delivery")}
    answers = await asyncio.gather(*(api.post("/deliveries/replay", json={}) for _ in range(6)))
    assert sum(answer.json()["replayed"] for answer in answers) == len(ids)
    rows = await database.fetch("SELECT job_id, lease FROM delivery")
    assert {row["job_id"]: row["lease"] - 1 for row in rows} == leases


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 0},
        {"limit": 10_001},
        {"limit": "5"},
        {"since": "yesterday"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"reason": "x"},
        {"callbackUrl": "a\x00b"},
        {"callbackUrl": 1},
        {"state": "parked"},
        [],
    ],
    ids=str,
)
async def test_bad_replays_change_nothing(
    api: httpx.AsyncClient, database: Database, ledger: Ledger, body: object
) -> None:
    job_id = await owe_parked(ledger, database)
    answer = await api.post("/deliveries/replay", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT"), answer.text
    assert (await delivery_row(database, job_id))["state"] == "PARKED"


@pytest.fixture
async def guarded_api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with door(settings) as client:
        yield client


async def test_another_tenants_deliveries_look_like_none(
    guarded_api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    api = guarded_api
    theirs = await owe_parked(ledger, database, tenant_id="theirs")
    held = await endpoint(database, OTHER, "theirs", state="DISABLED", disabled_reason="gone")
    before = await database.fetch("SELECT * FROM delivery")
    _, headers = await make_key(database, tenant="ours")
    for method, path in (
        ("GET", "/jobs/{}/deliveries"),
        ("POST", "/jobs/{}/deliveries/3/redeliver"),
        ("POST", "/jobs/{}/deliveries/x/redeliver"),
        ("POST", "/webhooks/endpoints/{}/enable"),
        ("POST", "/webhooks/endpoints/{}/disable"),
    ):
        ids = (new_id(), held if "endpoints" in path else theirs)
        unknown, other = [await api.request(method, path.format(id_), headers=headers) for id_ in ids]
        assert (unknown.status_code, unknown.content) == (404, other.content) == (other.status_code, other.content)
        assert _stable(unknown) == _stable(other)
    assert (await api.get("/deliveries", headers=headers)).json()["deliveries"] == []
    assert (await api.get("/webhooks/endpoints", headers=headers)).json()["endpoints"] == []
    for body in ({}, {"callbackUrl": URL}, {"callbackUrl": OTHER}):
        answer = await api.post("/deliveries/replay", json=body, headers=headers)
        assert answer.json() == {"replayed": 0, "more": False, "disabled": 0}
    assert await database.fetch("SELECT * FROM delivery") == before


async def test_a_cursor_is_good_for_its_tenant_alone(
    guarded_api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    for _ in range(2):
        await owe_parked(ledger, database, tenant_id="theirs")
    _, theirs = await make_key(database, tenant="theirs")
    _, ours = await make_key(database, tenant="ours")
    cursor = (await guarded_api.get("/deliveries?limit=1", headers=theirs)).json()["cursor"]
    query = {"after": cursor}
    assert len((await guarded_api.get("/deliveries", params=query, headers=theirs)).json()["deliveries"]) == 1
    assert (await guarded_api.get("/deliveries", params=query, headers=ours)).status_code == 422


def _stable(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name != "date"}


async def _lease_and_due(database: Database, job_id: UUID) -> tuple[object, object]:
    row = await delivery_row(database, job_id)
    return row["lease"], row["due_at"]
