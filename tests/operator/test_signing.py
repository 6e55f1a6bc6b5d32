"""`todoke webhooks secrets` and `todoke webhooks keys` as they are typed, on a real database."""

import asyncio
import json
import os
import sys

import pytest

from tests.conftest import REPOSITORY, SECRET_KEYS
from tests.operator.test_commands import todoke
from todoke.model.ids import new_id
from todoke.store.database import Database
from todoke.store.signing import LiveSecrets, SigningKeys, SigningSecrets
from todoke.wire.asymmetric import public_key
from todoke.wire.signing import new_secret, parse_secret

URL = "https://hooks.example.com/"
NEW = "a-new-key-of-tests-that-is-long-enough"


@pytest.fixture(autouse=True)
def _sealing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TODOKE_SECRET_KEYS", SECRET_KEYS)


async def live(database: Database, *seals: str, url: str = URL, tenant_id: str = "default") -> LiveSecrets:
    found = await SigningSecrets(database, seals or [SECRET_KEYS]).live([(tenant_id, url)])
    return found[tenant_id, url]


async def make(database_url: str, *words: str) -> dict[str, str]:
    code, said, complained = await todoke(database_url, "webhooks", "secrets", "create", *words, "--json")
    assert code == 0, complained
    return dict(json.loads(said))


async def test_a_secret_is_shown_once_and_signs(database_url: str, database: Database) -> None:
    code, said, _ = await todoke(database_url, "webhooks", "secrets", "list")
    assert (code, "secrets create" in said) == (0, True)
    code, said, _ = await todoke(database_url, "webhooks", "secrets", "create")
    assert code == 0
    shown, secret = said.splitlines()
    assert "tenant default" in shown
    assert (await live(database)).secrets == (parse_secret(secret),)
    of_url = await make(database_url, "--tenant", "acme", "--url", URL, "--overlap-hours", "0")
    assert (await live(database, tenant_id="acme")).secrets == (parse_secret(of_url["secret"]),)
    for words in ((), ("--json",)):
        _, said, _ = await todoke(database_url, "webhooks", "secrets", "list", *words)
        assert of_url["id"] in said
        assert secret not in said
    _, said, _ = await todoke(database_url, "webhooks", "secrets", "list", "--tenant", "acme")
    assert [line.split("\t")[:4] for line in said.splitlines()] == [[of_url["id"], "acme", URL, "live"]]


async def test_secrets_rotate_and_end(database_url: str, database: Database) -> None:
    first = await make(database_url)
    second = await make(database_url, "--overlap-hours", "2")
    assert (await live(database)).secrets == (parse_secret(second["secret"]), parse_secret(first["secret"]))
    words = (second["id"], str(new_id()), first["secret"])
    code, said, _ = await todoke(database_url, "webhooks", "secrets", "end", *words)
    assert code == 1
    assert f"secret {second['id']} is ended" in said
    assert "there is no such secret" in said
    assert first["secret"] not in said
    assert (await live(database)).secrets == (parse_secret(first["secret"]),)
    _, said, _ = await todoke(database_url, "webhooks", "secrets", "list", "--json")
    assert [(each["id"], each["standing"]) for each in json.loads(said)] == [
        (second["id"], "ended"),
        (first["id"], "ending"),
    ]


async def test_a_secret_may_be_brought_on_standard_input(database_url: str, database: Database) -> None:
    brought = new_secret()
    for text, expected in ((brought, 0), ("whpk_AAAA", 2), ("", 2)):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "todoke", "webhooks", "secrets", "create", "--stdin"),
            cwd=REPOSITORY,
            env={**os.environ, "DATABASE_URL": database_url},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, complained = await asyncio.wait_for(process.communicate(f"{text}\n".encode()), 60)
        assert process.returncode == expected
        assert b"AAAA" not in complained
        assert b"Traceback" not in complained
    assert (await live(database)).secrets == (parse_secret(brought),)


async def test_sealing_keys_are_replaced(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make(database_url)
    [key] = await SigningKeys(database, [SECRET_KEYS]).ensure()
    monkeypatch.setenv("TODOKE_SECRET_KEYS", f"{NEW},{SECRET_KEYS}")
    code, said, _ = await todoke(database_url, "webhooks", "secrets", "reseal")
    assert (code, said) == (0, "sealed with the first key now: 1 signing secrets and 1 signing keys\n")
    assert (await live(database, NEW)).secrets == (parse_secret(made["secret"]),)
    assert await SigningKeys(database, [NEW]).ensure() == [key]
    monkeypatch.setenv("TODOKE_SECRET_KEYS", SECRET_KEYS)
    code, said, _ = await todoke(database_url, "webhooks", "secrets", "reseal")
    assert code == 1
    assert f"signing secret {made['id']}: none of TODOKE_SECRET_KEYS opens it" in said
    assert (await live(database, NEW)).secrets == (parse_secret(made["secret"]),)


async def test_signing_keys_are_listed_and_rotated(database_url: str, database: Database) -> None:
    code, said, _ = await todoke(database_url, "webhooks", "keys", "list")
    assert (code, "the first notifier" in said) == (0, True)
    keys = SigningKeys(database, [SECRET_KEYS])
    [first] = await keys.ensure()
    code, said, _ = await todoke(database_url, "webhooks", "keys", "rotate", "--overlap-hours", "1")
    assert code == 0
    made = said.splitlines()[-1]
    assert [public_key(text) for text in await keys.ensure()] == [made, public_key(first)]
    _, said, _ = await todoke(database_url, "webhooks", "keys", "list")
    assert [line.split("\t")[1] for line in said.splitlines()] == [made, public_key(first)]
    _, said, _ = await todoke(database_url, "webhooks", "keys", "rotate", "--json")
    _, listed, _ = await todoke(database_url, "webhooks", "keys", "list", "--json")
    assert json.loads(listed)[0] == json.loads(said)


async def test_without_secret_keys_nothing_is_made(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TODOKE_SECRET_KEYS")
    for words in (("secrets", "create"), ("secrets", "reseal"), ("keys", "rotate")):
        code, _, complained = await todoke(database_url, "webhooks", *words)
        assert (code, "TODOKE_SECRET_KEYS is not set" in complained) == (2, True), words
    code, _, complained = await todoke(database_url, "webhooks", "secrets", "create", "--url", "https://10.0.0.1/")
    assert code == 2
    monkeypatch.setenv("TODOKE_SECRET_KEYS", SECRET_KEYS)
    code, _, complained = await todoke(database_url, "webhooks", "secrets", "create", "--url", "https://10.0.0.1/")
    assert (code, "Traceback" in complained) == (2, False)
    assert not await database.fetch("SELECT FROM signing_secret")
    assert not await database.fetch("SELECT FROM signing_key")
