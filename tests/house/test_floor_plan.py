"""The shape of the house: who may import whom, how long things may be, where SQL and the environment may stand."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = ("todoke", "service", "worker", "notifier")
LINES_MAX = 400
FUNCTION_LINES_MAX = 50
SLEEP_SECONDS_MAX = 0.05
MIGRATIONS = "todoke/store/migrations/"

# Everything else takes its settings as arguments.
ENVIRONMENT_READERS = {
    "todoke/runtime/settings.py": "the one reader",
    "todoke/dev/": "starts the desk's child processes and decides what they find",
    "worker/program.py": "starts job code and hands it an allow-list",
}
SQL_CHANGES = re.compile(r"\b(INSERT\s+INTO|DELETE\s+FROM|UPDATE\s+\w+(\s+AS\s+\w+)?\s+SET)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.])/(home|root|work|Users|mnt)/[\w.-]")
REGISTRY_HOSTS = re.compile(r"(pypi\.org|pythonhosted|registry\.npmjs|index-url|proxy\.golang)", re.IGNORECASE)

SOURCES = sorted(path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
TESTS = sorted((REPOSITORY / "tests").rglob("*.py"))
QUERIES = sorted((REPOSITORY / "todoke/store/queries").glob("*.sql"))


def test_the_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    run = subprocess.run(
        [program, "--no-cache"], cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_files_and_functions_are_short() -> None:
    for path in [*SOURCES, REPOSITORY / "dev.py"]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= LINES_MAX, f"{_name(path)}: {text.count(chr(10))} lines"
        if _name(path).startswith(MIGRATIONS):
            continue  # a list of columns, read once and never changed
        for node in _functions(text):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{_name(path)}:{node.lineno} {node.name}: {length} lines"


def test_packages_do_nothing_when_imported() -> None:
    folders = {path.parent for path in SOURCES}
    for folder in folders - {REPOSITORY / "todoke/store/migrations", REPOSITORY / "todoke/store/migrations/versions"}:
        assert (folder / "__init__.py").is_file(), f"{_name(folder)} has no __init__.py"
        assert not (folder / "__init__.py").read_text(), f"{_name(folder)}/__init__.py is not empty"


def test_tests_are_no_package() -> None:
    assert not [path for path in TESTS if path.name == "__init__.py"]


def test_every_module_says_what_it_is_for() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not text or ast.get_docstring(ast.parse(text)), f"{_name(path)} has no docstring"


def test_the_environment_is_read_in_one_place() -> None:
    for path in SOURCES:
        found = [
            node.lineno for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if _reads_environment(node)
        ]
        allowed = any(_name(path).startswith(place) for place in ENVIRONMENT_READERS)
        assert allowed or not found, f"{_name(path)}:{found}: take a setting instead"


def test_exceptions_are_needed() -> None:
    for place in ENVIRONMENT_READERS:
        texts = [path.read_text(encoding="utf-8") for path in SOURCES if _name(path).startswith(place)]
        assert any("os.environ" in text for text in texts), place


def test_sql_that_changes_rows_stands_in_the_store() -> None:
    for path in SOURCES:
        if _name(path).startswith(MIGRATIONS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not SQL_CHANGES.search(node.value), f"{_name(path)}:{node.lineno}: belongs in a named query"


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_named_queries_and_their_users_match(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"^-- (\w+): .+$", text, re.MULTILINE)
    assert len(named) == len(set(named))
    users = [source for source in SOURCES if f'queries("{path.stem}")' in source.read_text(encoding="utf-8")]
    used = {name for source in users for name in _query_names(source)}
    assert used == set(named)


def test_tests_do_not_sleep_and_hope() -> None:
    # What a *_jobs.py holds is job code: being slow is what it is for.
    for path in (path for path in TESTS if not path.name.endswith("_jobs.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("time.sleep", "sleep"):
                seconds = node.args[0]
                known = isinstance(seconds, ast.Constant) and isinstance(seconds.value, int | float)
                assert known, f"{_name(path)}:{node.lineno}: sleeps for a time that cannot be read here"
                assert seconds.value <= SLEEP_SECONDS_MAX, f"{_name(path)}:{node.lineno}: wait for a sign instead"  # type: ignore[attr-defined]


def test_nothing_names_the_machine_it_was_written_on() -> None:
    for path in _tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for pattern in (MACHINE_PATHS, REGISTRY_HOSTS):
            found = pattern.search(text)
            assert found is None or path == Path(__file__), f"{_name(path)}: {found and found[0]}"


def test_the_ground_plan_is_fixed() -> None:
    """A new name at the top is a decision, not an accident."""
    allowed = {*PACKAGES, "tests", "benchmarks", "docs", "dev.py", "compose.yaml", "Dockerfile", "pyproject.toml"}
    allowed |= {"constraints.txt", "README.md", "README.ja.md", "LICENSE"}
    found = {path.relative_to(REPOSITORY).parts[0] for path in _tracked()}
    assert {name for name in found if not name.startswith(".")} <= allowed


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _reads_environment(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")


def _query_names(source: Path) -> set[str]:
    """`SQL["name"]`, and the first argument of the ledger's own helpers."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if (
            isinstance(node, ast.Subscript)
            and ast.unparse(node.value) == "SQL"
            and isinstance(node.slice, ast.Constant)
        ):
            names.add(str(node.slice.value))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("self._run",):
            first = node.args[0]
            assert isinstance(first, ast.Constant), f"{_name(source)}:{node.lineno}: name the query where it is used"
            names.add(str(first.value))
    return names


def _tracked() -> list[Path]:
    """What git knows or would know; where it does not answer, what a source archive holds."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git"):
        listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if listed.returncode == 0:
            return [path for line in listed.stdout.splitlines() if (path := REPOSITORY / line).is_file()]
    return [path for path in REPOSITORY.rglob("*") if path.is_file() and not _is_made(path)]


def _is_made(path: Path) -> bool:
    parts = path.relative_to(REPOSITORY).parts
    return any(part.startswith(".") or part in ("__pycache__", "out", "dist") for part in parts)
