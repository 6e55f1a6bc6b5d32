"""The span of a request, for the rooms that go on from it."""

from starlette.types import Scope

from todoke.runtime.tracing import Passing, Span

# Where a request's span stands in its scope.
SPAN = "todoke.span"
NONE = Passing(None)


def span_of(scope: Scope) -> Span:
    """The span of this request; one that leads nowhere when there is none."""
    span: Span = scope.get(SPAN, NONE)
    return span
