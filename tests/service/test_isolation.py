"""Tenants never see each other: a test made from the table of routes, so that a new route cannot forget it."""

import re
from collections.abc import Iterable, Iterator, Mapping

import httpx
import pytest
from starlette.routing import BaseRoute, Route

from service.app import create_app
from service.gate import is_open
from tests.conftest import SECRET_KEYS
from tests.make import accept, start, succeed
from tests.owing import URL, endpoint, park
from tests.service.callers import door, make_key
from todoke.model.callback_test import Kind
from todoke.model.event import TERMINAL
from todoke.model.ids import new_id
from todoke.model.job import Artifact
from todoke.runtime.settings import Settings, load_settings
from todoke.store.callback_tests import CallbackTests
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.signing import SigningSecrets
from todoke.store.tables import metadata

OURS, THEIRS = "ours", "theirs"
# What marks everything of the other tenant, so that a trace of it is seen wherever it turns up.
MARK = "mark-of-the-other-tenant"
# What the parts of a path name; a route with another one fails here until it has an entry.
PARTS = ("job_id", "name", "sequence", "endpoint_id", "test_id", "secret_id")
LISTS = {"/deliveries": ("?state=parked", "?state=pending", "?state=delivered")}
AS_LIST = {"Accept": "application/json"}
BODIES = {
    "POST /jobs/batch": '{"jobs": [{"type": "generate-report"}]}',
    "POST /webhooks/tests": '{"callbackUrl": "https://example.com/"}',
    "POST /webhooks/endpoints": f'{{"callbackUrl": "{URL}"}}',
}
# Answered to everyone alike, or asked by a gateway and not by callers.
OF_NOBODY = {"/internal/auth"}
SPELLINGS = {
    "dots": "%2e%2e",
    "a NUL": "%00",
    "a slash": "a%2fb",
    "other digits": "%EF%BC%91%EF%BC%92",
    "braces": "%7B{id}%7D",
    "a urn": "urn:uuid:{id}",
    "a line's end": "{id}%0a",
    "a space": "%20{id}",
    "long": "a" * 4_000,
    "no UTF-8": "%ff%fe",
    "a number": "9" * 400,
}


def routes() -> Iterator[tuple[str, str]]:
    """Every method and path that needs a key."""
    settings = load_settings(secret_keys=SECRET_KEYS, s3_bucket="b", gateway_asks=True)
    for route in flat(create_app(settings).api.routes):
        if isinstance(route, Route) and not is_open(route.path) and route.path not in OF_NOBODY:
            yield from ((method, route.path) for method in route.methods or ())


def flat(found: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Routes, and those of the routers that were included."""
    for route in found:
        router = getattr(route, "original_router", None)
        yield from [route] if router is None else flat(router.routes)


ROUTES = sorted(set(routes()))
WITH_IDS = [(method, path) for method, path in ROUTES if "{" in path]


@pytest.fixture
async def theirs(settings: Settings, database: Database, ledger: Ledger) -> list[dict[str, str]]:
    """Ids of one of everything that can have one, of the other tenant: with a job that has ended, and one that runs."""
    asked = {
        "tenant_id": THEIRS,
        "callback_url": f"{URL}/{MARK}",
        "callback_events": TERMINAL,
        "metadata": f'{{"of": "{MARK}"}}',
        "client_ref": MARK,
    }
    ended, running = await accept(ledger, **asked), await accept(ledger, **asked)
    report = Artifact("report.html", "text/html", len(MARK), "00" * 32, content=MARK.encode())
    await succeed(ledger, await start(ledger, ended), artifacts=(report,))
    await start(ledger, running)
    await park(database, ended)
    tests = CallbackTests(database, settings.notify_channel)
    test = await tests.create(new_id(), THEIRS, f"{URL}/{MARK}", Kind.PING)
    assert test is not None
    secret = await SigningSecrets(database, [SECRET_KEYS]).create(THEIRS, f"{URL}/{MARK}", 0)
    held = await endpoint(database, f"{URL}/{MARK}", THEIRS, state="DISABLED", disabled_reason="gone")
    others = {"name": "report.html", "sequence": "3", "endpoint_id": held, "test_id": test.id, "secret_id": secret.id}
    return [{"job_id": str(job)} | {part: str(id_) for part, id_ in others.items()} for job in (ended, running)]


async def everything(database: Database) -> dict[str, str]:
    """What stands in every table."""
    rows = {}
    for table in metadata.tables:
        [row] = await database.fetch(f"SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} AS t")
        rows[table] = row["md5"]
    return rows


def spelled(path: str, ids: Mapping[str, str]) -> str:
    """The path of a route with these ids. A part without an entry is a new one: say how its ids are made."""
    parts = re.findall(r"\{(\w+)\}", path)
    assert set(parts) <= set(PARTS), f"{path}: this test knows no {set(parts) - set(PARTS)}"
    return path.format(**ids)


async def ask(api: httpx.AsyncClient, method: str, path: str, key: Mapping[str, str]) -> tuple[object, ...]:
    """All that an answer says: status, body, headers but for the date."""
    answer = await api.request(method, path, content=BODIES.get(f"{method} {path}"), headers={**key, **AS_LIST})
    headers = sorted((name, value) for name, value in answer.headers.items() if name != "date")
    return answer.status_code, answer.content, headers


async def test_anothers_answers_exactly_as_what_never_was(
    settings: Settings, database: Database, theirs: list[dict[str, str]]
) -> None:
    assert len(WITH_IDS) > 15
    async with door(settings) as api:
        _, key = await make_key(database, tenant=OURS)
        before = await everything(database)
        for method, path in WITH_IDS:
            nobody = {part: str(new_id()) for part in PARTS} | {"sequence": "3", "name": "report.html"}
            unknown = await ask(api, method, spelled(path, nobody), key)
            assert unknown[0] == 404, (method, path)
            for ids in theirs:
                assert await ask(api, method, spelled(path, ids), key) == unknown, (method, path)
        assert await everything(database) == before


async def test_no_list_shows_anothers(settings: Settings, database: Database, theirs: list[dict[str, str]]) -> None:
    known = {id_ for ids in theirs for part, id_ in ids.items() if part not in ("name", "sequence")} | {MARK}
    async with door(settings) as api:
        _, key = await make_key(database, tenant=OURS)
        _, other = await make_key(database, tenant=THEIRS)
        seen = set()
        for method, path in ROUTES:
            if method != "GET" or "{" in path:
                continue
            for query in LISTS.get(path, ("",)):
                _, ours, _ = await ask(api, method, path + query, key)
                assert not [word for word in known if word.encode() in ours], path  # type: ignore[operator]
                _, own, _ = await ask(api, method, path + query, other)
                seen |= {word for word in known if word.encode() in own}  # type: ignore[operator]
        assert seen >= known - {theirs[0]["test_id"]}, "or the lists show nothing of anybody"


async def test_writes_without_ids_touch_only_the_callers_own(
    settings: Settings, database: Database, theirs: list[dict[str, str]]
) -> None:
    async with door(settings) as api:
        _, key = await make_key(database, tenant=OURS)
        tables = ("job", "event", "delivery", "artifact", "endpoint", "signing_secret", "callback_test", "tombstone")
        before = [await _of(database, table) for table in tables]
        for method, path in ROUTES:
            if method not in ("GET", "HEAD") and "{" not in path:
                assert (await ask(api, method, path, key))[0] != 404, path
        assert [await _of(database, table) for table in tables] == before


async def _of(database: Database, table: str) -> list[str]:
    rows = await database.fetch(f"SELECT t::text AS row FROM {table} AS t WHERE tenant_id = $1 ORDER BY 1", THEIRS)
    return [row["row"] for row in rows]


async def test_tricks_in_paths_lead_nowhere(settings: Settings, database: Database, ledger: Ledger) -> None:
    """However an id is spelled: it is unknown, never a fault, and never another one."""
    job_id = await accept(ledger, tenant_id=OURS)
    await succeed(ledger, await start(ledger, job_id))
    async with door(settings) as api:
        _, key = await make_key(database, tenant=OURS)
        before = await everything(database)
        for method, path in WITH_IDS:
            for part in re.findall(r"\{(\w+)\}", path):
                for name, spelling in SPELLINGS.items():
                    ids = {each: str(job_id) for each in PARTS} | {"sequence": "3", "name": "report.html"}
                    tricky = spelled(path, ids | {part: spelling.replace("{id}", ids[part])})
                    status, content, _ = await ask(api, method, tricky, key)
                    assert status in (404, 405), (method, path, part, name, status, content)
        assert await everything(database) == before


def test_routes_are_those_of_the_app() -> None:
    assert ("GET", "/jobs/{job_id}/events") in WITH_IDS
    assert ("HEAD", "/jobs/{job_id}/artifacts/{name}") in WITH_IDS
    assert not any(path in ("/healthz", "/openapi.json") for _, path in ROUTES)
