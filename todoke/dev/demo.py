"""The demo: one real report job, learned of by polling, by SSE and by a signed webhook, side by side."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from todoke.client.receiver import Received, Receiver
from todoke.dev.stack import Options, Stack
from todoke.model.errors import InvalidInput
from todoke.runtime.lifecycle import stop_signals
from todoke.wire import sse

SAMPLE = Path(__file__).with_name("sample.csv")
JOB_SECONDS_MAX = 300
WEBHOOK_SECONDS_MAX = 30

console = Console()


@dataclass(frozen=True)
class DemoOptions:
    """What `todoke demo` was asked for. `started_at`: Unix time when the bootstrap began."""

    data: Path | None
    out: Path
    once: bool
    port: int
    state: Path
    started_at: float | None


@dataclass(frozen=True)
class Outcome:
    """What one channel said in the end."""

    channel: str
    data: dict[str, Any]
    note: str


def run_demo(options: DemoOptions) -> int:
    """Exit code 0 when the job succeeded and all three channels told the same story."""
    params = read_params(options.data or SAMPLE)
    began = options.started_at or time.time()
    return asyncio.run(_demo(options, params, began))


def read_params(path: Path) -> dict[str, Any]:
    """The report params for a CSV, JSON or GeoJSON file. Raises InvalidInput with what to do."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"--data {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"--data {path}: is not UTF-8 text; convert it first") from None
    title = path.stem.replace("-", " ").replace("_", " ").title()
    if path.suffix.lower() not in (".json", ".geojson"):
        return {"title": title, "csv": text}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"--data {path}: is not JSON ({error})") from None
    return {"title": title, "rows" if isinstance(value, list) else "geojson": value}


async def _demo(options: DemoOptions, params: dict[str, Any], began: float) -> int:
    async with stop_signals() as stopping:
        console.print("Starting PostgreSQL, SQS and S3, the API, a worker and a notifier …")
        async with Stack(Options(port=options.port, state=options.state)) as stack:
            async with (
                Receiver(stack.facts["signingSecret"]) as receiver,
                httpx.AsyncClient(base_url=stack.url, headers=_proof(stack.facts)) as client,
            ):
                work = asyncio.create_task(_one_job(client, receiver, params, options.out))
                if not await _done_before(stopping, work):
                    return 130
                code = work.result()
            console.print(f"API docs: {stack.url}/docs")
            console.print(f"From start to report: {time.time() - began:.1f} s")
            if not options.once:
                console.print("Everything keeps running; press Ctrl-C to stop.")
                await stopping.wait()
            return code


def _proof(facts: Mapping[str, Any]) -> dict[str, str]:
    """What a caller sends to a desk that asks for keys."""
    return {"Authorization": f"Bearer {facts['apiKey']}"} if "apiKey" in facts else {}


async def _done_before(stopping: asyncio.Event, work: "asyncio.Task[int]") -> bool:
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait([stop, work], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if work.done():
        return True
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    return False


async def _one_job(client: httpx.AsyncClient, receiver: Receiver, params: dict[str, Any], out: Path) -> int:
    answer = await client.post("/generate-report", json={"params": params, "callbackUrl": receiver.url})
    if answer.status_code != httpx.codes.ACCEPTED:
        console.print(f"[red]The API refused the job:[/] {answer.json()['detail']}")
        return 1
    job = answer.json()
    console.print(f"POST /generate-report → 202, job {job['jobId']}")
    webhook = asyncio.create_task(receiver.next())
    async with asyncio.timeout(JOB_SECONDS_MAX):
        polled, streamed = await asyncio.gather(_poll(client, answer), _watch(client, job["eventsUrl"]))
    async with asyncio.timeout(WEBHOOK_SECONDS_MAX):
        outcomes = [polled, streamed, _from_webhook(await webhook)]
    console.print(_side_by_side(outcomes))
    if not _agree(outcomes) or "not" in outcomes[2].note:
        console.print("[red]The three channels do not tell the same story: this is a bug.[/]")
        return 1
    if polled.data["status"] != "success":
        console.print(f"[red]The job failed:[/] {polled.data['error']}")
        return 1
    path = await _save(client, polled.data, out)
    console.print(f"Report: {path}")
    return 0


async def _poll(client: httpx.AsyncClient, submitted: httpx.Response) -> Outcome:
    """As a legacy client would: follow Location, wait as long as Retry-After says, until 200."""
    polls = 1
    url, answer = submitted.headers["Location"], submitted
    while True:
        await asyncio.sleep(int(answer.headers["Retry-After"]))
        answer = await client.get(url)
        if answer.status_code == httpx.codes.OK:
            return Outcome("Polling", answer.json(), f"{polls} GET {'request' if polls == 1 else 'requests'}")
        polls += 1


async def _watch(client: httpx.AsyncClient, url: str) -> Outcome:
    """Feed a progress bar from the job's own SSE stream."""
    columns = (TextColumn("{task.description:<44}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("queued", total=100)
        events = 0
        async for frame in _frames(client, url):
            events += 1
            data = json.loads(frame.data)["data"]
            progress = data["progress"] or {}
            said = progress.get("message") or data["phase"] or data["status"]
            percent = 100 if data["status"] == "success" else progress.get("percent", 0)
            bar.update(task, completed=percent, description=said)
            if frame.event in ("job.succeeded", "job.failed"):
                return Outcome("SSE", data, f"{events} events")
    raise RuntimeError("the stream ended without a terminal event")


async def _frames(client: httpx.AsyncClient, url: str) -> AsyncIterator[sse.Frame]:
    """Every frame of the stream, reconnecting from the cursor as a browser does."""
    decoder = sse.Decoder()
    while True:
        headers = {"Last-Event-ID": decoder.last_event_id} if decoder.last_event_id else {}
        async with client.stream("GET", url, params={"lastEventId": "earliest"}, headers=headers, timeout=60) as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:
                return
            async for chunk in answer.aiter_bytes():
                for frame in decoder.feed(chunk):
                    yield frame
        await asyncio.sleep((decoder.retry_milliseconds or 1000) / 1000)


def _from_webhook(received: Received) -> Outcome:
    note = "signature verified" if received.is_verified else "signature NOT verified"
    return Outcome("Webhook", received.event["data"], note)


def _agree(outcomes: list[Outcome]) -> bool:
    keys = ("jobId", "sequence", "status", "downloadUrl", "error", "errorCode")
    return len({tuple(outcome.data[key] for key in keys) for outcome in outcomes}) == 1


def _side_by_side(outcomes: list[Outcome]) -> Table:
    table = Table(title="One job, three ways to learn of it")
    table.add_column("")
    for outcome in outcomes:
        table.add_column(outcome.channel, overflow="fold")
    for key in ("status", "sequence", "attempt", "finishedAt", "downloadUrl", "error"):
        table.add_row(key, *(str(outcome.data[key]) for outcome in outcomes))
    table.add_row("how", *(outcome.note for outcome in outcomes))
    return table


async def _save(client: httpx.AsyncClient, status: dict[str, Any], out: Path) -> Path:
    answer = await client.get(status["downloadUrl"], follow_redirects=True)
    answer.raise_for_status()
    return _write(out, str(status["artifacts"][0]["name"]), answer.content)


def _write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / name
    path.write_bytes(content)
    return path
