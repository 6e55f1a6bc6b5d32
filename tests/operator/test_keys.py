"""`todoke keys` as it is typed, on a real database."""

import json

import pytest

from tests.operator.test_commands import todoke
from todoke.model.access import EVERY_SCOPE, Scope, secret_digest, split_key
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database


async def make(url: str, *words: str) -> dict[str, str]:
    code, said, complained = await todoke(url, "keys", "create", *words, "--json")
    assert code == 0, complained
    return dict(json.loads(said))


async def test_a_key_is_shown_once_and_works(database_url: str, database: Database) -> None:
    code, said, _ = await todoke(database_url, "keys", "create", "ci", "--tenant", "acme")
    assert code == 0
    text = said.splitlines()[-1]
    parts = split_key(text)
    assert parts is not None
    found = (await ApiKeys(database).find([parts[0]]))[parts[0]]
    assert found.digest == secret_digest(parts[1])
    assert (found.tenant_id, found.scopes, found.seconds_left) == ("acme", EVERY_SCOPE - {Scope.ADMIN}, None)
    for words in (("keys", "list"), ("keys", "list", "--json")):
        _, said, _ = await todoke(database_url, *words)
        assert parts[0] in said
        assert parts[1] not in said


async def test_keys_are_listed_revoked_and_rotated(database_url: str, database: Database) -> None:
    code, said, _ = await todoke(database_url, "keys", "list")
    assert (code, "todoke keys create" in said) == (0, True)
    first = await make(database_url, "one", "--scopes", "read", "--expires-days", "30")
    second = await make(database_url, "two", "--tenant", "acme", "--scopes", "submit, admin")
    third = await make(database_url, "three", "--expires-days", "0")
    assert (first["scopes"], second["scopes"]) == (["read"], ["admin", "submit"])
    _, said, _ = await todoke(database_url, "keys", "rotate", first["id"], "--overlap-hours", "2", "--json")
    heir = json.loads(said)
    assert (heir["name"], heir["scopes"], heir["expiresAt"]) == ("one", ["read"], None)
    assert heir["apiKey"] != first["apiKey"]
    code, said, _ = await todoke(database_url, "keys", "revoke", second["id"], "nobody", second["apiKey"])
    assert code == 1
    assert f"key {second['id']} is revoked" in said
    assert "there is no such key" in said
    _, said, _ = await todoke(database_url, "keys", "list", "--json")
    listed = {key["id"]: key for key in json.loads(said)}
    assert {key["id"]: key["standing"] for key in listed.values()} == {
        first["id"]: "good",
        second["id"]: "revoked",
        third["id"]: "expired",
        heir["id"]: "good",
    }
    assert listed[first["id"]]["expiresAt"] < first["expiresAt"], "the overlap ends it sooner"
    _, said, _ = await todoke(database_url, "keys", "list", "--tenant", "acme")
    assert [line.split("\t")[0] for line in said.splitlines()] == [second["id"]]
    code, _, complained = await todoke(database_url, "keys", "rotate", second["id"])
    assert (code, "no key" in complained) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("create", "x", "--scopes", "write"), "submit, read, cancel, admin"),
        (("create", "x", "--scopes", ","), "submit, read, cancel, admin"),
        (("create", " "), "printable"),
        (("create", "x", "--tenant", "a\x1b[31m"), "printable"),
        (("rotate", "tdk_0123456789abcdef_" + "0" * 48), "not the key"),
    ],
)
async def test_mistakes_are_told(database_url: str, words: tuple[str, ...], says: str) -> None:
    code, _, complained = await todoke(database_url, "keys", *words)
    assert code == 2
    assert says in complained
    assert "Traceback" not in complained
    assert "0" * 48 not in complained
