"""One suite for the object store, against every endpoint it is meant to work with."""

import asyncio
import base64
import hashlib
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
from botocore.exceptions import EndpointConnectionError

from tests.conftest import REPOSITORY, until
from todoke.blobs import s3
from todoke.blobs.port import ContentChangedError, Written
from todoke.blobs.s3 import PART_BYTES, S3Blobs
from todoke.dev.aws import REGION
from todoke.model.errors import Unavailable
from todoke.wire.disposition import disposition

BIG = 2 * PART_BYTES + 7


@pytest.fixture
def client(endpoint: str | None) -> Iterator[Any]:
    """The store as somebody else sees it."""
    client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION)
    yield client
    client.close()


@pytest.fixture
def bucket(client: Any) -> str:
    name = f"test-{secrets.token_hex(6)}"
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
async def blobs(endpoint: str | None, bucket: str) -> AsyncIterator[S3Blobs]:
    blobs = S3Blobs(bucket, region=REGION, endpoint_url=endpoint)
    yield blobs
    blobs.close()


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(secrets.token_bytes(BIG))
    return path


async def test_bytes_that_are_put_can_be_read(blobs: S3Blobs, client: Any, bucket: str) -> None:
    content = secrets.token_bytes(300_000)
    assert await blobs.put("a/b 届け.bin", content, "application/x-own") == _written(content)
    found = client.get_object(Bucket=bucket, Key="a/b 届け.bin")
    assert found["Body"].read() == content
    assert found["ContentType"] == "application/x-own"


@pytest.mark.parametrize("size", [0, 300_000, PART_BYTES, PART_BYTES + 1, BIG])
async def test_files_that_are_put_can_be_read(
    blobs: S3Blobs, client: Any, bucket: str, size: int, tmp_path: Path
) -> None:
    content = secrets.token_bytes(size)
    path = tmp_path / "content"
    path.write_bytes(content)
    with path.open("rb") as file:
        file.read(5)
        assert await blobs.put("key", file, "application/x-own") == _written(content)
        assert await blobs.put("again", file, "application/x-own") == _written(content)
    for key in ("key", "again"):
        found = client.get_object(Bucket=bucket, Key=key)
        assert (found["Body"].read() == content, found["ContentType"]) == (True, "application/x-own")
    assert _unfinished(client, bucket) == []


@pytest.mark.parametrize("endpoint", ["ministack"], indirect=True)
async def test_the_store_keeps_a_checksum_of_all_it_got(blobs: S3Blobs, client: Any, bucket: str, big: Path) -> None:
    await blobs.put("whole", b"content", "text/plain")
    with big.open("rb") as file:
        await blobs.put("parts", file, "text/plain")
        file.seek(0)
        parts = [hashlib.sha256(file.read(PART_BYTES)).digest() for _ in range(3)]
    told = [client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED") for key in ("whole", "parts")]
    assert told[0]["ChecksumSHA256"] == _base64_digest(b"content")
    assert told[1]["ChecksumSHA256"] == _base64_digest(b"".join(parts)) + "-3"


@pytest.mark.parametrize("endpoint", ["ministack"], indirect=True)
@pytest.mark.parametrize("operation", ["PutObject", "UploadPart"])
async def test_bytes_that_change_on_the_way_are_refused(
    blobs: S3Blobs, client: Any, bucket: str, operation: str, big: Path
) -> None:
    def spoil(request: Any, **_: Any) -> None:
        content = request.body if isinstance(request.body, bytes) else request.body.read()
        request.body = b"x" + content[1:]

    blobs._s3.meta.events.register(f"before-send.s3.{operation}", spoil)
    with big.open("rb") as file, pytest.raises(Unavailable, match=r"BadDigest|SHA256Mismatch"):
        await blobs.put("key", file if operation == "UploadPart" else b"content", "text/plain")
    assert await _keys(blobs) == []
    assert _unfinished(client, bucket) == []


async def test_an_upload_that_breaks_leaves_nothing(blobs: S3Blobs, client: Any, bucket: str, big: Path) -> None:
    def break_off(params: Any, **_: Any) -> None:
        if params["query_string"]["partNumber"] == 2:
            raise EndpointConnectionError(endpoint_url="http://gone")

    blobs._s3.meta.events.register("before-call.s3.UploadPart", break_off)
    with big.open("rb") as file, pytest.raises(Unavailable):
        await blobs.put("key", file, "text/plain")
    assert await _keys(blobs) == []
    assert _unfinished(client, bucket) == []


async def test_an_upload_nobody_waits_for_leaves_nothing(blobs: S3Blobs, client: Any, bucket: str, big: Path) -> None:
    begun: list[int] = []

    def begin(params: Any, **_: Any) -> None:
        begun.append(params["query_string"]["partNumber"])
        _until(lambda: upload.cancelling() > 0)

    blobs._s3.meta.events.register("before-call.s3.UploadPart", begin)
    with big.open("rb") as file:
        upload = asyncio.ensure_future(blobs.put("key", file, "text/plain"))
        await until(lambda: bool(begun))
        assert len(_unfinished(client, bucket)) == 1
        upload.cancel()
        await asyncio.wait({upload})
        await until(lambda: not _unfinished(client, bucket))
    assert upload.cancelled()
    assert begun == [1]
    assert await _keys(blobs) == []


@pytest.mark.parametrize("size", [1000, BIG])
@pytest.mark.parametrize("change", ["append", "shorten", "overwrite"])
async def test_a_file_that_changes_meanwhile_is_told(
    blobs: S3Blobs, client: Any, bucket: str, tmp_path: Path, size: int, change: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(size))

    def write(**_: Any) -> None:
        with path.open("r+b") as file:
            if change == "shorten":
                file.truncate(size // 3)
            else:
                file.seek(0, os.SEEK_END if change == "append" else os.SEEK_SET)
                file.write(b"more")
        os.utime(path, (1, 1))

    operation = "PutObject" if size == 1000 else "CreateMultipartUpload"
    blobs._s3.meta.events.register(f"before-call.s3.{operation}", write)
    with path.open("rb") as file, pytest.raises(ContentChangedError):
        await blobs.put("key", file, "text/plain")
    assert await _keys(blobs) == []
    assert _unfinished(client, bucket) == []


async def test_a_store_that_holds_less_than_was_sent_is_found_out(blobs: S3Blobs) -> None:
    def shorten(parsed: Any, **_: Any) -> None:
        parsed["ContentLength"] -= 1

    blobs._s3.meta.events.register("after-call.s3.HeadObject", shorten)
    with pytest.raises(Unavailable, match="6 of 7 bytes"):
        await blobs.put("key", b"content", "text/plain")
    assert await _keys(blobs) == []


MEASURE = """
import asyncio, re, sys
from pathlib import Path
from todoke.blobs.s3 import S3Blobs

def peak():  # kilobytes; what getrusage says begins with the peak of the process that forked this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

async def main(bucket, endpoint, path):
    blobs = S3Blobs(bucket, region="us-east-1", endpoint_url=endpoint)
    await blobs.put("warm", b"up", "text/plain")
    before = peak()
    with open(path, "rb") as file:
        written = await blobs.put("key", file, "text/plain")
    print(written.size, written.sha256, peak() - before)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("endpoint", ["ministack"], indirect=True)
async def test_memory_does_not_grow_with_the_file(endpoint: str, bucket: str, client: Any, tmp_path: Path) -> None:
    path, size, digest = tmp_path / "huge", 200 * 2**20, hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(200):
            block = secrets.token_bytes(2**20)
            digest.update(block)
            file.write(block)
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEASURE, bucket, endpoint, path, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    answer, _ = await asyncio.wait_for(program.communicate(), 60)
    told_size, told_digest, grown_kilobytes = answer.decode().split()
    assert (int(told_size), told_digest) == (size, digest.hexdigest())
    assert client.head_object(Bucket=bucket, Key="key")["ContentLength"] == size
    # A part as it is read, as it is sent, and the library's copies of it.
    assert int(grown_kilobytes) < 6 * PART_BYTES // 1024
    client.delete_object(Bucket=bucket, Key="key")


async def test_keys_come_in_pages(blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PAGE_MAX", 3)
    names = sorted(f"a/b/{number} 届け+&.bin" for number in range(8))
    for name in [*names, "a/bc", "b/b/1"]:
        await blobs.put(name, b"", "text/plain")
    pages = [page async for page in blobs.keys("a/b/")]
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [key for page in pages for key in page] == names
    assert [page async for page in blobs.keys("none/")] == []


async def test_objects_are_deleted_in_batches(blobs: S3Blobs) -> None:
    for name in ("a", "b 届け+&<>.bin", "c"):
        await blobs.put(name, b"", "text/plain")
    await blobs.delete([f"none-{number}" for number in range(1001)] + ["a", "b 届け+&<>.bin"])
    assert await _keys(blobs) == ["c"]
    await blobs.delete([])


async def test_what_lies_below_a_prefix_is_cleared(
    blobs: S3Blobs, client: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "PAGE_MAX", 2)
    for name in ("t/j/1/0-a", "t/j/1/1-b", "t/j/2/0-a", "t/j/10/0-a", "t/j/11/0-a", "t/jk/1/0-a"):
        await blobs.put(name, b"", "text/plain")
    for name in ("t/j/1/2-c", "t/j/2/2-c", "t/jk/1/2-c"):
        client.create_multipart_upload(Bucket=bucket, Key=name)
    assert await blobs.clear("t/j/", spared="t/j/2/") == 4
    assert await _keys(blobs) == ["t/j/2/0-a", "t/jk/1/0-a"]
    assert _unfinished(client, bucket) == ["t/j/2/2-c", "t/jk/1/2-c"]
    assert await blobs.clear("t/j/") == 1
    assert await blobs.clear("t/j/") == 0
    assert _unfinished(client, bucket) == ["t/jk/1/2-c"]


async def test_a_link_is_short_lived_and_signed(blobs: S3Blobs) -> None:
    await blobs.put("key", b"content", "text/html")
    link = await blobs.link("key", filename="報告.html", media_type="text/html", seconds=60, inline=False)
    asked = parse_qs(urlsplit(link.url).query)
    left = datetime.fromisoformat(link.expires_at) - datetime.now(UTC)
    assert timedelta(seconds=50) < left <= timedelta(seconds=60)
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert asked["X-Amz-Expires"] == ["60"]
    assert asked["response-content-type"] == ["text/html"]
    assert asked["response-content-disposition"] == [disposition("報告.html", inline=False)]


@pytest.mark.parametrize("endpoint", ["ministack"], indirect=True)
async def test_anyone_may_follow_a_link(blobs: S3Blobs) -> None:
    await blobs.put("k/é", b"content", "text/html")
    link = await blobs.link("k/é", filename="報告.html", media_type="text/html", seconds=60, inline=True)
    async with httpx.AsyncClient() as client:
        answer = await client.get(link.url)
    assert (answer.status_code, answer.content) == (200, b"content")


async def test_a_link_ends_before_the_credentials_that_sign_it(blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role's credentials end, and S3 refuses what they signed from then on, whatever the link itself says."""
    ends_at = datetime.now(UTC) + timedelta(seconds=300)
    monkeypatch.setattr(blobs._session.get_credentials(), "_expiry_time", ends_at, raising=False)
    link = await blobs.link("key", filename="a", media_type="text/plain", seconds=900, inline=False)
    [seconds] = parse_qs(urlsplit(link.url).query)["X-Amz-Expires"]
    assert 230 <= int(seconds) <= 240
    assert datetime.fromisoformat(link.expires_at) <= ends_at - timedelta(seconds=60)


async def test_a_bucket_that_is_gone_is_unavailable(endpoint: str | None, bucket: str) -> None:
    blobs = S3Blobs(bucket + "-gone", region=REGION, endpoint_url=endpoint)
    with pytest.raises(Unavailable):
        await blobs.put("key", b"", "text/plain")
    blobs.close()


async def test_an_endpoint_that_refuses_is_unavailable() -> None:
    blobs = S3Blobs("bucket", region=REGION, endpoint_url="http://127.0.0.1:9")
    with pytest.raises(Unavailable):
        await blobs.put("key", b"", "text/plain")
    blobs.close()


async def test_no_bucket_is_unavailable() -> None:
    blobs = S3Blobs("", region=REGION)
    with pytest.raises(Unavailable, match="TODOKE_S3_BUCKET"):
        await blobs.link("key", filename="x", media_type="text/plain", seconds=1, inline=False)
    blobs.close()


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("report.html", 'attachment; filename="report.html"'),
        ('a"b.html', "attachment; filename=\"a_b.html\"; filename*=UTF-8''a%22b.html"),
        ("届け.csv", "attachment; filename=\"__.csv\"; filename*=UTF-8''%E5%B1%8A%E3%81%91.csv"),
        ("a\r\nSet-Cookie: x", 'attachment; filename="aSet-Cookie: x"'),
        ("\x00\ud800", 'attachment; filename="result"'),
    ],
)
def test_a_file_name_cannot_leave_its_header(filename: str, header: str) -> None:
    assert disposition(filename, inline=False) == header


async def _keys(blobs: S3Blobs) -> list[str]:
    return [key async for page in blobs.keys("") for key in page]


def _unfinished(client: Any, bucket: str) -> list[str]:
    return sorted(upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


def _until(condition: Callable[[], bool]) -> None:
    """Wait in a thread, bounded."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _base64_digest(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _written(content: bytes) -> Written:
    return Written(len(content), hashlib.sha256(content).hexdigest())
