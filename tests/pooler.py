"""A PgBouncer in transaction mode before the test PostgreSQL."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from todoke.dev.ports import LOOPBACK, free_port

START_SECONDS = 30
SETTINGS = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = {host}
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
ignore_startup_parameters = extra_float_digits, plan_cache_mode, idle_in_transaction_session_timeout
"""


@contextlib.contextmanager
def pooled(url: str, folder: Path) -> Iterator[str]:
    """The same database through a transaction pooler; skips where none is installed."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    parts, own_port = urlsplit(url), free_port()
    settings, log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
    settings.write_text(
        SETTINGS.format(host=LOOPBACK, port=parts.port, user=parts.username, password=parts.password, own_port=own_port)
    )
    # It refuses to be root, and nobody else may enter the folder: the settings are handed over open.
    user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
    if user is not None:
        os.chown(settings, user, -1)
    with settings.open("rb") as file, log.open("wb") as output:
        process = subprocess.Popen(
            [program, f"/dev/fd/{file.fileno()}"],
            stdout=output,
            stderr=output,
            user=user,
            cwd="/",
            pass_fds=[file.fileno()],
        )
    try:
        _wait(process, own_port, log)
        yield urlunsplit(parts._replace(netloc=f"{parts.username}@{LOOPBACK}:{own_port}"))
    finally:
        process.terminate()
        process.wait(10)


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
            return
        time.sleep(0.02)
