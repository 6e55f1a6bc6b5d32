"""A file that remembers a cursor. It is replaced whole, so a kill leaves the old one or the new one."""

import json
import os
from pathlib import Path

from todoke.model.errors import InvalidInput


class StateFile:
    """Only this process writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        """The cursor, or None when there is no file yet. Raises InvalidInput for a file that is something else."""
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return str(found["cursor"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            raise InvalidInput(f"{self._path} is no state file of `todoke webhooks listen`: name another") from None

    def write(self, cursor: str) -> None:
        """Remember it. Raises InvalidInput when the file cannot be written."""
        beside = self._path.with_name(self._path.name + ".new")
        try:
            beside.write_text(json.dumps({"cursor": cursor}) + "\n", encoding="utf-8")
            os.replace(beside, self._path)
        except OSError as error:
            raise InvalidInput(f"{self._path} cannot be written: {error.strerror}") from None
