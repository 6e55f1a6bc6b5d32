"""The catalog: one decorator turns a typed function into a job type that both API and worker read.

Importing a job module must be cheap: the API needs the signature only, so heavy imports stay inside functions.
"""

import importlib
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, TypeAdapter

Isolation = Literal["process", "thread", "async"]

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
PRIORITY_MAX = 9
# An idle child, which counts as part of its job, needs about 50.
MEMORY_MB_MIN = 64


@dataclass(frozen=True)
class JobType:
    """One kind of work. Calling it calls the function it was made from.

    timeout: seconds one attempt may run. max_attempts: failed attempts before the job is FAILED.
    isolation: where the function runs; only "process" can be stopped hard.
    memory_mb: MiB the process of an attempt and all it started may have in memory; None: what the worker is set to.
    priority: -9 to 9, higher sooner; one step is worth a minute of waiting.
    expires: seconds a job may wait for its first attempt; None: for ever.
    concurrency: attempts that run at once for one tenant; None: no limit. concurrency_by: the field of params
    whose value each have a limit of their own; None: one limit for the whole type.
    """

    name: str
    function: Callable[..., Any]
    params: type[BaseModel]
    result: TypeAdapter[Any]
    timeout: float
    max_attempts: int
    isolation: Isolation
    takes_context: bool
    memory_mb: int | None = None
    priority: int = 0
    expires: float | None = None
    concurrency: int | None = None
    concurrency_by: str | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0]


def job(  # noqa: PLR0913 - one declaration, every part of it named
    name: str,
    *,
    timeout: float = 300,
    max_attempts: int = 5,
    isolation: Isolation = "process",
    memory_mb: int | None = None,
    priority: int = 0,
    expires: float | None = None,
    concurrency: int | None = None,
    concurrency_by: str | None = None,
) -> Callable[[Callable[..., Any]], JobType]:
    """Declare `def f(params: SomeModel, ctx: JobContext) -> R` (ctx optional) as the job type `name`.

    Gives `POST /{name}` with a typed body, queueing, retries, progress and a typed result; see JobType for the rest.
    Raises TypeError or ValueError at import time when the declaration cannot work.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"job type {name!r}: use lower-case words joined by hyphens")
    _check_numbers(name, timeout=timeout, max_attempts=max_attempts, priority=priority, expires=expires)
    _check_memory(name, memory_mb, isolation)

    def declare(function: Callable[..., Any]) -> JobType:
        params, result, takes_context = _signature(name, function)
        _check_isolation(name, function, isolation)
        declared = JobType(
            name=name,
            function=function,
            params=params,
            result=result,
            timeout=timeout,
            max_attempts=max_attempts,
            isolation=isolation,
            takes_context=takes_context,
            memory_mb=memory_mb,
            priority=priority,
            expires=expires,
            concurrency=concurrency,
            concurrency_by=concurrency_by,
        )
        _check_concurrency(declared)
        return declared

    return declare


def load_catalog(modules: Iterable[str]) -> Mapping[str, JobType]:
    """Import `modules` and every module of the entry point group `todoke.jobs`; map job type names to types.

    Raises ValueError when two functions claim one name, or a named module declares no job type.
    """
    installed = [point.value for point in entry_points(group="todoke.jobs")]
    catalog: dict[str, JobType] = {}
    for path in dict.fromkeys([*installed, *modules]):
        found = [value for value in vars(importlib.import_module(path)).values() if isinstance(value, JobType)]
        if not found:
            raise ValueError(f"module {path} declares no job type: decorate a function with @job")
        for job_type in found:
            if catalog.setdefault(job_type.name, job_type) is not job_type:
                raise ValueError(f"job type {job_type.name!r} is declared twice, the second time in {path}")
    return catalog


def _signature(name: str, function: Callable[..., Any]) -> tuple[type[BaseModel], TypeAdapter[Any], bool]:
    hints = get_type_hints(function)
    names = list(inspect.signature(function).parameters)
    if len(names) not in (1, 2):
        raise TypeError(f"job type {name!r}: the function takes (params) or (params, ctx)")
    params = hints.get(names[0])
    if not (isinstance(params, type) and issubclass(params, BaseModel)):
        raise TypeError(f"job type {name!r}: annotate {names[0]!r} with a pydantic model")
    if "return" not in hints:
        raise TypeError(f"job type {name!r}: annotate what the function returns")
    return params, TypeAdapter(hints["return"]), len(names) == 2


def _check_isolation(name: str, function: Callable[..., Any], isolation: Isolation) -> None:
    is_async = inspect.iscoroutinefunction(function)
    if is_async != (isolation == "async"):
        raise TypeError(f"job type {name!r}: an async function runs with isolation 'async', a plain one without")
    if "<" in function.__qualname__:
        raise TypeError(f"job type {name!r}: declare it at module level, so that a worker can import it")


def _check_numbers(name: str, *, timeout: float, max_attempts: int, priority: int, expires: float | None) -> None:
    # Written so that NaN is refused too.
    if not 0 < timeout < math.inf or not (_is_whole(max_attempts) and max_attempts >= 1):
        raise ValueError(f"job type {name!r}: timeout must be above 0 and max_attempts at least 1")
    if not (_is_whole(priority) and -PRIORITY_MAX <= priority <= PRIORITY_MAX):
        raise ValueError(f"job type {name!r}: priority must be a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}")
    if expires is not None and not 0 < expires < math.inf:
        raise ValueError(f"job type {name!r}: expires must be above 0 seconds; leave it out for jobs that may wait")


def _check_memory(name: str, memory_mb: int | None, isolation: Isolation) -> None:
    if memory_mb is None:
        return
    if isolation != "process":
        raise ValueError(
            f"job type {name!r}: memory_mb needs isolation 'process'; jobs that share a process have the limit that"
            " TODOKE_JOB_MEMORY_MB sets for all of it"
        )
    if not (_is_whole(memory_mb) and memory_mb >= MEMORY_MB_MIN):
        raise ValueError(f"job type {name!r}: memory_mb must be a whole number of at least {MEMORY_MB_MIN}")


def _check_concurrency(declared: JobType) -> None:
    limit, by = declared.concurrency, declared.concurrency_by
    if limit is not None and not (_is_whole(limit) and limit >= 1):
        raise ValueError(f"job type {declared.name!r}: concurrency must be a whole number of at least 1")
    if by is None:
        return
    if limit is None:
        raise ValueError(f"job type {declared.name!r}: concurrency_by needs concurrency, the limit for each value")
    if by not in declared.params.model_fields:
        known = ", ".join(declared.params.model_fields) or "it has none"
        raise ValueError(f"job type {declared.name!r}: concurrency_by {by!r} must name a field of params ({known})")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
