"""The OpenAPI description: valid as what it says it is, and true of what is answered."""

from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.make import accept, fail, start, succeed
from tests.owing import endpoint, owe_parked
from todoke.model.job import Artifact
from todoke.store.database import Database
from todoke.store.ledger import Ledger

SMALL = Artifact("report.html", "text/html", 4, "00" * 32, content=b"<p/>")
AS_LIST = {"Accept": "application/json"}


@pytest.fixture
async def description(api: httpx.AsyncClient) -> dict[str, Any]:
    return dict((await api.get("/openapi.json")).json())


def test_it_is_valid(description: dict[str, Any]) -> None:
    assert description["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(description).validate()


def test_every_answer_that_has_a_body_says_what_it_is(description: dict[str, Any]) -> None:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            assert operation["responses"].get("default"), (method, path)
            for status, response in operation["responses"].items():
                assert "X-Request-Id" in response["headers"], (method, path, status)
                has_body = status in ("200", "201", "202") and method != "head"
                for media, content in response.get("content", {}).items():
                    assert content.get("schema") or media == "*/*", (method, path, status)
                assert not has_body or response.get("content"), (method, path, status)


async def test_answers_are_as_described(
    api: httpx.AsyncClient, description: dict[str, Any], ledger: Ledger, database: Database
) -> None:
    """One good request of each route, or more where answers differ; every member of each is described."""
    ended, failed, running = [await accept(ledger, client_ref=name) for name in ("ended", "failed", "running")]
    await succeed(ledger, await start(ledger, ended), artifacts=(SMALL,))
    await fail(ledger, await start(ledger, failed))
    await start(ledger, running)
    owed = await owe_parked(ledger, database)
    held = await endpoint(database, "https://example.com/held", state="DISABLED", disabled_reason="gone")
    report = {"params": {"csv": "a\n1\n"}, "callbackUrl": "https://example.com/hook"}
    seen = Seen(description)
    for method, path, body in (
        ("POST", "/generate-report", report),
        ("POST", "/generate-report?validateOnly=true", report),
        ("POST", "/jobs/batch", {"jobs": [{"type": "generate-report", "clientRef": "a"}]}),
        ("POST", "/jobs/batch?validateOnly=true", {"jobs": [{"type": "generate-report"}]}),
        ("GET", "/jobs", None),
        ("GET", f"/jobs/{ended}", None),
        ("GET", f"/jobs/{failed}", None),
        ("GET", f"/jobs/{running}", None),
        ("GET", f"/jobs/{owed}", None),
        ("GET", f"/jobs/{ended}/events", None),
        ("GET", "/events", None),
        ("POST", f"/jobs/{running}/tokens", None),
        ("GET", f"/jobs/{ended}/result?redirect=false", None),
        ("POST", f"/jobs/{failed}/retry", None),
        ("POST", f"/jobs/{running}/cancel", None),
        ("POST", f"/jobs/{ended}/cancel", None),
        ("GET", f"/jobs/{owed}/deliveries", None),
        ("GET", "/deliveries", None),
        ("POST", f"/jobs/{owed}/deliveries/3/redeliver", None),
        ("POST", "/deliveries/replay", None),
        ("GET", "/webhooks/endpoints", None),
        ("POST", "/webhooks/endpoints", {"callbackUrl": "https://example.com/new"}),
        ("POST", f"/webhooks/endpoints/{held}/disable", None),
        ("POST", f"/webhooks/endpoints/{held}/enable", None),
        ("POST", "/webhooks/tests", {"callbackUrl": "https://example.com/hook"}),
        ("POST", "/webhooks/secrets", {}),
        ("GET", "/webhooks/secrets", None),
        ("DELETE", f"/jobs/{ended}", None),
        ("GET", f"/jobs/{ended}", None),
        ("GET", "/jobs/nothing", None),
    ):
        seen.check(await api.request(method, path, json=body, headers=AS_LIST))
    assert seen.unseen() == set(), "no request above leads there"


class Seen:
    """Holds answers to a description, and remembers which operations they were of."""

    def __init__(self, description: dict[str, Any]) -> None:
        self._description = description
        self._seen: set[str] = set()

    def check(self, answer: httpx.Response) -> None:
        method, path = answer.request.method.lower(), urlsplit(str(answer.request.url)).path
        template = self._template(path)
        self._seen.add(f"{method} {template}")
        responses = self._description["paths"][template][method]["responses"]
        response = responses.get(str(answer.status_code)) or responses["default"]
        if not answer.content:
            return
        media = answer.headers["content-type"].partition(";")[0]
        content = response["content"].get(media, response["content"].get("*/*"))
        assert content is not None, (method, template, answer.status_code, media)
        if "schema" in content:
            schema = {**content["schema"], "components": self._description["components"]}
            jsonschema.validate(answer.json(), schema)
            self._all_described(answer.json(), content["schema"])

    def unseen(self) -> set[str]:
        """Operations without an answer so far, but for those whose answers have no JSON or are asked for elsewhere."""
        every = {f"{method} {path}" for path, methods in self._description["paths"].items() for method in methods}
        plain = {
            each for each in every if each.startswith(("head", "delete")) or each.endswith(("{name}", "{test_id}"))
        }
        return every - plain - self._seen

    def _template(self, path: str) -> str:
        parts = path.split("/")
        for template in sorted(self._description["paths"], key=lambda each: each.count("{")):
            named = template.split("/")
            if len(named) == len(parts) and all(
                one.startswith("{") or one == other for one, other in zip(named, parts, strict=True)
            ):
                return str(template)
        raise AssertionError(path)

    def _all_described(self, value: Any, schema: dict[str, Any]) -> None:
        """No member is answered that the description does not know; problems may have more."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            if name == "Problem":
                return
            schema = self._description["components"]["schemas"][name]
        if "properties" in schema and isinstance(value, dict):
            assert set(value) <= set(schema["properties"]), set(value) - set(schema["properties"])
            for name, member in value.items():
                self._all_described(member, schema["properties"][name])
        if "items" in schema and isinstance(value, list):
            for item in value:
                self._all_described(item, schema["items"])
