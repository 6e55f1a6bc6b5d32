"""What the pages say is held to the code they speak of."""

import ast
import importlib
import re
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.conftest import REPOSITORY
from todoke.jobs.catalog import load_catalog
from todoke.model.codes import Code
from todoke.model.delivery import DeliveryState
from todoke.model.errors import Fail
from todoke.model.job import State
from todoke.runtime.settings import Settings, variable_names
from todoke.store.ledger import CLAIM_LOST
from todoke.wire.signing import new_secret, signed_headers

ENGLISH = (REPOSITORY / "README.md").read_text(encoding="utf-8")
JAPANESE = (REPOSITORY / "README.ja.md").read_text(encoding="utf-8")
ERRORS = (REPOSITORY / "docs/errors.md").read_text(encoding="utf-8")
GLOSSARY = (REPOSITORY / "docs/glossary.md").read_text(encoding="utf-8")

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
UPPER = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")

# What SQL writes in the same way as an error code, and is none.
STATES = {*State, *DeliveryState}

# What the gateway answers by itself.
GATEWAY_CODES = set(re.findall(r'"code":"([A-Z_]+)"', (REPOSITORY / "docs/gateway/nginx.conf").read_text()))


def test_the_settings_table_is_what_the_settings_are() -> None:
    expected = [_setting_row(name, variable) for name, variable in variable_names().items()]
    found = _settings_rows(ENGLISH)
    assert found == expected, "the table should be:\n" + "\n".join(f"| {' | '.join(row)} |" for row in expected)


def test_the_japanese_settings_table_has_the_same_names_and_defaults() -> None:
    english, japanese = _settings_rows(ENGLISH), _settings_rows(JAPANESE)
    assert [row[0] for row in japanese] == [row[0] for row in english]
    for ours, theirs in zip(english, japanese, strict=True):
        assert theirs[1] == ours[1] or not ours[1].startswith(("`", "–")), ours[0]
        assert theirs[2], ours[0]


def test_both_readmes_have_the_same_bones() -> None:
    assert _levels(JAPANESE) == _levels(ENGLISH)
    assert _table_shapes(JAPANESE) == _table_shapes(ENGLISH)
    for pattern in (r"^- ", r"^\|[^|]*\|"):
        assert len(re.findall(pattern, JAPANESE, re.MULTILINE)) == len(re.findall(pattern, ENGLISH, re.MULTILINE))


def test_both_readmes_have_the_same_code() -> None:
    """Comments and the words of the diagram may be translated, nothing else."""
    english, japanese = list(FENCE.findall(ENGLISH)), list(FENCE.findall(JAPANESE))
    assert [kind for kind, _ in japanese] == [kind for kind, _ in english]
    for (kind, ours), (_, theirs) in zip(english, japanese, strict=True):
        if kind == "mermaid":
            assert _arrows(theirs) == _arrows(ours)
            assert re.findall("[①-⑯]", theirs) == re.findall("[①-⑯]", ours)
        elif kind == "sh":
            assert _commands(theirs) == _commands(ours)
        else:
            assert theirs == ours


def test_the_diagram_numbers_sixteen_steps() -> None:
    assert "".join(re.findall("[①-⑯]", FENCE.findall(ENGLISH)[0][1])) == "①②③④⑤⑥⑦⑧⑨⑩⑪⑫⑬⑭⑮⑯"


def test_relative_links_lead_somewhere() -> None:
    for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_files_the_tour_names_exist() -> None:
    tour = ENGLISH.partition("## A tour of the source")[2].partition("\n## ")[0]
    sources = [f"/{path.relative_to(REPOSITORY).as_posix()}" for path in _sources(".py", ".sql")]
    for name in re.findall(r"`([\w/]+\.(?:py|sql))`", tour):
        assert any(source.endswith(f"/{name}") for source in sources) or (REPOSITORY / name).is_file(), name
    for folder in re.findall(r"\*\*([\w/]+)\*\*", tour):
        assert (REPOSITORY / folder).is_dir(), folder


def test_python_blocks_compile() -> None:
    for kind, block in FENCE.findall(ENGLISH + GLOSSARY + ERRORS):
        if kind == "python":
            compile(block, "README.md", "exec", dont_inherit=True)


class Context:
    """A JobContext that remembers."""

    job_id = "0192a1b2-0000-7000-8000-000000000000"
    attempt = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[float, str]] = []
        self.attached: dict[str, bytes] = {}

    def progress(self, percent: float, message: str = "") -> None:
        self.told.append((percent, message))

    def attach(self, name: str, content: bytes, media_type: str) -> None:
        self.attached[name] = content


@pytest.fixture
def count_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The job type of the README, loaded as a user's module is."""
    [source] = [block for kind, block in FENCE.findall(ENGLISH) if kind == "python" and "@job(" in block]
    (tmp_path / "count_words.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield load_catalog(["count_words"])["count-words"]
    sys.modules.pop("count_words")


def test_the_job_of_the_readme_runs(count_words: Any, tmp_path: Path) -> None:
    context = Context(tmp_path)
    params = count_words.params.model_validate_json('{"text": "to be or not to be"}', strict=True)
    answer = count_words(params, context)
    assert count_words.result.dump_python(answer) == {"words": 6, "distinct": 4}
    assert context.attached == {"words.txt": b"be\nnot\nor\nto"}
    assert context.told == [(50, "listing the words")]
    assert count_words.summary == "Count the words of a text and list them."
    with pytest.raises(Fail, match="no words"):
        count_words(count_words.params(text=" "), context)


def test_the_webhook_example_verifies() -> None:
    [source] = [block for kind, block in FENCE.findall(ENGLISH) if "standardwebhooks" in block and kind == "python"]
    scope: dict[str, Any] = {}
    exec(compile(source, "README.md", "exec", dont_inherit=True), scope)
    assert scope["Webhook"] is Webhook
    secret, body = new_secret(), b'{"type":"job.succeeded"}'
    headers = signed_headers(secret, "evt_1_3", int(time.time()), body)
    assert scope["receive"](secret, headers, body) == {"type": "job.succeeded"}
    assert scope["receive"](secret, headers, body + b" ") is None


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    groups = {"Run time": project["project"]["dependencies"], **project["project"]["optional-dependencies"]}
    page = (REPOSITORY / "docs/dependencies.md").read_text(encoding="utf-8")
    for title, requirements in groups.items():
        section = re.search(rf"^## {title}\b.*?$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL | re.IGNORECASE)
        assert section, f"no section {title}"
        named = re.findall(r"^- `([\w.-]+)`: \S", section[1], re.MULTILINE)
        assert named == sorted(re.match(r"[\w.-]+", requirement)[0] for requirement in requirements)  # type: ignore[index]


def test_the_list_of_problem_codes_is_closed_and_documented() -> None:
    """The list, the page, and what is raised anywhere are the same; no code is written as plain text."""
    assert _documented("Problems") == set(Code)
    assert set(_problem_codes()) == set(Code)
    assert set(Code) >= GATEWAY_CODES
    for path in _sources(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                assert not any(isinstance(arg, ast.Constant) for arg in node.args[1:2]), f"{path.name}:{node.lineno}"


async def test_codes_that_frameworks_cause(api: httpx.AsyncClient) -> None:
    answers = [await api.get("/nothing-here"), await api.delete("/jobs/x"), await api.get("/generate-report")]
    codes = {answer.json()["code"] for answer in answers}
    assert codes == {Code.NOT_FOUND, Code.METHOD_NOT_ALLOWED}


def test_every_error_code_of_a_job_is_documented() -> None:
    assert _documented("Error codes of a job") == set(_service_error_codes())
    assert _documented("Error codes of generate-report") == set(_raised_by_reports())


def test_the_glossary_has_the_words_of_the_design() -> None:
    words = re.findall(r"^- \*\*([^*]+)\*\*: [^\n]+\.$", GLOSSARY, re.MULTILINE)
    assert len(words) == len(set(words)) == len(re.findall(r"^- ", GLOSSARY, re.MULTILINE))
    assert words == sorted(words, key=str.lower)
    expected = (
        "job, job type, params, attempt, lease, hint, sequence, epoch, event, cursor, snapshot, ring, hub, sweep, "
        "redispatch, delivery, endpoint, callback, signing secret, window, parked, redeliver, tenant, API key, ticket, "
        "artifact, tombstone, dead letter, redrive, canceled"
    )
    assert set(expected.split(", ")) <= set(words)


def _setting_row(name: str, variable: str) -> tuple[str, str, str]:
    field = Settings.model_fields[name]
    default = _spelled(field.default) if field.default_factory is None else COMPUTED[name]
    return f"`{variable}`", default, str(field.description)


# Defaults that depend on the machine or on another setting.
COMPUTED = {
    "require_keys": "`true`",
    "tenant_streams_max": "`1000`",
    "tenant_submits_per_minute": "`6000`",
    "tenant_reads_per_minute": "`30000`",
    "queue_depth_max": "`1000000`",
    "tenant_queue_depth_max": "`100000`",
    "stream_drain_seconds": "`30`",
    "slots": "one for each CPU, at least 2",
    "heartbeat_seconds": "`5`",
    "webhook_lease_seconds": "`40`",
}


def _spelled(default: Any) -> str:
    if default is None or default in ("", ()):
        return "–"
    if hasattr(default, "get_secret_value"):
        default = default.get_secret_value()
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    return f"`{default}`"


def _settings_rows(readme: str) -> list[tuple[str, ...]]:
    section = readme.partition("<!-- settings:")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def _levels(page: str) -> list[str]:
    return re.findall(r"^(#+) ", FENCE.sub("", page), re.MULTILINE)


def _table_shapes(page: str) -> list[int]:
    return [line.count("|") for line in page.splitlines() if line.startswith("|-")]


def _arrows(diagram: str) -> list[str]:
    return re.findall(r"^\s+(\w+-?->>\w+):", diagram, re.MULTILINE)


def _commands(block: str) -> list[str]:
    lines = (re.sub(r"(^|\s)#.*", "", line).rstrip() for line in block.splitlines())
    return [line for line in lines if line]


def _sources(*suffixes: str) -> list[Path]:
    folders = ("todoke", "service", "worker", "notifier")
    return [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.suffix in suffixes]


def _documented(title: str) -> set[str]:
    section = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", ERRORS, re.MULTILINE | re.DOTALL)
    assert section, f"docs/errors.md has no section {title}"
    return set(re.findall(r"^\| `([A-Z_]+)` \|", section[1], re.MULTILINE))


def _problem_codes() -> Iterator[str]:
    """Every `Code.X` that is written where it is raised or answered, which are all of them but the list itself."""
    for path in _sources(".py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "Code":
                yield node.attr


def _service_error_codes() -> Iterator[str]:
    """Constants of worker/ending.py that are spelled as their value, and codes written where an error is raised."""
    for node in ast.parse((REPOSITORY / "worker/ending.py").read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and node.value.value == getattr(node.targets[0], "id", None)
        ):
            yield str(node.value.value)
    yield from _raised_in([path for path in _sources(".py") if "jobs" not in path.parts])
    for path in _sources(".py", ".sql"):
        if path.parent.parent.name == "store" or path.parent.name == "versions":
            text = path.read_text(encoding="utf-8")
            yield from set(re.findall(r"(?:error_code = |THEN )'([A-Z_]+)'", text)) - STATES
    yield CLAIM_LOST


def _raised_by_reports() -> Iterator[str]:
    yield from _raised_in([path for path in _sources(".py") if "jobs" in path.parts])


def _raised_in(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Fail", "Failed", "Errored", "Released"):
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant):
                    assert UPPER.fullmatch(str(first.value)), first.value
                    yield str(first.value)
