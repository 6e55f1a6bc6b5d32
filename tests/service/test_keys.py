"""Who gets in with a key, to do what, and to whose jobs."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterable
from uuid import UUID

import httpx
import pytest

from service.identity import Right
from service.keyring import KEEP_SECONDS, KNOWN_MAX, UNKNOWN_MAX, Keyring
from service.tickets import Tickets
from tests.conftest import REPOSITORY, SECRET_KEYS, make_settings, serve
from tests.environment import environment_of
from tests.make import accept, start, succeed
from tests.service.callers import door, guarded, make_key
from todoke.dev.aws import Emulator
from todoke.dev.ports import free_port
from todoke.model.access import EVERY_SCOPE, Scope, granted, new_key, secret_digest, spell_key, split_key
from todoke.model.errors import Unavailable
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings
from todoke.store.api_keys import ApiKeys, FoundKey
from todoke.store.database import Database
from todoke.store.ledger import Ledger

# Every route that needs a key, and the scope it needs.
ROUTES = [
    ("POST", "/generate-report", Scope.SUBMIT),
    ("GET", "/jobs", Scope.READ),
    ("POST", "/jobs/batch", Scope.SUBMIT),
    ("GET", "/jobs/{id}", Scope.READ),
    ("DELETE", "/jobs/{id}", Scope.CANCEL),
    ("GET", "/jobs/{id}/events", Scope.READ),
    ("GET", "/jobs/{id}/result", Scope.READ),
    ("GET", "/jobs/{id}/artifacts/report.html", Scope.READ),
    ("POST", "/jobs/{id}/cancel", Scope.CANCEL),
    ("POST", "/jobs/{id}/retry", Scope.SUBMIT),
    ("POST", "/jobs/{id}/tokens", Scope.READ),
    ("DELETE", "/jobs/{id}/tokens", Scope.READ),
    ("GET", "/events", Scope.READ),
    ("POST", "/webhooks/tests", Scope.SUBMIT),
    ("GET", "/webhooks/tests/{id}", Scope.READ),
    ("GET", "/jobs/{id}/deliveries", Scope.READ),
    ("POST", "/jobs/{id}/deliveries/3/redeliver", Scope.SUBMIT),
    ("GET", "/deliveries", Scope.READ),
    ("POST", "/deliveries/replay", Scope.SUBMIT),
    ("GET", "/webhooks/endpoints", Scope.READ),
    ("POST", "/webhooks/endpoints", Scope.ADMIN),
    ("POST", "/webhooks/endpoints/{id}/disable", Scope.ADMIN),
    ("POST", "/webhooks/endpoints/{id}/enable", Scope.ADMIN),
    ("POST", "/webhooks/secrets", Scope.ADMIN),
    ("GET", "/webhooks/secrets", Scope.ADMIN),
    ("DELETE", "/webhooks/secrets/{id}", Scope.ADMIN),
]
# How the description names the parts of a path that ROUTES fill in.
NAMES = {"{job_id}": "{id}", "{sequence}": "3", "{endpoint_id}": "{id}", "{test_id}": "{id}", "{secret_id}": "{id}"} | {
    "{name}": "report.html"
}
OPEN = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/.well-known/webhook-keys",
    "/.well-known/jwks.json",
]
AS_LIST = {"Accept": "application/json"}


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with door(settings) as client:
        yield client


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """In the place of the table of keys: counts what is asked, and may be away."""

    def __init__(self, *keys: FoundKey) -> None:
        self.keys = {key.id: key for key in keys}
        self.asked: list[str] = []
        self.is_away = False

    async def find(self, ids: Iterable[str]) -> dict[str, FoundKey]:
        if self.is_away:
            raise Unavailable("away")
        self.asked += ids
        await asyncio.sleep(0)
        return {key: self.keys[key] for key in ids if key in self.keys}


def found(key_id: str = "a", seconds_left: float | None = None) -> FoundKey:
    return FoundKey(key_id, "default", b"", EVERY_SCOPE, seconds_left)


def keyring(kept: Kept, clock: Clock) -> Keyring:
    return Keyring(kept, clock)  # type: ignore[arg-type]


async def test_without_a_key_nothing_but_health_and_documents(api: httpx.AsyncClient) -> None:
    for path in OPEN:
        assert (await api.get(path)).status_code == 200, path
    for method, path, _ in ROUTES:
        answer = await api.request(method, path.format(id=new_id()), content=b"x" * 1000)
        assert (answer.status_code, answer.json()["code"]) == (401, "KEY_REQUIRED"), path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"


async def test_every_route_of_the_description_is_in_the_matrix(api: httpx.AsyncClient) -> None:
    described = (await api.get("/openapi.json")).json()
    paths = {
        (method.upper(), re.sub(r"\{\w+\}", lambda found: NAMES[found[0]], path))
        for path, item in described["paths"].items()
        for method in item
        # HEAD is GET without the body.
        if method != "head"
    }
    assert paths == {(method, path) for method, path, _ in ROUTES}
    assert described["security"] == [{"apiKey": []}]
    assert {"apiKey": []} in described["paths"]["/jobs/{job_id}/events"]["get"]["security"]
    assert set(described["components"]["securitySchemes"]) == {"apiKey", "ticket"}


async def test_scopes(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    job_id = await accept(ledger)
    for held in Scope:
        _, headers = await make_key(database, held)
        for method, path, needed in ROUTES:
            answer = await api.request(method, path.format(id=job_id), headers=headers | AS_LIST)
            if held in (needed, Scope.ADMIN):
                assert answer.status_code not in (401, 403), (held, path, answer.text)
            else:
                assert (answer.status_code, answer.json()["code"]) == (403, "SCOPE_MISSING"), (held, path)
                assert answer.headers["www-authenticate"].endswith(f'scope="{needed}"')


@pytest.mark.parametrize(
    "shown",
    [
        "Bearer",
        "Bearer x",
        "Basic dGRrOng=",
        "Bearer tdk_{id}_" + "0" * 48,
        "Bearer tdk_" + "0" * 16 + "_" + "0" * 48,
        "Bearer tdk_{id}_",
        "Bearer {key}0",
        "Bearer {short}",
        "Bearer tdk_{id}_\xff",
        "{key}",
    ],
)
async def test_what_is_no_key_is_refused(api: httpx.AsyncClient, database: Database, shown: str) -> None:
    key, headers = await make_key(database)
    text = headers["Authorization"].removeprefix("Bearer ")
    sent = shown.format(id=key.id, key=text, short=text[:-1]).encode("latin-1")
    answer = await api.get(f"/jobs/{new_id()}", headers={"Authorization": sent})
    assert (answer.status_code, answer.json()["code"]) == (401, "KEY_REFUSED")
    assert answer.headers["www-authenticate"].startswith("Bearer error=")
    assert (await api.get(f"/jobs/{new_id()}", headers={"Authorization": f"bearer {text}"})).status_code == 404


async def test_another_tenants_job_looks_like_none(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    theirs = await accept(ledger, tenant_id="another")
    ended = await accept(ledger, tenant_id="another")
    await succeed(ledger, await start(ledger, ended))
    _, headers = await make_key(database)
    before = await database.fetch("SELECT * FROM job ORDER BY id")
    for method, path, _ in (route for route in ROUTES if "{id}" in route[1]):
        for accepts in (AS_LIST, {"Accept": "text/event-stream"}):
            answers = [
                await api.request(method, path.format(id=job_id), headers=headers | accepts)
                for job_id in (new_id(), theirs, ended)
            ]
            plain = [(answer.status_code, answer.content, _stable(answer.headers)) for answer in answers]
            assert plain[0][0] == 404, path
            assert plain[1] == plain[0] == plain[2], path
    assert await database.fetch("SELECT * FROM job ORDER BY id") == before
    _, headers = await make_key(database, tenant="another")
    assert (await api.get(f"/jobs/{theirs}", headers=headers)).status_code == 202


async def test_a_submit_belongs_to_the_keys_tenant(api: httpx.AsyncClient, database: Database) -> None:
    ids = []
    for tenant in ("one", "two"):
        _, headers = await make_key(database, tenant=tenant)
        answer = await api.post("/generate-report", headers=headers | {"Idempotency-Key": "same"})
        assert answer.headers["cache-control"] == "no-store"
        assert "idempotent-replayed" not in answer.headers
        ids.append(UUID(answer.json()["jobId"]))
    rows = await database.fetch("SELECT id, tenant_id FROM job")
    assert {row["id"]: row["tenant_id"] for row in rows} == dict(zip(ids, ("one", "two"), strict=True))


async def test_only_who_may_read_is_shown_the_status_by_a_submit(api: httpx.AsyncClient, database: Database) -> None:
    wait = {"Prefer": "wait=1", "Idempotency-Key": "once"}
    _, submits = await make_key(database, Scope.SUBMIT)
    first = await api.post("/generate-report", headers=submits | wait)
    await database.fetch(
        "UPDATE job SET state = 'FAILED', sequence = 2, finished_at = now(), error_code = 'X', error = 'it broke'"
    )
    again = await api.post("/generate-report", headers=submits | wait)
    assert (first.status_code, again.status_code) == (202, 202)
    assert "preference-applied" not in again.headers
    assert "error" not in again.json()
    _, both = await make_key(database, Scope.SUBMIT, Scope.READ)
    shown = await api.post("/generate-report", headers=both | wait)
    assert (shown.status_code, shown.json()["error"]) == (200, "it broke")


async def test_two_tenants_feeds_are_apart(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    ours, theirs = await accept(ledger, tenant_id="one"), await accept(ledger, tenant_id="two")
    for tenant, job_id in (("one", ours), ("two", theirs)):
        _, headers = await make_key(database, tenant=tenant)
        events = (await api.get("/events", headers=headers | AS_LIST)).json()["events"]
        assert [item["data"]["jobId"] for item in events] == [str(job_id)]


async def test_a_key_that_has_ended_is_refused(api: httpx.AsyncClient, database: Database) -> None:
    async def code(headers: dict[str, str]) -> int:
        return (await api.get(f"/jobs/{new_id()}", headers=headers)).status_code

    keys = ApiKeys(database)
    revoked, of_revoked = await make_key(database)
    assert await keys.revoke(revoked.id)
    assert await code(of_revoked) == 401
    expired, of_expired = await make_key(database, lifetime=60)
    await database.fetch("UPDATE api_key SET expires_at = now() WHERE id = $1", expired.id)
    assert await code(of_expired) == 401
    _, of_both = await make_key(database, lifetime=60)
    assert await code(of_both) == 404


async def test_a_key_revoked_in_use_is_refused_within_the_bound(api: httpx.AsyncClient, database: Database) -> None:
    key, headers = await make_key(database)
    assert (await api.get(f"/jobs/{new_id()}", headers=headers)).status_code == 404
    await ApiKeys(database).revoke(key.id)
    async with asyncio.timeout(KEEP_SECONDS + 5):
        while (await api.get(f"/jobs/{new_id()}", headers=headers)).status_code != 401:
            await asyncio.sleep(0.05)


async def test_rotation_overlaps(api: httpx.AsyncClient, database: Database) -> None:
    old, of_old = await make_key(database, Scope.READ, tenant="one")
    rotated = await ApiKeys(database).rotate(old.id, 3600)
    assert rotated is not None
    new, text = rotated
    assert (new.tenant_id, new.name, new.scopes) == (old.tenant_id, old.name, old.scopes)
    for headers in (of_old, {"Authorization": f"Bearer {text}"}):
        assert (await api.get(f"/jobs/{new_id()}", headers=headers)).status_code == 404
        assert (await api.post("/generate-report", headers=headers)).status_code == 403
    kept = {key.id: key for key in await ApiKeys(database).newest("one")}
    assert set(kept) == {old.id, new.id}
    assert kept[new.id].expires_at is None
    ends = kept[old.id].expires_at
    assert ends is not None
    assert 3500 < (ends - kept[new.id].created_at).total_seconds() <= 3600.5
    assert await ApiKeys(database).rotate("0" * 16, 1) is None
    await ApiKeys(database).revoke(old.id)
    assert await ApiKeys(database).rotate(old.id, 1) is None, "what has ended is not prolonged"


async def test_a_rotation_never_prolongs_the_old_key(database: Database) -> None:
    old, _ = await make_key(database, lifetime=60)
    await ApiKeys(database).rotate(old.id, 3600, 7200)
    ends = {key.id: key.expires_at for key in await ApiKeys(database).newest()}
    assert ends.pop(old.id) == old.expires_at
    [new] = ends.values()
    assert new is not None
    assert old.expires_at is not None
    assert new > old.expires_at


async def test_only_the_digest_is_kept(database: Database) -> None:
    _, headers = await make_key(database)
    parts = split_key(headers["Authorization"].removeprefix("Bearer "))
    assert parts is not None
    [row] = await database.fetch("SELECT api_key::text AS whole, digest FROM api_key")
    assert parts[1] not in row["whole"]
    assert row["digest"] == secret_digest(parts[1])


def test_spelling_of_keys() -> None:
    parts = new_key()
    assert split_key(spell_key(*parts)) == parts
    assert split_key(spell_key(*parts).upper()) is None
    assert granted(["admin"]) == EVERY_SCOPE
    assert granted(["read", "of a later version"]) == {Scope.READ}


async def test_the_keyring_asks_once_in_a_while() -> None:
    kept, clock = Kept(found("a")), Clock()
    ring = keyring(kept, clock)
    assert await asyncio.gather(*(ring.find("a") for _ in range(50))) == [found("a")] * 50
    assert await ring.find("b") is None
    asked = len(kept.asked)
    assert asked <= 3
    await ring.find("a")
    await ring.find("b")
    assert len(kept.asked) == asked
    clock.now += KEEP_SECONDS
    kept.keys.clear()
    assert await ring.find("a") is None
    assert len(kept.asked) == asked + 1


async def test_the_keyring_forgets_a_key_when_it_expires() -> None:
    kept, clock = Kept(found("a", seconds_left=1.0), found("b", seconds_left=0)), Clock()
    ring = keyring(kept, clock)
    assert await ring.find("a")
    assert await ring.find("b") is None
    kept.keys["a"] = found("a", seconds_left=0)
    clock.now += 1
    assert await ring.find("a") is None


async def test_the_keyring_is_bounded_and_strangers_do_not_drive_out_the_known() -> None:
    kept, clock = Kept(*(found(f"k{number}") for number in range(KNOWN_MAX + 10))), Clock()
    ring = keyring(kept, clock)
    await asyncio.gather(*(ring.find(f"k{number}") for number in range(KNOWN_MAX + 10)))
    await asyncio.gather(*(ring.find(f"stranger{number}") for number in range(UNKNOWN_MAX + 10)))
    assert (len(ring._known), len(ring._unknown)) == (KNOWN_MAX, UNKNOWN_MAX)
    asked = len(kept.asked)
    assert await ring.find(f"k{KNOWN_MAX}")
    assert len(kept.asked) == asked


async def test_while_postgresql_is_away_known_keys_are_known_and_others_unavailable() -> None:
    kept, clock = Kept(found("a"), found("b")), Clock()
    ring = keyring(kept, clock)
    await ring.find("a")
    kept.is_away = True
    assert await ring.find("a")
    with pytest.raises(Unavailable):
        await ring.find("b")


async def test_where_keys_cannot_be_looked_up_a_stream_is_asked_to_come_back(
    settings: Settings, emulator: Emulator, queue_url: str
) -> None:
    nowhere = make_settings(f"postgresql://u@127.0.0.1:{free_port()}/x", queue_url, emulator, require_keys=True)
    headers = {"Authorization": f"Bearer {spell_key(*new_key())}"}
    async with serve(nowhere, is_ready=False) as url, httpx.AsyncClient(base_url=url, timeout=20) as api:
        assert (await api.get(f"/jobs/{new_id()}", headers=headers)).status_code == 503
        assert (await api.get(f"/jobs/{new_id()}/events", headers=headers | AS_LIST)).status_code == 503
        answer = await api.get(f"/jobs/{new_id()}/events", headers=headers)
        assert (answer.status_code, answer.headers["content-type"][:17]) == (200, "text/event-stream")
        assert "access-control-allow-origin" not in answer.headers
        assert (await api.get(f"/jobs/{new_id()}/events")).status_code == 401
        job_id = new_id()
        ticket = Tickets([SECRET_KEYS]).issue(Right("default", "0" * 16), job_id, 0)
        answer = await api.get(f"/jobs/{job_id}/events?ticket={ticket.text}")
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*", "or another site's page never comes back"


async def test_many_callers_at_once(api: httpx.AsyncClient, database: Database, ledger: Ledger) -> None:
    tenants = [f"tenant-{number}" for number in range(10)]
    headers = {tenant: (await make_key(database, tenant=tenant))[1] for tenant in tenants}
    jobs = {tenant: await accept(ledger, tenant_id=tenant) for tenant in tenants}

    async def ask(caller: str, owner: str) -> None:
        answer = await api.get(f"/jobs/{jobs[owner]}", headers=headers[caller])
        assert answer.status_code == (202 if caller == owner else 404)

    await asyncio.gather(*(ask(caller, owner) for caller in tenants for owner in tenants))


async def test_outside_the_desk_it_does_not_start_without_secret_keys(settings: Settings) -> None:
    variables = environment_of(guarded(settings, secret_keys=None, host="0.0.0.0", port=free_port()))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        cwd=REPOSITORY,
        env=variables | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        stderr=asyncio.subprocess.PIPE,
    )
    _, complained = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 2
    assert b"TODOKE_SECRET_KEYS" in complained
    assert b"openssl rand" in complained
    assert b"Traceback" not in complained


def _stable(headers: httpx.Headers) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name != "date"}
