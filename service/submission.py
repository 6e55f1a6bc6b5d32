"""The body of a submit: what may stand in it, read from bytes without trusting them."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model, field_validator
from pydantic_core import from_json
from starlette.requests import Request

from service.problems import Problem, ProblemError, mistake
from todoke.jobs.catalog import PRIORITY_MAX, JobType
from todoke.model import event
from todoke.model.codes import Code
from todoke.model.errors import InvalidInput

METADATA_BYTES_MAX = 2048
ERRORS_MAX = 100
DELAY_SECONDS_MAX = 30 * 24 * 3600
EXPIRES_SECONDS_MAX = 365 * 24 * 3600
Body = TypeVar("Body", bound=BaseModel)

KEY = re.compile(r"[\x20-\x7e]{1,255}")

EventType = Literal["job.accepted", "job.started", "job.retrying", "job.succeeded", "job.failed", "job.progress"]


class Submission(BaseModel):
    """What every job type's submit body shares; `params` is added for each type."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=None)

    callback_url: str | None = Field(
        None, alias="callbackUrl", description="Where the signed webhook goes.", examples=["https://example.com/hook"]
    )
    callback_events: tuple[EventType, ...] = Field(
        event.TERMINAL,
        alias="callbackEvents",
        description="Which events the callback receives; `job.progress` at best.",
    )
    metadata: dict[str, JsonValue] | None = Field(
        None, description=f"Echoed in status, events and webhooks; at most {METADATA_BYTES_MAX} bytes of JSON."
    )

    delay_seconds: float = Field(
        0, alias="delaySeconds", ge=0, le=DELAY_SECONDS_MAX, description="The job is due this long after its submit."
    )
    timeout_seconds: float | None = Field(
        None, alias="timeoutSeconds", gt=0, description="One attempt may run this long; at most what the job type says."
    )
    priority: int | None = Field(
        None,
        ge=-PRIORITY_MAX,
        le=PRIORITY_MAX,
        description="Higher is sooner; one step is worth a minute of waiting. Default: the job type's.",
    )
    expires_seconds: float | None = Field(
        None,
        alias="expiresSeconds",
        gt=0,
        le=EXPIRES_SECONDS_MAX,
        description="A job not started this long after it was due fails with EXPIRED. Default: the job type's.",
    )

    @field_validator("metadata")
    @classmethod
    def _small(cls, value: dict[str, JsonValue] | None) -> dict[str, JsonValue] | None:
        if value is None:
            return None
        if len(json.dumps(value)) > METADATA_BYTES_MAX:
            raise ValueError(f"at most {METADATA_BYTES_MAX} bytes of JSON")
        if _has_nul(value):
            raise ValueError("a NUL character cannot be kept")
        return value


def submission_model(job_type: JobType) -> type[Submission]:
    """The submit body of one job type; `params` may be left out when all of its own fields may."""
    name = "".join(word.capitalize() for word in job_type.name.split("-")) + "Submission"
    may_be_absent = not any(item.is_required() for item in job_type.params.model_fields.values())
    default = Field(default_factory=job_type.params) if may_be_absent else Field()
    inherited = Submission.model_fields["timeout_seconds"]
    timeout = Field(None, alias=inherited.alias, gt=0, le=job_type.timeout, description=inherited.description)
    return create_model(
        name, __base__=Submission, params=(job_type.params, default), timeout_seconds=(float | None, timeout)
    )


def body_of(model: type[BaseModel], path: str) -> dict[str, Any]:
    """How the description shows the body of `POST path`: definitions inside, named by where they stand in it."""
    place = f"#/paths/{path.replace('/', '~1')}/post/requestBody/content/application~1json/schema/$defs/"
    schema = model.model_json_schema(by_alias=True, ref_template=place + "{model}")
    return {"content": {"application/json": {"schema": schema}}}


def parse_submission(model: type[Body], body: bytes, content_type: str) -> Body:
    """Read a body; none at all, whatever its content type, means `{}` (legacy clients send that).

    Raises ProblemError 400 when it is not JSON, 415 when it does not even claim to be, InvalidInput otherwise.
    """
    text = body.strip() or b"{}"
    try:
        _refuse_infinite(from_json(text, allow_inf_nan=False))
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _invalid(error) from None
    except ValueError as error:
        raise ProblemError(_not_json(content_type, str(error))) from None


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body. Raises ProblemError 413 as soon as it is known to be too large."""
    too_large = ProblemError(Problem(413, Code.CONTENT_TOO_LARGE, f"the body may have at most {bytes_max} bytes"))
    if int(request.headers.get("content-length") or 0) > bytes_max:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise too_large
    return bytes(body)


def parse_key(value: str | None) -> str | None:
    """The idempotency key in a header, quoted or bare."""
    if value is None:
        return None
    is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
    key = value[1:-1] if is_quoted else value
    if not KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key: 1 to 255 printable ASCII characters")
    return key


def digest(body: bytes) -> bytes:
    """Tells one JSON body from another, whatever its spacing and the order of its members."""
    value = from_json(body.strip() or b"{}")
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).digest()


def _not_json(content_type: str, why: str) -> Problem:
    if content_type and "json" not in content_type:
        return Problem(415, Code.UNSUPPORTED_MEDIA_TYPE, "send the body as application/json")
    return Problem(400, Code.MALFORMED_JSON, why)


def _invalid(error: ValidationError) -> InvalidInput:
    details = error.errors(include_url=False, include_input=False, include_context=False)
    errors = tuple(mistake(item["loc"], item["msg"]) for item in details[:ERRORS_MAX])
    return InvalidInput(f"{errors[0]['pointer'] or 'the body'}: {errors[0]['detail']}", errors)


def _refuse_infinite(value: Any) -> None:
    """1e999 is JSON and yet no number that could be kept."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, float) and math.isinf(item):
            raise InvalidInput("a number is too large")
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))
