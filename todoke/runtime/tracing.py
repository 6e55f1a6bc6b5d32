"""Traces: what took how long, from the call through the queue to the webhook. Off unless `TODOKE_OTLP_URL` is set.

Without it a caller's `traceparent` still travels all the way; only nothing of ours is added to its trace.
"""

import contextlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from todoke.model.errors import InvalidInput

TRACES_PATH = "/v1/traces"

Attributes = Mapping[str, str | int | float | bool]


class Kind(StrEnum):
    """What a span is to the one before it."""

    SERVER = "SERVER"
    INTERNAL = "INTERNAL"
    CONSUMER = "CONSUMER"
    CLIENT = "CLIENT"


class Span(Protocol):
    """Something that takes time."""

    @property
    def traceparent(self) -> str | None:
        """What those are told who go on from here; None: there is no trace."""

    def begin(self, name: str, kind: Kind, attributes: Attributes | None = None) -> "Span":
        """A part of this one."""

    def end(self, name: str | None = None, attributes: Attributes | None = None, error: str | None = None) -> None:
        """It is over. `name`: a better one, known only now. `error`: what it failed of, for people."""


class Tracer(Protocol):
    """Begins spans. `is_on`: whether anybody gets to see them."""

    @property
    def is_on(self) -> bool: ...

    def begin(self, name: str, kind: Kind, parent: str | None, attributes: Attributes | None = None) -> Span:
        """A span below `parent`, a traceparent; without one it begins a trace."""

    def close(self) -> None:
        """Send what is not sent yet, within a few seconds."""


class Passing:
    """Leaves no trace of its own: hands on what it was given."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str | None) -> None:
        self.traceparent = traceparent

    def begin(self, name: str, kind: Kind, attributes: Attributes | None = None) -> "Passing":  # noqa: ARG002
        """The same."""
        return self

    def end(self, name: str | None = None, attributes: Attributes | None = None, error: str | None = None) -> None:
        """Nothing to tell."""


class Off:
    """No traces."""

    is_on = False

    def begin(
        self,
        name: str,  # noqa: ARG002 - nobody gets to see it
        kind: Kind,  # noqa: ARG002
        parent: str | None,
        attributes: Attributes | None = None,  # noqa: ARG002
    ) -> Passing:
        """Hands on `parent`."""
        return Passing(parent)

    def close(self) -> None:
        """Nothing was opened."""


def traces_url(otlp_url: str) -> str:
    """Where spans are posted, by the path that collectors offer."""
    return otlp_url if otlp_url.endswith(TRACES_PATH) else otlp_url.rstrip("/") + TRACES_PATH


def for_job_code(otlp_url: str) -> str:
    """The same without user and password, which job code must not see."""
    parts = urlsplit(traces_url(otlp_url))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def tracer_of(otlp_url: str | None, process: str) -> Tracer:
    """What `process` (api, worker, notifier) makes spans with. Raises InvalidInput when the packages are missing."""
    if not otlp_url:
        return Off()
    try:
        # Heavy, and an extra: only for those who ask for it.
        from todoke.runtime.otlp import OtlpTracer  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInput(
            f"TODOKE_OTLP_URL is set and OpenTelemetry is not installed ({error.name}): pip install 'todoke[tracing]'"
        ) from None
    return OtlpTracer(otlp_url, process)


@contextlib.contextmanager
def tracing(otlp_url: str | None, process: str) -> Iterator[Tracer]:
    """A tracer during the block. Raises InvalidInput as `tracer_of`."""
    tracer = tracer_of(otlp_url, process)
    try:
        yield tracer
    finally:
        tracer.close()
