"""Our own small launcher for PostgreSQL: a direct child, TCP on loopback, password asked for, nothing relaxed."""

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import quote

from todoke.dev import leftovers
from todoke.dev.binaries import find_binaries, major_version
from todoke.dev.child import Child, through_launch, wait_until
from todoke.dev.launch import NOBODY
from todoke.dev.ports import LOOPBACK, free_port
from todoke.model.errors import Refused, Unavailable

USER = "postgres"
DATABASE = "todoke"
START_SECONDS = 60
KEPT_VARIABLES = ("PATH", "HOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
# Fast shutdown, then immediate: the next start recovers from the log either way.
STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 3.0))


class Postgres:
    """One server on one data folder: `start`, `stop`, `kill`, and start again on the same port.

    `durable=False` switches fsync off, for tests alone. `rights` is chosen by itself: see `choose_rights`.
    Also usable as a context manager.
    """

    def __init__(
        self,
        folder: Path,
        password: str,
        *,
        binaries: Path | None = None,
        log: Path | None = None,
        durable: bool = True,
        rights: str | None = None,
        marks: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.password = password
        self.binaries = binaries or find_binaries()
        self.port = free_port()
        self._durable = durable
        self._environment = _small_environment() | dict(marks or {})
        self.child = Child(
            "postgres",
            self._server_command(),
            self._environment,
            log or self.folder.with_name("postgres.log"),
            rights=rights or choose_rights(),
            last_wish=signal.SIGINT,
        )

    @property
    def url(self) -> str:
        """`postgresql://` URL of database `todoke`, password included."""
        return f"postgresql://{USER}:{quote(self.password, safe='')}@{LOOPBACK}:{self.port}/{DATABASE}"

    def start(self) -> None:
        """Bring it up and return when it takes connections. Raises Refused or Unavailable; then nothing runs."""
        self.prepare()
        self.child.spawn()
        if not wait_until(lambda: self.ready() or self.child.exited(), START_SECONDS) or self.child.exited():
            self.stop()
            raise Unavailable(f"PostgreSQL does not start; its last words:\n{self.child.tail()}")

    def stop(self) -> None:
        """Shut down in order, at most some 18 s."""
        self.child.stop(STOP_STEPS)

    def kill(self) -> None:
        """End the server at once, as a crash would; its own children notice and follow."""
        self.child.stop(())

    def prepare(self) -> None:
        """Make the data folder fit to be started on: created if missing, remains of a crash removed. Blocks."""
        if self.running_elsewhere():
            raise Refused(f"another PostgreSQL runs on {self.folder}; stop it first, or use another state folder")
        if not (self.folder / "PG_VERSION").exists():
            self._create()
        self._check_version()
        self._own(self.folder)
        self._remove_remains()

    def ready(self) -> bool:
        """Whether the server of this run says it takes connections."""
        lines = self._lock_lines()
        return len(lines) > 7 and lines[0].strip() == str(self.child.pid) and lines[7].strip() == "ready"

    def settle(self) -> None:
        """Nothing to do after a start: the database is made with the data folder."""

    def running_elsewhere(self) -> int | None:
        """Process id of a live server on the folder that is not our child, else None."""
        lines = self._lock_lines()
        pid = int(lines[0]) if lines and lines[0].strip().isdigit() else 0
        return pid if pid != self.child.pid and pid in leftovers.standing_in(self.folder, "postgres") else None

    def take_over(self) -> None:
        """End a server that a killed run left on the folder. Only for who holds the state folder's lock. Blocks."""
        pid = self.running_elsewhere()
        if pid is not None:
            leftovers.end({pid}, signal.SIGINT, 5.0)
        self._remove_remains()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _lock_lines(self) -> list[str]:
        try:
            return (self.folder / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []

    def _server_command(self) -> list[str]:
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if not self._durable:
            options |= {"fsync": "off", "full_page_writes": "off"}
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.folder), *flags]

    def _create(self) -> None:
        """Build the folder beside its place and move it there, so that a half-made one is never used."""
        if self.folder.exists() and any(self.folder.iterdir()):
            raise Refused(f"{self.folder} is not empty and holds no PostgreSQL data; use another state folder")
        draft = self.folder.with_name(self.folder.name + ".new")
        password_file = self.folder.with_name(self.folder.name + ".password")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        password_file.unlink(missing_ok=True)
        try:
            with os.fdopen(os.open(password_file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(self.password)
            self._own(draft)
            self._own(password_file)
            self._run([*self._initdb_command(), "-D", str(draft), f"--pwfile={password_file}"])
            self._run(
                [str(self.binaries / "postgres"), "--single", "-D", str(draft), "postgres"],
                f"CREATE DATABASE {DATABASE}\n",
            )
        finally:
            password_file.unlink(missing_ok=True)
        draft.replace(self.folder)

    def _initdb_command(self) -> list[str]:
        flags = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
        return [str(self.binaries / "initdb"), f"--username={USER}", *flags, *([] if self._durable else ["--no-sync"])]

    def _run(self, command: Sequence[str], words: str = "") -> None:
        """Run one of PostgreSQL's tools to its end. Raises Unavailable with what it said."""
        try:
            subprocess.run(
                through_launch(command, self.child.rights, signal.SIGTERM),
                input=words,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=START_SECONDS,
                check=True,
                start_new_session=True,
            )
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{Path(command[0]).name} failed:\n{error.stdout}{self._advice()}") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{Path(command[0]).name} did not end within {START_SECONDS} s") from error

    def _advice(self) -> str:
        if self.child.rights != "nobody":
            return ""
        return (
            "PostgreSQL refuses to run as root, and this system forbids user namespaces, so it ran as user nobody."
            f" That user must reach {self.binaries} and {self.folder.parent}. Otherwise run todoke as an ordinary user."
        )

    def _check_version(self) -> None:
        made_by = (self.folder / "PG_VERSION").read_text(encoding="ascii").strip()
        major = major_version(self.binaries)
        if made_by != str(major):
            raise Refused(
                f"{self.folder} was made by PostgreSQL {made_by}, and {self.binaries} is PostgreSQL {major}."
                f" Set TODOKE_PG_BIN to the bin folder of a PostgreSQL {made_by}, or use another state folder"
            )

    def _own(self, path: Path) -> None:
        """Give `path` to whoever will run the server, when that changed since it was made."""
        if os.geteuid() != 0:
            return
        owner = NOBODY if self.child.rights == "nobody" else 0
        if owner:
            # The state folder is 0700; nobody may pass through it, not look into it.
            path.parent.chmod(path.parent.stat().st_mode | 0o011)
        if path.stat().st_uid != owner:
            for item in (path, *path.rglob("*")):
                os.chown(item, owner, owner, follow_symlinks=False)

    def _remove_remains(self) -> None:
        if self.child.pid is not None or not leftovers.PROC.is_dir():
            return
        # Server processes outlive a killed postmaster while they are busy, and block the next one.
        leftovers.end(leftovers.standing_in(self.folder, "postgres"), signal.SIGQUIT, 3.0)
        # The process id in it may be a stranger's by now, which PostgreSQL takes for a live server.
        (self.folder / "postmaster.pid").unlink(missing_ok=True)


def choose_rights() -> str:
    """How to run a server that refuses root: `same` as us, `mapped` in a user namespace, else `nobody`."""
    if os.geteuid() != 0:
        return "same"
    probe = subprocess.run(through_launch(["true"], "mapped", signal.SIGTERM), capture_output=True, check=False)
    return "nobody" if probe.returncode else "mapped"


def _small_environment() -> dict[str, str]:
    # PGDATA, PGOPTIONS and their like would reach into the server.
    return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
