"""compose.yaml and Dockerfile, as far as they can be held to the code without an engine."""

import asyncio
import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from ruamel.yaml import YAML

from service.__main__ import GRACE_SECONDS
from tests.conftest import REPOSITORY
from todoke.blobs.s3 import S3Blobs
from todoke.dev import aws
from todoke.model.ids import new_id
from todoke.queue.sqs import SqsQueue
from todoke.runtime.settings import Settings, variable_names

TEXT = (REPOSITORY / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = YAML(typ="safe").load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("setup", "api", "worker", "notifier")
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
NGINX = (REPOSITORY / "docs/gateway/nginx.conf").read_text(encoding="utf-8")

# Read by boto3, not by us.
CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
# It runs once.
WITHOUT_HEALTHCHECK = {"setup"}
MEMORY = {"m": 1, "g": 1024}


def test_the_file_fits_the_compose_schema() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [program, "--builtin-schema", "vendor.compose-spec", REPOSITORY / "compose.yaml"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    assert set(SERVICES[name]["environment"]) <= {*variable_names().values(), *CREDENTIALS}


@pytest.mark.parametrize("name", OURS)
def test_desk_mode_stays_at_the_desk(name: str) -> None:
    assert "TODOKE_DESK_MODE" not in SERVICES[name]["environment"]


def test_images_are_pinned() -> None:
    images = [service["image"] for service in SERVICES.values()]
    images += re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    for image in images:
        assert re.search(r":\d+(\.\d+)*(-[a-z]+)?$", image), image


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_may_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*|ministack", service["user"]), "not root"
    assert service["read_only"] is True
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert not {"privileged", "cap_add", "devices", "pid", "ipc"} & set(service)
    assert service["pids_limit"] > 0
    assert _mebibytes(service["mem_limit"]) > 0


def test_there_is_one_network() -> None:
    assert "networks" not in COMPOSE
    for name, service in SERVICES.items():
        assert set(service.get("networks", {"default": None})) == {"default"}, name
        assert service.get("network_mode") == ("service:gateway" if name == "api" else None), name


def test_the_jobs_of_a_worker_fit_its_memory() -> None:
    environment = SERVICES["worker"]["environment"]
    jobs = int(environment["TODOKE_SLOTS"]) * int(environment["TODOKE_JOB_MEMORY_MB"])
    assert jobs + 512 <= _mebibytes(SERVICES["worker"]["mem_limit"])


def test_bodies_that_wait_fit_the_gateways_memory() -> None:
    [folder] = SERVICES["gateway"]["tmpfs"]
    size = re.fullmatch(r"/tmp:size=(\w+)", folder)
    assert size
    assert 16 * 16 < _mebibytes(size[1]) < _mebibytes(SERVICES["gateway"]["mem_limit"])


@pytest.mark.parametrize("name", ["worker", "notifier"])
def test_whoever_serves_nothing_shows_that_it_runs(name: str) -> None:
    port = SERVICES[name]["environment"]["TODOKE_METRICS_PORT"]
    assert f"http://127.0.0.1:{port}/metrics" in SERVICES[name]["healthcheck"]["test"][-1]


def test_the_emulator_is_the_one_of_the_desk() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    [pinned] = [item for item in project["project"]["optional-dependencies"]["embedded"] if "ministack" in item]
    assert SERVICES["aws"]["image"].rpartition(":")[2] == pinned.partition("==")[2]


def test_our_image_carries_our_version() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert {SERVICES[name]["image"] for name in OURS} == {f"todoke:{version}"}


def test_health_is_checked_where_there_is_something_to_ask() -> None:
    assert {name for name, service in SERVICES.items() if "healthcheck" not in service} == WITHOUT_HEALTHCHECK


def test_whoever_is_waited_for_can_get_healthy() -> None:
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[name]


def test_ports_are_published_on_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_secrets_come_from_the_environment_and_say_so_when_missing() -> None:
    uses = re.findall(r"\$\{(\w+)([^}]*)\}", TEXT)
    assert {name for name, _ in uses} == {"POSTGRES_PASSWORD", "TODOKE_SIGNING_SECRET", "TODOKE_SECRET_KEYS"}
    assert all(re.fullmatch(r":\?\S.*", what) for _, what in uses), uses


def test_sealing_keys_are_where_something_is_sealed_and_nowhere_else() -> None:
    assert {name for name in OURS if "TODOKE_SECRET_KEYS" in SERVICES[name]["environment"]} == {"api", "notifier"}


def test_the_gateway_meets_the_api() -> None:
    """The API of compose.yaml binds loopback only, so both must stand in one network namespace."""
    assert SERVICES["api"]["network_mode"] == "service:gateway"
    environment = SERVICES["api"]["environment"]
    assert environment["TODOKE_GATEWAY_ASKS"] == "true"
    assert f"server {environment['TODOKE_HOST']}:{environment['TODOKE_PORT']};" in NGINX
    [port] = SERVICES["gateway"]["ports"]
    assert f"listen {port.rpartition(':')[2]};" in NGINX
    assert "./docs/gateway/nginx.conf:/etc/nginx/nginx.conf:ro" in SERVICES["gateway"]["volumes"]


def test_names_agree_with_what_setup_makes() -> None:
    environment = SERVICES["worker"]["environment"]
    assert environment["SQS_QUEUE_URL"].endswith(f"/{aws.QUEUE}")
    assert environment["SQS_QUEUE_URL"].startswith(environment["AWS_ENDPOINT_URL"])
    assert environment["TODOKE_DLQ_URL"] == environment["SQS_QUEUE_URL"].replace(aws.QUEUE, aws.DEAD_LETTERS)
    assert environment["TODOKE_S3_BUCKET"] == aws.BUCKET
    assert environment["AWS_REGION"] == aws.REGION
    assert {environment[name] for name in CREDENTIALS} == {aws.KEY_ID}
    assert "todoke.dev.aws import ensure" in SERVICES["setup"]["command"][-1]


def test_the_emulator_answers_to_the_name_links_are_signed_for() -> None:
    [alias] = SERVICES["aws"]["networks"]["default"]["aliases"]
    assert alias.endswith(".localhost")
    assert SERVICES["worker"]["environment"]["AWS_ENDPOINT_URL"] == f"http://{alias}:4566"
    assert SERVICES["aws"]["ports"] == ["127.0.0.1:4566:4566"]


async def test_that_name_serves_queue_and_bucket_alike(emulator: aws.Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator looks at Host to tell services and buckets apart, so any name will not do."""
    real, alias = socket.getaddrinfo, str(urlsplit(SERVICES["worker"]["environment"]["AWS_ENDPOINT_URL"]).hostname)

    def resolve(host: str | bytes, *arguments: Any, **named: Any) -> Any:
        return real("127.0.0.1" if host in (alias, alias.encode()) else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    url = emulator.url.replace("127.0.0.1", alias)
    places = await asyncio.to_thread(aws.ensure, url)
    environment = SERVICES["worker"]["environment"]
    assert urlsplit(places.queue_url).path == urlsplit(environment["SQS_QUEUE_URL"]).path
    queue = SqsQueue(places.queue_url, region=aws.REGION, endpoint_url=url)
    blobs = S3Blobs(places.bucket, region=aws.REGION, endpoint_url=url)
    with contextlib.closing(queue), contextlib.closing(blobs):
        job_id = new_id()
        assert await queue.send([job_id]) == []
        [message] = await queue.receive(1, 5)
        assert message.job_id == job_id
        await queue.delete([message.receipt])
        await blobs.put("test/alias", b"content", "text/plain")
        link = await blobs.link("test/alias", filename="a.txt", media_type="text/plain", seconds=60, inline=False)
    async with httpx.AsyncClient() as client:
        assert (await client.get(link.url)).content == b"content"


def test_postgres_keeps_its_data_where_version_18_puts_it() -> None:
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]


def test_workers_get_time_to_drain() -> None:
    for name in ("worker", "notifier"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > 20


def test_streams_get_time_to_leave() -> None:
    seconds = Settings.model_fields["stream_drain_seconds"].get_default(call_default_factory=True, validated_data={})
    assert int(SERVICES["api"]["stop_grace_period"].removesuffix("s")) > seconds + GRACE_SECONDS
    patience = re.search(r"worker_shutdown_timeout (\d+)s;", NGINX)
    assert patience
    assert int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s")) > int(patience[1])


def test_the_builder_is_sent_what_is_copied_and_no_more() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"
    assert {pattern[1:] for pattern in patterns if pattern.startswith("!")} == _copied()


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_image_can_be_built(tmp_path: Path) -> None:
    """What the first stage runs, for real, with another Python: the commands, the files they find, what comes out."""
    source, made = tmp_path / "source", tmp_path / "todoke"
    source.mkdir()
    for name in _copied():
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(REPOSITORY / name, source)
    # A pip that may be older than the image's, in a folder of its own.
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "tools"], check=True, timeout=100)
    path = f"{tmp_path / 'tools' / 'bin'}{os.pathsep}{os.environ['PATH']}"
    stage = DOCKERFILE.partition("\nFROM python")[2].partition("\nFROM ")[0].replace("\\\n", " ")
    for line in re.findall(r"^RUN (.+)$", stage, re.MULTILINE):
        command = line.replace("/opt/todoke", str(made))
        subprocess.run(["sh", "-ec", command], cwd=source, env=os.environ | {"PATH": path}, check=True, timeout=400)
    run = subprocess.run(
        [made / "bin" / "todoke", "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "migrate" in run.stdout
    ours = (
        "service.app",
        "worker.app",
        "notifier.app",
        "todoke.store.migrations.versions",
        "todoke.jobs.report.charts",
    )
    for module in (*ours, "duckdb", "matplotlib.pyplot", "uvloop", "sqlalchemy.ext.asyncio", "boto3"):
        subprocess.run([made / "bin" / "python", "-c", f"import {module}"], cwd=tmp_path, check=True, timeout=60)
    assert not (made / "bin" / "pip").exists()
    pinned = {line for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line}
    listing = [tmp_path / "tools/bin/python", "-m", "pip", "--python", made, "list", "--format", "freeze"]
    installed = subprocess.run(listing, capture_output=True, text=True, timeout=60, check=True).stdout.split()
    others = [line for line in installed if "==" in line and not line.startswith("todoke==")]
    assert {_plain(line) for line in others} <= {_plain(line) for line in pinned}


def test_the_image_is_built_from_what_it_needs() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    copied = _copied()
    assert all((REPOSITORY / source).exists() for source in copied)
    wanted = {*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], project["project"]["readme"]}
    assert copied == wanted | {"pyproject.toml", "constraints.txt", *project["project"]["license-files"]}


def test_the_image_runs_as_nobody_in_particular_and_without_tools_of_development() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    [user] = re.findall(r"^USER (.+)$", last, re.MULTILINE)
    assert {SERVICES[name]["user"] for name in OURS} == {user}
    assert "-c constraints.txt -r packages.txt" in DOCKERFILE
    assert all("--no-cache-dir" in line for line in DOCKERFILE.splitlines() if " pip " in line)
    assert "[dev" not in DOCKERFILE
    assert "embedded" not in DOCKERFILE


def _copied() -> set[str]:
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return {source.rstrip("/") for line in lines for source in line.split()[:-1]}


def _mebibytes(size: str) -> int:
    return int(size[:-1]) * MEMORY[size[-1]]


def _plain(requirement: str) -> str:
    return requirement.strip().lower().replace("_", "-").replace(".", "-")
