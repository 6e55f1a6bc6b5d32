"""`/.well-known/`: public keys for whoever asks, from any origin, whatever the state of the database."""

import asyncio
import base64

import httpx
import pytest

from service.routes.well_known import KEEP_SECONDS, WellKnownRoutes
from tests.conftest import SECRET_KEYS
from tests.service.callers import door
from todoke.model.errors import Unavailable
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.signing import PublishedKey, SigningKeys
from todoke.wire.asymmetric import jwk, public_key

PATHS = ("/.well-known/webhook-keys", "/.well-known/jwks.json")


async def test_anybody_reads_the_public_keys(settings: Settings, database: Database) -> None:
    keys = SigningKeys(database, [SECRET_KEYS])
    [text] = await keys.ensure()
    async with door(settings) as api:
        for path in PATHS:
            answer = await api.get(path, headers={"Origin": "https://elsewhere.example"})
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == "*"
            assert answer.headers["cache-control"] == "public, max-age=300"
            assert "set-cookie" not in answer.headers
            assert text.removeprefix("whsk_")[:40] not in answer.text
            assert (await api.head(path)).status_code == 200
            refused = await api.get(path, headers={"Authorization": "Bearer nonsense"})
            assert refused.status_code == 200, "what is shown is not looked at"
        plain = (await api.get(PATHS[0])).json()
        as_jwks = (await api.get(PATHS[1])).json()
        assert plain == {
            "keys": [{"id": jwk(public_key(text))["kid"], "publicKey": public_key(text), "expiresAt": None}]
        }
        assert as_jwks == {"keys": [jwk(public_key(text))]}
        [key] = as_jwks["keys"]
        raw = base64.b64decode(plain["keys"][0]["publicKey"].removeprefix("whpk_"))
        assert base64.urlsafe_b64decode(key["x"] + "=") == raw
        assert (key["kid"], key["kty"]) == (plain["keys"][0]["id"], "OKP")


async def test_a_rotated_key_is_published_until_it_ends(settings: Settings, database: Database) -> None:
    keys = SigningKeys(database, [SECRET_KEYS])
    await keys.ensure()
    new = await keys.rotate(3600)
    async with door(settings) as api:
        first, second = (await api.get(PATHS[0])).json()["keys"]
        assert (first["id"], first["expiresAt"]) == (new.id, None)
        assert second["expiresAt"].endswith("Z")
        await database.fetch("UPDATE signing_key SET expires_at = clock_timestamp() WHERE expires_at IS NOT NULL")
        async with asyncio.timeout(KEEP_SECONDS + 5):
            while len((await api.get(PATHS[0])).json()["keys"]) != 1:
                await asyncio.sleep(0.05)


async def test_that_there_is_no_key_yet_is_not_remembered(settings: Settings) -> None:
    async with door(settings) as api:
        for path in PATHS:
            answer = await api.get(path)
            assert (answer.json(), answer.headers["cache-control"]) == ({"keys": []}, "no-store")


async def test_a_desk_keeps_its_guard(api: httpx.AsyncClient) -> None:
    for path in PATHS:
        assert (await api.get(path)).status_code == 200
        assert (await api.get(path, headers={"Host": "elsewhere.example"})).json()["code"] == "HOST_REFUSED"
        assert (await api.post(path)).status_code == 405


class Kept:
    """In the place of the table: counts the questions, and may be away."""

    def __init__(self) -> None:
        self.asked = 0
        self.is_away = False

    async def published(self) -> list[PublishedKey]:
        if self.is_away:
            raise Unavailable("away")
        self.asked += 1
        return []


async def test_many_askers_cost_one_query_and_an_outage_does_not_hide_the_keys() -> None:
    kept, now = Kept(), [0.0]
    routes = WellKnownRoutes(kept, clock=lambda: now[0])  # type: ignore[arg-type]
    kept.is_away = True
    with pytest.raises(Unavailable):
        await routes._published()
    kept.is_away = False
    await asyncio.gather(*(routes._published() for _ in range(100)))
    for _ in range(100):
        await routes._published()
    assert kept.asked <= 2
    now[0] += KEEP_SECONDS
    kept.is_away = True
    assert await routes._published() == []
    kept.is_away = False
    asked = kept.asked
    await routes._published()
    assert kept.asked == asked + 1
