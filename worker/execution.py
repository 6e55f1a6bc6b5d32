"""In the child: one order carried out, from params to what the supervisor is told of the end."""

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from todoke.jobs.catalog import JobType
from todoke.model.errors import Canceled, Fail, Retry
from worker import ending, frames
from worker.context import Context
from worker.stopping import Stop

ERRORS_SHOWN = 3

Call = Callable[..., object]
Inside = Callable[[str | None], AbstractContextManager[object]]


class Execution:
    """One attempt in this process. What it gives back is how the attempt ended, as the `end` frame says it.

    inside: what the job function runs in, given the attempt's traceparent.
    """

    def __init__(
        self,
        job_type: JobType,
        order: frames.Frame,
        context: Context,
        stop: Stop,
        inline_bytes_max: int,
        inside: Inside = contextlib.nullcontext,
    ) -> None:
        self._inside = inside
        self._job_type, self._order, self._context, self._stop = job_type, order, context, stop
        self._inline_bytes_max = inline_bytes_max

    def run(self, call: Call) -> frames.Frame:
        """Run a plain job function; `call` is given it with its arguments, and calls it where it belongs."""
        try:
            arguments = self._arguments()
            self._stop.check()
            with self._inside(self._context.trace):
                value = call(self._job_type, *arguments)
            return self._returned(value)
        except BaseException as error:
            return self._raised(error)

    async def run_async(self) -> frames.Frame:
        """Run a coroutine function in this task, which is canceled when the attempt is to stop."""
        try:
            arguments = self._arguments()
            self._stop.check()
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            self._stop.wake_by(lambda: loop.call_soon_threadsafe(task.cancel))
            with self._inside(self._context.trace):
                work: Awaitable[object] = self._job_type(*arguments)
                value = await work
            return self._returned(value)
        except BaseException as error:
            return self._raised(error)

    def _arguments(self) -> tuple[object, ...]:
        try:
            params: BaseModel = self._job_type.params.model_validate_json(self._order["params"], strict=True)
        except ValidationError as error:
            raise Fail(ending.PARAMS_INVALID, _sentence(error)) from error
        return (params, self._context) if self._job_type.takes_context else (params,)

    def _returned(self, value: object) -> frames.Frame:
        adapter = self._job_type.result
        try:
            result = adapter.dump_json(adapter.validate_python(value), by_alias=True, warnings="error")
        except (ValidationError, PydanticSerializationError, ValueError, TypeError, RecursionError) as error:
            raise Fail(ending.RESULT_INVALID, f"the result cannot be kept: {_sentence(error)}") from error
        try:
            return {"how": "returned", "made": self._context.hand_over(result, self._inline_bytes_max)}
        except FileNotFoundError as error:
            raise Fail(ending.RESULT_INVALID, f"an attached file is not there: {error.filename}") from error

    def _raised(self, error: BaseException) -> frames.Frame:
        match error:
            case Fail():
                return {"how": "failed", "code": str(error.code), "message": ending.clean(str(error.message))}
            case Retry():
                return errored(ending.clean(str(error.message)), ending.seconds(error.after))
            case Canceled() | asyncio.CancelledError() if self._stop.is_asked:
                return errored(ending.one_line(Canceled()))
        # The trace is for whoever reads the log; the job keeps one line.
        try:
            traceback.print_exception(error)
            return errored(ending.one_line(error))
        except Exception:
            return errored(type(error).__name__)


def errored(message: str, after: float | None = None) -> frames.Frame:
    """The end of an attempt that may be tried again."""
    return {"how": "errored", "message": message, "after": after}


def _sentence(error: Exception) -> str:
    """What is wrong with params or result, without repeating the values."""
    if not isinstance(error, ValidationError):
        return ending.one_line(error)
    found = error.errors(include_url=False, include_input=False, include_context=False)
    shown = [f"{'.'.join(map(str, item['loc'])) or 'value'}: {item['msg']}" for item in found[:ERRORS_SHOWN]]
    more = [f"and {len(found) - ERRORS_SHOWN} more"] if len(found) > ERRORS_SHOWN else []
    return ending.clean("; ".join([*shown, *more]))
