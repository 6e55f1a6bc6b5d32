"""`todoke tenants` and the limits of keys, as they are typed, on a real database."""

import json

import pytest

from tests.make import accept, start
from tests.operator.test_commands import todoke
from todoke.model.access import Scope
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database
from todoke.store.ledger import Ledger


async def test_tenants_are_shown_limited_and_suspended(database_url: str, database: Database, ledger: Ledger) -> None:
    await ApiKeys(database).create("acme", "of a test", [Scope.READ])
    await start(ledger, await accept(ledger, tenant_id="acme"))
    await accept(ledger, tenant_id="acme")
    code, said, _ = await todoke(
        database_url, "tenants", "set", "acme", "--submits-per-minute", "60", "--streams-max", "0"
    )
    assert (code, "acme" in said) == (0, True)
    await todoke(database_url, "tenants", "set", "acme", "--streams-max", "default")
    await todoke(database_url, "tenants", "suspend", "acme")
    code, said, _ = await todoke(database_url, "tenants", "show", "acme", "--json")
    shown = json.loads(said)
    assert code == 0
    assert shown | {"suspendedAt": None} == {
        "tenant": "acme",
        "standing": "suspended",
        "suspendedAt": None,
        "keys": 1,
        "lastUsedAt": None,
        "waiting": 1,
        "running": 1,
        "limits": {"submitsPerMinute": 60, "readsPerMinute": 30_000, "queueDepthMax": 100_000, "streamsMax": 1_000},
        "own": {"submitsPerMinute": 60},
    }
    await todoke(database_url, "tenants", "resume", "acme")
    _, said, _ = await todoke(database_url, "tenants", "list")
    assert [line.split("\t")[:6] for line in said.splitlines()] == [["acme", "good", "1", "-", "1", "1"]]


@pytest.mark.parametrize(
    "words",
    [
        ("show", "nobody"),
        ("set", "acme", "--streams-max", "-1"),
        ("set", "acme", "--streams-max", "many"),
        ("set", "acme", "--streams-max", "9" * 30),
        ("suspend", ""),
    ],
    ids=" ".join,
)
async def test_what_makes_no_sense_is_said_to(database_url: str, words: tuple[str, ...]) -> None:
    code, _, complained = await todoke(database_url, "tenants", *words)
    assert code == 2
    assert complained.startswith("todoke: "), complained
    assert "Traceback" not in complained


async def test_a_key_gets_limits_and_loses_them(database_url: str, database: Database) -> None:
    code, said, _ = await todoke(database_url, "keys", "create", "k", "--submits-per-minute", "5", "--json")
    made = json.loads(said)
    assert (code, made["submitsPerMinute"], made["readsPerMinute"]) == (0, 5, None)
    _, said, _ = await todoke(database_url, "keys", "limit", made["id"], "--reads-per-minute", "7", "--json")
    assert (json.loads(said)["submitsPerMinute"], json.loads(said)["readsPerMinute"]) == (5, 7)
    code, _, complained = await todoke(database_url, "keys", "limit", "0" * 16)
    assert (code, "no such key" in complained) == (2, True)
