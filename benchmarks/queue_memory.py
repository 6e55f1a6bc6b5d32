"""Queues in memory, with what SQS promises of them: visibility, receipts, delays, redrive. One event loop, no locks."""

import asyncio
import base64
import hashlib
import heapq
import itertools
import json
import struct
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DEFAULTS = {
    "VisibilityTimeout": "30",
    "DelaySeconds": "0",
    "ReceiveMessageWaitTimeSeconds": "0",
    "MessageRetentionPeriod": "345600",
    "MaximumMessageSize": "1048576",
}

Json = dict[str, Any]


@dataclass(eq=False, slots=True)
class Kept:
    """One message. `receipt` is the newest one handed out; `hidden_until` counts only while it is not ready."""

    id: str
    body: str
    md5: str
    attributes: Json
    attributes_md5: str | None
    sent_ms: int
    receive_count: int = 0
    first_ms: int = 0
    receipt: str = ""
    hidden_until: float = 0.0
    is_deleted: bool = False


@dataclass(eq=False, slots=True)
class Poll:
    """A receive that waits. `answer` takes the messages, none when its time is up."""

    messages_max: int
    visibility_seconds: float
    answer: Callable[[Sequence[Kept]], None]
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class MemoryQueue:
    """`dead_letters` finds another queue by its ARN, for the redrive policy. While `is_held` it shows nothing."""

    name: str
    arn: str
    dead_letters: Callable[[str], "MemoryQueue | None"]
    settings: dict[str, str] = field(default_factory=lambda: dict(DEFAULTS))
    is_held: bool = False
    _ready: deque[Kept] = field(default_factory=deque)
    _hidden: list[tuple[float, int, Kept]] = field(default_factory=list)
    _receipts: dict[str, Kept] = field(default_factory=dict)
    _polls: deque[Poll] = field(default_factory=deque)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _alarm: asyncio.TimerHandle | None = None

    def send(self, body: str, attributes: Json, delay_seconds: float) -> Kept:
        """Keep one more message."""
        digest = attributes_md5(attributes) if attributes else None
        sent_ms = time.time_ns() // 1_000_000
        id_ = f"{next(self._numbers):08x}-0000-4000-8000-000000000000"
        message = Kept(id_, body, _md5(body.encode()), attributes, digest, sent_ms)
        if delay_seconds > 0:
            self._hide(message, delay_seconds)
        else:
            self._ready.append(message)
        return message

    def receive(self, messages_max: int, visibility_seconds: float) -> list[Kept]:
        """What is there now, at most so many."""
        found: list[Kept] = []
        if self.is_held:
            return found
        self._show_due()
        while self._ready and len(found) < messages_max:
            message = self._ready.popleft()
            if not message.is_deleted and not self._is_dead(message):
                self._hand_out(message, visibility_seconds)
                found.append(message)
        return found

    def wait(self, poll: Poll, seconds: float) -> None:
        """Answer the poll as soon as there is something, with nothing after `seconds`."""
        poll.timer = asyncio.get_running_loop().call_later(seconds, self.give_up, poll)
        self._polls.append(poll)
        self._set_alarm()

    def give_up(self, poll: Poll) -> None:
        """End a waiting poll with nothing."""
        if poll in self._polls:
            self._polls.remove(poll)
            self._end(poll, [])

    def forget(self, poll: Poll) -> None:
        """Drop a poll whose caller has gone, so that no message goes to nobody."""
        if poll in self._polls:
            self._polls.remove(poll)
            if poll.timer is not None:
                poll.timer.cancel()

    def wake(self) -> None:
        """Answer polls with what is there; call it after anything that shows messages."""
        while self._polls and not self.is_held:
            poll = self._polls[0]
            found = self.receive(poll.messages_max, poll.visibility_seconds)
            if not found:
                break
            self._polls.popleft()
            self._end(poll, found)
        self._set_alarm()

    def delete(self, receipt: str) -> bool:
        """Forget a message. False: no message has this receipt."""
        message = self._receipts.pop(receipt, None)
        if message is None:
            return False
        message.is_deleted = True
        return True

    def defer(self, receipt: str, seconds: float) -> bool:
        """Hide a message for so long from now. False: no hidden message has this receipt."""
        message = self._receipts.get(receipt)
        if message is None:
            return False
        self._hide(message, seconds)
        return True

    def purge(self) -> None:
        """Forget everything."""
        self._ready.clear()
        self._hidden.clear()
        self._receipts.clear()

    def counts(self) -> dict[str, str]:
        """The attributes that count messages."""
        self._show_due()
        hidden = [item for item in self._hidden if _is_current(item)]
        delayed = sum(1 for _, _, message in hidden if not message.receipt)
        return {
            "ApproximateNumberOfMessages": str(sum(1 for message in self._ready if not message.is_deleted)),
            "ApproximateNumberOfMessagesNotVisible": str(len(hidden) - delayed),
            "ApproximateNumberOfMessagesDelayed": str(delayed),
        }

    def _hand_out(self, message: Kept, visibility_seconds: float) -> None:
        self._receipts.pop(message.receipt, None)
        message.receive_count += 1
        message.first_ms = message.first_ms or time.time_ns() // 1_000_000
        message.receipt = f"{message.id}.{message.receive_count}"
        self._receipts[message.receipt] = message
        self._hide(message, visibility_seconds)

    def _hide(self, message: Kept, seconds: float) -> None:
        message.hidden_until = time.monotonic() + seconds
        heapq.heappush(self._hidden, (message.hidden_until, next(self._numbers), message))

    def _show_due(self) -> None:
        now = time.monotonic()
        while self._hidden and (self._hidden[0][0] <= now or not _is_current(self._hidden[0])):
            item = heapq.heappop(self._hidden)
            if _is_current(item):
                item[2].hidden_until = 0.0
                self._ready.append(item[2])

    def _is_dead(self, message: Kept) -> bool:
        policy = json.loads(self.settings.get("RedrivePolicy") or "{}")
        if not policy or message.receive_count < int(policy["maxReceiveCount"]):
            return False
        target = self.dead_letters(policy["deadLetterTargetArn"])
        if target is None:
            return False
        self._receipts.pop(message.receipt, None)
        target._ready.append(message)
        target.wake()
        return True

    def _end(self, poll: Poll, messages: Sequence[Kept]) -> None:
        if poll.timer is not None:
            poll.timer.cancel()
        poll.answer(messages)

    def _set_alarm(self) -> None:
        """Polls that wait are woken when the next hidden message is due."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._polls and self._hidden and not self.is_held:
            seconds = max(0.0, self._hidden[0][0] - time.monotonic())
            self._alarm = asyncio.get_running_loop().call_later(seconds, self.wake)


def attributes_md5(attributes: Json) -> str:
    """The digest that SQS answers for message attributes."""
    parts: list[bytes] = []
    for name, value in sorted(attributes.items()):
        kind = value["DataType"]
        is_binary = kind.startswith("Binary")
        content = value["BinaryValue"] if is_binary else value["StringValue"]
        # The JSON protocol carries binary values in base64; the digest is over the bytes.
        data = base64.b64decode(content) if is_binary else content.encode()
        parts += [_sized(name.encode()), _sized(kind.encode()), b"\2" if is_binary else b"\1", _sized(data)]
    return _md5(b"".join(parts))


def system_attributes(message: Kept, asked: Sequence[str]) -> Mapping[str, str]:
    """Those of a message's system attributes that were asked for."""
    known = {
        "ApproximateReceiveCount": str(message.receive_count),
        "ApproximateFirstReceiveTimestamp": str(message.first_ms),
        "SentTimestamp": str(message.sent_ms),
        "SenderId": "000000000000",
    }
    return known if "All" in asked else {name: known[name] for name in asked if name in known}


def _is_current(item: tuple[float, int, Kept]) -> bool:
    return not item[2].is_deleted and item[2].hidden_until == item[0]


def _sized(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
