"""Every error Todoke raises on purpose, in branches because there are different reactions.

TodokeError
├── Refused            the caller must change something; told to the caller
│   ├── InvalidInput
│   ├── NotFound
│   ├── KeyReused
│   ├── NotFinished
│   ├── NoResult
│   ├── TypeUnknown
│   ├── EndpointDisabled
│   ├── CursorLost
│   ├── Gone
│   └── ResultExpired
└── Unavailable        infrastructure is away: try later, charge nobody
JobSignal              raised by job code: an intention, not a fault of ours
├── Canceled           raised into it: the attempt is to stop
├── Fail
└── Retry
"""

from collections.abc import Mapping

from todoke.model.codes import Code


class TodokeError(Exception):
    """Root of everything below; `str()` of it is safe to show."""


class Refused(TodokeError):
    """The caller must change something. `code` is stable, machine-readable and documented.

    members: what else the caller is told, as public JSON.
    """

    code: Code

    def __init__(self, detail: str, members: Mapping[str, object] | None = None) -> None:
        super().__init__(detail)
        self.members = members or {}


class InvalidInput(Refused):
    """A body, parameter or URL breaks a stated rule. `errors` holds one {pointer, detail} for each break."""

    code = Code.INVALID_INPUT

    def __init__(self, detail: str, errors: tuple[dict[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.errors = errors


class NotFound(Refused):
    """No such thing for this tenant; another tenant's thing answers the same."""

    code = Code.NOT_FOUND


class KeyReused(Refused):
    """An `Idempotency-Key` came again with another body."""

    code = Code.IDEMPOTENCY_KEY_REUSED


class NotFinished(Refused):
    """What was asked for needs a job that has ended: its result, or to be run again."""

    code = Code.NOT_FINISHED


class NoResult(Refused):
    """The result was asked for and the job ended without one."""

    code = Code.JOB_FAILED


class TypeUnknown(Refused):
    """The job's type is not in the catalog any more."""

    code = Code.JOB_TYPE_UNKNOWN


class EndpointDisabled(Refused):
    """A delivery was to be sent again to an endpoint that is disabled; `members` names the endpoint."""

    code = Code.ENDPOINT_DISABLED


class CursorLost(Refused):
    """A log was to be read behind a place it does not have; `members` says why."""

    code = Code.CURSOR_LOST


class Gone(Refused):
    """The job was there and has been erased; `members` is its tombstone."""

    code = Code.GONE


class ResultExpired(Refused):
    """The job is known, and its result has been removed because it was old."""

    code = Code.RESULT_EXPIRED


class Unavailable(TodokeError):
    """PostgreSQL, the queue or the object store cannot be reached now."""


class JobSignal(Exception):
    """What job code raises to steer its own attempt."""


class Canceled(JobSignal):
    """The attempt is to stop: canceled, out of time, or no longer this worker's. Clean up and let it through.

    Raised into job code by the worker. What is caught and not let through is ended by force soon after.
    """

    def __init__(self, message: str = "the attempt was asked to stop") -> None:
        super().__init__(message)


class Fail(JobSignal):
    """End the job as FAILED now, without another attempt.

    `code`: upper snake case, stable, for programs. `message`: a sentence for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Retry(JobSignal):
    """Try the job again `after` seconds from now; counts as a failed attempt."""

    def __init__(self, after: float, message: str = "the job asked to be tried again") -> None:
        super().__init__(message)
        self.after = after
        self.message = message
