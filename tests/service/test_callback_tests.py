"""`/webhooks/tests`: asked for over HTTP, kept for a notifier, shown to its tenant alone."""

import asyncio
from typing import Any

import httpx
import standardwebhooks
from jsonschema import Draft202012Validator

from tests.conftest import SIGNING_SECRET
from tests.notifier.conftest import notifying
from tests.notifier.receiver import receiving
from tests.service.callers import door, make_key
from todoke.dev.ports import free_port
from todoke.model.access import Scope
from todoke.model.callback_test import OPEN_MAX
from todoke.model.ids import new_id
from todoke.runtime.settings import Settings
from todoke.store.database import Database


async def report_of(api: httpx.AsyncClient, place: str) -> dict[str, Any]:
    """The test, as soon as it is done."""
    async with asyncio.timeout(10):
        while (shown := await api.get(place)).json()["state"] != "done":
            assert shown.headers["retry-after"] == "1"
            await asyncio.sleep(0.02)
    assert "retry-after" not in shown.headers
    return dict(shown.json())


async def test_a_test_is_accepted_run_and_reported(api: httpx.AsyncClient, settings: Settings) -> None:
    async with receiving() as receiver, notifying(settings):
        accepted = await api.post("/webhooks/tests", json={"callbackUrl": receiver.url})
        assert (accepted.status_code, accepted.headers["retry-after"]) == (202, "1")
        body = accepted.json()
        assert accepted.headers["location"] == f"/webhooks/tests/{body['testId']}"
        assert (body["state"], body["kind"], body["report"]) == ("running", "ping", None)
        found = await report_of(api, accepted.headers["location"])
    assert (found["report"]["grade"], found["callbackUrl"]) == ("pass", receiver.url)
    assert found["finishedAt"] >= found["createdAt"]
    [received] = receiver.received
    event = standardwebhooks.Webhook(SIGNING_SECRET).verify(received.body, received.headers)
    assert event["data"]["testId"] == body["testId"]


async def test_a_url_that_is_not_called_is_refused_and_nothing_kept(api: httpx.AsyncClient, database: Database) -> None:
    for body in (
        {"callbackUrl": "http://169.254.169.254/latest"},
        {"callbackUrl": "https://10.0.0.1/"},
        {"callbackUrl": "https://hooks.example.com/#fragment"},
        {"callbackUrl": "https://hooks.example.com/", "kind": "stress"},
        {"callbackUrl": "https://hooks.example.com/", "url": "x"},
        {"callbackUrl": 1},
        {},
    ):
        answer = await api.post("/webhooks/tests", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "INVALID_INPUT"), body
    assert (await api.post("/webhooks/tests", content=b"{")).status_code == 400
    assert not await database.fetch("SELECT FROM callback_test")


async def test_too_many_open_tests_are_refused(api: httpx.AsyncClient) -> None:
    asked = {"callbackUrl": "https://hooks.example.com/"}
    answers = [await api.post("/webhooks/tests", json=asked) for _ in range(OPEN_MAX + 1)]
    assert [answer.status_code for answer in answers] == [202] * OPEN_MAX + [429]
    assert answers[-1].json()["code"] == "TOO_MANY_TESTS"
    assert int(answers[-1].headers["retry-after"]) > 0


async def test_a_test_is_its_tenants_own(settings: Settings, database: Database) -> None:
    _, ours = await make_key(database, Scope.SUBMIT, Scope.READ)
    _, theirs = await make_key(database, Scope.SUBMIT, Scope.READ, tenant="other")
    async with door(settings) as api:
        made = await api.post("/webhooks/tests", json={"callbackUrl": "https://hooks.example.com/"}, headers=ours)
        assert made.status_code == 202, made.text
        place = made.headers["location"]
        assert (await api.get(place, headers=ours)).status_code == 200
        answers = [
            await api.get(place, headers=theirs),
            await api.get(f"/webhooks/tests/{new_id()}", headers=ours),
            await api.get("/webhooks/tests/nonsense", headers=ours),
        ]
    assert {answer.status_code for answer in answers} == {404}
    assert len({answer.content for answer in answers}) == 1, "byte for byte like one that never was"


async def test_reports_are_as_described(api: httpx.AsyncClient, settings: Settings) -> None:
    described = (await api.get("/openapi.json")).json()["paths"]
    asked = described["/webhooks/tests"]["post"]["responses"]["202"]["content"]["application/json"]["schema"]
    shown = described["/webhooks/tests/{test_id}"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    async with receiving() as receiver, notifying(settings):
        for url in (receiver.url, f"http://127.0.0.1:{free_port()}/"):
            accepted = await api.post("/webhooks/tests", json={"callbackUrl": url, "kind": "self_test"})
            Draft202012Validator(asked).validate(accepted.json())
            found = await report_of(api, accepted.headers["location"])
            Draft202012Validator(shown).validate(found)
            assert set(found) == set(shown["properties"])
            assert set(found["report"]) == set(shown["properties"]["report"]["properties"])
    assert not Draft202012Validator(shown).is_valid(found | {"state": "lost"})


async def test_it_is_described(api: httpx.AsyncClient) -> None:
    described = (await api.get("/openapi.json")).json()["paths"]["/webhooks/tests"]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"callbackUrl", "kind"}
    assert {"202", "422", "429"} <= set(described["responses"])
