"""What the OpenAPI description says about errors: each is a problem, and there is a closed list of codes."""

from typing import Any

from fastapi import FastAPI

from service.problems import MEDIA_TYPE
from todoke.model.codes import Code

NAME = "Problem"
METHODS = ("get", "put", "post", "delete", "head", "patch")
# What FastAPI would answer by itself, and does not here.
FOREIGN = ("HTTPValidationError", "ValidationError")
POINTED = {
    "type": "object",
    "required": ["pointer", "detail"],
    "properties": {
        "pointer": {"type": "string", "description": "A JSON Pointer: where the value stands."},
        "detail": {"type": "string", "description": "What is wrong with it."},
    },
}
PROBLEM = {
    "type": "object",
    "title": NAME,
    "description": "RFC 9457. Programs look at `code`; `detail` is for people. Some codes add members of their own.",
    "required": ["type", "title", "status", "detail", "code", "traceId"],
    "properties": {
        "type": {"type": "string", "examples": ["urn:todoke:problem:not-found"]},
        "title": {"type": "string", "examples": ["Not Found"]},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "examples": ["job not found"]},
        "code": {"type": "string", "enum": [str(code) for code in Code]},
        "traceId": {"type": "string", "description": "By which the log of the service knows the request."},
        "errors": {"type": "array", "maxItems": 100, "items": POINTED, "description": "Each bad value."},
    },
}
CONTENT = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{NAME}"}}}
ANY_OTHER = {"description": "Any other error is a problem, too.", "content": CONTENT}


def tell_of_problems(app: FastAPI) -> None:
    """Have the description of every operation say that its errors are problems."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        found = plain()
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        if NAME not in schemas:
            schemas[NAME] = PROBLEM
            for name in FOREIGN:
                schemas.pop(name, None)
            for path in found["paths"].values():
                for method in METHODS:
                    if method in path:
                        _tell(path[method]["responses"])
        return found

    app.openapi = described  # type: ignore[method-assign]


def _tell(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status.startswith(("4", "5")):
            response["content"] = CONTENT
            if response.get("description") == "Validation Error":
                response["description"] = "A value breaks a rule; `errors` says which."
    responses.setdefault("default", ANY_OTHER)
