"""The state folder of `todoke dev`: one owner at a time, its secrets, and dev.json that tells others."""

import base64
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from todoke.model.errors import Refused


@dataclass(frozen=True)
class Secrets:
    """Made once per state folder: the database password, the key that signs webhooks (`whsec_…`), the key of tickets.

    api_key: the desk's first API key (`tdk_…`), once keys were required.
    """

    database_password: str
    signing_secret: str
    secret_keys: str
    api_key: str | None = None

    @classmethod
    def fresh(cls) -> Self:
        """New random ones, 24 and twice 32 bytes."""
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        return cls(secrets.token_urlsafe(24), f"whsec_{key}", secrets.token_urlsafe(32))


class StateFolder:
    """DIR, locked from `claim` to `release`. Files that hold a secret are 0600 and replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.postgres = self.path / "postgres"
        self.aws = self.path / "aws"
        self.logs = self.path / "logs"
        self._public = self.path / "dev.json"
        self._secrets = self.path / "secrets.json"
        self._lock_file = self.path / "lock"
        self._lock: int | None = None

    def claim(self) -> None:
        """Make the folder if need be and become its owner. Raises Refused when another run owns it."""
        try:
            self._make()
            lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Refused(f"state folder {self.path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 1000).decode(errors="replace").strip() or "a todoke that is just starting"
            os.close(lock)
            raise Refused(f"state folder {self.path} is in use by {owner}; stop it, or pass another --state") from None
        self._lock = lock
        self._introduce(f"process {os.getpid()}")
        self.withdraw()

    def release(self) -> None:
        """Give the folder up."""
        if self._lock is None:
            return
        os.ftruncate(self._lock, 0)
        os.close(self._lock)
        self._lock = None

    def secrets(self) -> Secrets:
        """The folder's secrets, made on first use. Raises Refused when the file is gone or damaged."""
        try:
            return self._completed(json.loads(self._secrets.read_text(encoding="utf-8")))
        except FileNotFoundError:
            if self.postgres.exists():
                raise Refused(
                    f"{self._secrets} is gone, and with it the password of {self.postgres};"
                    " put it back, or use another state folder"
                ) from None
        except (ValueError, TypeError) as error:
            raise Refused(f"{self._secrets} is damaged ({error}); put it right, or use another state folder") from None
        made = Secrets.fresh()
        _replace(self._secrets, asdict(made))
        return made

    def keep_api_key(self, text: str) -> None:
        """Remember the desk's API key."""
        _replace(self._secrets, asdict(replace(self.secrets(), api_key=text)))

    def publish(self, facts: Mapping[str, Any]) -> None:
        """Replace dev.json."""
        self._introduce(f"process {os.getpid()} at {facts['url']}")
        _replace(self._public, facts)

    def withdraw(self) -> None:
        """Remove dev.json: nothing it says is true any more."""
        self._public.unlink(missing_ok=True)

    def _completed(self, kept: dict[str, Any]) -> Secrets:
        """What an earlier version kept, and what it did not know yet."""
        if "secret_keys" in kept or not kept:
            return Secrets(**kept)
        found = Secrets(**kept, secret_keys=Secrets.fresh().secret_keys)
        _replace(self._secrets, asdict(found))
        return found

    def _make(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A folder with other things in it is somebody's; closing it to others is not for us to do.
        if self._lock_file.exists() or not any(self.path.iterdir()):
            with contextlib.suppress(PermissionError):
                self.path.chmod(0o700)
        self.logs.mkdir(exist_ok=True, mode=0o700)

    def _introduce(self, words: str) -> None:
        if self._lock is not None:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, words.encode(), 0)


def _replace(path: Path, content: Mapping[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
