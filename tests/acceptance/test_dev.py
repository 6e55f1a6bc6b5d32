"""`todoke dev`: what it promises about its files, its processes and its end."""

import os
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.acceptance.conftest import Desk
from tests.acceptance.polling import finished, submit

FACTS = {
    "url", "databaseUrl", "sqsQueueUrl", "dlqUrl", "s3Bucket", "awsEndpointUrl", "awsRegion", "awsAccessKeyId",
    "awsSecretAccessKey", "notifyChannel", "signingSecret", "pids",
}  # fmt: skip


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_dev_json(desk: Desk) -> None:
    facts = desk.facts
    assert set(facts) == FACTS
    assert stat.S_IMODE((desk.state / "dev.json").stat().st_mode) == 0o600
    assert facts["databaseUrl"].startswith("postgresql://")
    assert facts["signingSecret"].startswith("whsec_")
    assert set(facts["pids"]) == {"api", "worker", "notifier", "postgres", "aws"}
    assert all(is_alive(pid) for pids in facts["pids"].values() for pid in pids)
    assert f"todoke ready {facts['url']}\n" in desk.lines


def test_a_second_instance_on_the_same_folder_refuses(desk: Desk) -> None:
    second = Desk(desk.state)
    assert second.process.wait(20) != 0
    second._reader.join(5)
    assert str(desk.process.pid) in "".join(second.lines)
    assert second.process.stdout is not None
    second.process.stdout.close()
    assert httpx.get(f"{desk.url}/readyz").status_code == 200


def test_no_part_listens_beyond_loopback(desk: Desk) -> None:
    listening = {inode: address for address, inode in _listeners()}
    own = {
        listening[inode]
        for pids in desk.facts["pids"].values()
        for pid in pids
        for inode in _sockets(pid)
        if inode in listening
    }
    assert len(own) >= 3, "the API, PostgreSQL and the emulator listen"
    assert {address.partition(":")[0] for address in own} == {"0100007F"}, "127.0.0.1 as the kernel spells it"


def _listeners() -> list[tuple[str, str]]:
    """(address in hexadecimal, inode) of every listening TCP socket of this machine."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [(fields[1], fields[9]) for fields in lines if fields[3] == "0A"]


def _sockets(pid: int) -> set[str]:
    links = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.exists() or fd.is_symlink()]
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


@pytest.mark.parametrize(("name", "value"), [("TODOKE_PUBLIC_URL", "https://x.example"), ("TODOKE_HOST", "0.0.0.0")])
def test_desk_mode_refuses_to_face_the_world(tmp_path: Path, name: str, value: str) -> None:
    desk = Desk(tmp_path / "state", **{name: value})
    assert desk.process.wait(20) != 0
    desk._reader.join(5)
    assert name in "".join(desk.lines)
    assert desk.process.stdout is not None
    desk.process.stdout.close()


def test_data_survives_a_stop_and_nothing_is_left_running(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "state").wait_ready()
    pids = [pid for pids in desk.facts["pids"].values() for pid in pids]
    with httpx.Client(base_url=desk.url) as client:
        job_id = submit(client, params={"csv": "a\n1\n"})
        before = finished(client, job_id)
    began = time.monotonic()
    assert desk.stop() == 0
    assert time.monotonic() - began < 10
    assert not [pid for pid in pids if is_alive(pid)]
    again = Desk(tmp_path / "state").wait_ready()
    try:
        with httpx.Client(base_url=again.url, follow_redirects=True) as client:
            assert finished(client, job_id) == before
            assert client.get(before["downloadUrl"]).status_code == 200
    finally:
        again.stop()


def test_every_child_that_is_killed_comes_back_and_jobs_go_on(tmp_path: Path) -> None:
    desk = Desk(
        tmp_path / "state", TODOKE_LEASE_SECONDS="2", TODOKE_SWEEP_SECONDS="0.5", TODOKE_REDISPATCH_SECONDS="1"
    ).wait_ready()
    try:
        with httpx.Client(base_url=desk.url, timeout=20) as client:
            for kind in ("worker", "notifier", "api", "aws", "postgres"):
                folder = tmp_path / kind
                folder.mkdir()
                job_id = submit(client, "/paced", params={"folder": str(folder), "steps": 2})
                (folder / "1").touch()
                until(lambda job_id=job_id: _attempt(client, job_id) >= 1)
                before = desk.facts
                os.kill(before["pids"][kind][0], signal.SIGKILL)
                until(lambda kind=kind, before=before: desk.facts["pids"][kind] != before["pids"][kind])
                (folder / "2").touch()
                assert finished(client, job_id)["status"] == "success", kind
                assert {**desk.facts, "pids": 0} == {**before, "pids": 0}, "only process ids change"
                until(lambda: client.get("/readyz").status_code == 200)
    finally:
        desk.stop()


def _attempt(client: httpx.Client, job_id: str) -> int:
    return int(client.get(f"/jobs/{job_id}").json()["attempt"])


def test_a_desk_that_asks_for_keys(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "state", "--require-keys").wait_ready()
    try:
        key = desk.facts["apiKey"]
        assert set(desk.facts) == FACTS | {"apiKey"}
        assert key not in "".join(desk.lines)
        for name in ("dev.json", "secrets.json"):
            assert stat.S_IMODE((desk.state / name).stat().st_mode) == 0o600
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=desk.url, timeout=20) as client:
            assert client.post("/generate-report").status_code == 401
            job = client.post("/generate-report", json={"params": {"csv": "a\n1\n"}}, headers=headers).json()
            assert client.get(job["statusUrl"]).status_code == 401
            watched = client.get(job["eventsUrl"])
            assert watched.text.count("event: job.succeeded") == 1
            cookie = dict(client.cookies)
            assert set(cookie) == {"todoke-stream"}
    finally:
        desk.stop()
    for log in (desk.state / "logs").iterdir():
        assert "ticket=" not in log.read_text(errors="replace"), log.name
    again = Desk(tmp_path / "state", TODOKE_REQUIRE_KEYS="true").wait_ready()
    try:
        assert again.facts["apiKey"] == key, "made once"
        with httpx.Client(base_url=again.url, timeout=20) as client:
            assert client.get(job["statusUrl"], headers=headers).status_code == 200
            assert client.get(job["eventsUrl"]).status_code == 200, "a ticket outlives a restart"
            client.cookies.clear()
            path = job["eventsUrl"].partition("?")[0]
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"Cookie": f"todoke-stream={cookie['todoke-stream']}"}).status_code == 200
    finally:
        again.stop()
    third = Desk(tmp_path / "state").wait_ready()
    try:
        assert "apiKey" not in third.facts
        stale = httpx.get(f"{third.url}{job['eventsUrl']}x", timeout=20)
        assert stale.status_code == 200, "an open desk looks at nothing"
    finally:
        third.stop()
