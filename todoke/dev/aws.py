"""SQS and S3 without AWS: the emulator as a child process, and the queue, dead-letter queue and bucket in it."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from todoke.dev.child import Child, wait_until
from todoke.dev.ports import LOOPBACK, answers, free_port
from todoke.model.errors import Unavailable

if TYPE_CHECKING:  # boto3 takes a third of a second to import, and its stubs are not there at run time
    from mypy_boto3_sqs.client import SQSClient

QUEUE = "todoke-hints"
DEAD_LETTERS = "todoke-dead-letters"
BUCKET = "todoke-results"
REGION = "us-east-1"
# The emulator honours presigned URLs of these credentials only.
KEY_ID = SECRET = "test"  # noqa: S105 - not a secret
RECEIVES_MAX = 10
# Pages of any origin may follow a link: who has it, has the right. Behind a redirect a browser's origin is `null`.
READABLE: Any = {
    "AllowedOrigins": ["*"],
    "AllowedMethods": ["GET", "HEAD"],
    "AllowedHeaders": ["Range", "If-Range"],
    "ExposeHeaders": ["Content-Disposition", "Content-Length", "Content-Range", "ETag"],
    "MaxAgeSeconds": 3600,
}
DEAD_LETTER_SECONDS = 14 * 24 * 3600
START_SECONDS = 60
# TERM lets it write the queue to disk; a kill loses the messages since the last such stop.
STOP_STEPS = ((signal.SIGTERM, 8.0),)
# Its own command, but for the three seconds it would wait for long polls nobody reads any more.
PROGRAM = (
    "import hypercorn.config; hypercorn.config.Config.graceful_timeout = 0.3;"
    " import ministack.app; ministack.app.main()"
)


@dataclass(frozen=True)
class Places:
    """What `ensure` made: two queue URLs and a bucket name."""

    queue_url: str
    dead_letter_url: str
    bucket: str


class Emulator:
    """SQS and S3 on a loopback port, state under `folder`: `start`, `stop`, `kill`, start again on the same port.

    Objects in S3 survive even a kill, messages in SQS only `stop`. Also usable as a context manager.
    """

    places: Places

    def __init__(
        self,
        folder: Path,
        *,
        bucket: str = BUCKET,
        log: Path | None = None,
        marks: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.bucket = bucket
        self.port = free_port()
        self.child = Child(
            "aws",
            [sys.executable, "-P", "-c", PROGRAM],
            self._environment() | dict(marks or {}),
            log or self.folder.with_name("aws.log"),
        )

    @property
    def url(self) -> str:
        """Endpoint of both services."""
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Bring it up with queue, dead-letter queue and bucket. Raises Unavailable; then nothing runs."""
        self.prepare()
        self.child.spawn()
        if not wait_until(lambda: self.ready() or self.child.exited(), START_SECONDS) or self.child.exited():
            self.stop()
            raise Unavailable(f"the SQS and S3 emulator does not start; its last words:\n{self.child.tail()}")
        self.settle()

    def stop(self) -> None:
        """Shut down in order, so that the queue is written to disk."""
        self.child.stop(STOP_STEPS)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self.child.stop(())

    def prepare(self) -> None:
        """Make its folders."""
        for name in ("", "state", "objects", "tmp"):
            (self.folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)

    def ready(self) -> bool:
        """Whether it answers. Blocks for at most a second."""
        return answers(self.port, "/_ministack/health", seconds=1)

    def settle(self) -> None:
        """Make sure of queue, dead-letter queue and bucket; needed after every start. Blocks."""
        self.places = ensure(self.url, bucket=self.bucket)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _environment(self) -> dict[str, str]:
        # Nothing else of ours: its many variables have general names.
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "VIRTUAL_ENV") if name in os.environ}
        return kept | {
            "BIND_HOST": LOOPBACK,
            "GATEWAY_PORT": str(self.port),
            "SERVICES": "sqs,s3",
            # Two services beside the chosen ones that listen by themselves, the second on every address.
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "LOG_LEVEL": "WARNING",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(self.folder / "state"),
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.folder / "objects"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONUNBUFFERED": "1",
        }


def ensure(endpoint_url: str, bucket: str = BUCKET) -> Places:
    """Create what is missing and set what differs; changes nothing otherwise. Raises Unavailable."""
    import boto3  # noqa: PLC0415 - a third of a second that a mere import of this module need not pay
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    options: dict[str, Any] = {
        "endpoint_url": endpoint_url,
        "region_name": REGION,
        "config": Config(proxies={}, retries={"total_max_attempts": 5, "mode": "standard"}),
    }
    session = boto3.session.Session(aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET)
    sqs, s3 = session.client("sqs", **options), session.client("s3", **options)
    try:
        queue_url, dead_letter_url = _ensure_queues(sqs)
        if bucket not in {found["Name"] for found in s3.list_buckets()["Buckets"]}:
            s3.create_bucket(Bucket=bucket)
        s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [READABLE]})
    except (BotoCoreError, ClientError) as error:
        raise Unavailable(f"queue and bucket cannot be made at {endpoint_url}: {error}") from error
    finally:
        sqs.close()
        s3.close()
    return Places(queue_url, dead_letter_url, bucket)


def _ensure_queues(sqs: "SQSClient") -> tuple[str, str]:
    # Attributes are set apart: creating with other attributes than a queue has is an error.
    dead_letter_url = sqs.create_queue(QueueName=DEAD_LETTERS)["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=dead_letter_url, Attributes={"MessageRetentionPeriod": str(DEAD_LETTER_SECONDS)})
    known = sqs.get_queue_attributes(QueueUrl=dead_letter_url, AttributeNames=["QueueArn"])["Attributes"]
    redrive = {"deadLetterTargetArn": known["QueueArn"], "maxReceiveCount": str(RECEIVES_MAX)}
    queue_url = sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"RedrivePolicy": json.dumps(redrive)})
    return queue_url, dead_letter_url
