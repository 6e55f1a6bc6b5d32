"""Every way an attempt can end, through a real worker, real children, real SQS, S3 and PostgreSQL."""

import hashlib
import secrets
import signal

import boto3
import pytest

from tests.worker.conftest import Office, StartWorker, until
from todoke.dev.aws import REGION, Emulator


async def test_a_result_is_kept(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    job = await office.submit("double", {"number": 21})
    assert await office.result(job) == {"number": 42}
    [artifact] = await office.artifacts(job)
    assert (artifact.name, artifact.media_type) == ("result.json", "application/json")
    assert artifact.sha256 == hashlib.sha256(artifact.content or b"").hexdigest()
    assert await office.events(job) == ["job.accepted", "job.started", "job.succeeded"]
    await office.until_queue_is_empty()


async def test_async_and_thread_jobs_share_one_process(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    jobs = [await office.submit("sleep-async", {"number": 0}), await office.submit("which-process")]
    one, other = [await office.result(job) for job in jobs]
    assert one == other
    assert await office.result(await office.submit("double-async", {"number": 4})) == {"number": 8}


async def test_fail_ends_the_job_with_its_own_code(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    row = await office.end(await office.submit("fail"))
    assert (row["state"], row["error_code"], row["error"]) == ("FAILED", "NO_DATA", "there is nothing to report")
    assert (row["attempt"], row["failures"]) == (1, 1)


async def test_what_went_well_is_not_written_out(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    await office.result(await office.submit("double", {"number": 1}))
    await office.end(await office.submit("fail"))
    await until(lambda: worker.logged("attempt.settled"))
    assert [line["code"] for line in worker.logged("attempt.settled")] == ["NO_DATA"]


async def test_retry_runs_again_when_asked(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    job = await office.submit("ask-again")
    waiting = await office.when(job, lambda row: row["worker_id"] is None and row["state"] == "PROCESSING")
    assert (waiting["error_code"], waiting["error"]) == ("JOB_ERROR", "the source is not ready")
    assert await office.result(job) == 2
    assert (await office.row(job))["failures"] == 1
    assert "job.retrying" in await office.events(job)


async def test_an_error_is_tried_again_and_then_failed_in_one_line(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    row = await office.end(await office.submit("break", max_attempts=2))
    assert (row["state"], row["error_code"]) == ("FAILED", "JOB_ERROR")
    assert row["error"] == "RuntimeError: it broke ?badly"
    assert (row["attempt"], row["failures"]) == (2, 2)
    assert any("Traceback" in line["text"] for line in worker.logged("job.output"))


@pytest.mark.parametrize("params", ["{}", '{"number": "1"}', '{"number": 1.5}', "[]", '"x"', "null", '{"number":null}'])
async def test_params_that_do_not_fit_end_the_job(start_worker: StartWorker, office: Office, params: str) -> None:
    await start_worker()
    row = await office.end(await office.submit("double", params))
    assert (row["state"], row["error_code"], row["attempt"]) == ("FAILED", "PARAMS_INVALID", 1)
    assert "number" in row["error"] or "object" in row["error"].lower()


async def test_a_result_of_another_type_ends_the_job(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    jobs = [await office.submit("wrong-result"), await office.submit("no-file")]
    rows = [await office.end(job) for job in jobs]
    assert [(row["state"], row["error_code"]) for row in rows] == [("FAILED", "RESULT_INVALID")] * 2


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "SIGSEGV"), (-7, "exit code 7"), (int(signal.SIGKILL), "SIGKILL")],
    ids=["segfault", "exit", "kill"],
)
async def test_a_child_that_dies_fails_its_job_alone(
    start_worker: StartWorker, office: Office, number: int, words: str
) -> None:
    await start_worker()
    job = await office.submit("die", {"number": number}, max_attempts=1)
    bystander = await office.submit("sleep", {"number": 1})
    row = await office.end(job)
    assert (row["state"], row["error_code"]) == ("FAILED", "CHILD_DIED")
    assert words in row["error"]
    assert (await office.end(bystander))["state"] == "SUCCESS"
    assert (await office.row(bystander))["attempt"] == 1


async def test_leaving_is_an_error_and_the_child_goes_on(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    row = await office.end(await office.submit("leave", max_attempts=1))
    assert (row["error_code"], row["error"]) == ("JOB_ERROR", "SystemExit: goodbye")


@pytest.mark.parametrize("type_", ["slow", "sleep-in-a-thread", "sleep-async"], ids=["process", "thread", "async"])
async def test_a_timeout_ends_the_attempt_and_what_it_ran_in(
    start_worker: StartWorker, office: Office, type_: str
) -> None:
    worker = await start_worker()
    params = {} if type_ == "slow" else {"number": 600}
    row = await office.end(await office.submit(type_, params, max_attempts=1, timeout_seconds=0.5))
    assert (row["state"], row["error_code"]) == ("FAILED", "TIMEOUT")
    assert await office.result(await office.submit("which-process")) in worker.children()


async def test_a_timeout_is_tried_again(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    row = await office.end(await office.submit("slow", max_attempts=2, timeout_seconds=0.3))
    assert (row["error_code"], row["attempt"]) == ("TIMEOUT", 2)


async def test_two_artifacts_and_a_large_one_in_s3(
    start_worker: StartWorker, office: Office, emulator: Emulator
) -> None:
    worker = await start_worker()
    size = 2**20
    job = await office.submit("artifacts", {"number": size})
    assert await office.result(job) == {"number": size}
    main, big, result = await office.artifacts(job)
    assert (main.name, main.content, main.object_key) == ("main.html", b"<p>hello</p>", None)
    assert result.name == "result.json"
    content = bytes(range(256)) * (size // 256)
    assert (big.size, big.sha256, big.content) == (size, hashlib.sha256(content).hexdigest(), None)
    assert big.object_key == f"default/{job}/1/1-big 届け.bin"
    client = boto3.client("s3", endpoint_url=emulator.url, region_name=REGION)
    assert client.get_object(Bucket=emulator.places.bucket, Key=big.object_key)["Body"].read() == content
    client.close()
    await until(lambda: not worker.leftovers())


async def test_a_large_result_without_a_bucket_ends_the_job(start_worker: StartWorker, office: Office) -> None:
    await start_worker(s3_bucket="")
    row = await office.end(await office.submit("artifacts", {"number": 2**20}))
    assert (row["state"], row["error_code"]) == ("FAILED", "RESULT_TOO_LARGE")
    assert "TODOKE_S3_BUCKET" in row["error"]


async def test_a_result_waits_for_s3_and_nobody_is_charged(
    start_worker: StartWorker, office: Office, emulator: Emulator
) -> None:
    bucket = f"not-there-{secrets.token_hex(6)}"
    await start_worker(s3_bucket=bucket)
    job = await office.submit("artifacts", {"number": 2**20})
    row = await office.when(job, lambda row: row["error_code"] is not None)
    assert (row["state"], row["error_code"], row["failures"]) == ("PROCESSING", "RESULT_UPLOAD_FAILED", 0)
    assert row["due_at"] > row["updated_at"]
    assert await office.artifacts(job) == []
    client = boto3.client("s3", endpoint_url=emulator.url, region_name=REGION)
    client.create_bucket(Bucket=bucket)
    await office.database.fetch("UPDATE job SET due_at = now(), redispatch_at = now()")
    row = await office.end(job)
    assert (row["state"], row["attempt"], row["failures"], row["losses"]) == ("SUCCESS", 2, 0, 0)
    [key] = [artifact.object_key for artifact in await office.artifacts(job) if artifact.object_key]
    assert client.head_object(Bucket=bucket, Key=key)["ContentLength"] == 2**20
    client.close()


async def test_names_that_could_escape_are_refused(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    job = await office.submit("bad-names")
    assert len(await office.result(job)) == 12
    assert [artifact.name for artifact in await office.artifacts(job)] == ["twice", "result.json"]


async def test_progress_reaches_the_row_and_never_falls(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    job = await office.submit("progress")
    seen: list[float] = []
    row = await office.row(job)
    while row["state"] not in ("SUCCESS", "FAILED"):
        seen.append(row["progress_percent"] or 0)
        row = await office.row(job)
    assert await office.result(job) < 1.5
    assert seen == sorted(seen)
    assert any(0 < percent <= 100 for percent in seen)
    assert (row["progress_percent"], row["progress_message"]) == (100, "x" * 199 + "…")
    assert 2 <= row["progress_version"] <= 8


async def test_progress_that_is_no_number_is_refused(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    row = await office.end(await office.submit("no-number", max_attempts=1))
    assert (row["error_code"], row["error"]) == ("JOB_ERROR", "ValueError: progress: percent is not a number")


async def test_job_code_sees_its_own_tenants_activity(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    await office.submit("double", {"number": 1}, tenant_id="another")
    await office.end(await office.submit("double", {"number": 1}))
    assert await office.result(await office.submit("activity")) == 2


async def test_a_job_with_very_large_params_runs(start_worker: StartWorker, office: Office) -> None:
    await start_worker()
    row = await office.end(await office.submit("double", {"number": "9" * 12_000_000}))
    assert row["error_code"] == "PARAMS_INVALID"
    assert len(row["error"]) < 300
