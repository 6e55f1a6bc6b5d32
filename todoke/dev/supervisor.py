"""Keep a set of children running: bring up, notice a death, bring up again, and end them at last."""

import asyncio
import math
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from todoke.dev.child import PAUSE_SECONDS, Child
from todoke.model.errors import TodokeError, Unavailable

START_SECONDS = 60
# Dying sooner than this after a start counts as failing to start.
QUICK_SECONDS = 5
STANDS_SECONDS = 1.0
STANDS_AFTER_FALL = 3.0
HOPELESS_AFTER = 3
PAUSE_MAX_SECONDS = 10


class Part(Protocol):
    """What can be supervised. `prepare` and `settle` may block: they run in a thread, before and after a start."""

    child: Child

    def prepare(self) -> None:
        """What must be true before the child starts."""

    def ready(self) -> bool:
        """Whether the started child serves; may block for a second."""

    def settle(self) -> None:
        """What must be done once it serves."""


class Program:
    """A child that needs nothing around it; it counts as ready once started."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def prepare(self) -> None:
        """Nothing."""

    def ready(self) -> bool:
        """At once."""
        return True

    def settle(self) -> None:
        """Nothing."""


@dataclass(eq=False)
class Member:
    """A supervised part; whether it serves; how often in a row it died at once."""

    kind: str
    part: Part
    up: bool = False
    failures: int = 0


class Supervisor:
    """One keeper task per member. `changed` is called after each death and each restart."""

    def __init__(self, *, restart: bool, say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._restart = restart
        self._say = say
        self._changed = changed
        self._members: list[Member] = []
        self._keepers: set[asyncio.Task[None]] = set()

    def of_kind(self, *kinds: str) -> list[Member]:
        """Members of these kinds, in order of their start."""
        return [member for member in self._members if member.kind in kinds]

    def pids(self, kind: str) -> list[int]:
        """Process ids of the members of a kind that serve."""
        found = (member.part.child.pid for member in self.of_kind(kind) if member.up)
        return [pid for pid in found if pid is not None]

    def all_stand(self) -> bool:
        """Whether every member runs, and has run long enough not to be one that falls over at once."""
        now = time.monotonic()
        return all(
            member.part.child.pid is not None
            and now - member.part.child.started_at > (STANDS_AFTER_FALL if member.failures else STANDS_SECONDS)
            for member in self._members
        )

    def raise_if_hopeless(self) -> None:
        """Raises Unavailable, with its last words, when a member died at once several times in a row."""
        for member in self._members:
            if member.failures >= (HOPELESS_AFTER if self._restart else 1):
                child = member.part.child
                raise Unavailable(f"{child.name} does not stay up: it {child.epitaph()}. Last words:\n{child.tail()}")

    async def add(self, member: Member) -> None:
        """Bring a member up and keep it so. Raises Unavailable or Refused when it does not start."""
        self._members.append(member)
        await self._bring_up(member)
        self._keepers.add(asyncio.create_task(self._keep(member), name=f"keep {member.part.child.name}"))

    async def let_go(self) -> None:
        """Stop restarting."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        self._keepers.clear()

    async def end(self, member: Member, steps: Sequence[tuple[signal.Signals, float]]) -> None:
        """Send each signal in turn, waiting up to its seconds for the end; KILL after the last."""
        child = member.part.child
        for number, seconds in (*steps, (signal.SIGKILL, 5.0)):
            child.send(number)
            if await _within(child.exited, seconds):
                return

    async def _bring_up(self, member: Member) -> None:
        part = member.part
        await asyncio.to_thread(part.prepare)
        child = part.child
        child.spawn()
        deadline = time.monotonic() + START_SECONDS
        while not await asyncio.to_thread(part.ready):
            if child.exited() or time.monotonic() > deadline:
                why = child.epitaph() if child.exited() else f"does not answer after {START_SECONDS} s"
                raise Unavailable(f"{child.name} {why}. Last words:\n{child.tail()}")
            await asyncio.sleep(PAUSE_SECONDS)
        await asyncio.to_thread(part.settle)
        member.up = True

    async def _keep(self, member: Member) -> None:
        child = member.part.child
        came_up = True
        while True:
            await _within(child.exited, math.inf)
            member.up = False
            quick = time.monotonic() - child.started_at < QUICK_SECONDS
            member.failures = member.failures + 1 if quick or not came_up else 0
            self._report(member)
            self._changed()
            if not self._restart:
                return
            await asyncio.sleep(min(PAUSE_MAX_SECONDS, 0.2 * 2 ** (member.failures - 1)) if member.failures else 0)
            came_up = await self._try_again(member)

    async def _try_again(self, member: Member) -> bool:
        try:
            await self._bring_up(member)
        except Exception as error:  # whatever it is, giving up silently would be worse
            self._say(str(error) if isinstance(error, TodokeError) else f"{member.part.child.name}: {error!r}")
            await self.end(member, ((signal.SIGTERM, 1.0),))
            return False
        self._changed()
        return True

    def _report(self, member: Member) -> None:
        child = member.part.child
        what = "; starting it again" if self._restart else "; it stays down (--no-restart)"
        # A signal tells all there is to tell, unless it comes again and again.
        killed = (child.status or 0) < 0 and member.failures < HOPELESS_AFTER
        words = "" if killed else f". Last words ({child.log}):\n{child.tail(6)}"
        self._say(f"{child.name} {child.epitaph()}{what}{words}")


def print_message(message: str) -> None:
    """Tell the person at the terminal, not the program that reads our output."""
    print(f"todoke: {message}", file=sys.stderr, flush=True)


async def _within(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(PAUSE_SECONDS)
    return True
