"""The way to a Todoke API: its address, the key that admits, and what its refusals mean."""

import contextlib
import ipaddress
import json
from collections.abc import AsyncIterator
from importlib.metadata import version
from urllib.parse import urlsplit

import httpx

from todoke.model.errors import InvalidInput, Refused, Unavailable

USER_AGENT = f"Todoke/{version('todoke')}"
ERROR_BYTES_MAX = 64 * 1024
SECONDS = 10.0


class Api:
    """url: where the API is reached. key: `tdk_…`, None where none is asked for."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url, self._key = checked_url("the API's address", url).rstrip("/"), key
        if key is not None:
            check_header("the API key", key)

    @contextlib.asynccontextmanager
    async def opened(self, read_seconds: float = SECONDS) -> AsyncIterator[httpx.AsyncClient]:
        """A client; closed at the end of the block. read_seconds: silence before a connection counts as dead."""
        headers = {"user-agent": USER_AGENT, "accept-encoding": "identity"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        async with httpx.AsyncClient(
            base_url=self._url,
            headers=headers,
            timeout=httpx.Timeout(SECONDS, read=read_seconds),
            trust_env=not is_loopback(self._url),
        ) as client:
            yield client

    async def check(self, response: httpx.Response, expected: int = 200) -> None:
        """Raises Refused for an answer that asking again would not change, Unavailable for one that it may."""
        status = response.status_code
        if status == expected:
            return
        words = f"{self._url} answered {status}: {await _detail(response)}"
        if status == 429 or status >= 500:
            raise Unavailable(words)
        if status == 401:
            raise Refused(f"{words}; give a key that stands with --key or TODOKE_API_KEY")
        raise Refused(words)


def checked_url(what: str, url: str) -> str:
    """The same URL, which is one. Raises InvalidInput."""
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_url = is_url and url.isprintable() and " " not in url
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL):
        is_url = False
    if not is_url:
        raise InvalidInput(f"{what}: give a URL that starts with http:// or https://")
    return url


def check_header(what: str, text: str) -> None:
    """Raises InvalidInput, which does not repeat it, for what cannot stand in a header."""
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise InvalidInput(f"{what}: printable ASCII without spaces")


def is_loopback(url: str) -> bool:
    """Whether it leads to this machine, where no proxy has anything to do."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


async def _detail(response: httpx.Response) -> str:
    """The words of a problem; of anything else, that it is none."""
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > ERROR_BYTES_MAX:
            break
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return "this does not look like a Todoke API"
