"""Job code is kept apart: what it can see, what it can spoil, and what is left when somebody dies."""

from pathlib import Path

from tests.worker.conftest import Office, StartWorker, is_alive, until
from todoke.runtime.settings import Settings


async def test_job_code_finds_no_secret(start_worker: StartWorker, office: Office, settings: Settings) -> None:
    await start_worker()
    found = await office.result(await office.submit("spy"))
    text = repr(found)
    assert "PATH" in found["environ"]
    assert settings.signing_secret is not None
    secrets = [
        settings.database_url.get_secret_value(),
        settings.database_url.get_secret_value().split("@")[0].rsplit(":", 1)[1],
        settings.signing_secret.get_secret_value(),
        "AWS_",
        "DATABASE_URL",
        "TODOKE_",
        "SECRET_OF_THE_WORKER",
        "hunter2",
    ]
    assert [secret for secret in secrets if secret in text] == []
    assert "socket" not in found["descriptors"].replace("socket_path", "")


async def test_what_job_code_prints_goes_to_the_log(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    job = await office.submit("talk")
    assert await office.result(job) == ""
    assert await office.result(await office.submit("double", {"number": 1})) == {"number": 2}
    await until(lambda: any(line["text"] == "more words" for line in worker.logged("job.output")))
    [said] = [line for line in worker.logged("job.output") if line["text"] == "words of a job"]
    assert said["job_id"] == str(job)
    assert not worker.logged("not json")


async def test_a_warm_child_is_used_again(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    before = worker.children()
    for number in range(3):
        await office.result(await office.submit("double", {"number": number}))
    assert worker.children() == before


async def test_a_killed_supervisor_leaves_nobody_behind(start_worker: StartWorker, office: Office) -> None:
    worker = await start_worker()
    jobs = [
        await office.submit("sleep-in-a-thread", {"number": 600}, timeout_seconds=900.0),
        await office.submit("sleep", {"number": 600}, timeout_seconds=900.0),
    ]
    for job in jobs:
        await office.when(job, lambda row: row["state"] == "PROCESSING")
    children = worker.children()
    # Two that run job code, each below its warden.
    assert len(children) == 4
    worker.process.kill()
    await until(lambda: not any(map(is_alive, children)), seconds=2)


async def test_what_job_code_started_ends_with_its_attempt(
    start_worker: StartWorker, office: Office, tmp_path: Path
) -> None:
    await start_worker()
    path = tmp_path / "pid"
    row = await office.end(await office.submit("spawn", {"path": str(path)}, max_attempts=1, timeout_seconds=0.7))
    assert row["error_code"] == "TIMEOUT"
    await until(lambda: not is_alive(int(path.read_text())))


async def test_job_modules_that_do_not_load_stop_the_worker(start_worker: StartWorker) -> None:
    worker = await start_worker(is_ready=False, jobs=("no_such_module",))
    assert await worker.ended() == 2
    assert "ModuleNotFoundError" in worker.lines[-1]["text"]
