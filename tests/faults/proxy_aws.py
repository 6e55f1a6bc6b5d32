"""A proxy that reads SQS calls (and tells S3's apart): it logs every message, repeats, delays and refuses."""

import asyncio
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import aiohttp
from aiohttp import web
from yarl import URL

from tests.faults.history import Traffic
from todoke.queue.sqs import parse_body

DROPPED_HEADERS = ("content-length", "transfer-encoding", "connection", "date", "server", "keep-alive", "expect")
BODY_BYTES_MAX = 2**30
ACTIONS = {
    "SendMessageBatch": "send",
    "SendMessage": "send",
    "ReceiveMessage": "receive",
    "DeleteMessageBatch": "delete",
    "DeleteMessage": "delete",
    "ChangeMessageVisibilityBatch": "defer",
    "ChangeMessageVisibility": "defer",
}


@dataclass
class Refusal:
    """Calls answered with `status` and `code` instead of being passed on; `times` of them."""

    status: int
    code: str
    times: float = math.inf


@dataclass
class Partial:
    """Batches of which the entries that `picks` names by position fail; `times` of them."""

    picks: Callable[[int], bool]
    times: float = math.inf


class AwsProxy:
    """Stands before SQS and S3. Actions are named as in AWS: ReceiveMessage, PutObject; `*` is every one of SQS."""

    def __init__(self, url: str, seed: int = 0) -> None:
        self._target = urlsplit(url)
        self._port = 0
        self._random = random.Random(seed)
        self.log: list[Traffic] = []
        self.calls: list[tuple[float, str, int]] = []
        self._names: dict[str, tuple[str, UUID | None]] = {}
        self._copies: list[dict[str, Any]] = []
        self._held: dict[str, list[dict[str, Any]]] = {}
        self.calm()

    def calm(self) -> None:
        """Be a wire again; copies of messages that wait to be given out stay."""
        self.refusals: dict[str, Refusal] = {}
        self.partials: dict[str, Partial] = {}
        self.delays: dict[str, float] = {}
        self.send_copies = self.receive_copies = (0, 0)
        self.is_repeating_deleted = False

    def refuse(self, action: str, status: int = 503, code: str = "ServiceUnavailable", times: float = math.inf) -> None:
        """Answer calls with an error."""
        self.refusals[action] = Refusal(status, code, times)

    def fail_entries(self, action: str, picks: Callable[[int], bool], times: float = math.inf) -> None:
        """Let a part of each batch fail, by the queue's fault."""
        self.partials[action] = Partial(picks, times)

    @property
    def target_url(self) -> str:
        """Past this proxy."""
        return urlunsplit(self._target)

    @property
    def url(self) -> str:
        return self.moved(self.target_url)

    def moved(self, url: str) -> str:
        """The same URL through this proxy."""
        return urlunsplit(urlsplit(url)._replace(netloc=f"127.0.0.1:{self._port}"))

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(limit=0)
        )
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, auto_decompress=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _serve(self, request: web.Request) -> web.Response:
        body = await request.read()
        target = request.headers.get("x-amz-target", "")
        action = target.rpartition(".")[2] if target else f"{request.method.capitalize()}Object"
        await asyncio.sleep(self.delays.get(action, self.delays.get("*", 0) if target else 0))
        refusal = self._due(self.refusals, action) or (self._due(self.refusals, "*") if target else None)
        if refusal is not None:
            self.calls.append((time.time(), action, refusal.status))
            return _refused(refusal, is_json=bool(target))
        answer = await (self._sqs(request, action, json.loads(body)) if target else self._pass(request, body))
        self.calls.append((time.time(), action, answer.status))
        return answer

    def _due(self, table: dict[str, Any], action: str) -> Any:
        found = table.get(action)
        if found is None or found.times < 1:
            return None
        found.times -= 1
        return found

    async def _sqs(self, request: web.Request, action: str, call: dict[str, Any]) -> web.Response:
        if action == "ReceiveMessage":
            return await self._receive(request, call)
        if "Entries" not in call:
            return await self._pass(request, json.dumps(call).encode())
        entries = call["Entries"]
        partial = self._due(self.partials, action)
        failing = [e for n, e in enumerate(entries) if partial and partial.picks(n)]
        call["Entries"] = [entry for entry in entries if entry not in failing]
        answer: dict[str, Any] = {"Successful": [], "Failed": []}
        if call["Entries"]:
            passed = await self._pass(request, json.dumps(call).encode())
            if passed.status != 200:
                return passed
            answer |= json.loads(passed.body or b"{}")  # type: ignore[arg-type]
        said = {"Code": "InternalError", "Message": "by the test", "SenderFault": False}
        failed = [{"Id": entry["Id"], **said} for entry in failing]
        answer["Failed"] = [*answer.get("Failed", []), *failed]
        self._note(action, entries, {entry["Id"]: entry for entry in answer.get("Successful", [])})
        if action == "SendMessageBatch" and call["Entries"]:
            for _ in range(self._random.randint(*self.send_copies)):
                again = await self._pass(request, json.dumps(call).encode())
                taken = {entry["Id"]: entry for entry in json.loads(again.body or b"{}").get("Successful", [])}  # type: ignore[arg-type]
                self._note(action, call["Entries"], taken)
        return _json(answer)

    async def _receive(self, request: web.Request, call: dict[str, Any]) -> web.Response:
        room = int(call.get("MaxNumberOfMessages", 1))
        given, self._copies = self._copies[:room], self._copies[room:]
        if not given:
            answer = await self._pass(request, json.dumps(call).encode())
            if answer.status != 200:
                return answer
            given = json.loads(answer.body or b"{}").get("Messages", [])  # type: ignore[arg-type]
            for message in given:
                copies = [message] * self._random.randint(*self.receive_copies)
                if self.is_repeating_deleted:
                    self._held[message["MessageId"]] = copies
                else:
                    self._copies += copies
        now = time.time()
        for message in given:
            name = (message["MessageId"], parse_body(message["Body"]))
            self._names[message["ReceiptHandle"]] = name
            self.log.append(Traffic(now, "receive", *name))
        return _json({"Messages": given} if given else {})

    def _note(self, action: str, entries: list[dict[str, Any]], taken: dict[str, dict[str, Any]]) -> None:
        now = time.time()
        for entry in entries:
            done = taken.get(entry["Id"])
            if action == "SendMessageBatch":
                name = (done["MessageId"] if done else "", parse_body(entry["MessageBody"]))
            else:
                name = self._names.get(entry["ReceiptHandle"], ("", None))
            seconds = int(entry.get("VisibilityTimeout", 0))
            self.log.append(Traffic(now, ACTIONS.get(action, action), *name, done is not None, seconds))
            if action == "DeleteMessageBatch" and done:
                self._copies += self._held.pop(name[0], [])

    async def _pass(self, request: web.Request, body: bytes) -> web.Response:
        url = URL(urlunsplit(self._target._replace(path=request.raw_path, query="")), encoded=True)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in DROPPED_HEADERS}
        try:
            async with self._session.request(request.method, url, data=body, headers=headers) as answer:
                kept = {k: v for k, v in answer.headers.items() if k.lower() not in DROPPED_HEADERS}
                if request.method == "HEAD" and "Content-Length" in answer.headers:
                    kept["Content-Length"] = answer.headers["Content-Length"]
                return web.Response(status=answer.status, body=await answer.read(), headers=kept)
        except aiohttp.ClientError as error:
            return _refused(Refusal(503, type(error).__name__), is_json="x-amz-target" in request.headers)


def _json(answer: dict[str, Any]) -> web.Response:
    return web.Response(text=json.dumps(answer), content_type="application/x-amz-json-1.0")


def _refused(refusal: Refusal, *, is_json: bool) -> web.Response:
    if is_json:
        body = {"__type": f"com.amazonaws.sqs#{refusal.code}", "message": "by the test"}
        return web.Response(status=refusal.status, text=json.dumps(body), content_type="application/x-amz-json-1.0")
    text = f"<Error><Code>{refusal.code}</Code><Message>by the test</Message></Error>"
    return web.Response(status=refusal.status, text=text, content_type="application/xml")
