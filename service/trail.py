"""What ties an answer, the lines of the log and a trace together: the request id, and the id of its trace.

Both stand in the context of the request's task, so that whoever logs or refuses need not be told.
"""

import os
import re
from contextvars import ContextVar

from structlog.contextvars import STRUCTLOG_KEY_PREFIX

# One a caller may give. Nothing in it could end a line or begin a header.
GIVEN = re.compile(rb"[A-Za-z0-9_-]{8,64}")

# structlog adds to each line what is named so.
REQUEST_ID: ContextVar[str] = ContextVar(f"{STRUCTLOG_KEY_PREFIX}requestId")
TRACE_ID: ContextVar[str] = ContextVar("todoke.trace_id")


def request_id(given: bytes | None) -> str:
    """The caller's own `X-Request-Id` if it can be used, else a new one: 32 hex digits."""
    if given is not None and GIVEN.fullmatch(given):
        return given.decode()
    return os.urandom(16).hex()


def trace_id() -> str:
    """What a problem of this request shows as `traceId`; outside of a request a new one."""
    return TRACE_ID.get("") or request_id(None)
