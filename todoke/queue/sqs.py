"""Hints over Amazon SQS, or anything that speaks its protocol."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

import boto3
import structlog

from todoke.model.errors import Unavailable
from todoke.model.ids import parse_id
from todoke.queue.lean import LeanSqs
from todoke.queue.port import Message
from todoke.runtime.aws import Threads, client_config
from todoke.runtime.settings import Settings

log = structlog.get_logger()

CALL_SECONDS = 5.0
POLL_SLACK_SECONDS = 5.0
CALLS_MAX = 4
RECEIVES_MAX = 8
BODY_CHARACTERS_MAX = 200
# SQS may take some entries of a batch and fail at others.
ENTRY_TRIES = 3
ENTRY_PAUSE_SECONDS = 0.1
BOTO3_NAMES = {
    "SendMessageBatch": "send_message_batch",
    "DeleteMessageBatch": "delete_message_batch",
    "ChangeMessageVisibilityBatch": "change_message_visibility_batch",
}
DEPTH: Any = "ApproximateNumberOfMessages"

# What SQS did not do, by the entry's number: the code it gave, and whether the fault is ours.
Refused = dict[str, tuple[str, bool]]


class SqsQueue:
    """The port over SQS. Long polls have connections of their own, so that they starve nothing.

    is_lean: the calls that every message costs go out from the event loop, what is rare through boto3; otherwise all
    of them through boto3. A poll that fails is not tried again here: whoever polls does that anyway, and must learn
    soon of an outage.
    """

    def __init__(
        self,
        queue_url: str,
        *,
        region: str,
        endpoint_url: str | None = None,
        poll_seconds: int = 20,
        visibility_seconds: int = 60,
        is_lean: bool = False,
    ) -> None:
        self._url = queue_url
        self._visibility_seconds = visibility_seconds
        self._calls, self._polls = Threads("sqs", CALLS_MAX), Threads("sqs-poll", RECEIVES_MAX)
        session = boto3.session.Session(region_name=region)
        self._sqs = session.client(
            "sqs",
            endpoint_url=endpoint_url,
            config=client_config(read_seconds=CALL_SECONDS, connections_max=CALLS_MAX),
        )
        self._poll_sqs = session.client(
            "sqs",
            endpoint_url=endpoint_url,
            config=client_config(read_seconds=poll_seconds + POLL_SLACK_SECONDS, connections_max=RECEIVES_MAX, tries=1),
        )
        self._poll_seconds = poll_seconds
        self._lean = LeanSqs(session, self._sqs.meta.endpoint_url, region) if is_lean else None

    @classmethod
    def from_settings(cls, settings: Settings, *, is_lean: bool = False) -> Self:
        """The queue the settings name; without a name every call raises Unavailable."""
        return cls(
            settings.sqs_queue_url,
            region=settings.aws_region,
            endpoint_url=settings.aws_endpoint_url,
            poll_seconds=settings.receive_wait_seconds,
            visibility_seconds=settings.visibility_seconds,
            is_lean=is_lean,
        )

    def beside(self, queue_url: str) -> Self:
        """Another queue over the same connections, which stay this one's to close."""
        other = copy(self)
        other._url = queue_url
        return other

    def close(self) -> None:
        """Give boto3's connections back, which are all unless it is lean."""
        self._sqs.close()
        self._poll_sqs.close()

    async def aclose(self) -> None:
        """Give the connections back, those of a lean queue included."""
        if self._lean is not None:
            await self._lean.aclose()
        self.close()

    async def send(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Send a hint for each of at most ten jobs; the answer names those the queue did not take."""
        taken = await self.send_bodies([body(job_id) for job_id in job_ids])
        return [job_id for job_id, is_taken in zip(job_ids, taken, strict=True) if not is_taken]

    async def send_bodies(self, bodies: Sequence[str]) -> list[bool]:
        """Send at most ten messages as they are; for each, whether the queue took it."""
        refused = await self._batch(
            "SendMessageBatch",
            [{"Id": str(number), "MessageBody": text} for number, text in enumerate(bodies)],
        )
        if refused:
            log.warning("queue.unsent", codes=sorted({code for code, _ in refused.values()}), count=len(refused))
        return [str(number) not in refused for number in range(len(bodies))]

    async def receive(self, messages_max: int, wait_seconds: int) -> list[Message]:
        """At most ten messages, waiting up to `wait_seconds` for the first."""
        self._check()
        asked: dict[str, Any] = {
            "QueueUrl": self._url,
            "MaxNumberOfMessages": messages_max,
            "WaitTimeSeconds": wait_seconds,
            "VisibilityTimeout": self._visibility_seconds,
            "MessageSystemAttributeNames": ["ApproximateReceiveCount", "SentTimestamp"],
        }
        if self._lean is not None:
            seconds = self._poll_seconds + POLL_SLACK_SECONDS
            answer: Mapping[str, Any] = await self._lean.call("ReceiveMessage", asked, seconds=seconds, tries=1)
        else:
            answer = await self._polls.call(lambda: self._poll_sqs.receive_message(**asked))
        return [_message(found) for found in answer.get("Messages", [])]

    async def delete(self, receipts: Sequence[str]) -> None:
        """Forget at most ten messages; one that is gone already is no error."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        _look_at(await self._batch("DeleteMessageBatch", entries))

    async def defer(self, receipts: Sequence[str], seconds: int) -> None:
        """Hide at most ten messages for `seconds` from now; 0 shows them at once."""
        entries = [
            {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
            for number, receipt in enumerate(receipts)
        ]
        _look_at(await self._batch("ChangeMessageVisibilityBatch", entries))

    async def depth(self) -> int:
        """How many messages wait to be received, approximately."""
        self._check()
        answer = await self._calls.call(
            lambda: self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=[DEPTH])
        )
        return int(answer["Attributes"][DEPTH])

    async def _batch(self, operation: str, entries: Sequence[Mapping[str, object]]) -> Refused:
        """Ask for every entry, and again for those SQS failed to do; the answer holds what it refused to the last."""
        final: Refused = {}
        refused: Refused = {}
        for number in range(ENTRY_TRIES):
            if not entries:
                break
            if number:
                await asyncio.sleep(ENTRY_PAUSE_SECONDS * number)
            self._check()
            answer = await self._call(operation, {"QueueUrl": self._url, "Entries": list(entries)})
            refused = {item["Id"]: (item["Code"], item["SenderFault"]) for item in answer.get("Failed", ())}
            # A refusal that is our own fault stays one, however often we ask.
            final |= {key: why for key, why in refused.items() if why[1]}
            entries = [entry for entry in entries if entry["Id"] in refused.keys() - final.keys()]
        return final | refused

    async def _call(self, operation: str, asked: Mapping[str, object]) -> Mapping[str, Any]:
        if self._lean is not None:
            return await self._lean.call(operation, asked, seconds=CALL_SECONDS)
        call: Callable[..., Mapping[str, Any]] = getattr(self._sqs, BOTO3_NAMES[operation])
        return await self._calls.call(lambda: call(**asked))

    def _check(self) -> None:
        if not self._url:
            raise Unavailable("SQS_QUEUE_URL is not set")


def body(job_id: UUID) -> str:
    """The text of a hint."""
    return json.dumps({"jobId": str(job_id)}, separators=(",", ":"))


def parse_body(text: str) -> UUID | None:
    """The job a hint names, or None when it is not one of ours."""
    if len(text) > BODY_CHARACTERS_MAX:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    if not isinstance(found, dict) or set(found) != {"jobId"} or not isinstance(found["jobId"], str):
        return None
    return parse_id(found["jobId"])


def _message(found: Mapping[str, Any]) -> Message:
    text, attributes = found.get("Body", ""), found.get("Attributes", {})
    sent = attributes.get("SentTimestamp")
    return Message(
        receipt=found["ReceiptHandle"],
        job_id=parse_body(text),
        receive_count=int(attributes.get("ApproximateReceiveCount", 1)),
        id=found.get("MessageId", ""),
        body=text,
        sent_at=datetime.fromtimestamp(int(sent) / 1000, UTC) if sent else None,
    )


def _look_at(refused: Refused) -> None:
    """A receipt refused for our own fault names a message that is gone or shown again; anything else is an outage."""
    codes = sorted({code for code, is_ours in refused.values() if not is_ours})
    if codes:
        raise Unavailable(f"SQS did not take every entry of a batch ({', '.join(codes)})")
