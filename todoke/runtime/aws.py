"""How Todoke calls AWS: boto3 on threads of its own, one name for every outage.

The threads are daemons, so that neither a long poll nor a hanging call keeps a process from ending.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from todoke.model.errors import Unavailable

CONNECT_SECONDS = 3.0
TRIES = 3
IDLE_SECONDS = 10.0

# Answers that say "not now" or "not with these credentials", as opposed to "this request is wrong".
OUTAGE_CODES = frozenset(
    {
        "AWS.SimpleQueueService.NonExistentQueue",
        "ExpiredToken",
        "ExpiredTokenException",
        "InternalError",
        "InternalFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "NoSuchBucket",
        "QueueDoesNotExist",
        "RequestExpired",
        "RequestThrottled",
        "RequestTimeTooSkewed",
        "ServiceUnavailable",
        "SignatureDoesNotMatch",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "UnrecognizedClientException",
    }
)
TOO_MANY_REQUESTS = 429
SERVER_FAULT = 500

Answer = TypeVar("Answer")


class Threads:
    """Runs blocking calls, at most `calls_max` at once, without making the event loop wait.

    A thread that is done waits a while for the next call: starting one costs as much as a small request.
    """

    def __init__(self, name: str, calls_max: int) -> None:
        self._name = name
        self._room = asyncio.Semaphore(calls_max)
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._idle = 0
        self._counting = threading.Lock()

    async def call(self, work: Callable[[], Answer]) -> Answer:
        """The answer of `work`. Botocore's many ways to say "away" become Unavailable.

        When the caller is canceled the call itself goes on to its end, unheard.
        """
        async with self._room:
            future: Future[Answer] = Future()
            # From here on it cannot be canceled, so the thread may always set it.
            future.set_running_or_notify_cancel()

            def run() -> None:
                try:
                    with outages_named():
                        answer = work()
                except BaseException as error:
                    self._count_idle()
                    future.set_exception(error)
                else:
                    # Counted first: whoever gets the answer may have the next call at once.
                    self._count_idle()
                    future.set_result(answer)

            self._begin(run)
            return await asyncio.wrap_future(future)

    def _begin(self, run: Callable[[], None]) -> None:
        with self._counting:
            is_awaited = self._idle > 0
            self._idle -= is_awaited
        self._calls.put(run)
        if not is_awaited:
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                run = self._calls.get(timeout=IDLE_SECONDS)
            except Empty:
                with self._counting:
                    if self._idle:
                        self._idle -= 1
                        return
            else:
                run()
                # What the call holds is not kept until the next one.
                del run

    def _count_idle(self) -> None:
        with self._counting:
            self._idle += 1


def client_config(*, read_seconds: float, connections_max: int, tries: int = TRIES) -> Config:
    """Short timeouts and few tries: callers batch, repeat and sweep themselves.

    Nor are parameters checked against the service's model: types are, and it costs a fifth of a call.
    """
    return Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds,
        retries={"mode": "standard", "total_max_attempts": tries},
        max_pool_connections=connections_max,
        parameter_validation=False,
    )


@contextlib.contextmanager
def outages_named() -> Iterator[None]:
    """Turn connection faults, 5xx, throttling and refused credentials into Unavailable."""
    try:
        yield
    except ParamValidationError:
        raise
    except ClientError as error:
        if is_outage(error):
            raise Unavailable(f"AWS is unavailable ({_code(error)})") from error
        raise
    except (BotoCoreError, ConnectionError) as error:
        raise Unavailable(f"AWS is unavailable ({type(error).__name__})") from error


def is_outage(error: ClientError) -> bool:
    """Whether the same call may succeed later, unchanged."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= SERVER_FAULT or status == TOO_MANY_REQUESTS or _code(error) in OUTAGE_CODES


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))
