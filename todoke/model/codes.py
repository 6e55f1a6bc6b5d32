"""Every code that a problem may have: a closed list, each explained in docs/errors.md. Programs may rely on them."""

from enum import StrEnum


class Code(StrEnum):
    """What went wrong with a call, for programs. A new one is a decision: it is added here and to the page at once."""

    # What was sent.
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    HEAD_TOO_LARGE = "HEAD_TOO_LARGE"
    MALFORMED_JSON = "MALFORMED_JSON"
    UNSUPPORTED_MEDIA_TYPE = "UNSUPPORTED_MEDIA_TYPE"
    BODY_INCOMPLETE = "BODY_INCOMPLETE"
    BODY_TIMEOUT = "BODY_TIMEOUT"
    CONTENT_TOO_LARGE = "CONTENT_TOO_LARGE"
    INVALID_INPUT = "INVALID_INPUT"
    IDEMPOTENCY_KEY_REUSED = "IDEMPOTENCY_KEY_REUSED"
    METHOD_NOT_ALLOWED = "METHOD_NOT_ALLOWED"

    # Who sent it.
    KEY_REQUIRED = "KEY_REQUIRED"
    KEY_REFUSED = "KEY_REFUSED"
    SCOPE_MISSING = "SCOPE_MISSING"
    HOST_REFUSED = "HOST_REFUSED"
    CROSS_SITE_REFUSED = "CROSS_SITE_REFUSED"

    # What it was about.
    NOT_FOUND = "NOT_FOUND"
    NOT_FINISHED = "NOT_FINISHED"
    JOB_FAILED = "JOB_FAILED"
    JOB_TYPE_UNKNOWN = "JOB_TYPE_UNKNOWN"
    ENDPOINT_DISABLED = "ENDPOINT_DISABLED"
    RANGE_REFUSED = "RANGE_REFUSED"
    CURSOR_LOST = "CURSOR_LOST"
    GONE = "GONE"
    RESULT_EXPIRED = "RESULT_EXPIRED"

    # What there is no room for, and what is ours.
    TOO_MANY_TESTS = "TOO_MANY_TESTS"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"
