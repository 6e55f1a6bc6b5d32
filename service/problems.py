"""Every error answer as application/problem+json (RFC 9457). `detail` keeps the words legacy clients know."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from service import trail
from todoke.model.codes import Code
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

MEDIA_TYPE = "application/problem+json"
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
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
# What frameworks refuse, by status; anything else of theirs is a request they could not read.
OF_FRAMEWORKS = {404: Code.NOT_FOUND, 405: Code.METHOD_NOT_ALLOWED, 413: Code.CONTENT_TOO_LARGE}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
# Names in a body are the caller's own: a pointer says where, and does not send all of them back.
ERRORS_MAX = 100
POINTER_LETTERS_MAX = 200
MISTAKE_LETTERS_MAX = 300


@dataclass(frozen=True)
class Problem:
    """One error answer. `errors` holds {pointer, detail} of each bad value.

    members: more of the body, for this code.
    """

    status: int
    code: Code
    detail: str
    errors: tuple[dict[str, str], ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    members: Mapping[str, object] = field(default_factory=dict)

    def body(self, trace_id: str) -> dict[str, object]:
        """As JSON. `trace_id`: what the log of this service knows the request by."""
        body: dict[str, object] = {
            "type": f"urn:todoke:problem:{self.code.lower().replace('_', '-')}",
            "title": TITLES.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "traceId": trace_id,
            **self.members,
        }
        if self.errors:
            body["errors"] = list(self.errors)
        return body

    def response(self) -> Response:
        """As HTTP."""
        return JSONResponse(self.body(trail.trace_id()), self.status, self.headers, media_type=MEDIA_TYPE)


class ProblemError(Exception):
    """Raised by HTTP rooms for what has no meaning below HTTP: a body too large, a type not understood."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def install(app: FastAPI) -> None:
    """Have `app` answer every error as a problem. A fault is left to whoever runs it to log."""
    for kind in (ProblemError, Refused, Unavailable, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(kind, _on_known)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_fault)


def problem_of(error: Exception) -> Problem:
    """What a caller is told of `error`; one that nobody raised on purpose is a fault of ours."""
    match error:
        case ProblemError():
            return error.problem
        case Refused():
            errors = error.errors if isinstance(error, InvalidInput) else ()
            return Problem(STATUS_OF[type(error)], error.code, str(error), errors, members=error.members)
        case Unavailable():
            log.warning("request.unavailable", reason=str(error))
            return unavailable()
        case RequestValidationError():
            errors = tuple(mistake(item["loc"], item["msg"]) for item in error.errors()[:ERRORS_MAX])
            return Problem(422, Code.INVALID_INPUT, "the request is not valid", errors)
        case ClientDisconnect():
            return Problem(400, Code.BODY_INCOMPLETE, "the body ended before it was whole")
    return Problem(500, Code.INTERNAL, "something went wrong on our side; it is logged")


def unavailable() -> Problem:
    """PostgreSQL or the object store is away for a moment."""
    headers = {"Retry-After": UNAVAILABLE_SECONDS}
    return Problem(503, Code.UNAVAILABLE, "a part of the service is away; try again", headers=headers)


def mistake(location: tuple[int | str, ...], message: str) -> dict[str, str]:
    """One bad value: where it stands, as a JSON Pointer (RFC 6901), and what is wrong with it."""
    path = "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)
    words = message.removeprefix("Value error, ")
    return {"pointer": _sendable(path[:POINTER_LETTERS_MAX]), "detail": _sendable(words[:MISTAKE_LETTERS_MAX])}


def _sendable(text: str) -> str:
    """Half a surrogate pair is a letter to Python and to JSON, and to no encoding."""
    return text.encode(errors="replace").decode()


async def _on_known(_request: Request, error: Exception) -> Response:
    return problem_of(error).response()


async def _on_fault(_request: Request, error: Exception) -> Response:
    return problem_of(error).response()


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
    code = OF_FRAMEWORKS.get(error.status_code)
    if code is None:
        # Their words may quote what was sent.
        return Problem(400, Code.MALFORMED_REQUEST, "the request cannot be read", headers=headers).response()
    is_job = code is Code.NOT_FOUND and request.url.path.startswith("/jobs/")
    detail = "job not found" if is_job else TITLES[error.status_code]
    return Problem(error.status_code, code, detail, headers=headers).response()


def _allowed(request: Request) -> list[str]:
    """Every method of this path, not only those of the first route that has it."""
    scope = request.scope
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    found = [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]
    return found or ["GET", "HEAD"]
