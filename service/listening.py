"""The socket the API listens on. What is set here holds for every connection it accepts."""

import socket

from service.seat import WRITE_SECONDS

KEEPALIVE_SECONDS = 30
KEEPALIVE_PAUSE_SECONDS = 10
KEEPALIVE_PROBES = 3


def bind(host: str, port: int) -> socket.socket:
    """A listening socket at `host`:`port`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048, reuse_port=False)


def tune(listener: socket.socket) -> socket.socket:
    """Have the kernel end connections whose other side is gone or frozen, which nothing above it can see.

    A closed connection with unsent bytes stays for as long as a frozen reader answers probes; TCP_USER_TIMEOUT ends it.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_PAUSE_SECONDS),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", int(WRITE_SECONDS * 1000)),
    ):
        if hasattr(socket, option):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return listener
