"""What the OpenAPI description says about webhooks: what arrives at a callback, and how it should answer."""

from typing import Any

from fastapi import FastAPI

from todoke.model import event

SUBMITS = "submit_"
CALLBACK = "{$request.body#/callbackUrl}"
TEXT_OR_NULL = {"type": ["string", "null"]}
MOMENT_OR_NULL = {"type": ["string", "null"], "format": "date-time"}

HEADERS = {
    "webhook-id": "Names the event: the same on every attempt and redelivery, so that repeats can be dropped.",
    "webhook-timestamp": "Unix seconds of this attempt; refuse one more than five minutes from your clock.",
    "webhook-signature": "Standard Webhooks: one or more of `v1,…` and `v1a,…`, separated by spaces; one must be good.",
}
STORY: dict[str, dict[str, Any]] = {
    "jobId": {"type": "string", "format": "uuid"},
    "jobType": {"type": "string"},
    "status": {"enum": ["running", "success", "failed"]},
    "downloadUrl": {**TEXT_OR_NULL, "description": "A path of this service."},
    "error": TEXT_OR_NULL,
    "errorCode": TEXT_OR_NULL,
    "phase": {"enum": ["queued", "processing", "waiting", None]},
    "sequence": {"type": "integer", "minimum": 1, "description": "Grows within a job; the highest is the newest."},
    "progress": {
        "type": ["object", "null"],
        "properties": {"percent": {"type": "number"}, "message": TEXT_OR_NULL},
    },
    "attempt": {"type": "integer", "minimum": 0},
    "waiting": {
        "type": ["object", "null"],
        "properties": {
            "until": {"type": "string", "format": "date-time"},
            "code": TEXT_OR_NULL,
            "message": TEXT_OR_NULL,
        },
    },
    "cancelRequested": {"type": "boolean"},
    "retryOf": {"type": ["string", "null"], "format": "uuid"},
    "clientRef": TEXT_OR_NULL | {"description": "The caller's own name for the job, as its submit gave it."},
    "createdAt": {"type": "string", "format": "date-time"},
    "startedAt": MOMENT_OR_NULL,
    "finishedAt": MOMENT_OR_NULL,
    "metadata": {"type": ["object", "null"], "description": "As the submit gave it."},
}
JOB_EVENT = {
    "type": "object",
    "title": "JobEvent",
    "description": "The same object in webhooks, streams and logs.",
    "required": ["type", "timestamp", "data"],
    "properties": {
        "type": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "data": {"type": "object", "required": list(STORY), "properties": STORY},
    },
}
ACCEPTED_AT, STARTED_AT, ENDED_AT = (f"2026-01-02T03:04:{second}.000000Z" for second in ("05", "06", "09"))
JOB_ID = "019b7cf0-1f2e-7d3c-8b4a-5c6d7e8f9a0b"
NEW: dict[str, Any] = dict.fromkeys(STORY) | {
    "jobId": JOB_ID,
    "jobType": "generate-report",
    "status": "running",
    "phase": "queued",
    "sequence": 1,
    "attempt": 0,
    "cancelRequested": False,
    "createdAt": ACCEPTED_AT,
    "metadata": {"order": "A-7"},
}
RUNNING = NEW | {"phase": "processing", "sequence": 2, "attempt": 1, "startedAt": STARTED_AT}
ENDED = RUNNING | {"phase": None, "sequence": 3, "finishedAt": ENDED_AT}
AGAIN = {"until": ENDED_AT, "code": "JOB_ERROR", "message": "the source was away"}
# Of each event type: what it means, and an event as it is sent.
EVENTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    event.ACCEPTED: ("A job was accepted", ACCEPTED_AT, NEW),
    event.STARTED: ("An attempt at a job began", STARTED_AT, RUNNING),
    event.RETRYING: ("A job waits for its next attempt", STARTED_AT, RUNNING | {"phase": "waiting", "waiting": AGAIN}),
    event.SUCCEEDED: (
        "A job has succeeded",
        ENDED_AT,
        ENDED | {"status": "success", "downloadUrl": f"/jobs/{JOB_ID}/result"},
    ),
    event.FAILED: (
        "A job has failed",
        ENDED_AT,
        ENDED | {"status": "failed", "error": "the data has no rows", "errorCode": "NO_ROWS"},
    ),
    event.PROGRESS: (
        "A job has got further; sent once or not at all, the latest only",
        STARTED_AT,
        RUNNING | {"progress": {"percent": 40, "message": "drawing"}},
    ),
}


def tell_of_webhooks(app: FastAPI) -> None:
    """Have the description say what callbacks receive: with each submit, and one by one."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        found = plain()
        if "webhooks" not in found:
            found.setdefault("components", {}).setdefault("schemas", {})["JobEvent"] = JOB_EVENT
            found["webhooks"] = {type_: {"post": _request(summary, type_)} for type_, (summary, _, _) in EVENTS.items()}
            for path in found["paths"].values():
                for operation in path.values():
                    if operation.get("operationId", "").startswith(SUBMITS):
                        operation["callbacks"] = {"jobEvent": {CALLBACK: {"post": _request("A job event", *EVENTS)}}}
        return found

    app.openapi = described  # type: ignore[method-assign]


def _request(summary: str, *types: str) -> dict[str, Any]:
    """The request a callback gets, with examples of these event types."""
    return {
        "summary": summary,
        "tags": ["webhooks"],
        "description": "Answer within 15 seconds (unless the operator set another time); redirects are not followed.",
        "security": [],
        "parameters": [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "description": words}
            for name, words in HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/JobEvent"},
                    "examples": {type_: {"value": _example(type_)} for type_ in types},
                }
            },
        },
        "responses": {
            "2XX": {"description": "Received. The body is not looked at."},
            "410": {"description": "Never again: the endpoint is disabled, and what is owed to it is parked."},
            "default": {
                "description": "Not received: it is sent again, later and later. `Retry-After` is honoured.",
                "headers": {"Retry-After": {"schema": {"type": "string"}, "description": "Seconds, or an HTTP date."}},
            },
        },
    }


def _example(type_: str) -> dict[str, Any]:
    _, at, story = EVENTS[type_]
    return {"type": type_, "timestamp": at, "data": story}
