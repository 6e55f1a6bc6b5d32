"""SQS calls on the event loop: botocore's credentials and signature over aiohttp, for the few calls of every message.

A call through boto3 keeps the interpreter three times as long and needs a thread; see benchmarks.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from typing import Any

import aiohttp
import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies
from yarl import URL

from todoke.model.errors import Unavailable
from todoke.runtime.aws import CONNECT_SECONDS, TRIES, outages_named

CONNECTIONS_MAX = 16
PAUSE_SECONDS = 0.1
REFUSED = 400


class LeanSqs:
    """Any call of SQS by its name. Opens its connections when first used; `aclose` gives them back."""

    def __init__(self, session: boto3.session.Session, endpoint_url: str, region: str) -> None:
        self._url, self._region = endpoint_url.rstrip("/") + "/", region
        self._credentials = session.get_credentials()
        bundle = session._session.get_config_variable("ca_bundle")
        self._trusted = ssl.create_default_context(cafile=get_cert_path(bundle or True))
        self._http: aiohttp.ClientSession | None = None

    async def call(
        self, operation: str, parameters: Mapping[str, object], *, seconds: float, tries: int = TRIES
    ) -> dict[str, Any]:
        """The answer. Raises Unavailable when SQS is away for so many tries, ClientError when it refuses."""
        for number in range(1, tries):
            try:
                return await self._call(operation, parameters, seconds)
            except Unavailable:
                await asyncio.sleep(PAUSE_SECONDS * number)
        return await self._call(operation, parameters, seconds)

    async def aclose(self) -> None:
        """Give the connections back."""
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def _call(self, operation: str, parameters: Mapping[str, object], seconds: float) -> dict[str, Any]:
        body = json.dumps(parameters, separators=(",", ":")).encode()
        limits = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
        try:
            headers = await self._signed(operation, body)
            async with self._connected().post(self._url, data=body, headers=headers, timeout=limits) as answer:
                said, status = await answer.read(), answer.status
                legacy = answer.headers.get("x-amzn-query-error", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"AWS is unavailable ({type(error).__name__})") from error
        if status >= REFUSED:
            with outages_named():
                raise _refusal(operation, status, said, legacy)
        found: dict[str, Any] = json.loads(said or b"{}")
        return found

    async def _signed(self, operation: str, body: bytes) -> Mapping[str, str]:
        request = AWSRequest(
            "POST",
            self._url,
            {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": f"AmazonSQS.{operation}"},
            body,
        )
        with outages_named():
            if self._credentials is None:
                raise NoCredentialsError
            if getattr(self._credentials, "refresh_needed", lambda: False)():
                # Asks the machine's metadata service or STS, and waits for it.
                await asyncio.to_thread(self._credentials.get_frozen_credentials)
            SigV4Auth(self._credentials.get_frozen_credentials(), "sqs", self._region).add_auth(request)
        return dict(request.headers.items())

    def _connected(self) -> aiohttp.ClientSession:
        if self._http is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX, ssl=self._trusted)
            # As boto3 does, a proxy is taken from the environment; once, because looking takes a thread at every call.
            proxy = get_environ_proxies(self._url).get(URL(self._url).scheme)
            self._http = aiohttp.ClientSession(connector=connector, proxy=proxy, cookie_jar=aiohttp.DummyCookieJar())
        return self._http


def _refusal(operation: str, status: int, said: bytes, legacy: str) -> ClientError:
    """As botocore spells it: the older code where SQS gives one."""
    try:
        answer = json.loads(said)
    except ValueError:
        answer = {}
    code = legacy.partition(";")[0] or str(answer.get("__type", "unknown")).rpartition("#")[2]
    message = str(answer.get("message") or answer.get("Message") or "")
    return ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}},  # type: ignore[typeddict-item]
        operation,
    )
