"""Run as a script in front of a child: lower its rights, tie its life to its parent's, become the program.

    python -I -S launch.py PARENT_PID SIGNAL RIGHTS PROGRAM [ARGUMENT...]

SIGNAL is what the program gets when PARENT_PID dies (Linux). RIGHTS is `same`, `mapped` (a user namespace in
which root looks like `nobody` and keeps its own files) or `nobody` (really that user). It stands on the standard
library alone, so that it starts in a few milliseconds, and its process id is the program's.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
NOBODY = 65534


def main(arguments: list[str]) -> None:
    """Never returns: becomes the program, or ends with 126 or 127 and a sentence on stderr."""
    parent, signal_number, rights, *command = arguments
    try:
        if rights == "mapped":
            look_like_nobody()
        elif rights == "nobody":
            become_nobody()
        # After the change of rights, because that clears the death signal.
        die_with(int(parent), int(signal_number))
    except OSError as error:
        _fail(126, f"{command[0]}: cannot prepare the process: {error}")
    try:
        os.execvp(command[0], command)  # noqa: S606 - becoming the program is what this file is for
    except OSError as error:
        _fail(127, f"{command[0]}: {error.strerror}")


def look_like_nobody() -> None:
    """Enter a user namespace with one user, `nobody`, who is root outside. Raises OSError where that is forbidden."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "no user namespace")
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(line)


def become_nobody() -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def die_with(parent: int, signal_number: int) -> None:
    """Ask the kernel for `signal_number` when the parent dies; end now if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        _fail(126, "the parent is gone")


def _fail(status: int, message: str) -> None:
    print(message, file=sys.stderr, flush=True)
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
