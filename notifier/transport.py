"""httpx's transport interface over aiohttp, which is many times faster, with each of aiohttp's risky defaults off.

Every address is vetted before it is dialled, and only what was vetted is dialled. The URL keeps its host name, so
SNI, the certificate check, the Host header and the key of the connection pool stay right.
"""

import errno
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from typing import Self

import aiohttp
import httpx
from yarl import URL

from notifier.resolver import Lookup, VettedResolver, look_up
from todoke.model.delivery import Reason
from todoke.model.errors import InvalidInput
from todoke.wire.destination import Rules, check_url, vet

KEEP_ALIVE_SECONDS = 15
BODY_BYTES_MAX = 16 * 1024
HEAD_LINE_BYTES_MAX = 8190
HEAD_FIELDS_MAX = 64

# What is missing then is ours: file descriptors, memory, local ports.
OWN_FAULTS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)

Stamp = Callable[[], Mapping[str, str]]

# aiohttp fixes a request's headers before it connects; this one call is left for the moment just before the write.
_stamp: ContextVar[Stamp | None] = ContextVar("stamp", default=None)


class SendError(httpx.TransportError):
    """No answer came. `reason` says why; SENDER means the fault is ours and the receiver was not to blame."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class VettedTransport(httpx.AsyncBaseTransport):
    """Sends one request, follows nothing, keeps nothing but idle connections (15 s).

    A request's `stamp` extension, a callable, adds headers when
    the connection stands. The body of a response ends after 16 KiB as it came over the wire.
    Raises SendError; knows no deadline of its own, the caller sets one.
    """

    def __init__(self, rules: Rules, *, lookup: Lookup | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._rules = rules
        self._lookup = lookup or look_up
        self._tls = tls or httpx.create_ssl_context()

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=VettedResolver(self._lookup, self._rules),
                use_dns_cache=False,
                limit=0,
                keepalive_timeout=KEEP_ALIVE_SECONDS,
                ssl=self._tls,
            ),
            request_class=_StampedRequest,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=("accept", "accept-encoding", "user-agent"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None, sock_read=None),
            read_bufsize=BODY_BYTES_MAX,
            max_line_size=HEAD_LINE_BYTES_MAX,
            max_field_size=HEAD_LINE_BYTES_MAX,
            max_headers=HEAD_FIELDS_MAX,
        )
        return self

    async def aclose(self) -> None:
        await self._session.close()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url)
        try:
            destination = check_url(url, self._rules)
            if destination.literal is not None:
                # aiohttp dials literals without asking its resolver.
                vet([destination.literal], destination, self._rules)
            return await self._send(request, url)
        except InvalidInput as error:
            raise SendError(Reason.BLOCKED) from error
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            raise SendError(_reason(error)) from error

    async def _send(self, request: httpx.Request, url: str) -> httpx.Response:
        token = _stamp.set(request.extensions.get("stamp"))
        try:
            response = await self._session.request(
                request.method,
                URL(url, encoded=True),
                headers=request.headers.multi_items(),
                data=request.content,
                allow_redirects=False,
            )
        finally:
            _stamp.reset(token)
        return httpx.Response(
            response.status, headers=response.raw_headers, stream=_CappedBody(response), request=request
        )


class _StampedRequest(aiohttp.ClientRequest):
    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        stamp = _stamp.get()
        if stamp is not None:
            self.headers.update(stamp())
        return await super().send(conn)


class _CappedBody(httpx.AsyncByteStream):
    """A response's raw bytes, cut at the cap. Closing before the end closes the connection instead of reusing it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = BODY_BYTES_MAX
        try:
            async for chunk in self._response.content.iter_any():
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0:
                    return
        except (aiohttp.ClientError, OSError) as error:
            raise SendError(_reason(error)) from error

    async def aclose(self) -> None:
        self._response.close()


def _reason(error: Exception) -> Reason:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(error, RuntimeError) or (isinstance(cause, OSError) and cause.errno in OWN_FAULTS):
        return Reason.SENDER
    for kinds, reason in REASONS:
        if isinstance(error, kinds):
            return reason
    return Reason.PROTOCOL


# The first row that fits decides.
REASONS: tuple[tuple[tuple[type[Exception], ...], Reason], ...] = (
    ((aiohttp.ClientConnectorDNSError,), Reason.DNS),
    ((aiohttp.ClientSSLError, ssl.SSLError), Reason.TLS),
    ((aiohttp.ClientConnectorError,), Reason.CONNECT),
    ((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError), Reason.DISCONNECTED),
    ((aiohttp.ClientConnectionError, OSError), Reason.DISCONNECTED),
)
