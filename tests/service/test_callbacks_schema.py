"""What the description says of webhooks is what the database writes and the notifier sends."""

import json
import re
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.make import WORKER, accept, fail, start, succeed
from todoke.model.feed import TYPES
from todoke.model.job import Artifact, Outcome, Progress, State
from todoke.store.database import Database
from todoke.store.ledger import Ledger

HEADERS = ["webhook-id", "webhook-timestamp", "webhook-signature"]


@pytest.fixture
async def document(api: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await api.get("/openapi.json")).json()
    return found


def requests(document: dict[str, Any]) -> dict[str, Any]:
    """Everything that may arrive at a callback, by where it is described."""
    found = {name: item["post"] for name, item in document["webhooks"].items()}
    for path, item in document["paths"].items():
        for operation in item.values():
            for name, callback in operation.get("callbacks", {}).items():
                [(address, described)] = callback.items()
                assert address == "{$request.body#/callbackUrl}"
                found[f"{path} {name}"] = described["post"]
    return found


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    resource = Resource(contents=document, specification=DRAFT202012)
    registry = Registry().with_resource("urn:document", resource)
    return Draft202012Validator({"$ref": "urn:document" + schema["$ref"]}, registry=registry)


async def test_every_submit_has_its_callback_and_every_event_its_webhook(document: dict[str, Any]) -> None:
    assert set(document["webhooks"]) == set(TYPES)
    assert set(requests(document)) == {*TYPES, "/generate-report jobEvent"}
    for place, request in requests(document).items():
        assert [(header["name"], header["in"], header["required"]) for header in request["parameters"]] == [
            (name, "header", True) for name in HEADERS
        ], place
        assert {"2XX", "410"} < set(request["responses"])
        assert request["security"] == [], "a receiver asks for a signature, not for a key of ours"


async def test_examples_are_events(document: dict[str, Any]) -> None:
    shown = set()
    for place, request in requests(document).items():
        content = request["requestBody"]["content"]["application/json"]
        for type_, example in content["examples"].items():
            validator(document, content["schema"]).validate(example["value"])
            assert example["value"]["type"] == type_, place
            shown.add(type_)
    assert shown == set(TYPES)


async def test_events_of_the_database_are_as_described(
    document: dict[str, Any], database: Database, ledger: Ledger
) -> None:
    metadata = '{"order": "届け"}'
    good, bad = await accept(ledger, metadata=metadata), await accept(ledger)
    attempt = await start(ledger, good)
    await ledger.report([Progress(good, attempt.lease, 12.5, "half")], WORKER)
    rows = await database.fetch("SELECT event_body(job, 'job.progress') AS body FROM job WHERE id = $1", good)
    await ledger.settle([Outcome(good, attempt.lease, State.PROCESSING, "JOB_ERROR", "again", 0.0)], WORKER)
    made = Artifact("a.html", "text/html", 4, "00" * 32, content=b"<p/>")
    await succeed(ledger, await start(ledger, good), artifacts=(made,))
    await fail(ledger, await start(ledger, bad))
    rows += await database.fetch("SELECT body FROM event")
    bodies = [json.loads(row["body"]) for row in rows]
    assert {body["type"] for body in bodies} == set(TYPES)
    content = document["webhooks"]["job.failed"]["post"]["requestBody"]["content"]["application/json"]
    described = document["components"]["schemas"]["JobEvent"]["properties"]
    for body in bodies:
        validator(document, content["schema"]).validate(body)
        assert set(body) == set(described)
        assert set(body["data"]) == set(described["data"]["properties"])
    for wrong in ({"type": "job.failed"}, bodies[0] | {"data": {}}, bodies[0] | {"data": {"jobId": 1}}):
        assert not validator(document, content["schema"]).is_valid(wrong)


async def test_what_is_referred_to_is_there(document: dict[str, Any]) -> None:
    for target in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        place: Any = document
        for part in target.split("/"):
            place = place[part.replace("~1", "/")]


async def test_the_whole_document_is_json_schema_of_its_version(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1"), "`webhooks` came with 3.1"
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
