"""`todoke webhooks listen` and `todoke webhooks test` as they are typed."""

import asyncio
import json
import re
import signal
from pathlib import Path
from uuid import UUID

import httpx
import pytest
import standardwebhooks

from tests.client.conftest import command, finish_jobs, names, verified
from tests.conftest import SIGNING_SECRET, until
from tests.notifier.conftest import notifying
from tests.notifier.receiver import OK, Received, receiving
from tests.service.callers import door, make_key
from todoke.dev.ports import free_port
from todoke.model.access import Scope
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger

JOBS, KILLS = 12, 3


@pytest.fixture
def url(api: httpx.AsyncClient) -> str:
    return str(api.base_url).rstrip("/")


async def slowly(_received: Received, writer: asyncio.StreamWriter) -> None:
    """Takes it, and is in no hurry to say so: a kill hits between the two."""
    await asyncio.sleep(0.05)
    writer.write(OK)


async def test_a_killed_listener_goes_on_from_its_state_file(url: str, ledger: Ledger, tmp_path: Path) -> None:
    """Three times in the middle: every event comes, in order; what was on its way when it was killed comes again."""
    ids: list[UUID] = []
    async with receiving(*[slowly] * 100) as receiver:
        words = ["listen", "--forward-to", receiver.url, "--api", url, "--secret", SIGNING_SECRET]
        words += ["--state-file", str(tmp_path / "cursor.json")]
        for kill in range(KILLS + 1):
            async with command(*words) as running:
                await until(lambda: running.has_said("from now on" if not kill else "going on behind"), 30)  # noqa: B023
                ids += await finish_jobs(ledger, JOBS // (KILLS + 1))
                wanted = len(ids) - (1 if kill < KILLS else 0)
                await until(lambda: len(set(verified(receiver))) >= wanted, 30)  # noqa: B023
                await running.end(signal.SIGKILL)
    came = verified(receiver)
    assert list(dict.fromkeys(came)) == names(ids)
    assert len(came) <= JOBS + KILLS


async def test_ctrl_c_ends_it_and_tells_how_to_go_on(url: str, ledger: Ledger) -> None:
    async with receiving() as receiver:
        words = ["listen", "--forward-to", receiver.url, "--api", url]
        async with command(*words) as first:
            await until(lambda: first.has_said("from now on"), 30)
            [one] = await finish_jobs(ledger)
            await until(lambda: first.has_said(f"job.succeeded {one} 200"), 30)
            assert await first.end(signal.SIGINT) == 0
        assert first.complaints == ""
        secret = next(match[0] for line in first.lines if (match := re.search(r"whsec_\S+", line)))
        cursor = first.lines[-1].partition("--from ")[2]
        assert re.fullmatch(rf"\d\d:\d\d:\d\d job\.succeeded {one} 200 \d+ ms", first.lines[-2])
        [two] = await finish_jobs(ledger)
        async with command(*words, "--from", cursor, "--secret", secret) as second:
            await until(lambda: len(receiver.received) == 2, 30)
            assert await second.end(signal.SIGTERM) == 0
        assert not any("whsec_" in line for line in second.lines), "a secret that was given is not shown"
    assert [received.webhook_id for received in receiver.received] == names([one, two])
    for received in receiver.received:
        standardwebhooks.Webhook(secret).verify(received.body, received.headers)


async def test_what_cannot_work_is_one_sentence(url: str, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    (tmp_path / "notes.txt").write_text("mine")
    for words, says in [
        (["listen", "--forward-to", "localhost:3000"], "http://"),
        (["listen", "--forward-to", nowhere, "--api", url, "--event", "job.done"], "no such event type"),
        (["listen", "--forward-to", nowhere, "--secret", "whpk_AAAA"], "ed25519"),
        (["listen", "--forward-to", nowhere, "--state-file", str(tmp_path / "notes.txt")], "no state file"),
        (["test", "https://hooks.example.com/", "--api", nowhere], "--api"),
        (["test", "https://hooks.example.com/#x", "--api", url], "fragment"),
    ]:
        async with command(*words) as run:
            assert await asyncio.wait_for(run.process.wait(), 30) == 2, words
        assert says in run.complaints
        assert "Traceback" not in run.complaints
        assert len(run.complaints.splitlines()) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


async def test_a_receiver_is_graded_from_the_command_line(settings: Settings, database: Database) -> None:
    _, key = await make_key(database, Scope.SUBMIT, Scope.READ)
    text = key["Authorization"].removeprefix("Bearer ")
    async with receiving() as trusting:
        vouched = settings.model_copy(update={"callback_hosts": (f"127.0.0.1:{trusting.port}",)})
        async with door(vouched) as api, notifying(vouched):
            words = ["test", trusting.url, "--api", str(api.base_url), "--key", text]
            async with command(*words) as ping:
                assert await asyncio.wait_for(ping.process.wait(), 60) == 0
            async with command(*words, "--self-test") as whole:
                assert await asyncio.wait_for(whole.process.wait(), 60) == 1
            async with command(*words, "--self-test", "--json") as machine:
                assert await asyncio.wait_for(machine.process.wait(), 60) == 1
            async with command(*words[:-2]) as keyless:
                assert await asyncio.wait_for(keyless.process.wait(), 60) == 2
    assert ping.lines[-1] == "grade: pass"
    assert "grade: fail" in whole.lines
    assert any(line.startswith("bad_signature: anybody can forge") for line in whole.lines)
    assert any(line.split("\t")[:3] == ["no_signature", "4xx", "200"] for line in whole.lines)
    assert json.loads("\n".join(machine.lines))["report"]["grade"] == "fail"
    assert "TODOKE_API_KEY" in keyless.complaints
