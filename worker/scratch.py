"""The folder in which attempts leave their files; gone with its worker, even one that was killed."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "todoke-worker-"
LOCK = "lock"
# A folder this young may belong to a worker that is just about to lock it.
YOUNG_SECONDS = 60.0


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A new folder, locked while its worker lives. Folders of workers that were killed are removed first."""
    for abandoned in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
        _remove_abandoned(abandoned)
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # The kernel unlocks it when we end, however that happens; children do not inherit it.
        with (folder / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder


def _remove_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        if time.time() - os.fstat(lock).st_mtime > YOUNG_SECONDS:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        return
    finally:
        os.close(lock)
