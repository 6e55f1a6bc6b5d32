"""Memory limits kept by the kernel, where it lets this worker make cgroups of its own; nothing fails where it does not.

Version 2 needs a delegated subtree (systemd: `Delegate=yes`), version 1 a writable memory hierarchy.
"""

import asyncio
import contextlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import structlog

log = structlog.get_logger()

REMOVE_TRIES = 20
REMOVE_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Files:
    """Where one version of cgroups keeps the limit and the count of processes killed for it."""

    limit: str
    unlimited: str
    events: str


V2 = Files("memory.max", "max", "memory.events")
SWAP_LIMIT = "memory.swap.max"
V1 = Files("memory.limit_in_bytes", "-1", "memory.oom_control")


class Cgroup:
    """The group of one child and all it starts."""

    def __init__(self, path: Path, files: Files) -> None:
        self.path = path
        self._files = files

    def limit(self, memory_bytes: int) -> None:
        """Have the kernel end something of this group before it takes more; 0: let it take what it wants."""
        text = str(memory_bytes) if memory_bytes else self._files.unlimited
        with contextlib.suppress(OSError):
            (self.path / self._files.limit).write_text(text)

    def kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        with contextlib.suppress(OSError, ValueError):
            for line in (self.path / self._files.events).read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
        return 0

    async def remove(self) -> None:
        """Remove it when the last of its processes is gone."""
        for _ in range(REMOVE_TRIES):
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                await asyncio.sleep(REMOVE_PAUSE_SECONDS)
            else:
                return
        log.info("cgroup.left", path=str(self.path))


class Cgroups:
    """Makes groups below one that this worker may write to."""

    def __init__(self, base: Path, files: Files) -> None:
        self._base, self._files = base, files
        self._numbers = itertools.count(1)

    @classmethod
    def found(cls) -> Self | None:
        """Where this process may make groups that limit memory; None where it may not. Never raises."""
        try:
            groups = dict(_own_groups((Path("/proc/self/cgroup")).read_text()))
            mounts = dict(_mounts(Path("/proc/self/mountinfo").read_text()))
        except OSError:
            return None
        for version, files in (("", V2), ("memory", V1)):
            if version in groups and version in mounts:
                base = mounts[version] / groups[version].lstrip("/")
                if _delegates(base, files):
                    clear_away(base)
                    return cls(base, files)
        return None

    def new(self) -> Cgroup | None:
        """A group of its own for one child."""
        path = self._base / f"todoke-{os.getpid()}-{next(self._numbers)}"
        try:
            path.mkdir()
        except OSError as error:
            log.info("cgroup.refused", path=str(path), reason=str(error))
            return None
        # Beyond its limit a job is to end, not to crawl.
        with contextlib.suppress(OSError):
            (path / SWAP_LIMIT).write_text("0")
        return Cgroup(path, self._files)


def clear_away(base: Path) -> None:
    """Remove the groups of workers that were killed before they could."""
    for path in base.glob("todoke-*-*"):
        pid = path.name.split("-")[1]
        # The groups of one that lives may be empty and about to be used; one that is in use cannot be removed.
        if pid.isdecimal() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                path.rmdir()


def _delegates(base: Path, files: Files) -> bool:
    """Whether a group made here has a limit of memory that we may set."""
    probe = base / f"todoke-{os.getpid()}-probe"
    try:
        if files is V2:
            _hand_down(base)
        probe.mkdir()
        try:
            (probe / files.limit).write_text(files.unlimited)
            return "oom_kill " in (probe / files.events).read_text()
        finally:
            probe.rmdir()
    except OSError:
        return False


def _hand_down(base: Path) -> None:
    """Version 2 limits the groups below only when no process stands in the one above. Raises OSError."""
    switch = base / "cgroup.subtree_control"
    if "memory" in switch.read_text().split():
        return
    if "memory" not in (base / "cgroup.controllers").read_text().split():
        raise FileNotFoundError("no memory controller here")
    try:
        switch.write_text("+memory")
    except OSError:
        aside = base / f"todoke-{os.getpid()}-supervisor"
        aside.mkdir()
        (aside / "cgroup.procs").write_text("0")
        try:
            switch.write_text("+memory")
        except OSError:
            # Somebody else stands here too.
            (base / "cgroup.procs").write_text("0")
            aside.rmdir()
            raise


def _own_groups(text: str) -> list[tuple[str, str]]:
    """Lines of /proc/self/cgroup: controllers ("" for version 2), path."""
    found = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found += [(controller, path) for controller in controllers.split(",")]
    return found


def _mounts(text: str) -> list[tuple[str, Path]]:
    """Where the hierarchies of /proc/self/mountinfo are mounted whole, by the name of _own_groups."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        root, place = before.split()[3:5]
        kind, _, options = after.split()[:3]
        if root == "/" and kind == "cgroup2":
            found.append(("", Path(place)))
        elif root == "/" and kind == "cgroup":
            found += [(option, Path(place)) for option in options.split(",")]
    return found
