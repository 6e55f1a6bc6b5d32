"""The SQS and S3 emulator: what `ensure` makes, what survives which end."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from todoke.dev.aws import BUCKET, DEAD_LETTERS, KEY_ID, REGION, SECRET, Emulator, ensure
from todoke.model.errors import Unavailable


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Emulator]:
    with Emulator(tmp_path / "with a space" / "aws") as emulator:
        yield emulator


def client(emulator: Emulator, service: str) -> Any:
    return boto3.client(
        service,  # type: ignore[call-overload]
        endpoint_url=emulator.url,
        region_name=REGION,
        aws_access_key_id=KEY_ID,
        aws_secret_access_key=SECRET,
    )


def attributes(sqs: Any, url: str) -> dict[str, str]:
    found: dict[str, str] = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return found


def test_queue_and_dead_letters_are_as_promised(own: Emulator) -> None:
    sqs = client(own, "sqs")
    redrive = json.loads(attributes(sqs, own.places.queue_url)["RedrivePolicy"])
    assert int(redrive["maxReceiveCount"]) == 10
    assert redrive["deadLetterTargetArn"].endswith(f":{DEAD_LETTERS}")
    assert attributes(sqs, own.places.dead_letter_url)["MessageRetentionPeriod"] == str(14 * 24 * 3600)
    assert own.places.queue_url.startswith(own.url)
    sqs.close()


def test_ensure_changes_nothing_the_second_time(own: Emulator) -> None:
    sqs, s3 = client(own, "sqs"), client(own, "s3")
    sqs.send_message(QueueUrl=own.places.queue_url, MessageBody="hint")
    s3.put_object(Bucket=BUCKET, Key="report", Body=b"report")
    assert ensure(own.url) == own.places
    assert attributes(sqs, own.places.queue_url)["ApproximateNumberOfMessages"] == "1"
    assert s3.get_object(Bucket=BUCKET, Key="report")["Body"].read() == b"report"
    sqs.close()
    s3.close()


@pytest.mark.parametrize(("end", "messages"), [("stop", "1"), ("kill", "0")])
def test_objects_survive_any_end_and_messages_an_orderly_one(own: Emulator, end: str, messages: str) -> None:
    port = own.port
    sqs, s3 = client(own, "sqs"), client(own, "s3")
    sqs.send_message(QueueUrl=own.places.queue_url, MessageBody="hint")
    s3.put_object(Bucket=BUCKET, Key="report", Body=b"report", ContentType="text/html")
    getattr(own, end)()
    own.start()
    assert own.port == port
    kept = s3.get_object(Bucket=BUCKET, Key="report")
    assert (kept["Body"].read(), kept["ContentType"]) == (b"report", "text/html")
    assert attributes(sqs, own.places.queue_url)["ApproximateNumberOfMessages"] == messages
    sqs.close()
    s3.close()


def test_nothing_there_is_unavailable(own: Emulator) -> None:
    own.stop()
    with pytest.raises(Unavailable, match="queue and bucket cannot be made"):
        ensure(own.url)
