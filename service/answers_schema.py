"""What the OpenAPI description says about answers that are no errors: their bodies and headers, route by route.

The bodies are made elsewhere, many of them by PostgreSQL; a test holds what is said here to what is answered.
"""

from typing import Any

from fastapi import FastAPI

from service.callbacks_schema import MOMENT_OR_NULL, STORY, TEXT_OR_NULL
from todoke.model.delivery import Reason

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
ID: Schema = {"type": "string", "format": "uuid"}
MOMENT: Schema = {"type": "string", "format": "date-time"}
SHA256: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
REASON: Schema = {"enum": [*map(str, Reason), None]}


def members(properties: dict[str, Schema], *optional: str, **more: Any) -> Schema:
    """An object that has all of these members, but perhaps the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties, **more}


def nullable(schema: Schema) -> Schema:
    """This, or null."""
    return {"oneOf": [schema, {"type": "null"}]}


def known(name: str) -> Schema:
    """One of the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def part(name: str, of: str) -> Schema:
    """One part of a list."""
    items = {"type": "array", "items": known(of)}
    return members({name: items, "cursor": TEXT_OR_NULL, "hasMore": {"type": "boolean"}})


FILE = {"name": TEXT, "mediaType": TEXT, "bytes": COUNT, "sha256": SHA256}
LAST_DELIVERY = members(
    {
        "state": {"enum": ["pending", "delivered", "parked"]},
        "attempt": COUNT,
        "reason": REASON,
        "nextAttemptAt": MOMENT_OR_NULL,
    }
)
ESTIMATE = members(
    {"remainingSeconds": {"type": ["number", "null"]}, "upperSeconds": {"type": ["number", "null"]}, "basis": COUNT},
    description="From this job type's own past.",
)
LINKS = dict.fromkeys(("statusUrl", "eventsUrl", "resultUrl", "cancelUrl"), TEXT)
WARNINGS = {"type": "array", "items": members({"code": TEXT, "detail": TEXT})}
ATTEMPT = members(
    {
        "attempt": COUNT,
        "startedAt": MOMENT,
        "seconds": {"type": "number"},
        "status": {"type": ["integer", "null"]},
        "reason": REASON,
        "excerpt": TEXT_OR_NULL,
    }
)
DELIVERY = members(
    {
        "jobId": ID,
        "sequence": {"type": "integer"},
        "webhookId": TEXT,
        "eventType": TEXT,
        "callbackUrl": TEXT,
        "state": {"enum": ["pending", "delivered", "parked"]},
        "standing": {"enum": ["ready", "waiting", "sending", "held", None]},
        "reason": REASON,
        "status": {"type": ["integer", "null"]},
        "attempt": COUNT,
        "nextAttemptAt": MOMENT_OR_NULL,
        "createdAt": MOMENT,
        "finishedAt": MOMENT_OR_NULL,
        "attempts": {"type": "array", "items": ATTEMPT},
    },
    "attempts",
)
ENDPOINT = members(
    {
        "id": ID,
        "callbackUrl": TEXT,
        "state": {"enum": ["active", "disabled"]},
        "disabledReason": TEXT_OR_NULL,
        "disabledAt": MOMENT_OR_NULL,
        "failures": COUNT,
        "failingSince": MOMENT_OR_NULL,
        "warning": TEXT_OR_NULL,
        "breaker": {"enum": ["closed", "open", "half_open", "cooling"]},
        "blockedUntil": MOMENT_OR_NULL,
        "cap": {"type": ["integer", "null"]},
        "parked": COUNT,
        "held": COUNT,
        "updatedAt": MOMENT_OR_NULL,
        "owed": COUNT,
        "more": {"type": "boolean"},
    },
    "owed",
    "more",
)
JOB = members(
    {
        **STORY,
        "artifacts": {"type": "array", "items": members(FILE)},
        "delivery": nullable(LAST_DELIVERY),
        "resultExpiredAt": MOMENT_OR_NULL,
        **LINKS,
        "estimate": nullable(ESTIMATE),
        "pollAfterMs": {"type": "integer", "description": "While it runs: until the next poll is worth it."},
    },
    "pollAfterMs",
)
KEPT = members({"jobId": ID, "clientRef": TEXT_OR_NULL, "statusUrl": TEXT, "isReplay": {"type": "boolean"}})
COMPONENTS: dict[str, Schema] = {
    "Job": JOB,
    "JobList": part("jobs", "Job"),
    "Accepted": members({"jobId": ID, **LINKS, "warnings": WARNINGS}, "warnings"),
    "BatchAccepted": members({"batchId": ID, "jobs": {"type": "array", "items": KEPT}}),
    "Valid": members({"isValid": {"const": True}}),
    "EventList": {"type": "array", "items": known("JobEvent")},
    "EventPart": part("events", "JobEvent"),
    "Ticket": members({"ticket": TEXT, "eventsUrl": TEXT, "expiresAt": MOMENT}),
    "Link": members({"url": TEXT, "expiresAt": MOMENT_OR_NULL, "needsKey": {"type": "boolean"}, **FILE}),
    "Delivery": DELIVERY,
    "JobDeliveries": members({"deliveries": {"type": "array", "items": known("Delivery")}}),
    "DeliveryList": part("deliveries", "Delivery"),
    "Replayed": members({"replayed": COUNT, "more": {"type": "boolean"}, "disabled": COUNT}),
    "Endpoint": ENDPOINT,
    "EndpointList": part("endpoints", "Endpoint"),
}
# Where status, and what comes back with it. A 200 of a submit is the whole job, or says that the body is valid.
ENDED_OR_VALID = {"oneOf": [known("Job"), known("Valid")]}
BODIES: dict[str, dict[str, Schema]] = {
    "post /jobs/batch": {"200": known("Valid"), "202": known("BatchAccepted")},
    "get /jobs": {"200": known("JobList")},
    "get /jobs/{job_id}": {"200": known("Job"), "202": known("Job")},
    "post /jobs/{job_id}/cancel": {"200": known("Job"), "202": known("Job")},
    "post /jobs/{job_id}/retry": {"200": known("Job"), "202": known("Accepted")},
    "get /jobs/{job_id}/events": {"200": known("EventList")},
    "get /events": {"200": known("EventPart")},
    "post /jobs/{job_id}/tokens": {"201": known("Ticket")},
    "get /jobs/{job_id}/deliveries": {"200": known("JobDeliveries")},
    "post /jobs/{job_id}/deliveries/{sequence}/redeliver": {"202": known("Delivery")},
    "get /deliveries": {"200": known("DeliveryList")},
    "post /deliveries/replay": {"202": known("Replayed")},
    "get /webhooks/endpoints": {"200": known("EndpointList")},
    "post /webhooks/endpoints": {"200": known("Endpoint")},
    "post /webhooks/endpoints/{endpoint_id}/disable": {"200": known("Endpoint")},
    "post /webhooks/endpoints/{endpoint_id}/enable": {"200": known("Endpoint")},
}
# What a job leaves is of any type; with `redirect=false` it is a link object.
CONTENTS = ("get /jobs/{job_id}/result", "get /jobs/{job_id}/artifacts/{name}")
SUBMIT_HEADERS = ("Location", "Retry-After", "Idempotent-Replayed")
HEADERS: dict[str, dict[str, tuple[str, ...]]] = {
    "post /jobs/batch": {"202": ("Location",)},
    "post /jobs/{job_id}/retry": {"202": SUBMIT_HEADERS},
    "post /jobs/{job_id}/cancel": {"202": ("ETag", "Retry-After")},
    **{each: {"200": ("ETag", "Repr-Digest", "Content-Disposition", "Accept-Ranges")} for each in CONTENTS},
}
WORDS = {
    "Location": "Where the job is, or its result.",
    "Retry-After": "Seconds until asking again is worth it.",
    "Idempotent-Replayed": "`true` when the key named a job that was there already.",
    "ETag": "Names this very answer.",
    "Repr-Digest": "SHA-256 of the whole content (RFC 9530).",
    "Content-Disposition": "What a download is called.",
    "Accept-Ranges": "`bytes`.",
    "X-Request-Id": "By which the log of the service knows the request.",
    "RateLimit": "What is left of the caller's budget, where it has one.",
    "RateLimit-Policy": "The caller's budgets.",
}
OF_ALL = ("X-Request-Id", "RateLimit", "RateLimit-Policy")
# From a submit's answer to what can be done with the job.
LINKED = {
    "status": "status_of_job",
    "cancel": "cancel_job",
    "events": "events_of_job",
}


def tell_of_answers(app: FastAPI) -> None:
    """Have the description say what answers look like."""
    plain = app.openapi

    def described() -> Schema:
        found = plain()
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        if "Job" not in schemas:
            schemas |= COMPONENTS
            found["components"]["headers"] = {
                name: {"schema": TEXT, "description": said} for name, said in WORDS.items()
            }
            for path, methods in found["paths"].items():
                for method, operation in methods.items():
                    _tell(f"{method} {path}", operation)
        return found

    app.openapi = described  # type: ignore[method-assign]


def _tell(name: str, operation: Schema) -> None:
    is_submit = operation.get("operationId", "").startswith("submit_")
    bodies = {"200": ENDED_OR_VALID, "202": known("Accepted")} if is_submit else BODIES.get(name, {})
    headers = {"202": SUBMIT_HEADERS} if is_submit else HEADERS.get(name, {})
    for status, response in operation["responses"].items():
        if status in bodies:
            response.setdefault("content", {})["application/json"] = {"schema": bodies[status]}
        elif name in CONTENTS and status in ("200", "206"):
            response["content"] = {"*/*": {}}
        if "text/event-stream" in response.get("content", {}):
            response["content"]["text/event-stream"] = {"schema": TEXT}
        named = (*headers.get(status, ()), *OF_ALL)
        told = {header: {"$ref": f"#/components/headers/{header}"} for header in named}
        response["headers"] = told | response.get("headers", {})
    if is_submit or name.endswith("/retry"):
        parameters = {"job_id": "$response.body#/jobId"}
        operation["responses"]["202"]["links"] = {
            link: {"operationId": linked, "parameters": parameters} for link, linked in LINKED.items()
        }
