"""Large results in Amazon S3, or anything that speaks its protocol."""

import base64
from pathlib import Path
from typing import BinaryIO, Self

import boto3
from botocore.config import Config

from todoke.model.errors import Unavailable
from todoke.runtime.aws import Threads, client_config
from todoke.runtime.settings import Settings
from todoke.wire.disposition import disposition

CALL_SECONDS = 30.0
CALLS_MAX = 4


class S3Blobs:
    """The port over boto3: path-style beside a given endpoint, signature version 4, SHA-256 checked by the store."""

    def __init__(self, bucket: str, *, region: str, endpoint_url: str | None = None) -> None:
        self._bucket = bucket
        self._threads = Threads("s3", CALLS_MAX)
        style = Config(
            signature_version="s3v4",
            s3={"addressing_style": "path" if endpoint_url else "auto"},
            # The SHA-256 we send is the checksum; a second one would only cost time.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._s3 = boto3.session.Session(region_name=region).client(
            "s3",
            endpoint_url=endpoint_url,
            config=client_config(read_seconds=CALL_SECONDS, connections_max=CALLS_MAX).merge(style),
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The bucket the settings name; without a name every call raises Unavailable."""
        return cls(settings.s3_bucket, region=settings.aws_region, endpoint_url=settings.aws_endpoint_url)

    def close(self) -> None:
        """Give the connections back."""
        self._s3.close()

    async def put(self, key: str, content: bytes | Path, media_type: str, sha256: str) -> None:
        """Store an object of at most 5 GB; the store refuses it when its content does not have this SHA-256 (hex)."""
        self._check()
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()

        def store(source: bytes | BinaryIO) -> None:
            self._s3.put_object(
                Bucket=self._bucket, Key=key, Body=source, ContentType=media_type, ChecksumSHA256=checksum
            )

        def work() -> None:
            if isinstance(content, bytes):
                store(content)
            else:
                with content.open("rb") as file:
                    store(file)

        await self._threads.call(work)

    async def link(self, key: str, *, filename: str, media_type: str, seconds: int, inline: bool) -> str:
        """A URL that anyone may GET for `seconds`, answered as a download named `filename` unless `inline`."""
        self._check()
        return await self._threads.call(
            lambda: self._s3.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": key,
                    "ResponseContentDisposition": disposition(filename, inline=inline),
                    "ResponseContentType": media_type,
                },
                ExpiresIn=seconds,
            )
        )

    def _check(self) -> None:
        if not self._bucket:
            raise Unavailable("TODOKE_S3_BUCKET is not set")
