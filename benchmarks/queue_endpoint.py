"""An SQS endpoint for benchmarks alone: the JSON protocol of boto3 and kombu, in memory, on loopback.

It exists because emulators made for tests are slower than what is measured here: with moto the emulator itself took
0.54 to 0.89 of a core at some 60 sends or 31 jobs a second. Nothing is kept on disk, nobody is asked for a
signature, and nothing of Todoke's tests or desk uses it.

`python -m benchmarks.queue_endpoint [PORT]` prints its port and serves until SIGTERM. Beside SQS's own calls it takes
`POST /hold` and `POST /open`: between the two every queue keeps its messages to itself, so that a backlog is
complete, and its worker ready, before the clock starts. `POST /calls` answers how often each call was made so far.
"""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import uvloop

from benchmarks.queue_memory import DEFAULTS, Json, Kept, MemoryQueue, Poll, system_attributes

ACCOUNT = "000000000000"
HOST = "127.0.0.1"
PREFIX = b"AmazonSQS."

Answer = Callable[[Json], None]


class Refusal(Exception):
    """What SQS answers as an error: a code of the JSON protocol and one of the older kind."""

    def __init__(self, code: str, legacy: str, message: str) -> None:
        super().__init__(message)
        self.code, self.legacy = code, legacy


class Desk:
    """Every queue of this endpoint, and each call of the API as a method of its own."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._queues: dict[str, MemoryQueue] = {}
        self._is_held = False
        self.counts: Counter[str] = Counter()
        self._calls: dict[str, Callable[[Json], Json]] = {
            "CreateQueue": self._create,
            "GetQueueUrl": self._url,
            "ListQueues": self._list,
            "GetQueueAttributes": self._attributes,
            "SetQueueAttributes": self._set_attributes,
            "SendMessage": self._send,
            "SendMessageBatch": self._send_batch,
            "DeleteMessage": self._delete,
            "DeleteMessageBatch": self._delete_batch,
            "ChangeMessageVisibility": self._defer,
            "ChangeMessageVisibilityBatch": self._defer_batch,
            "PurgeQueue": self._purge,
            "DeleteQueue": self._delete_queue,
        }

    def hold(self, is_held: bool) -> None:
        """Keep back what all queues have, or show it."""
        self._is_held = is_held
        for queue in self._queues.values():
            queue.is_held = is_held
            queue.wake()

    def call(self, name: str, asked: Json) -> Json:
        """The answer to any call but ReceiveMessage. Raises Refusal."""
        work = self._calls.get(name)
        if work is None:
            raise Refusal("UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation", name)
        return work(asked)

    def receive(self, asked: Json, answer: Answer) -> Callable[[], None]:
        """Answer a ReceiveMessage now or later; the value forgets it when its caller has gone. Raises Refusal."""
        queue = self._named(asked)
        visibility = float(asked.get("VisibilityTimeout", queue.settings["VisibilityTimeout"]))
        messages_max = int(asked.get("MaxNumberOfMessages", 1))
        found = queue.receive(messages_max, visibility)
        seconds = float(asked.get("WaitTimeSeconds", queue.settings["ReceiveMessageWaitTimeSeconds"]))
        if found or not seconds:
            answer(_shown(found, asked))
            return lambda: None
        poll = Poll(messages_max, visibility, lambda messages: answer(_shown(messages, asked)))
        queue.wait(poll, seconds)
        return lambda: queue.forget(poll)

    def _named(self, asked: Json) -> MemoryQueue:
        queue = self._queues.get(str(asked.get("QueueUrl", "")).rpartition("/")[2])
        if queue is None:
            raise Refusal(
                "QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist."
            )
        return queue

    def _create(self, asked: Json) -> Json:
        name = asked["QueueName"]
        if name not in self._queues:
            arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"
            queue = MemoryQueue(name, arn, self._by_arn, is_held=self._is_held)
            queue.settings |= asked.get("Attributes") or {}
            self._queues[name] = queue
        return {"QueueUrl": f"{self._base_url}/{ACCOUNT}/{name}"}

    def _by_arn(self, arn: str) -> MemoryQueue | None:
        return self._queues.get(arn.rpartition(":")[2])

    def _url(self, asked: Json) -> Json:
        self._named({"QueueUrl": asked["QueueName"]})
        return {"QueueUrl": f"{self._base_url}/{ACCOUNT}/{asked['QueueName']}"}

    def _list(self, asked: Json) -> Json:
        names = sorted(name for name in self._queues if name.startswith(asked.get("QueueNamePrefix") or ""))
        return {"QueueUrls": [f"{self._base_url}/{ACCOUNT}/{name}" for name in names]}

    def _attributes(self, asked: Json) -> Json:
        queue = self._named(asked)
        known = {**DEFAULTS, **queue.settings, **queue.counts(), "QueueArn": queue.arn}
        names = asked.get("AttributeNames") or []
        return {"Attributes": known if "All" in names else {name: known[name] for name in names if name in known}}

    def _set_attributes(self, asked: Json) -> Json:
        self._named(asked).settings.update(asked["Attributes"])
        return {}

    def _send(self, asked: Json) -> Json:
        queue = self._named(asked)
        message = _kept(queue, asked)
        queue.wake()
        return _sent(message)

    def _send_batch(self, asked: Json) -> Json:
        queue = self._named(asked)
        sent = [{"Id": entry["Id"], **_sent(_kept(queue, entry))} for entry in asked["Entries"]]
        queue.wake()
        return {"Successful": sent, "Failed": []}

    def _delete(self, asked: Json) -> Json:
        self._named(asked).delete(asked["ReceiptHandle"])
        return {}

    def _delete_batch(self, asked: Json) -> Json:
        queue = self._named(asked)
        for entry in asked["Entries"]:
            queue.delete(entry["ReceiptHandle"])  # SQS, too, calls deleting twice a success
        return {"Successful": [{"Id": entry["Id"]} for entry in asked["Entries"]], "Failed": []}

    def _defer(self, asked: Json) -> Json:
        queue = self._named(asked)
        if not queue.defer(asked["ReceiptHandle"], float(asked["VisibilityTimeout"])):
            raise Refusal("MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight", "not in flight")
        queue.wake()
        return {}

    def _defer_batch(self, asked: Json) -> Json:
        queue = self._named(asked)
        done: list[Json] = []
        failed: list[Json] = []
        for entry in asked["Entries"]:
            if queue.defer(entry["ReceiptHandle"], float(entry["VisibilityTimeout"])):
                done.append({"Id": entry["Id"]})
            else:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": "MessageNotInflight"})
        queue.wake()
        return {"Successful": done, "Failed": failed}

    def _purge(self, asked: Json) -> Json:
        self._named(asked).purge()
        return {}

    def _delete_queue(self, asked: Json) -> Json:
        self._queues.pop(self._named(asked).name)
        return {}


class Speaker(asyncio.Protocol):
    """One connection: requests one after another, each with a Content-Length, as the AWS clients send them."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._received = bytearray()
        self._is_answering = False
        self._forget: Callable[[], None] = lambda: None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's, not their class.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._forget()

    def data_received(self, data: bytes) -> None:
        self._received += data
        while not self._is_answering and (request := self._next()) is not None:
            self._is_answering = True
            self._serve(*request)

    def _next(self) -> tuple[bytes, Mapping[bytes, bytes], bytes] | None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        first, *lines = bytes(self._received[:end]).split(b"\r\n")
        pairs = (line.split(b":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        size = int(headers.get(b"content-length", b"0"))
        if len(self._received) < end + 4 + size:
            return None
        body = bytes(self._received[end + 4 : end + 4 + size])
        del self._received[: end + 4 + size]
        return first.split(b" ")[1], headers, body

    def _serve(self, path: bytes, headers: Mapping[bytes, bytes], body: bytes) -> None:
        if path in (b"/hold", b"/open"):
            self._desk.hold(path == b"/hold")
            self._say({})
            return
        if path == b"/calls":
            self._say(dict(self._desk.counts))
            return
        name = headers.get(b"x-amz-target", b"").removeprefix(PREFIX).decode()
        self._desk.counts[name] += 1
        try:
            asked = json.loads(body or b"{}")
            if name == "ReceiveMessage":
                self._forget = self._desk.receive(asked, self._say)
            else:
                self._say(self._desk.call(name, asked))
        except Refusal as refusal:
            answer = {"__type": f"com.amazonaws.sqs#{refusal.code}", "message": str(refusal)}
            self._say(answer, b"400 Bad Request", f"x-amzn-query-error: {refusal.legacy};Sender\r\n".encode())
        except (KeyError, ValueError, TypeError) as error:
            answer = {"__type": "com.amazonaws.sqs#InvalidParameterValue", "message": repr(error)}
            self._say(answer, b"400 Bad Request")

    def _say(self, answer: Json, status: bytes = b"200 OK", more: bytes = b"") -> None:
        body = json.dumps(answer, separators=(",", ":")).encode()
        self._transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\nx-amzn-RequestId: benchmark\r\n"
            b"%bContent-Length: %d\r\n\r\n%b" % (status, more, len(body), body)
        )
        self._is_answering = False
        self._forget = lambda: None
        if self._received:
            # Not from within the caller's loop: what waits was sent while a poll was open.
            asyncio.get_running_loop().call_soon(self.data_received, b"")


def _kept(queue: MemoryQueue, entry: Json) -> Kept:
    delay = float(entry.get("DelaySeconds", queue.settings["DelaySeconds"]))
    return queue.send(entry["MessageBody"], entry.get("MessageAttributes") or {}, delay)


def _sent(message: Kept) -> Json:
    answer = {"MessageId": message.id, "MD5OfMessageBody": message.md5}
    return answer | ({"MD5OfMessageAttributes": message.attributes_md5} if message.attributes_md5 else {})


def _shown(messages: Sequence[Kept], asked: Json) -> Json:
    if not messages:
        return {}
    names = [*(asked.get("MessageSystemAttributeNames") or ()), *(asked.get("AttributeNames") or ())]
    shows_attributes = bool(asked.get("MessageAttributeNames"))
    return {"Messages": [_shown_one(message, names, shows_attributes) for message in messages]}


def _shown_one(message: Kept, names: Sequence[str], shows_attributes: bool) -> Json:
    shown: dict[str, Any] = {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "MD5OfBody": message.md5,
        "Body": message.body,
    }
    if names:
        shown["Attributes"] = system_attributes(message, names)
    if shows_attributes and message.attributes:
        shown["MessageAttributes"] = message.attributes
        shown["MD5OfMessageAttributes"] = message.attributes_md5
    return shown


async def serve(port: int) -> None:
    """Serve until SIGTERM; prints the port once it listens."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    desks: list[Desk] = []
    server = await loop.create_server(lambda: Speaker(desks[0]), HOST, port, backlog=256)
    port = server.sockets[0].getsockname()[1]
    desks.append(Desk(f"http://{HOST}:{port}"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    print(port, flush=True)
    await stopping.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
