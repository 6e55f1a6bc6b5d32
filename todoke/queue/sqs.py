"""Hints over Amazon SQS, or anything that speaks its protocol."""

import json
from collections.abc import Sequence
from typing import Self
from uuid import UUID

import boto3
import structlog

from todoke.model.errors import Unavailable
from todoke.model.ids import parse_id
from todoke.queue.port import Message
from todoke.runtime.aws import Threads, client_config
from todoke.runtime.settings import Settings

log = structlog.get_logger()

CALL_SECONDS = 5.0
POLL_SLACK_SECONDS = 5.0
CALLS_MAX = 4
RECEIVES_MAX = 8
BODY_CHARACTERS_MAX = 200


class SqsQueue:
    """The port over boto3. Long polls have a client and threads of their own, so that they starve nothing."""

    def __init__(
        self,
        queue_url: str,
        *,
        region: str,
        endpoint_url: str | None = None,
        poll_seconds: int = 20,
        visibility_seconds: int = 60,
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
            config=client_config(read_seconds=poll_seconds + POLL_SLACK_SECONDS, connections_max=RECEIVES_MAX),
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The queue the settings name; without a name every call raises Unavailable."""
        return cls(
            settings.sqs_queue_url,
            region=settings.aws_region,
            endpoint_url=settings.aws_endpoint_url,
            poll_seconds=settings.receive_wait_seconds,
            visibility_seconds=settings.visibility_seconds,
        )

    def close(self) -> None:
        """Give the connections back."""
        self._sqs.close()
        self._poll_sqs.close()

    async def send(self, job_ids: Sequence[UUID]) -> list[UUID]:
        """Send a hint for each of at most ten jobs; the answer names those the queue did not take."""
        if not job_ids:
            return []
        self._check()
        answer = await self._calls.call(
            lambda: self._sqs.send_message_batch(
                QueueUrl=self._url,
                Entries=[{"Id": str(number), "MessageBody": body(job_id)} for number, job_id in enumerate(job_ids)],
            )
        )
        failed = answer.get("Failed", [])
        if failed:
            log.warning("queue.unsent", codes=sorted({entry["Code"] for entry in failed}), count=len(failed))
        taken = {int(entry["Id"]) for entry in answer.get("Successful", [])}
        return [job_id for number, job_id in enumerate(job_ids) if number not in taken]

    async def receive(self, messages_max: int, wait_seconds: int) -> list[Message]:
        """At most ten messages, waiting up to `wait_seconds` for the first."""
        self._check()
        answer = await self._polls.call(
            lambda: self._poll_sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=messages_max,
                WaitTimeSeconds=wait_seconds,
                VisibilityTimeout=self._visibility_seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        )
        return [
            Message(
                receipt=message["ReceiptHandle"],
                job_id=parse_body(message.get("Body", "")),
                receive_count=int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1)),
            )
            for message in answer.get("Messages", [])
        ]

    async def delete(self, receipts: Sequence[str]) -> None:
        """Forget at most ten messages; one that is gone already is no error."""
        if not receipts:
            return
        self._check()
        answer = await self._calls.call(
            lambda: self._sqs.delete_message_batch(
                QueueUrl=self._url,
                Entries=[{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)],
            )
        )
        _look_at([(entry["Code"], entry["SenderFault"]) for entry in answer.get("Failed", [])])

    async def defer(self, receipts: Sequence[str], seconds: int) -> None:
        """Hide at most ten messages for `seconds` from now; 0 shows them at once."""
        if not receipts:
            return
        self._check()
        answer = await self._calls.call(
            lambda: self._sqs.change_message_visibility_batch(
                QueueUrl=self._url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                    for number, receipt in enumerate(receipts)
                ],
            )
        )
        _look_at([(entry["Code"], entry["SenderFault"]) for entry in answer.get("Failed", [])])

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


def _look_at(failed: Sequence[tuple[str, bool]]) -> None:
    """A receipt refused for our own fault names a message that is gone or shown again; anything else is an outage."""
    codes = sorted({code for code, is_ours in failed if not is_ours})
    if codes:
        raise Unavailable(f"SQS did not take every entry of a batch ({', '.join(codes)})")
