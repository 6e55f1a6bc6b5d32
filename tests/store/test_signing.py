"""Signing secrets and keys in a real PostgreSQL: sealed, rotated with an overlap, never more than two at once."""

import asyncio
import logging
import re

import asyncpg
import pytest

from tests.conftest import SECRET_KEYS
from todoke.model.errors import InvalidInput
from todoke.store.database import Database
from todoke.store.signing import (
    ENDED_MAX,
    OVERLAP_SECONDS_MAX,
    RESEAL_MAX,
    SQL,
    LiveSecrets,
    NewSecret,
    SigningKeys,
    SigningSecrets,
)
from todoke.wire.asymmetric import SigningKey, jwk, public_key
from todoke.wire.signing import new_secret, parse_secret

URL, OTHER = "https://hooks.example.com/", "https://hooks.example.com/other"
OLD, NEW = "an-old-key-that-is-long-enough-for-it", "a-new-key-that-is-long-enough-for-it"


@pytest.fixture
def secrets(database: Database) -> SigningSecrets:
    return SigningSecrets(database, [SECRET_KEYS])


@pytest.fixture
def keys(database: Database) -> SigningKeys:
    return SigningKeys(database, [SECRET_KEYS])


async def live(secrets: SigningSecrets, url: str = URL, tenant_id: str = "default") -> LiveSecrets:
    return (await secrets.live([(tenant_id, url)]))[tenant_id, url]


def opened(*made: NewSecret) -> tuple[bytes, ...]:
    return tuple(parse_secret(each.secret) for each in made)


async def let_pass(database: Database, seconds: float, table: str = "signing_secret") -> None:
    """Time goes by: everything was made, and ends, that much sooner."""
    await database.fetch(
        f"UPDATE {table} SET created_at = created_at - $1::float8 * interval '1 second', "
        "expires_at = expires_at - $1::float8 * interval '1 second'",
        seconds,
    )


async def test_a_secret_is_sealed_and_signs(secrets: SigningSecrets, database: Database) -> None:
    assert await live(secrets) == LiveSecrets()
    assert await secrets.signed([("default", URL)]) == [False]
    made = await secrets.create("default", None)
    assert made.secret.startswith("whsec_")
    assert len(parse_secret(made.secret)) == 32
    assert await live(secrets) == LiveSecrets(opened(made))
    assert await secrets.signed([("default", URL), ("another", URL)]) == [True, False]
    [row] = await database.fetch("SELECT signing_secret::text AS whole, sealed FROM signing_secret")
    assert made.secret.removeprefix("whsec_") not in row["whole"]
    assert (await secrets.create("default", None)).secret != made.secret


async def test_creating_is_rotating_and_the_third_ends_the_oldest(secrets: SigningSecrets, database: Database) -> None:
    first = await secrets.create("default", None)
    second = await secrets.create("default", None, 3600)
    found = await live(secrets)
    assert found.secrets == opened(second, first)
    assert found.seconds_left is not None
    assert 3590 < found.seconds_left <= 3600
    third = await secrets.create("default", None, 7200)
    assert (await live(secrets)).secrets == opened(third, second)
    standings = [(each.id, each.standing) for each in await secrets.listed("default", 10)]
    assert standings == [(third.id, "live"), (second.id, "ending"), (first.id, "ended")]
    await let_pass(database, 7199)
    assert len((await live(secrets)).secrets) == 2
    await let_pass(database, 2)
    assert (await live(secrets)) == LiveSecrets(opened(third))
    await secrets.create("default", None, 0)
    assert len((await live(secrets)).secrets) == 1
    sealed = await database.fetch("SELECT count(*) AS count FROM signing_secret WHERE sealed <> ''")
    assert sealed[0]["count"] == 1, "what has ended is forgotten"


async def test_rotating_never_prolongs(secrets: SigningSecrets) -> None:
    first = await secrets.create("default", None)
    second = await secrets.create("default", None, 60)
    assert await secrets.end("default", second.id)
    assert (await live(secrets)).secrets == opened(first)
    third = await secrets.create("default", None, 3600)
    found = await live(secrets)
    assert found.secrets == opened(third, first)
    assert found.seconds_left is not None
    assert found.seconds_left <= 60


async def test_a_callback_may_have_its_own(secrets: SigningSecrets) -> None:
    own = await secrets.create("default", URL)
    assert await secrets.signed([("default", URL), ("default", OTHER), ("another", URL)]) == [True, False, False]
    whole = await secrets.create("default", None)
    theirs = await secrets.create("another", None)
    pairs = [("default", URL), ("default", OTHER), ("another", URL), ("nobody", URL)]
    found = await secrets.live(pairs)
    assert [found[pair].secrets for pair in pairs] == [opened(own), opened(whole), opened(theirs), ()]
    assert await secrets.end("default", own.id)
    assert (await live(secrets)).secrets == opened(whole), "one that has ended leaves the callback to the tenant's"
    assert await secrets.signed([]) == []
    assert await secrets.live([]) == {}


async def test_only_its_tenant_ends_a_secret(secrets: SigningSecrets) -> None:
    made = await secrets.create("default", None)
    assert not await secrets.end("another", made.id)
    assert not await secrets.end("default", "unknown")
    assert (await live(secrets)).secrets == opened(made)
    assert await secrets.end("default", made.id)
    assert await secrets.end("default", made.id)
    assert await live(secrets) == LiveSecrets()
    assert await secrets.listed("another", 10) == []


async def test_parts_of_the_list(secrets: SigningSecrets) -> None:
    made = [await secrets.create("default", f"{URL}{number}") for number in range(5)]
    await secrets.create("another", None)
    seen: list[str] = []
    while part := await secrets.listed("default", 2, seen[-1] if seen else None):
        seen += [each.id for each in part]
    assert seen == [each.id for each in reversed(made)]
    assert len(await secrets.listed(None, 10)) == 6
    other = await secrets.create("another", URL)
    assert await secrets.listed("default", 10, other.id) == [], "another tenant's place is none"


async def test_at_most_two_live_however_many_create_at_once(database: Database) -> None:
    async def create(url: str | None) -> NewSecret:
        return await SigningSecrets(database, [SECRET_KEYS]).create("default", url)

    await asyncio.gather(*(create(url) for _ in range(12) for url in (None, URL)))
    secrets = SigningSecrets(database, [SECRET_KEYS])
    listed = await secrets.listed("default", 100)
    for url in (None, URL):
        standings = [each.standing for each in listed if each.url == url]
        assert standings == ["live", "ending", *["ended"] * 10]
        [row] = await database.fetch(
            "SELECT count(DISTINCT created_at) AS moments FROM signing_secret WHERE url IS NOT DISTINCT FROM $1", url
        )
        assert row["moments"] == 12


async def test_a_secret_is_the_newest_even_when_the_clock_was_put_back(
    secrets: SigningSecrets, database: Database
) -> None:
    first = await secrets.create("default", None)
    await let_pass(database, -3600)
    second = await secrets.create("default", None)
    assert (await live(secrets)).secrets == opened(second, first)


async def test_few_that_have_ended_stay(secrets: SigningSecrets) -> None:
    for _ in range(ENDED_MAX + 5):
        await secrets.create("default", None, 0)
    assert len(await secrets.listed("default", 1000)) == ENDED_MAX + 1


@pytest.mark.parametrize("overlap", [-1, OVERLAP_SECONDS_MAX + 1, float("nan")])
async def test_an_overlap_has_bounds(secrets: SigningSecrets, keys: SigningKeys, overlap: float) -> None:
    for made in (secrets.create("default", None, overlap), keys.rotate(overlap)):
        with pytest.raises(InvalidInput, match="7 days"):
            await made


async def test_callers_may_bring_their_own(secrets: SigningSecrets) -> None:
    brought = new_secret()
    made = await secrets.create("default", None, secret=brought)
    assert made.secret == brought
    assert (await live(secrets)).secrets == (parse_secret(brought),)
    for bad in ("whpk_AAAA", "whsk_AAAA", "whsec_AAAA", "hush"):
        with pytest.raises(InvalidInput) as caught:
            await secrets.create("default", None, secret=bad)
        assert "AAAA" not in str(caught.value)
    assert (await live(secrets)).secrets == (parse_secret(brought),), "a refused one rotates nothing"


async def test_without_sealing_keys_none_is_made_or_read(database: Database, secrets: SigningSecrets) -> None:
    bare = SigningSecrets(database, ())
    with pytest.raises(InvalidInput, match="TODOKE_SECRET_KEYS"):
        await bare.create("default", None)
    made = await secrets.create("default", None)
    with pytest.raises(InvalidInput, match="TODOKE_SECRET_KEYS"):
        await live(bare)
    assert [each.id for each in await bare.listed("default", 10)] == [made.id]
    assert await bare.end("default", made.id)
    with pytest.raises(InvalidInput, match="TODOKE_SECRET_KEYS"):
        await SigningKeys(database, ()).ensure()


async def test_a_secret_that_no_key_opens_is_not_no_secret(database: Database) -> None:
    lost = await SigningSecrets(database, [OLD]).create("default", None)
    secrets = SigningSecrets(database, [NEW])
    assert await live(secrets) == LiveSecrets((), (lost.id,))
    assert await secrets.signed([("default", URL)]) == [True]
    own = await secrets.create("default", URL)
    assert await live(secrets) == LiveSecrets(opened(own)), "the tenant's does not matter to a callback with its own"
    new = await secrets.create("default", None)
    found = await live(secrets, OTHER)
    assert (found.secrets, found.unreadable) == (opened(new), (lost.id,))


async def test_sealing_keys_are_rotated(database: Database) -> None:
    of_old, of_both, of_new = (SigningSecrets(database, seals) for seals in ([OLD], [NEW, OLD], [NEW]))
    made = [await of_old.create("default", f"{URL}{number}") for number in range(RESEAL_MAX + 3)]
    assert (await live(of_both, f"{URL}0")).secrets == opened(made[0])
    assert (await live(of_new, f"{URL}0")).unreadable == (made[0].id,)
    ended = await of_old.create("another", None)
    await of_old.create("another", None, 0)
    assert await of_both.reseal() == (len(made) + 1, [])
    for number in (0, len(made) - 1):
        assert (await live(of_new, f"{URL}{number}")).secrets == opened(made[number])
        assert (await live(of_old, f"{URL}{number}")).unreadable == (made[number].id,), "the old key alone is useless"
    [row] = await database.fetch("SELECT sealed FROM signing_secret WHERE id = $1", ended.id)
    assert row["sealed"] == ""
    done, unreadable = await of_old.reseal()
    assert (done, len(unreadable)) == (0, len(made) + 1)


async def test_secrets_and_keys_are_sealed_apart(database: Database, secrets: SigningSecrets) -> None:
    keys = SigningKeys(database, [SECRET_KEYS])
    await keys.ensure()
    made = await secrets.create("default", None)
    await database.fetch("UPDATE signing_secret SET sealed = (SELECT sealed FROM signing_key)")
    assert (await live(secrets)).unreadable == (made.id,)


async def test_the_first_signing_key_is_made_once(database: Database) -> None:
    assert await SigningKeys(database, [SECRET_KEYS]).published() == []
    texts = await asyncio.gather(*(SigningKeys(database, [SECRET_KEYS]).ensure() for _ in range(8)))
    assert all(each == texts[0] for each in texts)
    [text] = texts[0]
    [published] = await SigningKeys(database, [SECRET_KEYS]).published()
    assert published.public_key == public_key(text) == SigningKey.parse(text).public
    assert published.id == jwk(published.public_key)["kid"]
    assert published.expires_at is None
    [row] = await database.fetch("SELECT signing_key::text AS whole FROM signing_key")
    assert text.removeprefix("whsk_")[:40] not in row["whole"]


async def test_signing_keys_rotate_with_an_overlap(database: Database, keys: SigningKeys) -> None:
    [first] = await keys.ensure()
    second = await keys.rotate(3600)
    texts = await keys.ensure()
    assert [public_key(text) for text in texts] == [second.public_key, public_key(first)]
    assert [each.public_key for each in await keys.published()] == [public_key(text) for text in texts]
    third = await keys.rotate(3600)
    assert [each.id for each in await keys.published()] == [third.id, second.id], "never more than two"
    await let_pass(database, 3601, "signing_key")
    assert [public_key(text) for text in await keys.ensure()] == [third.public_key]
    assert [each.id for each in await keys.published()] == [third.id]
    await asyncio.gather(*(keys.rotate() for _ in range(6)))
    assert len(await keys.ensure()) == 2


async def test_a_signing_key_that_cannot_be_opened_says_what_to_do(database: Database) -> None:
    of_old, of_new = SigningKeys(database, [OLD]), SigningKeys(database, [NEW])
    [lost] = await of_old.ensure()
    for work in (of_new.ensure(), of_new.rotate(60)):
        with pytest.raises(InvalidInput, match="keys rotate --overlap-hours 0") as caught:
            await work
        assert "TODOKE_SECRET_KEYS" in str(caught.value)
    assert await of_new.reseal() == (0, [jwk(public_key(lost))["kid"]])
    assert await SigningKeys(database, [NEW, OLD]).reseal() == (1, [])
    assert await of_new.ensure() == [lost]
    with pytest.raises(InvalidInput):
        await of_old.ensure()
    made = await of_old.rotate(0)
    assert [public_key(text) for text in await of_old.ensure()] == [made.public_key]


@pytest.mark.parametrize("tenant", ["'one'", "'tenant-' || number"])
async def test_looking_up_goes_along_the_index(database_url: str, tenant: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "INSERT INTO signing_secret (id, tenant_id, url, sealed, created_at) "
            f"SELECT number, {tenant}, 'https://hooks.example.com/' || number, 'x', now() "
            "FROM generate_series(1, 20000) AS number"
        )
        await connection.execute("ANALYZE signing_secret; SET plan_cache_mode = force_generic_plan")
        for name in ("live", "signed"):
            await connection.execute(f"PREPARE asked AS {SQL[name]}")
            rows = await connection.fetch("EXPLAIN EXECUTE asked (NULL, NULL)")
            await connection.execute("DEALLOCATE asked")
            plan = "\n".join(row[0] for row in rows)
            assert "Seq Scan" not in plan, plan
            # A tenant of many callbacks is not read through for one of them.
            assert len(re.findall(r"Index Cond: \(\(tenant_id = .*AND \(url ", plan)) == 2, plan
    finally:
        await connection.close()


async def test_nothing_secret_is_logged_or_shown(
    database: Database, secrets: SigningSecrets, keys: SigningKeys, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        made = await secrets.create("default", None)
        found = await live(secrets)
        [key] = await keys.ensure()
        await secrets.reseal()
    shown = caplog.text + repr(made) + repr(found) + repr(await keys.published())
    for hidden in (made.secret.removeprefix("whsec_"), repr(parse_secret(made.secret)), key.removeprefix("whsk_")):
        assert hidden not in shown
