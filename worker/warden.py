"""Run as a script between the supervisor and a child that runs job code: nothing below it outlives either of them.

    python -I -S warden.py PARENT_PID CGROUP PROGRAM [ARGUMENT...]

It starts PROGRAM, passes its end on as its own, and then ends everything that was started below it, also what has
left the process group or become a daemon. When the supervisor (PARENT_PID) dies it does the same at once: the kernel
tells it, so it does not depend on a child that may be deep in a C call. SIGTERM asks for it too. CGROUP is a cgroup to
enter first, or empty. It stands on the standard library alone, so that it starts in a few milliseconds and stays small.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# What cannot be killed, having other rights or hanging in the kernel, must not hold us.
SECONDS_MAX = 1.0
HEARD = {signal.SIGTERM, signal.SIGCHLD}


def main(arguments: list[str]) -> None:
    """Never returns: ends as the program did, by the same signal or with the same exit code."""
    parent, cgroup, *command = arguments
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        os._exit(0)
    if cgroup:
        # Where it is refused the limit is kept by polling alone.
        with contextlib.suppress(OSError), open(f"{cgroup}/cgroup.procs", "w", encoding="ascii") as file:
            file.write("0")
    program = os.fork()
    if program == 0:
        _become(command)
    _let_go_of_pipes()
    status = _watch(program)
    _end_all_below(program)
    _end_like(status)


def _become(command: list[str]) -> None:
    # A group of its own, so that it can be killed whole without us.
    os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
    try:
        os.execv(command[0], command)  # noqa: S606 - becoming the program is what this process is for
    finally:
        os._exit(127)


def _let_go_of_pipes() -> None:
    """They belong to the program: when it closes them, the supervisor must see it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _watch(program: int) -> int:
    """Wait for the end of the program, collect what else ends meanwhile; the answer is its wait status."""
    while signal.sigwait(HEARD) == signal.SIGCHLD:
        status = _collect(program)
        if status is not None:
            return status
    return int(signal.SIGKILL)


def _collect(program: int) -> int | None:
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == program:
                found = ended[1]
    return found


def _end_all_below(program: int) -> None:
    """Kill until nothing is left. What loses its parent becomes ours, so no fork escapes for longer than a round."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program, signal.SIGKILL)
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        for process in _below(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        signal.sigtimedwait({signal.SIGCHLD}, 0.01)


def _below(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{int(name)}/stat", "rb") as file:
            parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    found = {root}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {root})


def _end_like(status: int) -> None:
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    # The program has left a core, if any was wanted.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)


if __name__ == "__main__":
    main(sys.argv[1:])
