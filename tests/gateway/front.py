"""A real nginx before an API: with our configuration, or as it comes."""

import contextlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import REPOSITORY
from todoke.dev.ports import free_port

CONFIGURATION = REPOSITORY / "docs/gateway/nginx.conf"
# What most have: nothing said about streams, buffering as it comes, and everything compressed.
DEFAULTS = """
pid {folder}/nginx.pid;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;
    gzip_proxied any;
    gzip_min_length 0;
    gzip_types text/event-stream;
    server {{
        listen 127.0.0.1:{port};
        location = /metrics {{ return 404; }}
        location / {{
            proxy_pass http://{upstream};
            proxy_set_header Host $http_host;
            {more}
        }}
    }}
}}
"""
SECONDS_MAX = 10


@dataclass(frozen=True)
class Gateway:
    """A running nginx."""

    url: str
    folder: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The access log, without our own asking whether it listens."""
        lines = [json.loads(line) for line in self.log("access").splitlines()]
        return [line for line in lines if line["path"] != "/metrics"]

    def log(self, name: str) -> str:
        """What the log `access` or `error` holds so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8")


@contextlib.contextmanager
def gateway(nginx: str, folder: Path, upstream: str, changes: Mapping[str, str] | None = None) -> Iterator[Gateway]:
    """nginx with our configuration before `upstream` (host:port). changes: what stands there, and what instead."""
    port = free_port()
    text = CONFIGURATION.read_text(encoding="utf-8")
    replaced = {
        "server 127.0.0.1:8000;": f"server {upstream};",
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "worker_processes auto;": "worker_processes 2;",
        "/tmp/": f"{folder}/",
        "/dev/stdout": f"{folder}/access.log",
        "error_log stderr": f"error_log {folder}/error.log",
        **(changes or {}),
    }
    for ours, theirs in replaced.items():
        assert ours in text, ours
        text = text.replace(ours, theirs)
    with running(nginx, folder, port, text) as front:
        yield front


@contextlib.contextmanager
def plain_gateway(nginx: str, folder: Path, upstream: str, more: str = "") -> Iterator[Gateway]:
    """nginx as it comes, gzip on, before `upstream` (host:port). more: directives of its one location."""
    port = free_port()
    text = DEFAULTS.format(folder=folder, port=port, upstream=upstream, more=more)
    with running(nginx, folder, port, text) as front:
        yield front


@contextlib.contextmanager
def running(nginx: str, folder: Path, port: int, text: str) -> Iterator[Gateway]:
    """nginx with a configuration, ended by its process id."""
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    # As root its workers would become nobody, who may not enter a test's folder.
    user = " user root;" if os.geteuid() == 0 else ""
    command = [nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log", "-g", f"daemon off;{user}"]
    process = subprocess.Popen(command)
    try:
        _wait_for(process, port)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield Gateway(f"http://127.0.0.1:{port}", folder)
    finally:
        process.terminate()
        assert process.wait(SECONDS_MAX) == 0


def version_of(nginx: str) -> tuple[int, int]:
    """As (1, 22)."""
    run = subprocess.run([nginx, "-v"], capture_output=True, text=True, timeout=SECONDS_MAX, check=True)
    found = re.search(r"nginx/(\d+)\.(\d+)", run.stderr)
    assert found, run.stderr
    return int(found[1]), int(found[2])


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while process.poll() is None and not _listens(port):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _listens(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == 404
    except httpx.TransportError:
        return False
