"""The state folder, the sockets, and what children are told."""

import dataclasses
import json
import os
import stat
from pathlib import Path

import pytest

from todoke.dev.aws import Places
from todoke.dev.environment import child_environment, refuse_open_doors
from todoke.dev.ports import free_port, listen
from todoke.dev.state import Secrets, StateFolder
from todoke.model.errors import Refused


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_closed_to_others_and_so_are_its_files(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.claim()
    folder.secrets()
    folder.publish({"url": "http://127.0.0.1:1"})
    assert mode(folder.path) == 0o700
    assert {mode(folder.path / name) for name in ("dev.json", "secrets.json", "lock")} == {0o600}
    folder.release()


def test_a_folder_with_other_things_in_it_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "letters.txt").write_text("dear")
    folder = StateFolder(tmp_path)
    folder.claim()
    assert mode(tmp_path) == 0o755
    folder.release()


def test_only_one_owner_at_a_time_and_the_other_is_named(tmp_path: Path) -> None:
    first, second = StateFolder(tmp_path), StateFolder(tmp_path)
    first.claim()
    first.publish({"url": "http://127.0.0.1:4711"})
    with pytest.raises(Refused, match=rf"process {os.getpid()} at http://127\.0\.0\.1:4711"):
        second.claim()
    first.release()
    second.claim()
    assert not (tmp_path / "dev.json").exists()
    second.release()


def test_secrets_are_made_once(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.claim()
    made = folder.secrets()
    assert made.signing_secret.startswith("whsec_")
    assert folder.secrets() == made
    folder.release()


def test_what_an_earlier_version_kept_is_kept_and_completed(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.claim()
    earlier = {"database_password": "p", "signing_secret": "whsec_x"}
    (tmp_path / "secrets.json").write_text(json.dumps(earlier))
    found = folder.secrets()
    assert (found.database_password, found.signing_secret, found.api_key) == ("p", "whsec_x", None)
    assert len(found.secret_keys) >= 32
    assert folder.secrets() == found
    folder.keep_api_key("tdk_1_2")
    assert folder.secrets() == dataclasses.replace(found, api_key="tdk_1_2")
    assert mode(tmp_path / "secrets.json") == 0o600
    folder.release()


def test_lost_secrets_of_existing_data_are_told(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.claim()
    folder.postgres.mkdir()
    with pytest.raises(Refused, match="put it back"):
        folder.secrets()
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(Refused, match="damaged"):
        folder.secrets()
    folder.release()


def test_dev_json_is_replaced_not_rewritten(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.claim()
    folder.publish({"url": "a"})
    with (tmp_path / "dev.json").open() as reader:
        folder.publish({"url": "b"})
        assert json.load(reader) == {"url": "a"}
    assert json.loads((tmp_path / "dev.json").read_text()) == {"url": "b"}
    folder.release()


def test_a_port_in_use_is_refused_in_words() -> None:
    with listen(0) as taken, pytest.raises(Refused, match="--port 0"):
        listen(taken.getsockname()[1])
    with listen(free_port()) as socket:
        assert socket.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "variables", [{"TODOKE_HOST": "0.0.0.0"}, {"TODOKE_HOST": "::"}, {"TODOKE_PUBLIC_URL": "https://jobs.example.com"}]
)
def test_a_desk_that_others_could_reach_is_refused(variables: dict[str, str]) -> None:
    with pytest.raises(Refused, match="this machine only"):
        refuse_open_doors(variables)


def test_children_get_the_callers_settings_under_those_of_the_stack() -> None:
    refuse_open_doors({"TODOKE_HOST": "localhost"})
    caller = {
        "TODOKE_LEASE_SECONDS": "2",
        "TODOKE_PORT": "1",
        "TODOKE_DESK_MODE": "false",
        "TODOKE_LISTEN_DATABASE_URL": "postgresql://elsewhere/x",
        "AWS_PROFILE": "company",
        "DATABASE_URL": "postgresql://elsewhere/x",
        "HTTP_PROXY": "http://proxy.example.com",
        "NO_PROXY": "intranet",
    }
    found = child_environment(
        caller,
        state=Path("/state"),
        port=8080,
        database_url="postgresql://here/todoke",
        aws_url="http://127.0.0.1:2",
        places=Places("queue", "dead", "bucket"),
        secrets=Secrets("password", "whsec_x", "x" * 32),
        require_keys=True,
    )
    assert found["TODOKE_LEASE_SECONDS"] == "2"
    assert (found["TODOKE_PORT"], found["TODOKE_DESK_MODE"], found["TODOKE_HOST"]) == ("8080", "true", "127.0.0.1")
    assert found["DATABASE_URL"] == "postgresql://here/todoke"
    assert (found["TODOKE_SECRET_KEYS"], found["TODOKE_REQUIRE_KEYS"]) == ("x" * 32, "true")
    assert "AWS_PROFILE" not in found
    assert "TODOKE_LISTEN_DATABASE_URL" not in found
    assert found["NO_PROXY"] == "intranet,127.0.0.1,localhost"
