"""Every error answer as application/problem+json (RFC 9457). `detail` keeps the words legacy clients know."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from todoke.model.errors import (
    CursorLost,
    EndpointDisabled,
    Gone,
    InvalidInput,
    KeyReused,
    NoResult,
    NotFinished,
    NotFound,
    Refused,
    ResultExpired,
    TodokeError,
    TypeUnknown,
    Unavailable,
)

log = structlog.get_logger()

STATUS_OF: dict[type[TodokeError], int] = {
    InvalidInput: 422,
    KeyReused: 422,
    NotFound: 404,
    NotFinished: 409,
    NoResult: 409,
    TypeUnknown: 409,
    EndpointDisabled: 409,
    CursorLost: 409,
    Gone: 410,
    ResultExpired: 410,
}
UNAVAILABLE_SECONDS = "2"
# By hand, because http.HTTPStatus words 413 and 422 differently from one Python to the next.
TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True)
class Problem:
    """One error answer. `code` is stable and documented; `errors` holds {pointer, detail} of each bad value.

    members: more of the body, for this code.
    """

    status: int
    code: str
    detail: str
    errors: tuple[dict[str, str], ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    members: Mapping[str, object] = field(default_factory=dict)

    def response(self) -> Response:
        """As HTTP."""
        body: dict[str, object] = {
            "type": f"urn:todoke:problem:{self.code.lower().replace('_', '-')}",
            "title": TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.members,
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


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return _reply(request, error.problem)


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    errors = error.errors if isinstance(error, InvalidInput) else ()
    return _reply(request, Problem(STATUS_OF[type(error)], error.code, str(error), errors, members=error.members))


async def _on_unavailable(request: Request, error: Exception) -> Response:
    log.warning("request.unavailable", reason=str(error))
    return _reply(request, unavailable())


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = tuple(mistake(item["loc"], item["msg"]) for item in error.errors())
    return _reply(request, Problem(422, InvalidInput.code, "the request is not valid", errors))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    is_job = error.status_code == 404 and request.url.path.startswith("/jobs/")
    code = TITLES.get(error.status_code, "Error").upper().replace(" ", "_")
    detail = "job not found" if is_job else str(error.detail)
    return _reply(request, Problem(error.status_code, code, detail, headers=dict(error.headers or {})))


async def _on_fault(request: Request, error: Exception) -> Response:
    log.error("request.fault", exc_info=error)
    return _reply(request, Problem(500, "INTERNAL", "something went wrong on our side; it is logged"))


def _reply(request: Request, problem: Problem) -> Response:
    """As HTTP; whoever watches from another origin by a ticket may read why not, and when to come back."""
    response = problem.response()
    if "ticket" in request.query_params and request.url.path.endswith("/events"):
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Access-Control-Expose-Headers"] = "Retry-After"
    return response


def mistake(location: tuple[int | str, ...], message: str) -> dict[str, str]:
    """One bad value: where it stands, as a JSON Pointer (RFC 6901), and what is wrong with it."""
    path = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return {"pointer": path, "detail": message.removeprefix("Value error, ")}
