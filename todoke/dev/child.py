"""One child process: started so that it dies with us, watched without blocking, ended with all it started."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from todoke.dev import launch
from todoke.model.errors import Unavailable

LOG_BYTES_MAX = 5 * 2**20
PAUSE_SECONDS = 0.02


class Child:
    """A program that may run, die and run again.

    Start it from the main thread: Linux takes the death of the *thread* that started a child for its parent's.
    `last_wish` is the signal the program gets when we die; `rights` is explained in `launch`.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        rights: str = "same",
        last_wish: signal.Signals = signal.SIGTERM,
        inherited: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.environment = dict(environment)
        self.log = log
        self.rights = rights
        self.last_wish = last_wish
        self.inherited = tuple(inherited)
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._reaping = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process id while it runs, else None."""
        return self._process.pid if self._process and not self.exited() else None

    @property
    def status(self) -> int | None:
        """Exit status of the last run, negative for a signal; None while it runs or before the first."""
        return self._process.returncode if self._process and self.exited() else None

    def spawn(self) -> None:
        """Start the program. Raises Unavailable when the system has no room for it, RuntimeError when it runs."""
        if self.pid is not None:
            raise RuntimeError(f"{self.name} runs already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._keep_log_small()
        try:
            with self.log.open("ab") as output:
                self._process = subprocess.Popen(
                    through_launch(self.command, self.rights, self.last_wish),
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=self.inherited,
                    # A group of its own: Ctrl-C reaches us alone, and nothing it started can outlive it.
                    start_new_session=True,
                )
        except OSError as error:
            raise Unavailable(f"{self.name} cannot be started: {error}") from error
        self.started_at = time.monotonic()

    def exited(self) -> bool:
        """Whether it has ended (or never ran). Sweeps its group away before the process id becomes free."""
        with self._reaping:
            process = self._process
            if process is None or process.returncode is not None:
                return True
            if not _is_zombie(process):
                return False
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True

    def send(self, number: signal.Signals) -> None:
        """Signal the program if it runs."""
        if self._process is not None and not self.exited():
            self._process.send_signal(number)

    def stop(self, steps: Sequence[tuple[signal.Signals, float]]) -> None:
        """Send each signal in turn, waiting up to its seconds for the end; KILL after the last. Blocks."""
        for number, seconds in (*steps, (signal.SIGKILL, 5.0)):
            self.send(number)
            if wait_until(self.exited, seconds):
                return

    def tail(self, lines: int = 12) -> str:
        """The last lines of its output, indented."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
                text = file.read().decode(errors="replace")
        except OSError:
            text = ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (it said nothing)"

    def epitaph(self) -> str:
        """How the last run ended, in words."""
        status = self.status or 0
        if status < 0:
            return f"was ended by signal {-status} ({signal.strsignal(-status)})"
        return f"ended with status {status}"

    def _keep_log_small(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.log.stat().st_size > LOG_BYTES_MAX:
                self.log.replace(self.log.with_suffix(".log.1"))


def through_launch(command: Sequence[str], rights: str, last_wish: signal.Signals) -> list[str]:
    """The command line that runs `command` by way of `launch`."""
    return [sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(int(last_wish)), rights, *command]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Ask until it is true or the time is up; says which. Blocks."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_SECONDS)
    return True


def _is_zombie(process: subprocess.Popen[bytes]) -> bool:
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else reaped it
        return process.poll() is not None
