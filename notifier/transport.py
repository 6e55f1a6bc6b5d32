"""Sends one HTTP/1.1 request and gives back the head of its answer. Follows, unpacks and remembers nothing.

Every address is vetted before it is dialled, at every attempt, and only what was vetted is dialled. The host keeps
its name: SNI, the certificate check, the Host header and the key of the pool are those of the URL.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import httpx

from notifier.connection import Connection, Stale
from notifier.dialling import Dial, Dialler
from notifier.dialling import dial as dial_system
from notifier.faults import SendError
from notifier.pool import Pool
from notifier.replies import Reply
from notifier.resolver import Lookup, Resolver
from todoke.model.delivery import Reason
from todoke.model.errors import InvalidInput
from todoke.wire.destination import Destination, Rules, check_url, vet

# Judgements remembered, not answers of name servers: the same URL and addresses are judged alike.
ROUTES_MAX = 4096
ADDRESSES_REMEMBERED_MAX = 16

Stamp = Callable[[], Mapping[str, str]]


def no_stamp() -> Mapping[str, str]:
    """Nothing to add."""
    return {}


@dataclass(frozen=True, slots=True)
class Request:
    """A POST. `stamp` gives more headers just before each write, so that their time is the time of sending."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    stamp: Stamp = no_stamp


@dataclass(frozen=True)
class Route:
    """What a URL comes to. `start`: the request's first lines."""

    destination: Destination
    start: str


@dataclass(frozen=True)
class Counts:
    """Since the transport was made; `open` connections and the `idle` of them are now's.

    retries: requests repeated because a kept connection had died.
    """

    lookups: int
    dials: int
    reuses: int
    retries: int
    open: int
    idle: int


class VettedTransport:
    """An async context manager. `lookup` and `dial` stand in for the system's; `tls` for the usual trust.

    Knows no deadline over the whole, the caller sets one; whoever is cancelled leaves no connection behind.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        lookup: Lookup | None = None,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._pool = Pool()
        self._resolver = Resolver(lookup)
        self._dialler = Dialler(dial or dial_system, tls or tls_context(), self._pool)
        self._route = lru_cache(ROUTES_MAX)(self._read)
        self._vet = lru_cache(ROUTES_MAX)(self._vet_anew)
        self._reuses = self._retries = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._resolver.close()
        await self._pool.close()

    @property
    def counts(self) -> Counts:
        return Counts(
            self._resolver.asked,
            self._dialler.dialled,
            self._reuses,
            self._retries,
            self._pool.open,
            self._pool.idle,
        )

    async def send(self, request: Request) -> Reply:
        """The answer, as soon as its head is read; `read` it, so that the connection lives on. Raises SendError.

        A kept connection that dies without a byte is replaced once, by a fresh one with a fresh stamp.
        Raises ValueError for headers that would break out of their lines.
        """
        try:
            route = self._route(request.url)
            destination = route.destination
            addresses = await self._addresses(destination)
            self._judge(addresses, destination)
        except InvalidInput as error:
            raise SendError(Reason.BLOCKED) from error
        kept = self._pool.take((destination.scheme, destination.host, destination.port), addresses)
        if kept is not None:
            self._reuses += 1
            try:
                return await _post(kept, route, request)
            except Stale:
                self._retries += 1
        fresh = await self._dialler.connect(destination, addresses)
        return await _post(fresh, route, request)

    async def _addresses(self, destination: Destination) -> tuple[str, ...]:
        if destination.literal is not None:
            return (str(destination.literal),)
        return await self._resolver.addresses(destination.host)

    def _read(self, url: str) -> Route:
        destination = check_url(url, self._rules)
        return Route(destination, f"POST {_target(url)} HTTP/1.1\r\nhost: {_authority(destination)}\r\n")

    def _judge(self, addresses: tuple[str, ...], destination: Destination) -> None:
        if len(addresses) > ADDRESSES_REMEMBERED_MAX:
            self._vet_anew(addresses, destination)
        else:
            self._vet(addresses, destination)

    def _vet_anew(self, addresses: tuple[str, ...], destination: Destination) -> None:
        vet(addresses, destination, self._rules)


def tls_context() -> ssl.SSLContext:
    """The usual trust, TLS 1.2 or newer, HTTP/1.1 and nothing else."""
    context = httpx.create_ssl_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _post(connection: Connection, route: Route, request: Request) -> Reply:
    try:
        written = _written(route, request)
    except BaseException:
        connection.close()
        raise
    return await connection.post(written)


def _written(route: Route, request: Request) -> bytes:
    fields = {**request.headers, **request.stamp()}
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields.items()])
    if lines.count("\n") != len(fields) or lines.count("\r") != len(fields) or "\0" in lines:
        raise ValueError("a header holds a line end")
    return f"{route.start}{lines}content-length: {len(request.body)}\r\n\r\n".encode("ascii") + request.body


def _target(url: str) -> str:
    rest = url.partition("://")[2]
    starts = min((rest.find(mark) for mark in "/?" if mark in rest), default=len(rest))
    return rest[starts:] if rest[starts:].startswith("/") else f"/{rest[starts:]}"


def _authority(destination: Destination) -> str:
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    is_usual = destination.port == {"https": 443, "http": 80}[destination.scheme]
    return host if is_usual else f"{host}:{destination.port}"
