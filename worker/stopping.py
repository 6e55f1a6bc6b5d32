"""In the child: how an attempt that is to stop hears of it, wherever its job function runs."""

import contextlib
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import TypeVar

from todoke.model.errors import Canceled

# Ignored by default, so that job code that gives it back its default is not killed by it.
STOP_SIGNAL = signal.SIGURG

Value = TypeVar("Value")


class Stop:
    """Whether one attempt is to stop. `hold` keeps the news from breaking into a block; `check` tells it after it."""

    def __init__(self, hold: AbstractContextManager[object] | None = None) -> None:
        self.hold = hold or contextlib.nullcontext()
        self._asked = False
        self._lock = threading.Lock()
        self._wake: Callable[[], object] | None = None

    @property
    def is_asked(self) -> bool:
        """True for good once the supervisor wants the attempt to stop."""
        return self._asked

    def ask(self) -> None:
        """From the thread that hears the supervisor."""
        with self._lock:
            self._asked = True
            wake = self._wake
        if wake is not None:
            wake()

    def wake_by(self, wake: Callable[[], object]) -> None:
        """How a job function that waits is woken: `wake` is called when the stop is asked for, or already was."""
        with self._lock:
            self._wake = wake
            is_late = self._asked
        if is_late:
            wake()

    def check(self) -> None:
        """Raises Canceled once the attempt is to stop."""
        if self._asked:
            raise Canceled


class MainThread:
    """Runs job functions in the main thread, where another thread can have `Canceled` raised, even in a sleep.

    It is raised only while the function of the very attempt runs, once, and never within `with main_thread:`.
    """

    def __init__(self) -> None:
        self._id = threading.main_thread().ident
        self._running: Stop | None = None
        self._holds = 0

    def __enter__(self) -> None:
        if threading.get_ident() == self._id:
            self._holds += 1

    def __exit__(self, *_error: object) -> None:
        if threading.get_ident() == self._id:
            self._holds -= 1

    def run(self, stop: Stop, function: Callable[..., Value], *arguments: object) -> Value:
        """What the function returns. Raises what it raises, and Canceled when told to stop."""
        # The job before may have changed either.
        signal.signal(STOP_SIGNAL, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {STOP_SIGNAL})
        self._holds = 0
        try:
            self._running = stop
            stop.wake_by(self._poke)
            return function(*arguments)
        finally:
            self._running = None

    def _poke(self) -> None:
        assert self._id is not None
        signal.pthread_kill(self._id, STOP_SIGNAL)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        stop = self._running
        if stop is not None and stop.is_asked and not self._holds:
            # First: the exception may leave `run` before its last line.
            self._running = None
            raise Canceled
