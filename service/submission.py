"""The body of a submit: what may stand in it, read from bytes without trusting them."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, create_model, field_validator
from pydantic_core import ErrorDetails

from service.body import Shape, malformed, parse_json, text_of
from service.problems import mistake
from todoke.jobs.catalog import PRIORITY_MAX, JobType
from todoke.model import event
from todoke.model.errors import InvalidInput

METADATA_BYTES_MAX = 2048
ERRORS_MAX = 100
DELAY_SECONDS_MAX = 30 * 24 * 3600
EXPIRES_SECONDS_MAX = 365 * 24 * 3600
Body = TypeVar("Body", bound=BaseModel)

KEY_PATTERN = r"^[\x20-\x7e]{1,255}$"
KEY = re.compile(KEY_PATTERN.strip("^$"))
CLIENT_REF_LETTERS_MAX = 200
# Made once: json.dumps makes one for each body.
CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

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
    client_ref: str | None = Field(
        None,
        alias="clientRef",
        min_length=1,
        max_length=CLIENT_REF_LETTERS_MAX,
        pattern=r"^[^\x00-\x1f\x7f]*$",
        description="Your own name for the job: shown in its status and events, and a filter of `GET /jobs`.",
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


def batch_model(job_type: JobType) -> type[Submission]:
    """One job of a batch: a submit body that says its type, and its key beside it."""
    model = submission_model(job_type)
    return create_model(
        model.__name__.replace("Submission", "BatchJob"),
        __base__=model,
        type=(
            str,
            Field(
                pattern=f"^{job_type.name}$", description="The job type.", json_schema_extra={"const": job_type.name}
            ),
        ),
        idempotency_key=(
            str | None,
            Field(
                None,
                alias="idempotencyKey",
                pattern=KEY_PATTERN,
                description="As the header `Idempotency-Key`, for this job.",
            ),
        ),
    )


def parse_submission(model: type[Body], body: bytes, content_type: str, shape: Shape | None = None) -> Body:
    """Read a body; none at all means `{}`. Raises ProblemError 400 and 415, InvalidInput."""
    parse_json(body, content_type, shape or Shape())
    return validated(model, body, content_type)


def validated(model: type[Body], body: bytes, content_type: str) -> Body:
    """The model of a body that `parse_json` has let through. Raises ProblemError 400, InvalidInput."""
    try:
        # From the text: what JSON spells as text or list, a strict model takes for a moment or a tuple there only.
        return model.model_validate_json(text_of(body))
    except ValidationError as error:
        details = details_of(error)
        if details[0]["type"] == "json_invalid":
            # Half a surrogate pair: to Python a text, to nobody else.
            raise malformed(content_type, details[0]["msg"]) from None
        raise invalid([mistake(item["loc"], item["msg"]) for item in details]) from None


def details_of(error: ValidationError) -> list[ErrorDetails]:
    """What is wrong, without what was sent."""
    return error.errors(include_url=False, include_input=False, include_context=False)


def invalid(mistakes: Sequence[dict[str, str]]) -> InvalidInput:
    """The refusal that names these mistakes, the first of them in words."""
    first = mistakes[0]
    return InvalidInput(f"{first['pointer'] or 'the body'}: {first['detail']}", tuple(mistakes[:ERRORS_MAX]))


def parse_key(values: Sequence[str]) -> str | None:
    """The idempotency key in the lines of its header, quoted or bare."""
    if not values:
        return None
    value = values[0]
    is_quoted = len(value) > 1 and value[0] == value[-1] == '"'
    key = value[1:-1] if is_quoted else value
    if len(values) > 1 or not KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key: once, with 1 to 255 printable ASCII characters")
    return key


def digest(value: Any) -> bytes:
    """Tells one JSON body from another, whatever its spacing and the order of its members."""
    return hashlib.sha256(CANONICAL.encode(value).encode()).digest()


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, Mapping):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list) and any(map(_has_nul, value))
