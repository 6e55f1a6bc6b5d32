"""The launcher of the embedded PostgreSQL: starts, stops, crashes and refusals."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from todoke.dev import leftovers
from todoke.dev.binaries import find_binaries, major_version
from todoke.dev.child import wait_until
from todoke.dev.postgres import Postgres, choose_rights
from todoke.model.errors import Refused, Unavailable


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Postgres]:
    with Postgres(tmp_path / "with a space" / "postgres", "pass/word@:", durable=False) as server:
        yield server


def ask(url: str, statement: str) -> Any:
    async def once() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(once())


def test_a_fresh_one_is_postgresql_18_with_our_database(server: Postgres) -> None:
    assert ask(server.url, "SELECT current_setting('server_version_num')::int / 10000") == 18
    assert ask(server.url, "SELECT current_database()") == "todoke"
    assert ask(server.url, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(server.url, "SHOW unix_socket_directories") == ""


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_rows_survive_its_end(server: Postgres, end: str) -> None:
    port = server.port
    ask(server.url, "CREATE TABLE kept AS SELECT 7 AS number")
    getattr(server, end)()
    assert server.child.pid is None
    server.start()
    assert server.port == port
    assert ask(server.url, "SELECT number FROM kept") == 7


def test_a_crash_leaves_no_server_process_behind(server: Postgres) -> None:
    pid = server.child.pid
    assert pid is not None
    family = leftovers.standing_in(server.folder, "postgres")
    assert pid in family
    assert len(family) > 1
    os.kill(pid, signal.SIGKILL)
    assert wait_until(server.child.exited, 5)
    server.start()
    assert not family & leftovers.standing_in(server.folder, "postgres")


def test_a_stopped_process_of_a_crashed_server_does_not_block_the_next(server: Postgres) -> None:
    pid = server.child.pid
    assert pid is not None
    helper = min(leftovers.standing_in(server.folder, "postgres") - {pid})
    os.kill(helper, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    assert wait_until(server.child.exited, 5)
    server.start()
    assert ask(server.url, "SELECT 1") == 1


def test_a_lock_file_with_a_strangers_process_id_does_not_block(server: Postgres) -> None:
    server.kill()
    lock = server.folder / "postmaster.pid"
    lock.write_text(lock.read_text().replace(lock.read_text().split()[0], str(os.getppid()), 1))
    server.start()
    assert ask(server.url, "SELECT 1") == 1


def test_the_password_is_asked_for(server: Postgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        ask(server.url.replace("pass%2Fword", "wrong"), "SELECT 1")
    assert "trust" not in [
        line.split()[-1]
        for line in (server.folder / "pg_hba.conf").read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]


def test_a_second_server_on_the_folder_is_refused(server: Postgres) -> None:
    with pytest.raises(Refused, match="another PostgreSQL runs on"):
        Postgres(server.folder, server.password, durable=False).start()
    assert ask(server.url, "SELECT 1") == 1


def test_who_owns_the_state_folder_takes_a_leftover_over(server: Postgres) -> None:
    heir = Postgres(server.folder, server.password, durable=False)
    heir.take_over()
    assert wait_until(server.child.exited, 5)
    with heir:
        assert ask(heir.url, "SELECT 1") == 1


def test_durability_is_relaxed_only_on_demand(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres", "secret") as server:
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert ask(server.url, f"SHOW {name}") == "on"


def test_an_interrupted_creation_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "postgres.new").mkdir()
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    with Postgres(tmp_path / "postgres", "secret", durable=False) as server:
        assert ask(server.url, "SELECT 1") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["postgres", "postgres.log"]


def test_another_versions_data_is_refused_in_words(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    folder.mkdir()
    (folder / "PG_VERSION").write_text("15\n")
    with pytest.raises(Refused, match=r"made by PostgreSQL 15.*is PostgreSQL 18.*TODOKE_PG_BIN"):
        Postgres(folder, "secret").start()


def test_a_folder_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(Refused, match="holds no PostgreSQL data"):
        Postgres(tmp_path, "secret").start()


def test_a_server_that_cannot_start_says_why(server: Postgres) -> None:
    server.stop()
    with (server.folder / "postgresql.conf").open("a") as file:
        file.write("no_such_setting = 1\n")
    with pytest.raises(Unavailable, match="no_such_setting"):
        server.start()


def test_root_gets_a_server_under_another_user_in_either_way(tmp_path: Path) -> None:
    ways = ["mapped", "nobody"] if os.geteuid() == 0 else ["same"]
    home = tmp_path.resolve()
    home.chmod(0o755)
    for folder in home.parents:
        if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
            folder.chmod(folder.stat().st_mode | 0o011)
    for rights in ways:
        with Postgres(tmp_path / "postgres", "secret", durable=False, rights=rights) as server:
            assert ask(server.url, "SELECT 1") == 1
    assert choose_rights() in ways


def test_the_setting_comes_first_and_must_be_right(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="TODOKE_PG_BIN"):
        find_binaries(tmp_path)
    assert find_binaries(find_binaries()) == find_binaries()
    assert major_version(find_binaries()) == 18
