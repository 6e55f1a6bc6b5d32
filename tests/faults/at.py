"""Runs one of Todoke's processes, with a fault at an exact step. For tests alone; the product knows nothing of it.

    python -m tests.faults.at worker kill after todoke.store.ledger:Ledger.claim [N]
    python -m tests.faults.at api    stop before todoke.store.ledger:Ledger.accept
    python -m tests.faults.at worker clock 3600

kill and stop send this process SIGKILL or SIGSTOP at the N-th call of that async method that is about something:
`before` it begins, `after` it returned something other than nothing, when it is `done` whatever it returned, or when
it is done while the API holds its `answer` back. clock: time.time and datetime are that many seconds ahead, and SIGUSR1
moves them an hour forward, SIGUSR2 two hours back.
"""

import asyncio
import datetime
import functools
import importlib
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
PROCESSES = {"worker": "worker", "api": "service", "notifier": "notifier"}


def arm(action: str, when: str, target: str, nth: int) -> None:
    """Wrap the named method, so that its `nth` call is the last thing this process does."""
    module, _, path = target.partition(":")
    owner_name, _, name = path.rpartition(".")
    owner: Any = functools.reduce(getattr, filter(None, owner_name.split(".")), importlib.import_module(module))
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def strike() -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), SIGNALS[action])

    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "answer" and _says_something(args):
            answer = await original(*args, **kwargs)
            strike()
            return answer
        if when == "before" and _says_something(args):
            strike()
        answer = await original(*args, **kwargs)
        if when == "done" or (when == "after" and (answer or answer is None)):
            strike()
        return answer

    setattr(owner, name, wrapped)
    if when == "answer":
        hold_answers()


def hold_answers() -> None:
    """Let no submit of this API be answered before the fault has struck."""
    rooms: list[Any] = [importlib.import_module(name) for name in ("service.app", "service.__main__")]
    real = rooms[0].create_app

    def create_app(settings: Any) -> Any:
        app = real(settings)

        @app.api.middleware("http")
        async def hold(request: Any, call_next: Callable[[Any], Any]) -> Any:
            answer = await call_next(request)
            if request.method == "POST":
                await asyncio.sleep(30)
            return answer

        return app

    for room in rooms:
        room.create_app = create_app


def shift(seconds: float) -> None:
    """Let every clock of this process but the monotonic ones be wrong."""
    real_time, real = time.time, datetime.datetime
    ahead = {"seconds": seconds}

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, real)

    class Shifted(real, metaclass=Kind):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return real.now(tz) + datetime.timedelta(seconds=ahead["seconds"])

        @classmethod
        def utcnow(cls) -> datetime.datetime:
            return real.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(seconds=ahead["seconds"])

    time.time = lambda: real_time() + ahead["seconds"]
    datetime.datetime = Shifted  # type: ignore[misc]
    signal.signal(signal.SIGUSR1, lambda *_: ahead.update(seconds=ahead["seconds"] + 3600))
    signal.signal(signal.SIGUSR2, lambda *_: ahead.update(seconds=ahead["seconds"] - 7200))


def _says_something(args: tuple[Any, ...]) -> bool:
    """A call about nothing, an empty batch for instance, is no step."""
    return len(args) < 2 or not hasattr(args[1], "__len__") or len(args[1]) > 0


def main() -> None:
    """Arm what the command line asks for, then become the process."""
    process, action, *rest = sys.argv[1:]
    if action == "clock":
        shift(float(rest[0]))
    else:
        when, target, *nth = rest
        arm(action, when, target, int(nth[0]) if nth else 1)
    sys.argv[1:] = []
    runpy.run_module(PROCESSES[process], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
