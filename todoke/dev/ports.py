"""Loopback ports: one to listen on for the whole run, others for children that bind their own."""

import http.client
import random
import socket

from todoke.model.errors import Refused, Unavailable

LOOPBACK = "127.0.0.1"
# Below every usual range for outgoing connections, so that nobody borrows the port while a child restarts.
CHILD_PORTS = range(20_000, 30_000)
BACKLOG = 2048


def listen(port: int) -> socket.socket:
    """A listening socket on loopback; port 0 picks a free one. Raises Refused when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Refused(
            f"port {port} cannot be used ({error.strerror}); pass --port N for another, or --port 0 for any free one"
        ) from error
    return listener


def free_port() -> int:
    """A port nobody listens on now. Raises Unavailable when none is found."""
    for _ in range(100):
        port = random.choice(CHILD_PORTS)  # noqa: S311 - not a secret
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        return port
    raise Unavailable("no free port found on 127.0.0.1")


def answers(port: int, path: str, seconds: float) -> bool:
    """Whether a server on this loopback port answers 200 at `path`. Blocks for at most `seconds`."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
