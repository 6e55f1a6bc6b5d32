"""`/webhooks/secrets`, and what a submit asks of them: shown once, one tenant's alone, never in a log or an error."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from service.callbacks import KEEP_SECONDS, KNOWN_MAX, CallbackSecrets
from tests.conftest import SECRET_KEYS, SIGNING_SECRET, serve
from tests.make import accept, start, succeed
from tests.operator.test_commands import todoke
from tests.service.callers import door, make_key
from tests.service.test_logs import api_process
from todoke.model.errors import InvalidInput, Unavailable
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.signing import OVERLAP_SECONDS, Pair, SigningSecrets
from todoke.wire.signing import new_secret, parse_secret

URL = "https://hooks.example.com/"


def fits(api_description: dict[str, Any], path: str, method: str, code: str, body: object) -> None:
    content = api_description["paths"][path][method]["responses"][code]["content"]["application/json"]
    Draft202012Validator(content["schema"]).validate(body)


async def test_a_secret_is_shown_once_and_signs(api: httpx.AsyncClient, database: Database) -> None:
    described = (await api.get("/openapi.json")).json()
    answer = await api.post("/webhooks/secrets")
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    made = answer.json()
    fits(described, "/webhooks/secrets", "post", "201", made)
    assert (made["callbackUrl"], made["standing"], made["expiresAt"]) == (None, "live", None)
    live = await SigningSecrets(database, [SECRET_KEYS]).live([("default", URL)])
    assert live["default", URL].secrets == (parse_secret(made["secret"]),)
    listed = await api.get("/webhooks/secrets")
    fits(described, "/webhooks/secrets", "get", "200", listed.json())
    assert listed.headers["cache-control"] == "no-store"
    assert listed.json()["secrets"] == [{name: made[name] for name in made if name != "secret"}]


async def test_making_one_rotates_and_ending_ends(api: httpx.AsyncClient) -> None:
    async def standings() -> list[str]:
        return [each["standing"] for each in (await api.get("/webhooks/secrets")).json()["secrets"]]

    await api.post("/webhooks/secrets")
    second = (await api.post("/webhooks/secrets", json={})).json()
    assert await standings() == ["live", "ending"]
    [_, first] = (await api.get("/webhooks/secrets")).json()["secrets"]
    assert first["expiresAt"] > second["createdAt"]
    await api.post("/webhooks/secrets", json={"overlapSeconds": 3600})
    assert await standings() == ["live", "ending", "ended"]
    own = (await api.post("/webhooks/secrets", json={"callbackUrl": URL, "overlapSeconds": 0})).json()
    assert own["callbackUrl"] == URL
    assert await standings() == ["live", "live", "ending", "ended"]
    for _ in range(2):
        answer = await api.delete(f"/webhooks/secrets/{own['id']}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert await standings() == ["ended", "live", "ending", "ended"]


async def test_parts_of_the_list(api: httpx.AsyncClient) -> None:
    made = [(await api.post("/webhooks/secrets", json={"callbackUrl": f"{URL}{n}"})).json()["id"] for n in range(3)]
    first = (await api.get("/webhooks/secrets", params={"limit": 2})).json()
    rest = (await api.get("/webhooks/secrets", params={"limit": 2, "after": first["cursor"]})).json()
    assert [each["id"] for each in first["secrets"] + rest["secrets"]] == made[::-1]
    assert (first["hasMore"], rest["hasMore"], rest["cursor"]) == (True, False, None)
    for params in ({"after": "x"}, {"limit": 0}, {"limit": 501}):
        assert (await api.get("/webhooks/secrets", params=params)).status_code == 422


async def test_what_is_refused_keeps_nothing_and_repeats_no_secret(api: httpx.AsyncClient, database: Database) -> None:
    hush = "QUFB" * 8
    for body in (
        {"secret": f"whpk_{hush}"},
        {"secret": f"whsk_{hush}"},
        {"secret": f"whsec_{hush}!"},
        {"secret": f"whsec_{hush * 10}"},
        {"secret": hush},
        {"secret": [f"whsec_{hush}"]},
        {"secret": ""},
        {"overlapSeconds": -1, "secret": f"whsec_{hush}"},
        {"overlapSeconds": 604_801, "secret": f"whsec_{hush}"},
        {"overlapSeconds": "1", "secret": f"whsec_{hush}"},
        {"callbackUrl": "https://10.0.0.1/", "secret": f"whsec_{hush}"},
        {"callbackUrl": "http://hooks.example.com/"},
        {"unknown": f"whsec_{hush}"},
    ):
        answer = await api.post("/webhooks/secrets", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT"), body
        assert "QUFB" not in answer.text, body
    answer = await api.post("/webhooks/secrets", content=f'{{"secret": "whsec_{hush}"'.encode())
    assert (answer.status_code, "QUFB" in answer.text) == (400, False)
    assert (await api.post("/webhooks/secrets", content=b"x" * 20_000)).status_code == 413
    assert not await database.fetch("SELECT FROM signing_secret")


async def test_callers_may_bring_their_own(api: httpx.AsyncClient, database: Database) -> None:
    brought = new_secret()
    answer = await api.post("/webhooks/secrets", json={"secret": brought})
    assert (answer.status_code, answer.json()["secret"]) == (201, brought)
    live = await SigningSecrets(database, [SECRET_KEYS]).live([("default", URL)])
    assert live["default", URL].secrets == (parse_secret(brought),)


async def test_another_tenants_secret_looks_like_none(settings: Settings, database: Database) -> None:
    async with door(settings) as api:
        _, ours = await make_key(database, tenant="one")
        _, theirs = await make_key(database, tenant="two")
        made = (await api.post("/webhooks/secrets", headers=theirs)).json()
        answers = [
            await api.delete(f"/webhooks/secrets/{id_}", headers=ours)
            for id_ in (new_id(), made["id"], "x", "%00", made["id"].upper())
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert len({answer.content for answer in answers}) == 1
        assert (await api.get("/webhooks/secrets", headers=ours)).json()["secrets"] == []
        elsewhere = await api.get("/webhooks/secrets", params={"after": made["id"]}, headers=ours)
        assert elsewhere.json()["secrets"] == []
        [still] = (await api.get("/webhooks/secrets", headers=theirs)).json()["secrets"]
        assert still["standing"] == "live"


async def test_a_submit_needs_a_secret_of_its_tenant(settings: Settings, database: Database, ledger: Ledger) -> None:
    async with door(settings) as api:
        _, ours = await make_key(database, tenant="one")
        body = {"callbackUrl": URL}
        ended = await accept(ledger, tenant_id="one", callback_url=URL)
        await succeed(ledger, await start(ledger, ended))
        asks = [
            ("/generate-report", body),
            (f"/jobs/{ended}/retry", None),
            ("/webhooks/tests", body),
        ]
        before = await database.fetch("SELECT id FROM job")
        for path, sent in asks:
            answer = await api.post(path, json=sent, headers=ours)
            assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT"), path
            assert "POST /webhooks/secrets" in answer.json()["detail"]
        assert await database.fetch("SELECT id FROM job") == before
        assert not await database.fetch("SELECT FROM callback_test")
        assert (await api.post("/generate-report", headers=ours)).status_code == 202
        other = f"{URL}other"
        await api.post("/webhooks/secrets", headers=ours, json={"callbackUrl": other})
        assert (await api.post("/generate-report", json=body, headers=ours)).status_code == 422
        assert (await api.post("/generate-report", json={"callbackUrl": other}, headers=ours)).status_code == 202
        await api.post("/webhooks/secrets", headers=ours)
        for path, sent in asks:
            assert (await api.post(path, json=sent, headers=ours)).status_code == 202, path
        _, default = await make_key(database)
        answer = await api.post("/generate-report", json=body, headers=default)
        assert answer.status_code == 202, "TODOKE_SIGNING_SECRET signs for the default tenant"


async def test_when_the_last_secret_has_ended_callbacks_are_refused_within_the_bound(
    settings: Settings, database: Database
) -> None:
    async with door(settings, signing_secret=None) as api:
        _, headers = await make_key(database)
        made = (await api.post("/webhooks/secrets", headers=headers)).json()
        assert (await api.post("/generate-report", json={"callbackUrl": URL}, headers=headers)).status_code == 202
        await api.delete(f"/webhooks/secrets/{made['id']}", headers=headers)
        async with asyncio.timeout(KEEP_SECONDS + 5):
            while (await api.post("/generate-report", json={"callbackUrl": URL}, headers=headers)).status_code != 422:
                await asyncio.sleep(0.05)


class Kept:
    """In the place of the table: counts what is asked, and may be away."""

    def __init__(self) -> None:
        self.signed_urls: set[str] = set()
        self.asked: list[Pair] = []
        self.is_away = False

    async def signed(self, pairs: list[Pair]) -> list[bool]:
        if self.is_away:
            raise Unavailable("away")
        self.asked += pairs
        return [url in self.signed_urls for _, url in pairs]


async def test_only_good_news_is_remembered_a_little_and_within_bounds() -> None:
    kept, now = Kept(), [0.0]
    secrets = CallbackSecrets(kept, has_fallback=False, clock=lambda: now[0])  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(InvalidInput):
            await secrets.check("one", URL)
    assert len(kept.asked) == 2
    kept.signed_urls.add(URL)
    for _ in range(5):
        await secrets.check("one", URL)
    assert len(kept.asked) == 3
    kept.is_away = True
    await secrets.check("one", URL)
    now[0] += KEEP_SECONDS
    with pytest.raises(Unavailable):
        await secrets.check("one", URL)
    kept.is_away = False
    kept.signed_urls = {f"{URL}{number}" for number in range(KNOWN_MAX + 10)}
    await asyncio.gather(*(secrets.check("one", url) for url in kept.signed_urls))
    assert len(secrets._known) == KNOWN_MAX


async def test_a_desk_without_keys_that_last_makes_no_secret(settings: Settings, database: Database) -> None:
    bare = settings.model_copy(update={"secret_keys": None})
    async with serve(bare) as url, httpx.AsyncClient(base_url=url) as api:
        answer = await api.post("/webhooks/secrets")
        assert (answer.status_code, "TODOKE_SECRET_KEYS" in answer.json()["detail"]) == (422, True)
        assert (await api.get("/webhooks/secrets")).json()["secrets"] == []
        answer = await api.post("/webhooks/secrets", headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.json()["code"] == "CROSS_SITE_REFUSED"
    assert not await database.fetch("SELECT FROM signing_secret")


async def test_the_description_and_the_settings_show_no_secret(
    api: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = (await api.get("/openapi.json")).text
    assert SIGNING_SECRET.removeprefix("whsec_") not in described
    assert "whsec_" in described
    parameters = (await api.get("/openapi.json")).json()["paths"]["/webhooks/secrets"]["post"]["requestBody"]
    properties = parameters["content"]["application/json"]["schema"]["properties"]
    assert properties["overlapSeconds"]["default"] == OVERLAP_SECONDS
    assert "examples" not in properties["secret"]
    monkeypatch.setenv("TODOKE_SIGNING_SECRET", SIGNING_SECRET)
    monkeypatch.setenv("TODOKE_SECRET_KEYS", SECRET_KEYS)
    code, said, _ = await todoke(settings.database_url.get_secret_value(), "settings")
    assert code == 0
    assert SIGNING_SECRET not in said
    assert SECRET_KEYS not in said


async def test_no_secret_reaches_a_log(settings: Settings, database: Database, tmp_path: Path) -> None:
    """A real API process at its most talkative, also when the database breaks in the middle."""
    log, brought = tmp_path / "api.log", new_secret()
    _, headers = await make_key(database)
    async with api_process(settings, log) as url, httpx.AsyncClient(base_url=url, headers=headers) as api:
        made = (await api.post("/webhooks/secrets")).json()["secret"]
        assert (await api.post("/webhooks/secrets", json={"secret": brought})).status_code == 201
        bad = await api.post("/webhooks/secrets", json={"secret": brought + "!"})
        await api.get("/webhooks/secrets")
        await database.fetch("ALTER TABLE signing_secret RENAME TO away")
        broken = await api.post("/webhooks/secrets", json={"secret": brought})
        await database.fetch("ALTER TABLE away RENAME TO signing_secret")
    assert (bad.status_code, broken.status_code) == (422, 500)
    text = await asyncio.to_thread(log.read_text)
    assert "signing_secret.created" in text
    for shown in (text, bad.text, broken.text):
        for secret in (made, brought):
            assert secret.removeprefix("whsec_")[:20] not in shown
            assert repr(parse_secret(secret))[2:12] not in shown
