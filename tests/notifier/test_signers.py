"""Who signs: a tenant's own secrets, the service's keys beside them, nobody in the place of what is unreadable."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from uuid import UUID

import httpx
import pytest
import standardwebhooks
import structlog

from notifier.signers import KEEP_SECONDS, KEPT_MAX, Signers
from tests.conftest import SECRET_KEYS, SIGNING_SECRET, make_settings, serve
from tests.make import accept, start, succeed
from tests.notifier.conftest import make_due, notifying, owe, row, row_when
from tests.notifier.receiver import Received, receiving
from tests.notifier.test_process import Process, notifier
from todoke.dev.aws import Emulator
from todoke.model.delivery import Reason
from todoke.model.errors import InvalidInput, Unavailable
from todoke.model.event import TERMINAL
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.signing import LiveSecrets, Pair, SigningKeys, SigningSecrets
from todoke.wire.asymmetric import new_signing_key, public_key, verify_with_key
from todoke.wire.signing import new_secret, parse_secret

URL = "https://hooks.example.com/"
OLD = "an-old-key-that-is-long-enough-for-it"
BODY = b"{}"


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Kept:
    """In the place of both tables: counts what is asked, and may be away."""

    def __init__(self) -> None:
        self.found: dict[Pair, LiveSecrets] = {}
        self.keys = [new_signing_key()]
        self.asked: list[Sequence[Pair]] = []
        self.key_reads = 0
        self.is_away = False

    async def live(self, pairs: Sequence[Pair]) -> dict[Pair, LiveSecrets]:
        if self.is_away:
            raise Unavailable("away")
        self.asked.append(pairs)
        await asyncio.sleep(0)
        return {pair: self.found.get(pair, LiveSecrets()) for pair in pairs}

    async def ensure(self) -> list[str]:
        if self.is_away:
            raise Unavailable("away")
        self.key_reads += 1
        return self.keys


def signers(kept: Kept, clock: Clock, fallback: str | None = None) -> Signers:
    return Signers(kept, kept, fallback, clock)  # type: ignore[arg-type]


async def entries(asked: Signers, tenant_id: str = "default", url: str = URL) -> list[str]:
    """The versions in the line of signatures."""
    headers = (await asked.of(tenant_id, url)).headers("evt_1", 1, BODY)
    return [entry.partition(",")[0] for entry in headers["webhook-signature"].split(" ")]


async def test_asks_at_once_are_one_statement_and_kept_a_little() -> None:
    kept, clock = Kept(), Clock()
    pairs = [("one", f"{URL}{number}") for number in range(50)]
    asked = signers(kept, clock)
    await asyncio.gather(*(asked.of(*pair) for pair in pairs * 4))
    assert len(kept.asked) <= 2
    assert {pair for part in kept.asked for pair in part} == set(pairs)
    before = len(kept.asked)
    assert await asked.of(*pairs[0]) is await asked.of(*pairs[0])
    assert len(kept.asked) == before
    clock.now += KEEP_SECONDS
    await asked.of(*pairs[0])
    assert len(kept.asked) == before + 1


async def test_a_signer_is_kept_no_longer_than_its_secrets_live() -> None:
    kept, clock = Kept(), Clock()
    kept.found["one", URL] = LiveSecrets((b"n" * 32, b"o" * 32), seconds_left=1.5)
    asked = signers(kept, clock)
    assert await entries(asked, "one") == ["v1", "v1", "v1a"]
    kept.found["one", URL] = LiveSecrets((b"n" * 32,))
    clock.now += 1.4
    assert await entries(asked, "one") == ["v1", "v1", "v1a"]
    clock.now += 0.1
    assert await entries(asked, "one") == ["v1", "v1a"]


async def test_what_is_kept_is_bounded() -> None:
    kept, clock = Kept(), Clock()
    asked = signers(kept, clock)
    await asyncio.gather(*(asked.of("one", f"{URL}{number}") for number in range(KEPT_MAX + 10)))
    assert len(asked._kept) == KEPT_MAX


async def test_keys_are_read_every_few_seconds_and_parsed_once() -> None:
    kept, clock = Kept(), Clock()
    asked = signers(kept, clock)
    await asked.start()
    first = list(asked._signing_keys.values())
    for number in range(20):
        await asked.of("one", f"{URL}{number}")
    assert kept.key_reads == 1
    kept.keys = [new_signing_key(), *kept.keys]
    clock.now += KEEP_SECONDS
    assert await entries(asked, "one") == ["v1a", "v1a"]
    assert kept.key_reads == 2
    assert list(asked._signing_keys.values())[1:] == first


async def test_the_fallback_signs_for_the_default_tenant_alone() -> None:
    kept, clock = Kept(), Clock()
    asked = signers(kept, clock, SIGNING_SECRET)
    headers = (await asked.of("default", URL)).headers("evt_1", 1, BODY)
    own = signers(kept, clock, new_secret())
    assert (await own.of("default", URL)).headers("evt_1", 1, BODY) != headers
    assert await entries(asked) == ["v1", "v1a"]
    assert await entries(asked, "another") == ["v1a"]
    kept.found["default", URL] = LiveSecrets((b"n" * 32,))
    clock.now += KEEP_SECONDS
    assert (await asked.of("default", URL)).headers("evt_1", 1, BODY) != headers
    for bad in ("whpk_AAAA", "hush"):
        with pytest.raises(InvalidInput) as caught:
            signers(kept, clock, bad)
        assert bad not in str(caught.value)


async def test_away_at_the_start_is_no_fault_and_keys_come_with_the_first_ask() -> None:
    kept, clock = Kept(), Clock()
    kept.is_away = True
    asked = signers(kept, clock)
    await asked.start()
    with pytest.raises(Unavailable):
        await asked.of("one", URL)
    kept.is_away = False
    assert await entries(asked, "one") == ["v1a"]


async def test_a_signing_key_that_cannot_be_opened_any_more_stops_signing(database: Database) -> None:
    secrets, clock = SigningSecrets(database, [SECRET_KEYS]), Clock()
    await secrets.create("one", None)
    asked = Signers(secrets, SigningKeys(database, [SECRET_KEYS]), clock=clock)
    await asked.start()
    assert await entries(asked, "one") == ["v1", "v1a"]
    await SigningKeys(database, [OLD]).rotate(0)
    clock.now += KEEP_SECONDS
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            found = await asyncio.gather(
                *(asked.of("one", f"{URL}{number}") for number in range(20)), return_exceptions=True
            )
            assert {type(each) for each in found} == {InvalidInput}
            clock.now += KEEP_SECONDS
    assert [line["event"] for line in logs] == ["signing_key.unreadable"]
    await SigningKeys(database, [SECRET_KEYS]).rotate(0)
    assert await entries(asked, "one") == ["v1", "v1a"]


async def test_what_is_unreadable_is_told_once_and_nothing_signs_in_its_place(database: Database) -> None:
    lost = await SigningSecrets(database, [OLD]).create("default", None)
    readable = await SigningSecrets(database, [SECRET_KEYS]).create("default", None)
    keys = SigningKeys(database, [SECRET_KEYS])
    clock = Clock()
    asked = Signers(SigningSecrets(database, [SECRET_KEYS]), keys, SIGNING_SECRET, clock)
    with structlog.testing.capture_logs() as logs:
        for url in (URL, f"{URL}other"):
            for _ in range(3):
                with pytest.raises(InvalidInput, match=lost.id) as caught:
                    await asked.of("default", url)
                assert "TODOKE_SECRET_KEYS" in str(caught.value)
                clock.now += KEEP_SECONDS
    assert [(line["event"], line["secret_id"]) for line in logs] == [("signing_secret.unreadable", lost.id)]
    for secret in (lost, readable):
        assert secret.secret not in repr(logs) + str(caught.value)
    await SigningSecrets(database, ()).end(None, lost.id)
    signed = (await asked.of("default", URL)).headers("evt_1", 1, BODY)
    assert signed["webhook-signature"].count("v1,") == 1


async def test_a_delivery_that_cannot_be_signed_costs_no_attempt(
    settings: Settings, database: Database, ledger: Ledger
) -> None:
    lost = await SigningSecrets(database, [OLD]).create("default", None)
    async with receiving() as receiver, notifying(settings):
        job_id = await owe(ledger, receiver.url)
        put_off = await row_when(database, job_id, lambda found: found["last_reason"] == Reason.SENDER)
        assert (put_off["state"], put_off["attempt"]) == ("PENDING", 0)
        assert receiver.connections == 0
        await SigningSecrets(database, [SECRET_KEYS, OLD]).reseal()
        async with asyncio.timeout(KEEP_SECONDS + 10):
            while (await row(database, job_id))["state"] != "DELIVERED":
                await make_due(database, job_id)
                await asyncio.sleep(0.05)
    [received] = receiver.received
    assert received.headers["todoke-attempt"] == "1"
    standardwebhooks.Webhook(lost.secret).verify(received.body, received.headers)


async def owe_for(ledger: Ledger, tenant_id: str, url: str) -> UUID:
    job_id = await accept(ledger, tenant_id=tenant_id, callback_url=url, callback_events=TERMINAL)
    await succeed(ledger, await start(ledger, job_id))
    return job_id


def verifies(secret: str, received: Received) -> bool:
    try:
        standardwebhooks.Webhook(secret).verify(received.body, received.headers)
    except standardwebhooks.WebhookVerificationError:
        return False
    return True


class Stage:
    """A real notifier, the ledger behind it and a receiver before it."""

    def __init__(self, database: Database, ledger: Ledger, url: str, received: list[Received]) -> None:
        self._database, self._ledger, self._url, self._received = database, ledger, url, received

    async def next(self, tenant_id: str = "one") -> Received:
        """What arrives when a job of the tenant has ended."""
        count = len(self._received)
        job_id = await owe_for(self._ledger, tenant_id, self._url)
        await row_when(self._database, job_id, lambda found: found["state"] == "DELIVERED")
        [received] = self._received[count:]
        return received

    async def first(self, condition: Callable[[Received], bool]) -> Received:
        """The first to arrive of which it holds: a change of secrets is known within seconds."""
        async with asyncio.timeout(2 * KEEP_SECONDS + 10):
            while not condition(received := await self.next()):
                await asyncio.sleep(0.05)
        return received


async def lapse(database: Database, table: str) -> None:
    """The overlap ends now."""
    await database.fetch(f"UPDATE {table} SET expires_at = clock_timestamp() WHERE expires_at IS NOT NULL")


async def test_rotation_end_to_end(
    settings: Settings, database: Database, ledger: Ledger, emulator: Emulator, queue_url: str
) -> None:
    """A real notifier process, a real API for the public keys, and verifiers of others' making."""
    secrets, keys = SigningSecrets(database, [SECRET_KEYS]), SigningKeys(database, [SECRET_KEYS])
    old, theirs = await secrets.create("one", None), await secrets.create("two", None)
    api_settings = make_settings(settings.database_url.get_secret_value(), queue_url, emulator)
    async with (
        receiving() as receiver,
        notifier(settings, TODOKE_LOG_LEVEL="DEBUG") as process,
        serve(api_settings) as url,
        httpx.AsyncClient(base_url=url) as api,
    ):
        stage = Stage(database, ledger, receiver.url, receiver.received)
        ours, other = await stage.next("one"), await stage.next("two")
        assert (verifies(old.secret, ours), verifies(theirs.secret, other)) == (True, True)
        assert (verifies(theirs.secret, ours), verifies(old.secret, other)) == (False, False)
        new = await secrets.create("one", None, 3600)
        both = await stage.first(lambda received: verifies(new.secret, received))
        assert verifies(old.secret, both), "the overlap"
        await lapse(database, "signing_secret")
        after = await stage.first(lambda received: not verifies(old.secret, received))
        assert verifies(new.secret, after)
        assert verifies(theirs.secret, await stage.next("two"))
        [published] = (await api.get("/.well-known/webhook-keys")).json()["keys"]
        for received in (ours, other, both, after):
            verify_with_key(published["publicKey"], received.headers, received.body)
        rotated = await keys.rotate(3600)
        during = await stage.first(lambda received: received.headers["webhook-signature"].count("v1a,") == 2)
        for public in (published["publicKey"], rotated.public_key):
            verify_with_key(public, during.headers, during.body)
        await lapse(database, "signing_key")
        last = await stage.first(lambda received: received.headers["webhook-signature"].count("v1a,") == 1)
        verify_with_key(rotated.public_key, last.headers, last.body)
        with pytest.raises(InvalidInput):
            verify_with_key(published["publicKey"], last.headers, last.body)
        await check_logs(process, [old.secret, new.secret, theirs.secret], keys)


async def check_logs(process: Process, hidden: Sequence[str], keys: SigningKeys) -> None:
    """Nothing that signs is in what the notifier said."""
    said = "\n".join(map(str, process.lines))
    assert process.logged("delivery.attempted")
    texts = [secret.removeprefix("whsec_") for secret in hidden] + [
        key.removeprefix("whsk_") for key in await keys.ensure()
    ]
    for text in [*texts, SIGNING_SECRET.removeprefix("whsec_"), SECRET_KEYS]:
        assert text[:20] not in said


async def test_nothing_that_signs_is_logged(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    secrets, keys = SigningSecrets(database, [SECRET_KEYS]), SigningKeys(database, [SECRET_KEYS])
    made = await secrets.create("one", None)
    asked = Signers(secrets, keys, SIGNING_SECRET)
    with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as logs:
        await asked.start()
        signer = await asked.of("one", URL)
    [key] = await keys.ensure()
    shown = caplog.text + repr(logs) + repr(signer) + repr(asked)
    for text in (made.secret, repr(parse_secret(made.secret)), key, SIGNING_SECRET):
        assert text not in shown
    assert public_key(key) not in repr(logs)
