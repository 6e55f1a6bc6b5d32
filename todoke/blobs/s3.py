"""Large results in Amazon S3, or anything that speaks its protocol."""

import asyncio
import base64
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO, Self

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from todoke.blobs.port import Link, ObjectRefusedError, Written
from todoke.blobs.source import Source
from todoke.model.errors import Unavailable
from todoke.runtime.aws import Threads, client_config, is_outage
from todoke.runtime.settings import Settings
from todoke.wire.disposition import disposition

if TYPE_CHECKING:  # the stubs are not there at run time
    from mypy_boto3_s3.type_defs import ListMultipartUploadsOutputTypeDef, ListObjectsV2OutputTypeDef

CALL_SECONDS = 30.0
CALLS_MAX = 4
# What an upload holds in memory; a larger object is sent in parts of this size.
PART_BYTES = 8 * 2**20
PARTS_MAX = 10_000
PAGE_MAX = 1_000
CREDENTIALS_MARGIN_SECONDS = 60
# Not the fault of this object: bytes that arrived changed, or rights that an operator has to give.
TRANSIENT_CODES = frozenset(
    {
        "AccessDenied",
        "AllAccessDisabled",
        "BadDigest",
        "IncompleteBody",
        "InvalidDigest",
        "NoSuchUpload",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)


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
        self._session = boto3.session.Session(region_name=region)
        self._s3 = self._session.client(
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

    async def put(self, key: str, content: bytes | BinaryIO, media_type: str) -> Written:
        """Store an object, a file from its beginning to its end; the store checks every byte by SHA-256.

        Raises ContentChangedError, ObjectRefusedError; they leave nothing behind, nor does being canceled.
        """
        self._check()
        abandoned = threading.Event()
        try:
            return await self._threads.call(lambda: self._store(key, content, media_type, abandoned))
        except asyncio.CancelledError:
            # The thread goes on to its end: it sends no further part, and removes what it has sent.
            abandoned.set()
            raise

    def _store(self, key: str, content: bytes | BinaryIO, media_type: str, abandoned: threading.Event) -> Written:
        source = Source(content, abandoned)
        with _refusals_named():
            if source.expected <= PART_BYTES:
                self._send_whole(key, source, media_type)
            else:
                self._send_in_parts(key, source, media_type)
        try:
            written = source.written
            self._compare(key, written)
        except BaseException:
            self._remove_quietly(key)
            raise
        if abandoned.is_set():
            self._remove_quietly(key)
        return written

    def _send_whole(self, key: str, source: Source, media_type: str) -> None:
        content = source.read()
        checksum = base64.b64encode(bytes.fromhex(source.written.sha256)).decode()
        self._s3.put_object(Bucket=self._bucket, Key=key, Body=content, ContentType=media_type, ChecksumSHA256=checksum)

    def _send_in_parts(self, key: str, source: Source, media_type: str) -> None:
        """One part at a time, in this thread: the library's own threads would keep the process from ending."""
        config = TransferConfig(
            multipart_threshold=PART_BYTES,
            multipart_chunksize=max(PART_BYTES, -(-source.expected // PARTS_MAX)),
            use_threads=False,
            preferred_transfer_client="classic",
        )
        # The library hashes each part as it sends it, and aborts the whole when anything fails.
        extra = {"ContentType": media_type, "ChecksumAlgorithm": "SHA256"}
        # It needs nothing but `read`.
        self._s3.upload_fileobj(source, self._bucket, key, ExtraArgs=extra, Config=config)  # type: ignore[arg-type]

    def _compare(self, key: str, written: Written) -> None:
        size = self._s3.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        if size != written.size:
            raise Unavailable(f"the object store holds {size:,} of {written.size:,} bytes")

    def _remove_quietly(self, key: str) -> None:
        with contextlib.suppress(Exception):
            self._s3.delete_object(Bucket=self._bucket, Key=key)

    async def link(self, key: str, *, filename: str, media_type: str, seconds: int, inline: bool) -> Link:
        """A link for `seconds` at most, answered as a download named `filename` unless `inline`.

        It ends a minute before the credentials do that sign it: behind them it would be refused.
        """
        self._check()
        params = {
            "Bucket": self._bucket,
            "Key": key,
            "ResponseContentDisposition": disposition(filename, inline=inline),
            "ResponseContentType": media_type,
        }
        return await self._threads.call(lambda: self._sign(params, seconds))

    def _sign(self, params: dict[str, str], seconds: int) -> Link:
        now = datetime.now(UTC)
        credentials = self._session.get_credentials()
        # Only credentials of a role end; botocore renews them a quarter of an hour before.
        ends_at = getattr(credentials, "_expiry_time", None)
        if ends_at is not None:
            seconds = max(1, min(seconds, int((ends_at - now).total_seconds()) - CREDENTIALS_MARGIN_SECONDS))
        url = self._s3.generate_presigned_url("get_object", Params=params, ExpiresIn=seconds)
        expires_at = (now + timedelta(seconds=seconds)).isoformat(timespec="seconds").replace("+00:00", "Z")
        return Link(url, expires_at)

    async def keys(self, prefix: str) -> AsyncIterator[list[str]]:
        """The keys that begin with `prefix`, at most 1,000 at a time."""
        self._check()
        after = ""

        def page() -> "ListObjectsV2OutputTypeDef":
            return self._s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, StartAfter=after, MaxKeys=PAGE_MAX)

        while True:
            answer = await self._threads.call(page)
            found = [item["Key"] for item in answer.get("Contents", [])]
            if found:
                yield found
            if not found or not answer.get("IsTruncated"):
                return
            after = found[-1]

    async def delete(self, keys: Collection[str]) -> None:
        """Remove objects; a key that is not there is no error."""
        self._check()
        left = iter(keys)
        while batch := list(itertools.islice(left, PAGE_MAX)):
            await self._threads.call(lambda batch=batch: self._delete(batch))  # type: ignore[misc]

    def _delete(self, keys: list[str]) -> None:
        answer = self._s3.delete_objects(
            Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )
        if errors := answer.get("Errors"):
            raise Unavailable(f"{len(errors)} of {len(keys)} objects could not be removed ({errors[0].get('Code')})")

    async def clear(self, prefix: str, *, spared: str | None = None) -> int:
        """Remove what begins with `prefix` and not with `spared`, unfinished uploads too; says how many objects."""
        count = 0
        async for page in self.keys(prefix):
            doomed = [key for key in page if spared is None or not key.startswith(spared)]
            await self.delete(doomed)
            count += len(doomed)
        await self._threads.call(lambda: self._abort_uploads(prefix, spared))
        return count

    def _abort_uploads(self, prefix: str, spared: str | None) -> None:
        """A worker that was killed could not abort its own."""
        answer: ListMultipartUploadsOutputTypeDef = self._s3.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix)
        for upload in answer.get("Uploads", []):
            if spared is None or not upload["Key"].startswith(spared):
                self._s3.abort_multipart_upload(Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"])

    def _check(self) -> None:
        if not self._bucket:
            raise Unavailable("TODOKE_S3_BUCKET is not set")


@contextlib.contextmanager
def _refusals_named() -> Iterator[None]:
    """Tell "not now" from "never": outages pass, as do faults on the way; what is left is the object's own."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if is_outage(error):
            raise
        if code in TRANSIENT_CODES or status in (403, 404):
            raise Unavailable(f"the object store did not take it ({code})") from error
        raise ObjectRefusedError(f"the object store refuses it ({code})") from error
