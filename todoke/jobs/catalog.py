"""The catalog: one decorator turns a typed function into a job type that both API and worker read.

Importing a job module must be cheap: the API needs the signature only, so heavy imports stay inside functions.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, get_type_hints

from pydantic import BaseModel, TypeAdapter

Isolation = Literal["process", "thread", "async"]

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class JobType:
    """One kind of work. Calling it calls the function it was made from.

    timeout: seconds one attempt may run. max_attempts: failed attempts before the job is FAILED.
    isolation: where the function runs; only "process" can be stopped hard.
    """

    name: str
    function: Callable[..., Any]
    params: type[BaseModel]
    result: TypeAdapter[Any]
    timeout: float
    max_attempts: int
    isolation: Isolation
    takes_context: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (inspect.getdoc(self.function) or self.name).splitlines()[0]


def job(
    name: str, *, timeout: float = 300, max_attempts: int = 5, isolation: Isolation = "process"
) -> Callable[[Callable[..., Any]], JobType]:
    """Declare `def f(params: SomeModel, ctx: JobContext) -> R` (ctx optional) as the job type `name`.

    Gives `POST /{name}` with a typed body, queueing, retries, progress and a typed result.
    Raises TypeError or ValueError at import time when the declaration cannot work.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"job type {name!r}: use lower-case words joined by hyphens")
    if timeout <= 0 or max_attempts < 1:
        raise ValueError(f"job type {name!r}: timeout must be above 0 and max_attempts at least 1")

    def declare(function: Callable[..., Any]) -> JobType:
        params, result, takes_context = _signature(name, function)
        _check_isolation(name, function, isolation)
        return JobType(name, function, params, result, timeout, max_attempts, isolation, takes_context)

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
