"""One attempt at one delivery: a signed POST under one deadline, and what came of it."""

import asyncio
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from typing import Protocol
from urllib.parse import urlsplit

import structlog

from notifier.answers import escaped, read_control, read_retry_after, without_signatures
from notifier.faults import SendError
from notifier.replies import Reply
from notifier.transport import Request, Stamp, VettedTransport
from todoke.model.delivery import Answer, Delivery, Reason
from todoke.runtime.tracing import Kind, Off, Tracer
from todoke.wire import traceparent
from todoke.wire.signed import SIGNATURE

log = structlog.get_logger()

# Whose host is remembered.
URLS_MAX = 4096
ATTEMPT_HEADER = "todoke-attempt"
HOST_LETTERS_MAX = 253
HEADERS = {
    "content-type": "application/json",
    "user-agent": f"Todoke/{version('todoke')}",
    "accept": "*/*",
    "accept-encoding": "identity",
}


class Signer(Protocol):
    """What signs for one endpoint."""

    def headers(self, webhook_id: str, timestamp: int, body: bytes) -> Mapping[str, str]:
        """The three headers of a signed webhook."""


class Sender:
    """Posts webhooks over `transport`, each within `timeout_seconds` of wall clock from name lookup to last byte.

    excerpt_bytes: of a refusing answer's body, so much is kept.
    """

    def __init__(
        self, transport: VettedTransport, timeout_seconds: float, excerpt_bytes: int, tracer: Tracer | None = None
    ) -> None:
        self._transport, self._tracer = transport, tracer or Off()
        self._timeout_seconds = timeout_seconds
        self._excerpt_bytes = excerpt_bytes

    async def send(self, delivery: Delivery, signer: Signer) -> Answer:
        """Make one attempt. Never raises: what goes wrong becomes the answer's reason."""
        body = delivery.body.encode()
        headers = {ATTEMPT_HEADER: str(delivery.attempt)}
        span = self._tracer.begin("POST webhook", Kind.CLIENT, delivery.trace)
        if span.traceparent is not None:
            headers[traceparent.NAME] = span.traceparent
        answer = await self.post(
            delivery.url, headers, body, lambda: signer.headers(delivery.webhook_id, int(time.time()), body)
        )
        if self._tracer.is_on:
            span.end(None, _attributes(delivery, answer), None if answer.is_success else answer.reason)
        return answer

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, stamp: Stamp) -> Answer:
        """Post `body`; `stamp` is called for more headers just before each write. Never raises."""
        started_at, began = time.time(), time.monotonic()
        try:
            answer = await self._post(url, headers, body, stamp)
        except TimeoutError:
            answer = Answer(Reason.TIMEOUT)
        except SendError as error:
            # Never the cause itself: a library's errors may spell out the URL.
            log.debug("delivery.failed", host=host_of(url), cause=type(error.__cause__).__name__)
            answer = Answer(error.reason, peer=error.peer)
        except Exception as error:
            # Charged to the receiver, although the fault may be ours: what always trips us must not circle for ever.
            log.error(  # noqa: TRY400 - the words of an unforeseen error may hold the URL
                "delivery.tripped",
                host=host_of(url),
                cause=type(error).__name__,
                trace=traceback.format_tb(error.__traceback__)[-3:],
            )
            answer = Answer(Reason.PROTOCOL)
        return replace(answer, started_at=started_at, seconds=time.monotonic() - began)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes, stamp: Stamp) -> Answer:
        """The answer. Its body decides nothing: it is read a little, so that the connection lives on."""
        ends = asyncio.get_running_loop().time() + self._timeout_seconds
        stamped: list[Mapping[str, str]] = []

        def noted() -> Mapping[str, str]:
            stamped.append(stamp())
            return stamped[-1]

        async with asyncio.timeout_at(ends):
            reply = await self._transport.send(Request(url, {**HEADERS, **headers}, body, noted))
        excerpt = await reply.read(ends)
        control = read_control(reply.header("webhook-delivery"), is_tls=True) if reply.is_tls else None
        if 200 <= reply.status < 300:
            return Answer(Reason.DELIVERED, reply.status, peer=reply.peer, control=control)
        excerpt = without_signatures(excerpt, [each.get(SIGNATURE, "") for each in stamped])
        return replace(self._refused(url, reply, excerpt), control=control)

    def _refused(self, url: str, reply: Reply, excerpt: bytes) -> Answer:
        is_redirect = 300 <= reply.status < 400
        if is_redirect:
            to = host_of(reply.header("location") or "")
            log.info("delivery.redirected", host=host_of(url), to=to and to[:HOST_LETTERS_MAX])
        return Answer(
            Reason.REDIRECT if is_redirect else Reason.HTTP_STATUS,
            reply.status,
            retry_after=read_retry_after(reply.header("retry-after")),
            peer=reply.peer,
            excerpt=escaped(excerpt, self._excerpt_bytes),
        )


def _attributes(delivery: Delivery, answer: Answer) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "http.request.method": "POST",
        "server.address": host_of(delivery.url) or "",
        "http.request.resend_count": delivery.attempt - 1,
        "todoke.job_id": str(delivery.job_id),
        "todoke.webhook_id": delivery.webhook_id,
    }
    if answer.status is not None:
        found["http.response.status_code"] = answer.status
    return found


@lru_cache(URLS_MAX)
def host_of(url: str) -> str | None:
    """What a log may show of a URL: paths and queries often hold tokens."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
