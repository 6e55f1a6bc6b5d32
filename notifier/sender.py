"""One attempt at one delivery: a signed POST under one deadline, judged by its answer."""

import asyncio
import contextlib
import time
import traceback
from collections.abc import Mapping
from importlib.metadata import version
from urllib.parse import urlsplit

import httpx
import structlog

from notifier.transport import SendError
from todoke.model.delivery import Delivery, Reason, Verdict, forgive, judge
from todoke.wire.signing import Secrets, signed_headers

log = structlog.get_logger()

BODY_SECONDS = 1.0
ATTEMPT_HEADER = "todoke-attempt"
HEADERS = {
    "content-type": "application/json",
    "user-agent": f"Todoke/{version('todoke')}",
    "accept": "*/*",
    "accept-encoding": "identity",
}


class Sender:
    """Posts webhooks over `transport`, each within `timeout_seconds` of wall clock from name lookup to last byte."""

    def __init__(self, transport: httpx.AsyncBaseTransport, secret: Secrets, timeout_seconds: float) -> None:
        self._transport = transport
        self._secret = secret
        self._timeout_seconds = timeout_seconds

    async def send(self, delivery: Delivery) -> Verdict:
        """Make one attempt. Never raises: what goes wrong becomes the verdict's reason."""
        started = time.monotonic()
        verdict = await self._attempt(delivery)
        log.info(
            "delivery.attempted",
            job_id=str(delivery.job_id),
            sequence=delivery.sequence,
            host=_host(delivery.url),
            attempt=delivery.attempt,
            state=verdict.state,
            status=verdict.status,
            reason=verdict.reason,
            seconds=round(time.monotonic() - started, 3),
        )
        return verdict

    async def _attempt(self, delivery: Delivery) -> Verdict:
        try:
            status = await self._post(delivery)
        except TimeoutError:
            return judge(delivery, None, Reason.TIMEOUT)
        except SendError as error:
            # Never the cause itself: aiohttp's errors spell out the URL and the signature.
            log.debug("delivery.failed", host=_host(delivery.url), cause=type(error.__cause__).__name__)
            if error.reason is Reason.SENDER:
                return forgive(delivery, error.reason)
            return judge(delivery, None, error.reason)
        except Exception as error:
            # Charged, although the fault may be ours: a delivery that always trips us must not circle for ever.
            log.error(  # noqa: TRY400 - the words of an unforeseen error may hold the URL
                "delivery.tripped",
                job_id=str(delivery.job_id),
                sequence=delivery.sequence,
                cause=type(error).__name__,
                trace=traceback.format_tb(error.__traceback__)[-3:],
            )
            return judge(delivery, None, Reason.SENDER)
        return judge(delivery, status, _reason(status))

    async def _post(self, delivery: Delivery) -> int:
        """The status of the answer. Its body decides nothing: it is read a little, so that the connection lives on."""
        body = delivery.body.encode()

        def stamp() -> Mapping[str, str]:
            return signed_headers(self._secret, delivery.webhook_id, int(time.time()), body)

        request = httpx.Request(
            "POST",
            delivery.url,
            headers={**HEADERS, ATTEMPT_HEADER: str(delivery.attempt)},
            content=body,
            extensions={"stamp": stamp},
        )
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._timeout_seconds
        async with asyncio.timeout_at(ends):
            response = await self._transport.handle_async_request(request)
        with contextlib.suppress(TimeoutError, SendError):
            try:
                async with asyncio.timeout_at(min(ends, loop.time() + BODY_SECONDS)):
                    async for _ in response.aiter_raw():
                        pass
            finally:
                await response.aclose()
        return response.status_code


def _reason(status: int) -> str:
    if 200 <= status < 300:
        return Reason.DELIVERED
    if 300 <= status < 400:
        return Reason.REDIRECT
    return Reason.HTTP_STATUS


def _host(url: str) -> str | None:
    """What a log may show of a URL: paths and queries often hold tokens."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
