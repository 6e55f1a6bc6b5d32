"""Events of the feed at a receiver on this machine: the same bytes and ids, signed, none lost."""

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.client.conftest import api_on, finish_jobs, listening, names, verified
from tests.conftest import REPOSITORY, SIGNING_SECRET, serve, until
from tests.make import accept, fail, start
from tests.notifier.receiver import Received, drip, hang_up, receiving, silence, status
from tests.service.callers import guarded
from tests.streams.scripted import HEAD, scripted
from todoke.client import listening as listening_module
from todoke.client.api import Api, is_loopback
from todoke.client.feed import Feed
from todoke.client.forwarder import Forwarder
from todoke.client.listening import ReceiverRefused, event_of
from todoke.client.state_file import StateFile
from todoke.dev.ports import free_port
from todoke.model.delivery import Delivery
from todoke.model.errors import InvalidInput, Refused, TodokeError
from todoke.model.ids import new_id
from todoke.model.job import Progress
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.wire import sse


@pytest.fixture
def url(api: httpx.AsyncClient) -> str:
    return str(api.base_url).rstrip("/")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tries, without the pauses between them."""
    monkeypatch.setattr(listening_module, "RETRY_SECONDS", (0.01,) * len(listening_module.RETRY_SECONDS))


async def test_the_end_of_a_job_comes_as_its_webhook(url: str, ledger: Ledger, database: Database) -> None:
    async with receiving() as receiver, listening(url, receiver.url) as state:
        [succeeded] = await finish_jobs(ledger, metadata='{"order": "届け"}')
        failed = await accept(ledger)
        await fail(ledger, await start(ledger, failed))
        await until(lambda: len(receiver.received) == 2)
        await until(lambda: state.fates == ["taken", "taken"])
    assert verified(receiver) == names([succeeded, failed])
    rows = await database.fetch("SELECT job_id, sequence, tenant_id, body FROM event WHERE sequence = 3 ORDER BY at")
    assert [received.body for received in receiver.received] == [row["body"].encode() for row in rows]
    for row, received in zip(rows, receiver.received, strict=True):
        sent = Delivery(row["job_id"], row["sequence"], "default", new_id(), receiver.url, 1, 1, row["body"])
        assert received.webhook_id == sent.webhook_id
    headers = receiver.received[0].headers
    assert (headers["content-type"], headers["todoke-attempt"]) == ("application/json", "1")
    assert headers["user-agent"].startswith("Todoke/")
    assert len(set(state.kept)) == len(state.kept) >= 2


async def test_what_is_asked_for_is_what_comes(url: str, ledger: Ledger) -> None:
    [old] = await finish_jobs(ledger)
    async with receiving() as receiver:
        asked = {"cursor": "earliest", "types": ["job.accepted", "job.succeeded"], "job_types": ["generate-report"]}
        async with listening(url, receiver.url, **asked):
            await finish_jobs(ledger, type="another")
            [new] = await finish_jobs(ledger)
            await until(lambda: len(receiver.received) == 4)
    assert verified(receiver) == [*names([old], 1), *names([old]), *names([new], 1), *names([new])]


async def test_nothing_is_kept_of_a_receiver_and_nothing_followed(url: str, ledger: Ledger, quick: None) -> None:
    async with receiving() as elsewhere:
        first = status(307, f"location: {elsewhere.url}", "set-cookie: a=b")
        async with receiving(first) as receiver, listening(url, receiver.url) as state:
            await finish_jobs(ledger)
            await until(lambda: state.fates == ["again", "taken"])
    assert not elsewhere.received
    assert [received.headers["todoke-attempt"] for received in receiver.received] == ["1", "2"]
    assert "cookie" not in receiver.received[1].headers


async def test_proxies_have_nothing_to_do_on_this_machine(
    url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with receiving() as receiver, listening(url, receiver.url):
        await finish_jobs(ledger)
        await until(lambda: len(receiver.received) == 1)


async def test_a_receiver_that_was_down_gets_everything(url: str, ledger: Ledger) -> None:
    port = free_port()
    async with listening(url, f"http://127.0.0.1:{port}/hook") as state:
        ids = await finish_jobs(ledger, 3)
        await until(lambda: state.fates == ["waiting"])
        async with receiving(port=port) as receiver:
            await until(lambda: len(receiver.received) == 3)
    assert verified(receiver) == names(ids)


async def test_a_refused_event_is_given_up_and_the_next_one_comes(url: str, ledger: Ledger, quick: None) -> None:
    answers = [status(500), hang_up, silence, status(404), status(503)]
    async with receiving(*answers) as receiver, listening(url, receiver.url, seconds=0.3) as state:
        ids = await finish_jobs(ledger, 2)
        await until(lambda: "taken" in state.fates)
    assert state.fates == ["again"] * 4 + ["given_up", "taken"]
    assert verified(receiver) == [*names(ids[:1]) * 5, *names(ids[1:])]
    assert [each.posted.status for each in state.told] == [500, None, None, 404, 503, 200]
    assert "timeout" in [each.posted.reason for each in state.told]


async def test_the_head_of_an_answer_decides(url: str, ledger: Ledger) -> None:
    """A body that is cut, or never ends, takes nothing back."""
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nab"

    async def cut(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        writer.transport.abort()

    async with receiving(cut, drip(head), drip(head, b"x" * 5000, 0)) as receiver:
        async with listening(url, receiver.url) as state:
            ids = await finish_jobs(ledger, 4)
            await until(lambda: len(state.fates) == 4)
    assert state.fates == ["taken"] * 4
    assert verified(receiver) == names(ids)


async def test_a_strict_listener_stops_in_front_of_it(url: str, ledger: Ledger, quick: None) -> None:
    async with receiving(*[status(500)] * 5) as receiver:
        async with listening(url, receiver.url, is_strict=True) as state:
            ids = await finish_jobs(ledger, 2)
            assert state.task is not None
            await asyncio.wait({state.task}, timeout=10)
            with pytest.raises(ReceiverRefused, match=names(ids)[0]):
                state.task.result()
        async with listening(url, receiver.url, cursor=state.kept[-1]):
            await until(lambda: len(receiver.received) == 7)
    assert verified(receiver)[5:] == names(ids)


async def test_an_api_that_restarts_loses_nothing(settings: Settings, ledger: Ledger) -> None:
    """Killed and stopped in turn while jobs go on ending: every event comes, in order, once or again."""
    port, ids = free_port(), []
    async with receiving() as receiver, contextlib.AsyncExitStack() as stack:
        async with api_on(settings, port):
            url = f"http://127.0.0.1:{port}"
            state = await stack.enter_async_context(listening(url, receiver.url))
            ids += await finish_jobs(ledger, 5)
            await until(lambda: len(receiver.received) >= 1)
        for _ in range(2):
            ids += await finish_jobs(ledger, 5)
            async with api_on(settings, port) as api:
                ids += await finish_jobs(ledger, 5)
                wanted = set(names(ids))
                await until(lambda: wanted <= {each.webhook_id for each in receiver.received}, 30)  # noqa: B023
                api.terminate()
                await api.wait()
    firsts = list(dict.fromkeys(verified(receiver)))
    assert firsts == names(ids)
    assert state.has_said("the API is away")
    assert state.has_said("the API is back")


async def test_a_silent_api_is_left_and_asked_again() -> None:
    """No byte for longer than any heartbeat: the connection is dead, whatever TCP says."""
    asked: list[str] = []
    event = sse.frame("job.failed", f'{{"data":{{"jobId":"{new_id()}","sequence":3}}}}', "second")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode().lower())
        writer.write(HEAD + (sse.checkpoint("first") if len(asked) == 1 else event))
        await writer.drain()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, receiving() as receiver:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with listening(url, receiver.url, cursor="zero", silence_seconds=0.3):
            await until(lambda: len(receiver.received) == 1)
    assert "last-event-id: zero" in asked[0]
    assert "last-event-id: first" in asked[1]


async def test_half_a_frame_is_not_taken_for_a_place() -> None:
    half = sse.frame("job.failed", f'{{"data":{{"jobId":"{new_id()}","sequence":3}}}}', "lost")[:-3]
    async with scripted(HEAD + sse.checkpoint("safe") + half) as server, receiving() as receiver:
        async with listening(server.url.removesuffix("/jobs/1/events"), receiver.url, cursor="zero"):
            await until(lambda: len(server.requests) >= 2)
    assert "last-event-id: safe" in server.requests[1].lower()
    assert not receiver.received


async def test_a_cursor_that_cannot_be_continued_is_said(url: str, ledger: Ledger) -> None:
    async with receiving() as receiver, listening(url, receiver.url, cursor="nonsense") as state:
        await until(lambda: state.has_said("could not be continued"))
        ids = await finish_jobs(ledger)
        await until(lambda: len(receiver.received) == 1)
    assert verified(receiver) == names(ids)
    assert state.has_said("malformed")


async def test_an_api_that_will_not_be_read_is_no_outage(url: str, settings: Settings) -> None:
    async with serve(guarded(settings)) as closed, receiving() as receiver:
        for asked in ({}, {"key": "tdk_" + "0" * 16 + "_" + "0" * 48}):
            async with listening(closed, receiver.url, **asked) as state:
                assert state.task is not None
                await asyncio.wait({state.task}, timeout=10)
                with pytest.raises(Refused, match="TODOKE_API_KEY"):
                    state.task.result()
        async with listening(url, receiver.url, types=["job.finished"]) as state:
            assert state.task is not None
            await asyncio.wait({state.task}, timeout=10)
            with pytest.raises(Refused, match="no such event type"):
                state.task.result()
        page = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nhi"
        async with scripted(page) as website, listening(website.url, receiver.url) as state:
            assert state.task is not None
            await asyncio.wait({state.task}, timeout=10)
            with pytest.raises(Refused, match="no Todoke API"):
                state.task.result()


async def test_progress_comes_when_it_is_asked_for_and_is_never_repeated(url: str, ledger: Ledger) -> None:
    async with receiving(status(500)) as receiver:
        async with listening(url, receiver.url, types=["job.progress", "job.succeeded"]) as state:
            job_id = await accept(ledger)
            attempt = await start(ledger, job_id)
            await ledger.report([Progress(attempt.id, attempt.lease, 50, "half")], "worker-of-the-test")
            await until(lambda: state.fates == ["given_up"])
    assert receiver.received[0].webhook_id.startswith(f"evt_{job_id.hex}_p")


def test_a_state_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "cursor.json")
    assert state.read() is None
    for cursor in ("one", "two"):
        state.write(cursor)
        assert StateFile(tmp_path / "cursor.json").read() == cursor
    assert [path.name for path in tmp_path.iterdir()] == ["cursor.json"]
    for text in ("", "[]", "{}", "cursor"):
        (tmp_path / "cursor.json").write_text(text)
        with pytest.raises(InvalidInput, match="no state file"):
            state.read()
    with pytest.raises(InvalidInput, match="cannot be written"):
        StateFile(tmp_path / "nowhere" / "cursor.json").write("x")


def test_mistakes_are_told_before_anything_is_sent() -> None:
    for url in (
        "ftp://x/",
        "localhost:3000",
        "http://",
        "http://[::1",
        "http://h:99999/",
        "http://a b/",
        "http://h/\n",
    ):
        with pytest.raises(InvalidInput, match="http"):
            Api(url)
        with pytest.raises(InvalidInput, match="http"):
            Forwarder(url, SIGNING_SECRET)
    for words in ("no\nheader", "two words", "届け"):
        with pytest.raises(InvalidInput, match="ASCII"):
            Api("http://localhost", words)
        with pytest.raises(InvalidInput, match="ASCII"):
            Feed(Api("http://localhost"), (), (), words, print)
    with pytest.raises(InvalidInput, match="ed25519"):
        Forwarder("http://localhost/", "whpk_AAAA")
    with pytest.raises(TodokeError, match="no event"):
        event_of(sse.Frame("job.failed", "{}", ""))


def test_what_counts_as_this_machine() -> None:
    assert all(map(is_loopback, ("http://localhost:1", "https://a.localhost", "http://127.9.9.9/", "http://[::1]:3/")))
    assert not any(map(is_loopback, ("http://localhost.example.com", "https://10.0.0.1", "http://[::2]/")))


def test_the_library_is_light() -> None:
    """It needs no server, no database, and not aiohttp."""
    heavy = ("aiohttp", "fastapi", "starlette", "uvicorn", "asyncpg", "sqlalchemy", "boto3", "pydantic", "todoke.store")
    source = (
        "import sys, todoke.client.listening, todoke.client.testing, todoke.client.state_file\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", source], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
