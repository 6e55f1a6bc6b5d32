"""`todoke webhooks listen`: webhooks for a receiver that has no public address."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from todoke.client.api import Api
from todoke.client.feed import Feed
from todoke.client.forwarder import Forwarder
from todoke.client.listening import Forwarded, Listener, ReceiverRefused
from todoke.client.state_file import StateFile
from todoke.operator.showing import console, say
from todoke.runtime.lifecycle import stop_signals
from todoke.wire.signing import new_secret

NOW = "now"


@dataclass(frozen=True)
class Options:
    """As they were typed."""

    forward_to: str
    api: str
    key: str | None
    secret: str | None
    types: Sequence[str]
    job_types: Sequence[str]
    begin: str
    state_file: Path | None
    is_strict: bool


async def forward_events(asked: Options) -> int:
    """Listen until SIGINT or SIGTERM; the exit code."""
    async with stop_signals() as stopping:
        listener = _listener(asked)
        _tell(f"forwarding {', '.join(asked.types)} of {asked.api} to {asked.forward_to}; Ctrl-C ends it")
        work, end = asyncio.create_task(listener.run()), asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        except ReceiverRefused as error:
            _tell(str(error))
            return 1
        finally:
            for task in (work, end):
                task.cancel()
            await asyncio.wait({work, end})
            if listener.cursor:
                _tell(f"stopped; go on with --from {listener.cursor}")
    return 0


def _listener(asked: Options) -> Listener:
    secret = asked.secret or new_secret()
    forwarder = Forwarder(asked.forward_to, secret)
    state = StateFile(asked.state_file) if asked.state_file else None
    known = state.read() if state else None
    cursor = known or ("" if asked.begin == NOW else asked.begin)
    feed = Feed(Api(asked.api, asked.key), asked.types, asked.job_types, cursor, _tell)
    if known:
        _tell(f"going on behind the cursor of {asked.state_file}")
    if not asked.secret:
        _tell(f"signing secret, shown this once (--secret keeps one): {secret}")
    return Listener(
        feed,
        forwarder,
        keep=state.write if state else lambda _: None,
        told=_show,
        tell=_tell,
        is_strict=asked.is_strict,
    )


def _show(forwarded: Forwarded) -> None:
    """One line: time, type, job, status, milliseconds, and what follows when it was not taken."""
    event, posted = forwarded.event, forwarded.posted
    clock = time.strftime("%H:%M:%S", time.localtime(forwarded.at))
    answer = posted.status if posted.status is not None else f"none ({posted.reason})"
    line = f"{clock} {event.type} {event.job_id} {answer} {posted.seconds * 1000:.0f} ms"
    _tell(line if forwarded.fate == "taken" else f"{line}, {FATES[forwarded.fate]}")


def _tell(sentence: str) -> None:
    """At once, in a pipe too."""
    say(sentence)
    console.file.flush()


FATES = {
    "again": "trying again",
    "waiting": "the receiver is down; waiting for it",
    "given_up": "given up",
}
