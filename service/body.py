"""A request's body: read within bounds of size and time, and taken for JSON without trusting it."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.problems import Problem, ProblemError
from todoke.model.codes import Code
from todoke.model.errors import InvalidInput
from todoke.runtime.settings import Settings

# What takes this long to check would make every other caller wait: about half a millisecond.
SMALL_BYTES = 64 * 1024
SHOWN_LETTERS_MAX = 50

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Shape:
    """How deep a body may nest, in levels, and how many values it may hold."""

    depth_max: int = 64
    values_max: int = 1_000_000


class Bodies:
    """Bodies within the bounds of the settings; a large one is checked beside the loop, one at a time."""

    def __init__(self, settings: Settings) -> None:
        self._bytes_max, self._seconds = settings.body_bytes_max, settings.body_seconds
        self._turn = asyncio.Semaphore(1)
        self.shape = Shape(settings.params_depth_max, settings.params_values_max)

    async def read(self, request: Request) -> bytes:
        """The whole body. Raises ProblemError 408, 413, 415."""
        return await read_body(request, self._bytes_max, self._seconds)

    async def check(self, body: bytes, work: Callable[[], Answer]) -> Answer:
        """What `work` makes of this body."""
        if len(body) <= SMALL_BYTES:
            return work()
        async with self._turn:
            return await asyncio.to_thread(work)


async def read_body(request: Request, bytes_max: int, seconds: float = 30) -> bytes:
    """The whole body. Raises ProblemError 413 as soon as it is known to be too large, 408 or 400 when cut short.

    The rest of a body that was refused is thrown away; see `Connection`.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        detail = "send the body as it is, without Content-Encoding"
        raise ProblemError(Problem(415, Code.UNSUPPORTED_MEDIA_TYPE, detail))
    detail = f"the body may have at most {bytes_max} bytes"
    too_large = ProblemError(Problem(413, Code.CONTENT_TOO_LARGE, detail))
    if int(request.headers.get("content-length") or 0) > bytes_max:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > bytes_max:
                    raise too_large
    except ClientDisconnect:
        # Nobody reads it, but for the log.
        raise ProblemError(Problem(400, Code.BODY_INCOMPLETE, "the body ended before it was whole")) from None
    except TimeoutError:
        detail = f"the body had not arrived after {seconds:g} seconds"
        raise ProblemError(Problem(408, Code.BODY_TIMEOUT, detail)) from None
    return bytes(body)


def parse_json(body: bytes, content_type: str, shape: Shape) -> Any:
    """The value, whatever the content type says.

    Raises ProblemError 400 when it is not JSON, 415 when it does not even claim to be, InvalidInput for a value
    that is not to be kept.
    """
    try:
        value = _STRICT.decode(text_of(body).decode())
    except RecursionError:
        raise _too_deep(shape) from None
    except ValueError as error:
        raise malformed(content_type, _why(error)) from None
    _measure(value, shape)
    return value


def text_of(body: bytes) -> bytes:
    """The JSON text of a body: none at all means `{}` (legacy clients send that)."""
    return body.strip() or b"{}"


def malformed(content_type: str, why: str) -> ProblemError:
    """The refusal of what is not JSON."""
    if content_type and "json" not in content_type:
        return ProblemError(Problem(415, Code.UNSUPPORTED_MEDIA_TYPE, "send the body as application/json"))
    return ProblemError(Problem(400, Code.MALFORMED_JSON, why))


def _unique(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """One reader would take the first of two, another the last: neither is what was meant."""
    found = dict(members)
    if len(found) < len(members):
        name, _ = Counter(name for name, _ in members).most_common(1)[0]
        raise ValueError(f"a member comes twice in one object: {name[:SHOWN_LETTERS_MAX]!a}")
    return found


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)


def _why(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8 at byte {error.start}"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno} column {error.colno}"
    return "a number has too many digits" if "integer string" in str(error) else str(error)


def _measure(value: Any, shape: Shape) -> None:
    """Level by level, so that no depth can exhaust the stack."""
    level, depth, count = [value], 0, 0
    while level:
        count += len(level)
        below: list[Any] = []
        is_deeper = False
        for item in level:
            if isinstance(item, dict):
                is_deeper = True
                below.extend(item.values())
            elif isinstance(item, list):
                is_deeper = True
                below.extend(item)
            elif isinstance(item, float) and math.isinf(item):
                # 1e999 is JSON and yet no number that could be kept.
                raise InvalidInput("a number is too large")
        depth += is_deeper
        if depth > shape.depth_max:
            raise _too_deep(shape)
        if count > shape.values_max:
            raise InvalidInput(f"the body holds more than {shape.values_max} values")
        level = below


def _too_deep(shape: Shape) -> InvalidInput:
    return InvalidInput(f"the body nests deeper than {shape.depth_max} levels")
