"""Every way an attempt can end, through a real worker, real children, real SQS, S3 and PostgreSQL."""

import hashlib
import json
import signal

import boto3
import pytest

from todoke.dev.aws import REGION, Emulator

from .conftest import Office, StartWorker


async def test_a_result_is_kept(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    job = await office.submit("double", {"number": 21})
    assert await office.result(job) == {"number": 42}
    [artifact] = await office.artifacts(job)
    assert (artifact.name, artifact.media_type) == ("result.json", "application/json")
    assert artifact.sha256 == hashlib.sha256(artifact.content or b"").hexdigest()
    assert await office.events(job) == ["job.accepted", "job.started", "job.succeeded"]
