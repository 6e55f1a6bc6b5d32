"""Watching one job with a ticket or the stream cookie: what they open, for how long, and for whom."""

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
from pydantic import SecretStr

from service import streams
from service.identity import Right
from service.rights import Rights
from service.tickets import COOKIE, SECURE_COOKIE, TICKET_SECONDS, Tickets
from tests.conftest import SECRET_KEYS, serve
from tests.make import accept, start, succeed
from tests.service.callers import door, guarded, make_key
from todoke.model.access import Scope
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.wire.sealing import Sealer

AS_LIST = {"Accept": "application/json"}
OTHER_KEYS = "another-secret-key-that-is-long-enough-too"


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with door(settings) as client:
        yield client


@pytest.fixture
def rights(database: Database) -> Rights:
    return Rights(ApiKeys(database))


async def issue(api: httpx.AsyncClient, headers: dict[str, str], job_id: UUID) -> str:
    answer = await api.post(f"/jobs/{job_id}/tokens", headers=headers)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["ticket"])


async def opens(api: httpx.AsyncClient, job_id: UUID, ticket: str | None = None, cookie: str | None = None) -> bool:
    """Whether these alone let a caller watch the job."""
    answer = await look(api, job_id, ticket, cookie)
    assert answer.status_code in (200, 401), answer.text
    return answer.status_code == 200


async def look(
    api: httpx.AsyncClient, job_id: UUID, ticket: str | None = None, cookie: str | None = None, **headers: str
) -> httpx.Response:
    query = {"ticket": ticket} if ticket is not None else {}
    shown = {"Cookie": cookie} if cookie is not None else {}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with httpx.AsyncClient(base_url=api.base_url, timeout=20) as fresh:
        return await fresh.get(f"/jobs/{job_id}/events", params=query, headers=AS_LIST | shown | named)


async def ended(database: Database, job_id: UUID, minutes_ago: int) -> None:
    """Have a finished job be finished for longer."""
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(
            "UPDATE job SET finished_at = now() - $2 * interval '1 minute' WHERE id = $1", job_id, minutes_ago
        )


def crumb(answer: httpx.Response) -> str:
    """The cookie as a browser would send it back."""
    return answer.headers["set-cookie"].partition(";")[0]


async def test_a_submit_answer_can_be_watched_at_once(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    _, headers = await make_key(database, Scope.SUBMIT)
    answer = await api.post("/generate-report", headers=headers | {"Idempotency-Key": "k"})
    assert answer.headers["cache-control"] == "no-store"
    url, job_id = answer.json()["eventsUrl"], UUID(answer.json()["jobId"])
    assert (await api.get(url, headers=AS_LIST)).status_code == 200
    assert await ledger.revoke_tickets(job_id, "default")
    assert (await api.get(url, headers=AS_LIST)).status_code == 401
    again = await api.post("/generate-report", headers=headers | {"Idempotency-Key": "k"})
    assert again.headers["idempotent-replayed"] == "true"
    assert (await api.get(again.json()["eventsUrl"], headers=AS_LIST)).status_code == 200, "as of today"


async def test_a_ticket_streams_and_its_replay_is_checked_again(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    url = (await api.post(f"/jobs/{job_id}/tokens", headers=headers)).json()["eventsUrl"]
    async with api.stream("GET", url) as stream:
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                cursor = line.removeprefix("id: ")
                break
    await succeed(ledger, await start(ledger, job_id))
    replay = await api.get(url, headers={"Last-Event-ID": cursor})
    assert (replay.status_code, replay.text.count("event: job.")) == (200, 2)
    await api.delete(f"/jobs/{job_id}/tokens", headers=headers)
    api.cookies.clear()
    assert (await api.get(url, headers={"Last-Event-ID": cursor})).status_code == 401


@pytest.mark.parametrize("end", ["tickets taken back", "key revoked", "key expired"])
async def test_an_open_stream_ends_with_its_right(
    settings: Settings, database: Database, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(streams, "RIGHTS_SECONDS", 0.05)
    key, headers = await make_key(database)
    _, of_another = await make_key(database)
    job_id = await accept(ledger)
    path = f"/jobs/{job_id}/events"
    async with door(settings) as api, door(settings) as aside:
        url = (await api.post(f"/jobs/{job_id}/tokens", headers=headers)).json()["eventsUrl"]
        async with api.stream("GET", url) as stream, aside.stream("GET", path, headers=of_another) as other:
            lines, others = stream.aiter_lines(), other.aiter_lines()
            for opening in (lines, others):
                assert "event: snapshot" in [await anext(opening) for _ in range(7)]
            if end == "tickets taken back":
                await ledger.revoke_tickets(job_id, "default")
            else:
                moved = "revoked_at" if end == "key revoked" else "expires_at"
                await database.fetch(f"UPDATE api_key SET {moved} = now() WHERE id = $1", key.id)
            async with asyncio.timeout(20):
                told = [line async for line in lines]
            assert 'data: {"reason":"unauthorized"}' in told
            await succeed(ledger, await start(ledger, job_id))
            async with asyncio.timeout(20):
                assert "event: job.succeeded" in [line async for line in others], "whose right stands sees the end"
        async with httpx.AsyncClient(base_url=api.base_url) as fresh:
            assert (await fresh.get(url)).status_code == 401


async def test_what_the_answer_says(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    _, headers = await make_key(database, Scope.READ)
    job_id = await accept(ledger)
    answer = await api.post(f"/jobs/{job_id}/tokens", headers=headers)
    body = answer.json()
    assert set(body) == {"ticket", "eventsUrl", "expiresAt"}
    assert body["eventsUrl"] == f"/jobs/{job_id}/events?ticket={body['ticket']}"
    assert body["expiresAt"].endswith("Z")
    assert answer.headers["cache-control"] == "no-store"
    assert body["ticket"].replace("-", "").replace("_", "").isalnum()
    for secret in ("default", str(job_id), headers["Authorization"][11:27]):
        assert secret not in body["ticket"]


async def test_a_ticket_is_for_one_job_and_its_events(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    _, headers = await make_key(database)
    job_id, other = await accept(ledger), await accept(ledger)
    ticket = await issue(api, headers, job_id)
    assert await opens(api, job_id, ticket)
    assert not await opens(api, other, ticket)
    assert not await opens(api, new_id(), ticket)
    for method, path in (
        ("GET", f"/jobs/{job_id}"),
        ("GET", f"/jobs/{job_id}/result"),
        ("POST", f"/jobs/{job_id}/cancel"),
        ("POST", f"/jobs/{job_id}/retry"),
        ("POST", f"/jobs/{job_id}/tokens"),
        ("DELETE", f"/jobs/{job_id}/tokens"),
        ("POST", "/generate-report"),
    ):
        answer = await api.request(method, path, params={"ticket": ticket})
        assert answer.status_code == 401, path
    bearer = await api.get(f"/jobs/{job_id}/events", headers=AS_LIST | {"Authorization": f"Bearer {ticket}"})
    assert bearer.status_code == 401


async def test_what_is_no_ticket(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    key, headers = await make_key(database)
    job_id = await accept(ledger)
    ticket = await issue(api, headers, job_id)
    right = Right("default", key.id)
    foreign = Tickets([OTHER_KEYS], None).issue(right, job_id, 0).text
    of_other_tenant = Tickets([SECRET_KEYS], None).issue(Right("another", key.id), job_id, 0).text
    of_no_key = Tickets([SECRET_KEYS], None).issue(Right("default"), job_id, 0).text
    unknown_key = Tickets([SECRET_KEYS], None).issue(Right("default", "0" * 16), job_id, 0).text
    other_purpose = Sealer([SECRET_KEYS], "stream cookie").seal(Sealer([SECRET_KEYS], "ticket").open(ticket) or b"")
    changed = ticket[:40] + ("A" if ticket[40] != "A" else "B") + ticket[41:]
    for text in (
        *("", "x", "é", "\x00", ticket[:-1], ticket[1:], ticket + "A", changed, "A" * 5000),
        *(foreign, of_other_tenant, of_no_key, unknown_key, other_purpose),
    ):
        answer = await look(api, job_id, text)
        assert answer.status_code == 401, text
        assert "set-cookie" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
    assert await opens(api, job_id, ticket)
    cookie = crumb(await look(api, job_id, ticket))
    name, _, value = cookie.partition("=")
    assert await opens(api, job_id, cookie=cookie)
    assert not await opens(api, job_id, value)
    assert not await opens(api, job_id, cookie=f"{name}={ticket}")
    assert not await opens(api, job_id, cookie=f"{cookie[:-4]}")


async def test_a_bad_credential_does_not_spoil_a_good_one(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    _, headers = await make_key(database)
    _, strangers = await make_key(database, tenant="another")
    job_id = await accept(ledger)
    ticket = await issue(api, headers, job_id)
    cookie = crumb(await look(api, job_id, ticket))
    assert (await look(api, job_id, "stale", Authorization=headers["Authorization"])).status_code == 200
    assert (await look(api, job_id, ticket, Authorization="Bearer stale")).status_code == 200
    assert (await look(api, job_id, "stale", cookie, Authorization="Bearer stale")).status_code == 200
    answer = await look(api, job_id, ticket, Authorization=strangers["Authorization"])
    assert answer.status_code == 404, "a good key says who is asking"
    _, may_submit = await make_key(database, Scope.SUBMIT)
    assert (await look(api, job_id, ticket, Authorization=may_submit["Authorization"])).status_code == 200
    assert (await look(api, job_id, Authorization=may_submit["Authorization"])).status_code == 403


async def test_a_ticket_ends_ten_minutes_after_its_job(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    key, headers = await make_key(database)
    job_id = await accept(ledger)
    an_hour_ago = Tickets([SECRET_KEYS], clock=lambda: time.time() - 3600)
    old = an_hour_ago.issue(Right("default", key.id), job_id, 0).text
    cookie = crumb(await look(api, job_id, old))
    await succeed(ledger, await start(ledger, job_id))
    assert await opens(api, job_id, old)
    await ended(database, job_id, minutes_ago=9)
    assert await opens(api, job_id, old)
    await ended(database, job_id, minutes_ago=10)
    assert not await opens(api, job_id, old)
    assert not await opens(api, job_id, cookie=cookie), "what slides is not the end of the job"
    answer = await api.post(f"/jobs/{job_id}/tokens", headers=headers)
    assert await opens(api, job_id, answer.json()["ticket"]), "one given after the end is good for ten minutes"
    gone = Tickets([SECRET_KEYS], clock=lambda: time.time() - 601)
    assert not await opens(api, job_id, gone.issue(Right("default", key.id), job_id, 0).text)


async def test_a_ticket_ends_after_a_day_and_the_cookie_goes_on(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    key, _ = await make_key(database)
    job_id, right = await accept(ledger), Right("default", key.id)
    nearly = Tickets([SECRET_KEYS], clock=lambda: time.time() - TICKET_SECONDS + 60).issue(right, job_id, 0).text
    over = Tickets([SECRET_KEYS], clock=lambda: time.time() - TICKET_SECONDS - 1).issue(right, job_id, 0).text
    assert not await opens(api, job_id, over)
    cookie = crumb(await look(api, job_id, nearly))
    answer = await look(api, job_id, over, cookie)
    assert answer.status_code == 200
    assert crumb(answer) != cookie, "it slides"
    assert "access-control-allow-origin" not in answer.headers, "the cookie admitted it"


async def test_a_ticket_ends_with_the_key_that_gave_it(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    keys = ApiKeys(database)
    job_id = await accept(ledger)
    for end in ("revoked_at", "expires_at"):
        key, headers = await make_key(database)
        ticket = await issue(api, headers, job_id)
        cookie = crumb(await look(api, job_id, ticket))
        await keys.rotate(key.id, 3600)
        assert await opens(api, job_id, ticket), "the overlap holds for tickets too"
        await database.fetch(f"UPDATE api_key SET {end} = now() WHERE id = $1", key.id)
        assert not await opens(api, job_id, ticket)
        assert not await opens(api, job_id, cookie=cookie)


async def test_tickets_are_taken_back(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    _, headers = await make_key(database)
    job_id, other = await accept(ledger), await accept(ledger)
    tickets = [await issue(api, headers, job_id) for _ in range(2)]
    cookie, untouched = crumb(await look(api, job_id, tickets[0])), await issue(api, headers, other)
    assert (await api.delete(f"/jobs/{job_id}/tokens", headers=headers)).status_code == 204
    assert not any([await opens(api, job_id, ticket) for ticket in tickets])
    assert not await opens(api, job_id, cookie=cookie)
    assert await opens(api, other, untouched)
    assert await opens(api, job_id, await issue(api, headers, job_id))
    assert not await ledger.revoke_tickets(job_id, "another")
    [row] = await database.fetch("SELECT ticket_generation, sequence FROM job WHERE id = $1", job_id)
    assert (row["ticket_generation"], row["sequence"]) == (1, 1)


async def test_tickets_hold_across_processes_restarts_and_a_change_of_keys(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    async with door(settings) as first, door(settings) as second:
        ticket = await issue(first, headers, job_id)
        assert await opens(second, job_id, ticket)
        cookie = crumb(await look(second, job_id, ticket))
    both = guarded(settings, secret_keys=SecretStr(f"{OTHER_KEYS},{SECRET_KEYS}"))
    new = guarded(settings, secret_keys=SecretStr(OTHER_KEYS))
    async with serve(both) as url, httpx.AsyncClient(base_url=url) as api:
        assert await opens(api, job_id, ticket)
        assert await opens(api, job_id, cookie=cookie)
        fresh = await issue(api, headers, job_id)
    async with serve(new) as url, httpx.AsyncClient(base_url=url) as api:
        assert not await opens(api, job_id, ticket)
        assert not await opens(api, job_id, cookie=cookie)
        assert await opens(api, job_id, fresh)


@pytest.mark.parametrize(
    ("host", "scheme", "is_secure"),
    [
        ("127.0.0.1:8080", None, False),
        ("localhost", None, False),
        ("[::1]:80", None, False),
        ("localhost", "https", True),
        ("jobs.example.com", None, True),
        ("jobs.example.com", "https", True),
        ("localhost.example.com", None, True),
    ],
)
async def test_the_cookie(
    api: httpx.AsyncClient, database: Database, ledger: Ledger, host: str, scheme: str | None, is_secure: bool
) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    ticket = await issue(api, headers, job_id)
    named = {"Host": host} | ({"X-Forwarded-Proto": scheme} if scheme else {})
    answer = await look(api, job_id, ticket, **named)
    first, *terms = answer.headers["set-cookie"].split("; ")
    assert first.partition("=")[0] == (SECURE_COOKIE if is_secure else COOKIE)
    expected = [f"Path=/jobs/{job_id}/events", "Max-Age=86400", "HttpOnly", "SameSite=Strict"]
    assert terms == expected + ["Secure"] * is_secure
    assert answer.headers["cache-control"] == "no-store"
    again = await look(api, job_id, cookie=first)
    assert again.status_code == 200
    assert "set-cookie" in again.headers


@pytest.mark.parametrize("site", ["cross-site", "nonsense"])
async def test_another_site_gets_no_cookie_and_may_read(
    api: httpx.AsyncClient, database: Database, ledger: Ledger, site: str
) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    ticket = await issue(api, headers, job_id)
    answer = await look(api, job_id, ticket, Sec_Fetch_Site=site, Origin="https://elsewhere.example")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert await opens(api, job_id, ticket), "the ticket itself stays good"


@pytest.mark.parametrize("site", ["same-origin", "same-site", "none"])
async def test_our_own_site_gets_the_cookie(
    api: httpx.AsyncClient, database: Database, ledger: Ledger, site: str
) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    answer = await look(api, job_id, await issue(api, headers, job_id), Sec_Fetch_Site=site)
    assert "set-cookie" in answer.headers


async def test_a_key_gets_neither_cookie_nor_leave(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    answer = await look(api, job_id, await issue(api, headers, job_id), **headers)
    assert answer.status_code == 200
    assert not {"set-cookie", "access-control-allow-origin"} & set(answer.headers)


async def test_the_cookie_is_set_on_streams_and_on_204(
    api: httpx.AsyncClient, database: Database, ledger: Ledger
) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    url = (await api.post(f"/jobs/{job_id}/tokens", headers=headers)).json()["eventsUrl"]
    stream = await api.get(url)
    assert stream.headers["content-type"].startswith("text/event-stream")
    cursor = [line for line in stream.text.splitlines() if line.startswith("id: ")][-1].removeprefix("id: ")
    api.cookies.clear()
    end = await api.get(url, headers={"Last-Event-ID": cursor})
    assert end.status_code == 204
    for answer in (stream, end):
        assert answer.headers["set-cookie"].startswith(f"{COOKIE}=")
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_behind_a_path_the_cookie_names_it(settings: Settings, database: Database, ledger: Ledger) -> None:
    _, headers = await make_key(database)
    job_id = await accept(ledger)
    async with door(settings, public_url="https://example.com/todoke") as api:
        body = (await api.post(f"/jobs/{job_id}/tokens", headers=headers)).json()
        assert body["eventsUrl"].startswith(f"https://example.com/todoke/jobs/{job_id}/events?ticket=")
        answer = await look(api, job_id, body["ticket"])
    assert f"Path=/todoke/jobs/{job_id}/events;" in answer.headers["set-cookie"]


async def test_an_open_desk_looks_at_nothing(settings: Settings, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    async with serve(settings) as url, httpx.AsyncClient(base_url=url) as api:
        for ticket in ("stale", Tickets([OTHER_KEYS]).issue(Right("another", "x"), new_id(), 3).text):
            answer = await look(api, job_id, ticket, f"{COOKIE}=stale", Authorization="Bearer stale")
            assert answer.status_code == 200
            assert not {"set-cookie", "access-control-allow-origin"} & set(answer.headers)
        assert await opens(api, job_id, await issue(api, {}, job_id))
        given_openly = await issue(api, {}, job_id)
    async with door(settings) as api:
        assert not await opens(api, job_id, given_openly), "nobody with a key stands behind it"


async def test_rights_lapse(database: Database, ledger: Ledger, rights: Rights) -> None:
    key, _ = await make_key(database)
    revoked, _ = await make_key(database)
    expired, _ = await make_key(database, lifetime=60)
    await ApiKeys(database).revoke(revoked.id)
    await database.fetch("UPDATE api_key SET expires_at = now() WHERE id = $1", expired.id)
    job_id, other = await accept(ledger), await accept(ledger)
    await ledger.revoke_tickets(other, "default")
    now = time.time()
    standing = {
        Right("default"),
        Right("default", key.id),
        Right("default", key.id, ends_at=now + 60),
        Right("default", key.id, job_id, 0, now + 60, now),
        Right("default", key.id, other, 1, now + 60, now),
        Right("default", None, job_id, 0, now + 60, now),
    }
    ended = {
        Right("default", revoked.id),
        Right("default", expired.id),
        Right("another", key.id),
        Right("default", "0" * 16),
        Right("default", ends_at=now - 1),
        Right("default", key.id, job_id, 0, now - 1, now),
        Right("default", key.id, other, 0, now + 60, now),
        Right("default", key.id, new_id(), 0, now + 60, now),
        Right("another", None, job_id, 0, now + 60, now),
    }
    assert await rights.lapsed(standing | ended) == ended
    assert await rights.lapsed([]) == set()
    assert await asyncio.gather(*map(rights.holds, [*standing, *ended])) == [True] * 6 + [False] * 9


async def test_thousands_of_rights_are_asked_about_in_few_queries(
    database: Database, ledger: Ledger, rights: Rights
) -> None:
    key, _ = await make_key(database)
    job_id, now = await accept(ledger), time.time()
    many = [Right("default", key.id, job_id, number % 2, now + 60 + number, now) for number in range(2500)]
    assert await rights.lapsed(many) == {right for right in many if right.generation == 1}


async def test_many_connects_at_once(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    _, headers = await make_key(database)
    jobs = [await accept(ledger) for _ in range(8)]
    tickets = await asyncio.gather(*(issue(api, headers, job_id) for job_id in jobs))
    pairs = [(job_id, ticket) for job_id in jobs for ticket in tickets]
    found = await asyncio.gather(*(opens(api, *pair) for pair in pairs))
    assert found == [jobs.index(job_id) == tickets.index(ticket) for job_id, ticket in pairs]
