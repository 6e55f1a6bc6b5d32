"""Sends one event to every stream of a server: a commit of the ledger for Todoke, a POST for the others."""

import contextlib
import http.client
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.stage import Program, Stage
from benchmarks.streams_servers import PAYLOAD, Server, signaled, start_signal
from todoke.dev.ports import LOOPBACK

# Where each stream watches a job of its own, that many are changed a second.
CHANGES_RATE = 4000.0

Moment = Callable[[], float]


class Speaker:
    """One for each server; closed before it."""

    def __init__(self, stage: Stage, server: Server) -> None:
        self._server, self._folder, self._passes = server, stage.new_folder(), 0
        self._writer: Program | None = None
        if server.jobs:
            (self._folder / "jobs").write_text("\n".join(map(str, server.jobs)))
            arguments = [str(self._folder), str(len(server.jobs)), str(CHANGES_RATE)]
            command = [sys.executable, "-m", "benchmarks.streams_writer", *arguments]
            self._writer = stage.start(command, {"DATABASE_URL": server.database_url})
            signaled(self._writer, "ready", 30)

    @contextlib.contextmanager
    def speak(self) -> Iterator[Moment]:
        """Send one to the job or channel that all streams watch; the function says, at the end, when it was sent."""
        if self._writer is None:
            asked_at, connection = self._publish()
            with connection:
                yield lambda: asked_at
            return
        self._change()
        yield lambda: _committed_at(self._folder / f"writes.{self._passes}")

    def speak_to_each(self, streams: int) -> None:
        """Send one to the job or channel of every stream, whichever way they are watched. Blocks until it is sent."""
        if self._writer is not None:
            self._change()
            signaled(self._writer, f"pass {self._passes} done", 60)
            return
        connection = http.client.HTTPConnection(LOOPBACK, self._server.port, timeout=60)
        for number in range(1 if self._server.is_shared else streams):
            connection.request("POST", f"/publish?id={number}", PAYLOAD)
            connection.getresponse().read()
        connection.close()

    def close(self) -> None:
        """End the writer."""
        if self._writer is not None:
            self._writer.kill()

    def _change(self) -> None:
        assert self._writer is not None
        self._passes += 1
        start_signal([self._writer])

    def _publish(self) -> tuple[float, socket.socket]:
        """When we asked, and the connection its answer comes by; the answer of some comes after the last stream's."""
        connection = socket.create_connection((LOOPBACK, self._server.port), timeout=10)
        head = f"POST /publish?id=0 HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Length: {len(PAYLOAD)}\r\n\r\n"
        asked_at = time.monotonic()
        connection.sendall((head + PAYLOAD).encode())
        return asked_at, connection


def _committed_at(path: Path) -> float:
    return float(path.read_text().split()[2])
