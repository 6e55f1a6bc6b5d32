"""One suite for the object store, against every endpoint it is meant to work with."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import httpx
import pytest
from botocore.exceptions import ClientError

from todoke.blobs.s3 import S3Blobs
from todoke.dev.aws import REGION
from todoke.model.errors import Unavailable
from todoke.wire.disposition import disposition


@pytest.fixture
def bucket(endpoint: str | None) -> Iterator[str]:
    name = f"test-{secrets.token_hex(6)}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION)
    client.create_bucket(Bucket=name)
    yield name
    client.close()


@pytest.fixture
async def blobs(endpoint: str | None, bucket: str) -> AsyncIterator[S3Blobs]:
    blobs = S3Blobs(bucket, region=REGION, endpoint_url=endpoint)
    yield blobs
    blobs.close()


@pytest.mark.parametrize("kind", ["bytes", "file"])
async def test_what_is_put_can_be_read(
    blobs: S3Blobs, bucket: str, endpoint: str | None, kind: str, tmp_path: Path
) -> None:
    content = secrets.token_bytes(300_000)
    path = tmp_path / "content"
    path.write_bytes(content)
    await blobs.put("a/b 届け.bin", content if kind == "bytes" else path, "application/x-own", _digest(content))
    client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION)
    found = client.get_object(Bucket=bucket, Key="a/b 届け.bin")
    assert found["Body"].read() == content
    assert found["ContentType"] == "application/x-own"
    client.close()


async def test_a_file_that_is_not_there_is_no_outage(blobs: S3Blobs, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await blobs.put("key", tmp_path / "none", "text/plain", _digest(b""))


async def test_a_link_is_short_lived_and_signed(blobs: S3Blobs) -> None:
    await blobs.put("key", b"content", "text/html", _digest(b"content"))
    link = await blobs.link("key", filename="報告.html", media_type="text/html", seconds=60, inline=False)
    asked = parse_qs(urlsplit(link).query)
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert asked["X-Amz-Expires"] == ["60"]
    assert asked["response-content-type"] == ["text/html"]
    assert asked["response-content-disposition"] == [disposition("報告.html", inline=False)]


@pytest.mark.parametrize("endpoint", ["ministack"], indirect=True)
async def test_anyone_may_follow_a_link(blobs: S3Blobs) -> None:
    await blobs.put("k/é", b"content", "text/html", _digest(b"content"))
    link = await blobs.link("k/é", filename="報告.html", media_type="text/html", seconds=60, inline=True)
    async with httpx.AsyncClient() as client:
        answer = await client.get(link)
    assert (answer.status_code, answer.content) == (200, b"content")


@pytest.mark.parametrize("endpoint", ["ministack"], indirect=True)
async def test_the_store_refuses_other_content_than_announced(blobs: S3Blobs) -> None:
    with pytest.raises(ClientError, match=r"BadDigest|checksum"):
        await blobs.put("key", b"content", "text/plain", _digest(b"other"))


async def test_a_bucket_that_is_gone_is_unavailable(endpoint: str | None, bucket: str) -> None:
    blobs = S3Blobs(bucket + "-gone", region=REGION, endpoint_url=endpoint)
    with pytest.raises(Unavailable):
        await blobs.put("key", b"", "text/plain", _digest(b""))
    blobs.close()


async def test_an_endpoint_that_refuses_is_unavailable() -> None:
    blobs = S3Blobs("bucket", region=REGION, endpoint_url="http://127.0.0.1:9")
    with pytest.raises(Unavailable):
        await blobs.put("key", b"", "text/plain", _digest(b""))
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


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
