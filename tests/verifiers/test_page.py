"""Every receiver of docs/verifying.md takes what we sign and refuses what we did not: the page is run as it stands."""

import base64
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.verifiers.conftest import HERE
from todoke.client.verify import InvalidInput, verify_webhook, verify_webhook_with_key
from todoke.dev.ports import free_port
from todoke.wire.asymmetric import SigningKey, jwks, new_signing_key
from todoke.wire.signing import Signer, new_secret, parse_secret

PAGE = (REPOSITORY / "docs/verifying.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECRET = new_secret()
KEY = SigningKey.parse(new_signing_key())
SIGNER = Signer([parse_secret(SECRET), parse_secret(new_secret())], [KEY])
EVENT = {"type": "job.succeeded", "data": {"jobId": "0192a1b2", "text": "届いた"}}
BODY = json.dumps(EVENT, ensure_ascii=False).encode()

Post = Callable[[dict[str, str], bytes], httpx.Response]


def blocks(title: str, kind: str) -> list[str]:
    """The code of one section, without its subsections."""
    section = re.search(rf"^##+ {re.escape(title)}$(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, title
    return [code for found, code in BLOCK.findall(section[1]) if found == kind]


def run(title: str) -> dict[str, Any]:
    """What the Python of a section defines."""
    [source] = blocks(title, "python")
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(source, f"docs/verifying.md, {title}", "exec", dont_inherit=True), scope)
    return scope


def fresh() -> dict[str, str]:
    return {**SIGNER.headers("evt_1_3", int(time.time()), BODY), "content-type": "application/json"}


def assert_verifies(post: Post, capsys: pytest.CaptureFixture[str] | None) -> None:
    assert post(fresh(), BODY).status_code == 204
    assert capsys is None or capsys.readouterr().out == "job.succeeded 0192a1b2\n"
    old = SIGNER.headers("evt_1_3", int(time.time()) - 400, BODY)
    malformed = {**fresh(), "webhook-signature": "v1,AAAA  nonsense"}
    forgeries = [(fresh(), BODY + b" "), (old, BODY), ({}, BODY), (malformed, BODY), (fresh(), b"")]
    for headers, body in forgeries:
        assert post(headers, body).status_code == 401, (headers, body)
    assert capsys is None or capsys.readouterr().out == ""


@pytest.fixture(autouse=True)
def _secret_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)


@pytest.mark.parametrize("title", ["Flask", "WSGI"])
def test_receivers_under_wsgi(title: str, capsys: pytest.CaptureFixture[str]) -> None:
    with httpx.Client(transport=httpx.WSGITransport(run(title)["app"]), base_url="http://receiver") as client:
        assert_verifies(lambda headers, body: client.post("/hook", headers=headers, content=body), capsys)


@pytest.mark.parametrize("title", ["FastAPI", "ASGI"])
async def test_receivers_under_asgi(title: str, capsys: pytest.CaptureFixture[str]) -> None:
    transport = httpx.ASGITransport(run(title)["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
        taken = await client.post("/hook", headers=fresh(), content=BODY)
        assert (taken.status_code, capsys.readouterr().out) == (204, "job.succeeded 0192a1b2\n")
        for headers, body in ((fresh(), BODY + b" "), ({}, BODY), ({**fresh(), "webhook-id": "evt_1_4"}, BODY)):
            assert (await client.post("/hook", headers=headers, content=body)).status_code == 401


def test_the_function_for_python(capsys: pytest.CaptureFixture[str]) -> None:
    receive = run("Python")["receive"]
    assert receive(SECRET, fresh(), BODY) == EVENT
    assert receive(SECRET, fresh(), BODY + b" ") is None
    assert capsys.readouterr().out.startswith("refused: no signature matches")


class Keys(BaseHTTPRequestHandler):
    """The service's page of keys."""

    def do_GET(self) -> None:
        assert self.path == "/.well-known/webhook-keys"
        stranger = SigningKey.parse(new_signing_key()).public
        page = json.dumps({"keys": [{"publicKey": KEY.public}, {"publicKey": stranger}]}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
        """Nothing on stderr."""


@pytest.fixture
def service() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Keys) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_the_functions_for_public_keys(service: str) -> None:
    example = run("With the public key")
    keys = example["public_keys"](service)
    assert example["receive"](keys, fresh(), BODY) == EVENT
    with pytest.raises(InvalidInput):
        example["receive"](keys[1:], fresh(), BODY)


def test_the_headers_shown_are_the_known_answers() -> None:
    shown = dict(re.findall(r"^(webhook-[a-z]+): (.+)$", PAGE, re.MULTILINE))
    assert re.fullmatch(r"v1,[A-Za-z0-9+/]{43}= v1a,[A-Za-z0-9+/]{86}==", shown["webhook-signature"])
    [sentence] = re.findall(r"^`verify_webhook\((.*)\)`$", PAGE, re.MULTILINE)
    for verify, first in ((verify_webhook, "secret_or_secrets"), (verify_webhook_with_key, "public_keys")):
        names = verify.__code__.co_varnames[: verify.__code__.co_argcount]
        assert names == (first, *re.findall(r"\w+", re.sub(r"=\w+", "", sentence))[1:])


@pytest.fixture
def folder(node: str, tmp_path: Path) -> Path:
    """Where JavaScript finds the libraries."""
    (tmp_path / "node_modules").symlink_to(HERE / "node_modules")
    return tmp_path


def test_the_server_for_node(folder: Path) -> None:
    (folder / "server.mjs").write_text(blocks("JavaScript", "js")[0], encoding="utf-8")
    port = free_port()
    process = subprocess.Popen(
        ["node", "server.mjs"], cwd=folder, env={**os.environ, "PORT": str(port)}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "listening\n"
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert_verifies(lambda headers, body: client.post("/hook", headers=headers, content=body), None)
    finally:
        process.kill()
        said, _ = process.communicate(timeout=10)
    assert said == "job.succeeded 0192a1b2\n"


def test_the_function_for_node_and_public_keys(folder: Path) -> None:
    (folder / "holds.mjs").write_text(blocks("JavaScript", "js")[1], encoding="utf-8")
    (folder / "run.mjs").write_text(
        'import { holds } from "./holds.mjs"; import { text } from "node:stream/consumers";'
        "const [keys, cases] = JSON.parse(await text(process.stdin));"
        'console.log(JSON.stringify(cases.map(([h, b]) => holds(keys, h, Buffer.from(b, "base64")))));'
    )
    stranger = SigningKey.parse(new_signing_key()).public
    line = fresh()["webhook-signature"]
    late = SIGNER.headers("evt_1_3", int(time.time()) - 400, BODY)
    good = [
        (fresh(), BODY),
        (fresh() | {"webhook-signature": ",".join(reversed(line.split(" ")))}, BODY),
        (fresh() | {"webhook-signature": f"v1a,AAAA  nonsense {line}"}, BODY),
    ]
    bad = [(fresh(), BODY + b" "), (late, BODY), (fresh() | {"webhook-id": "evt_1_4"}, BODY), ({}, BODY)]
    spelled = [(headers, base64.b64encode(body).decode()) for headers, body in good + bad]
    given = json.dumps([jwks([stranger, KEY.public]), spelled])
    done = subprocess.run(
        ["node", "run.mjs"], check=True, cwd=folder, input=given, capture_output=True, text=True, timeout=30
    )
    assert json.loads(done.stdout) == [True] * len(good) + [False] * len(bad)
