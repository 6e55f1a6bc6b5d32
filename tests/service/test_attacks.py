"""Attacks that have no room of their own: guessing keys by the time it takes, and writing with a cookie."""

import hmac
from typing import Any

import httpx
import pytest

from service import door as door_room
from tests.make import accept
from tests.service.callers import door, make_key
from tests.service.test_isolation import ROUTES
from todoke.runtime.settings import Settings
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database
from todoke.store.ledger import Ledger


async def test_a_wrong_secret_costs_what_an_unknown_key_costs(
    settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps for both, so that no clock tells which part of a guess was right."""
    steps: list[str] = []
    plain_find, plain_compare = ApiKeys.find, hmac.compare_digest

    async def find(keys: ApiKeys, ids: Any) -> Any:
        steps.append("find")
        return await plain_find(keys, ids)

    def compare(one: bytes, other: bytes) -> bool:
        steps.append(f"compare {len(one)} with {len(other)}")
        return plain_compare(one, other)

    monkeypatch.setattr(ApiKeys, "find", find)
    monkeypatch.setattr(door_room.hmac, "compare_digest", compare)
    key, headers = await make_key(database)
    good = headers["Authorization"]
    async with door(settings) as api:
        taken = []
        for guess in (good[:-4] + "0000", good.replace(key.id, "0" * 16)):
            steps.clear()
            answer = await api.get("/jobs", headers={"Authorization": guess})
            taken.append((answer.status_code, answer.content, list(steps)))
    assert taken[0] == taken[1]
    assert taken[0][2] == ["find", "compare 32 with 32"]


async def test_a_cookie_watches_one_job_and_does_nothing_else(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    """So there is nothing a page of another site could have a browser do with it."""
    job_id, other = await accept(ledger), await accept(ledger)
    async with door(settings) as api:
        _, key = await make_key(database)
        watched = (await api.post(f"/jobs/{job_id}/tokens", headers=key)).json()["eventsUrl"]
        async with api.stream("GET", watched) as stream:
            cookie = stream.headers["set-cookie"].partition(";")[0]
        api.cookies.clear()
        before = await database.fetch("SELECT * FROM job ORDER BY id")
        for method, path in ROUTES:
            for id_ in (job_id, other):
                named = path.format(job_id=id_, name="x", sequence=3, endpoint_id=id_, test_id=id_, secret_id=id_)
                if (method, named) == ("GET", f"/jobs/{job_id}/events"):
                    continue
                answer = await api.request(method, named, headers={"Cookie": cookie})
                assert answer.status_code == 401, (method, path)
        assert await database.fetch("SELECT * FROM job ORDER BY id") == before
        async with httpx.AsyncClient(base_url=api.base_url) as browser:
            async with browser.stream("GET", f"/jobs/{job_id}/events", headers={"Cookie": cookie}) as stream:
                assert stream.status_code == 200
