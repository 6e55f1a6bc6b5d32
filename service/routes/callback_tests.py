"""`/webhooks/tests`: have the notifier send a callback a signed test event, or every probe of a self-test."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from service.body import read_body
from service.identity import Identity, may
from service.problems import Problem, ProblemError
from service.submission import body_of, parse_submission
from todoke.model.access import Scope
from todoke.model.callback_test import OPEN_MAX, CallbackTest, Grade, Kind, Probe
from todoke.model.errors import NotFound
from todoke.model.ids import new_id, parse_id
from todoke.store.callback_tests import CallbackTests

AGAIN_SECONDS = 1
FULL_SECONDS = 5

# Raises InvalidInput for a callback URL that is not called for this tenant.
Check = Callable[[str, str], Awaitable[None]]


class AskedTest(BaseModel):
    """The body of `POST /webhooks/tests`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    callback_url: str = Field(
        alias="callbackUrl", description="The receiver to test.", examples=["https://example.com/hook"]
    )
    kind: Kind = Field(
        Kind.PING,
        strict=False,
        description="`ping`: one good event. `self_test`: forged, old and repeated ones too.",
    )


class CallbackTestRoutes:
    """Nothing is sent from here: a test is kept, the bell rings, and a notifier runs it."""

    def __init__(self, tests: CallbackTests, check: Check, body_bytes_max: int) -> None:
        self._tests, self._check, self._body_bytes_max = tests, check, body_bytes_max

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        location = {"schema": {"type": "string"}, "description": "Where the report will be."}
        again = {"schema": {"type": "integer"}, "description": "Seconds until asking for it is worth it."}
        router.add_api_route(
            "/webhooks/tests",
            self._ask,
            methods=["POST"],
            status_code=202,
            tags=["webhooks"],
            summary="Test a callback",
            openapi_extra={"requestBody": body_of(AskedTest, "/webhooks/tests") | {"required": True}},
            responses={
                202: {
                    "description": "A notifier runs the test now.",
                    "content": {"application/json": {"schema": TEST}},
                    "headers": {"Location": location, "Retry-After": again},
                },
                422: {"description": "The URL is none that callbacks may reach."},
                429: {"description": f"The tenant has {OPEN_MAX} tests that are not done."},
            },
            response_class=Response,
        )
        router.add_api_route(
            "/webhooks/tests/{test_id}",
            self._show,
            methods=["GET"],
            tags=["webhooks"],
            summary="The graded report of a test",
            responses={
                200: {
                    "description": "`report` is null while `state` is `running`; then `Retry-After` is there.",
                    "content": {"application/json": {"schema": TEST}},
                },
                404: {"description": "The caller has no such test."},
            },
            response_class=Response,
        )

    async def _ask(self, request: Request, identity: Annotated[Identity, Depends(may(Scope.SUBMIT))]) -> Response:
        body = await read_body(request, self._body_bytes_max)
        asked = parse_submission(AskedTest, body, request.headers.get("content-type", ""))
        await self._check(identity.tenant_id, asked.callback_url)
        test = await self._tests.create(new_id(), identity.tenant_id, asked.callback_url, asked.kind)
        if test is None:
            raise ProblemError(_too_many())
        return _answer(test, 202, {"Location": f"/webhooks/tests/{test.id}"})

    async def _show(self, test_id: str, identity: Annotated[Identity, Depends(may(Scope.READ))]) -> Response:
        parsed = parse_id(test_id)
        test = None if parsed is None else await self._tests.find(parsed, identity.tenant_id)
        if test is None:
            raise NotFound("test not found")
        return _answer(test, 200, {})


MOMENT = {"type": "string", "format": "date-time"}
GRADES = [str(grade) for grade in Grade]
FINDING = {
    "probe": {"enum": [str(probe) for probe in Probe]},
    "expected": {"enum": ["2xx", "4xx"]},
    "status": {"type": ["integer", "null"]},
    "reason": {"type": ["string", "null"], "description": "As of deliveries; null for a probe that was not sent."},
    "seconds": {"type": ["number", "null"]},
    "verdict": {"enum": GRADES},
    "advice": {"type": "string", "description": "What to change; empty when nothing is."},
}
REPORT = {
    "grade": {"enum": GRADES},
    "advice": {"type": "string", "description": "About the test as a whole."},
    "probes": {"type": "array", "items": {"type": "object", "required": list(FINDING), "properties": FINDING}},
    "endpointEnabled": {"type": "boolean", "description": "It was disabled, and the passed self-test enabled it."},
    "redelivered": {"type": "integer", "description": "Parked deliveries that are sent once more because of that."},
}
TEST_MEMBERS = {
    "testId": {"type": "string", "format": "uuid"},
    "kind": {"enum": [str(kind) for kind in Kind]},
    "callbackUrl": {"type": "string"},
    "state": {"enum": ["running", "done"]},
    "createdAt": MOMENT,
    "finishedAt": {"type": ["string", "null"], "format": "date-time"},
    "report": {"type": ["object", "null"], "required": list(REPORT), "properties": REPORT},
}
TEST = {"type": "object", "required": list(TEST_MEMBERS), "properties": TEST_MEMBERS}


def _answer(test: CallbackTest, status: int, headers: dict[str, str]) -> Response:
    finished_at = None if test.finished_at is None else _moment(test.finished_at.isoformat())
    body = {
        "testId": str(test.id),
        "kind": test.kind,
        "callbackUrl": test.url,
        "state": "done" if test.is_done else "running",
        "createdAt": _moment(test.created_at.isoformat()),
        "finishedAt": finished_at,
        "report": test.report,
    }
    again = {} if test.is_done else {"Retry-After": str(AGAIN_SECONDS)}
    return JSONResponse(body, status, {"Cache-Control": "no-store", **again, **headers})


def _moment(text: str) -> str:
    return text.replace("+00:00", "Z")


def _too_many() -> Problem:
    return Problem(
        429,
        "TOO_MANY_TESTS",
        f"{OPEN_MAX} tests are not done yet: wait for their reports, then test again",
        headers={"Retry-After": str(FULL_SECONDS)},
    )
