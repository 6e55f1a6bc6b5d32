"""Every error answer as application/problem+json (RFC 9457). `detail` keeps the words legacy clients know."""

from dataclasses import dataclass, field
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from todoke.model.errors import (
    InvalidInput,
    KeyReused,
    NoResult,
    NotFinished,
    NotFound,
    Refused,
    TodokeError,
    Unavailable,
)

log = structlog.get_logger()

STATUS_OF: dict[type[TodokeError], int] = {
    InvalidInput: 422,
    KeyReused: 422,
    NotFound: 404,
    NotFinished: 409,
    NoResult: 409,
}
UNAVAILABLE_SECONDS = "2"


@dataclass(frozen=True)
class Problem:
    """One error answer. `code` is stable and documented; `errors` holds {pointer, detail} of each bad value."""

    status: int
    code: str
    detail: str
    errors: tuple[dict[str, str], ...] = ()
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """As HTTP."""
        body: dict[str, object] = {
            "type": f"urn:todoke:problem:{self.code.lower().replace('_', '-')}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            body["errors"] = list(self.errors)
        return JSONResponse(body, self.status, self.headers, media_type="application/problem+json")


class ProblemError(Exception):
    """Raised by HTTP rooms for what has no meaning below HTTP: a body too large, a type not understood."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def install(app: FastAPI) -> None:
    """Have `app` answer every error as a problem."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(Unavailable, _on_unavailable)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)


def unavailable() -> Problem:
    """PostgreSQL or the object store is away for a moment."""
    return Problem(
        503, "UNAVAILABLE", "a part of the service is away; try again", headers={"Retry-After": UNAVAILABLE_SECONDS}
    )


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return error.problem.response()


async def _on_refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    errors = error.errors if isinstance(error, InvalidInput) else ()
    return Problem(STATUS_OF[type(error)], error.code, str(error), errors).response()


async def _on_unavailable(_request: Request, error: Exception) -> Response:
    log.warning("request.unavailable", reason=str(error))
    return unavailable().response()


async def _on_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = tuple({"pointer": pointer(item["loc"]), "detail": str(item["msg"])} for item in error.errors())
    return Problem(422, InvalidInput.code, "the request is not valid", errors).response()


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    is_job = error.status_code == HTTPStatus.NOT_FOUND and request.url.path.startswith("/jobs/")
    status = HTTPStatus(error.status_code)
    detail = "job not found" if is_job else str(error.detail)
    return Problem(status, status.name, detail, headers=dict(error.headers or {})).response()


async def _on_fault(_request: Request, error: Exception) -> Response:
    log.error("request.fault", exc_info=error)
    return Problem(500, "INTERNAL", "something went wrong on our side; it is logged").response()


def pointer(location: tuple[int | str, ...]) -> str:
    """Where a bad value stands, as a JSON Pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
