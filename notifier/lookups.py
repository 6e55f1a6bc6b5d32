"""The system's resolver, asked from threads: getaddrinfo cannot be canceled, so nobody may wait behind a slow one."""

import asyncio
import queue
import socket
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from notifier.faults import SendError
from todoke.model.delivery import Reason

THREADS_MAX = 256
# Names of one tar-pit domain hold so many threads at most, each until the system stops asking (about 30 s).
SITE_THREADS_MAX = 8


@dataclass(frozen=True, eq=False)
class Job:
    """One lookup. `answer` is done early when nobody waits for it any more."""

    host: str
    answer: asyncio.Future[Sequence[str]]


class Crew:
    """Daemon threads, started when first needed: they must not hold up the end of the process."""

    def __init__(self, threads: int = THREADS_MAX, per_site: int = SITE_THREADS_MAX) -> None:
        self._threads_max, self._per_site = threads, per_site
        self._inbox: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = self._busy = 0
        self._busy_of: Counter[str] = Counter()
        self._pending: deque[Job] = deque()

    async def look_up(self, host: str) -> Sequence[str]:
        """The addresses of `host`, each once. Raises OSError."""
        job = Job(host, asyncio.get_running_loop().create_future())
        self._pending.append(job)
        self._hand_out()
        return await job.answer

    def is_crowded_out(self, host: str) -> bool:
        """Whether a lookup of `host` waits for a thread while other sites hold them all."""
        return self._busy >= self._threads_max and any(job.host == host for job in self._pending)

    def dismiss(self) -> None:
        """Send the threads home, those inside getaddrinfo when it returns."""
        for _ in range(self._threads):
            self._inbox.put(None)

    def _hand_out(self) -> None:
        """Start what there is room for, in order; a site that has used up its own waits aside."""
        waiting, self._pending = self._pending, deque()
        for job in waiting:
            if job.answer.done():
                continue
            if self._busy < self._threads_max and self._busy_of[site_of(job.host)] < self._per_site:
                self._start(job)
            else:
                self._pending.append(job)

    def _start(self, job: Job) -> None:
        if self._busy == self._threads:
            loop = asyncio.get_running_loop()
            try:
                threading.Thread(target=self._work, args=(loop,), name="lookup", daemon=True).start()
            except RuntimeError:
                job.answer.set_exception(SendError(Reason.SENDER))
                return
            self._threads += 1
        self._busy += 1
        self._busy_of[site_of(job.host)] += 1
        self._inbox.put(job)

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """A thread's life."""
        while (job := self._inbox.get()) is not None:
            addresses: Sequence[str] = ()
            failure: OSError | None = None
            try:
                found = socket.getaddrinfo(job.host, None, type=socket.SOCK_STREAM)
                addresses = tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
            except (OSError, UnicodeError) as error:
                failure = error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error))
            try:
                loop.call_soon_threadsafe(self._settle, job, addresses, failure)
            except RuntimeError:
                return  # The loop has ended meanwhile.

    def _settle(self, job: Job, addresses: Sequence[str], failure: OSError | None) -> None:
        self._busy -= 1
        site = site_of(job.host)
        self._busy_of[site] -= 1
        if not self._busy_of[site]:
            del self._busy_of[site]
        if job.answer.done():
            pass
        elif failure is not None:
            job.answer.set_exception(failure)
        else:
            job.answer.set_result(addresses)
        self._hand_out()


def site_of(host: str) -> str:
    """What names of one owner usually have in common."""
    return ".".join(host.split(".")[-2:])
