"""`todoke webhooks` as it is typed, on a real database."""

import json

from tests.operator.test_commands import todoke
from tests.owing import URL, attempted, delivery_row, disable, endpoint, owe, owe_parked, park
from todoke.model.ids import new_id
from todoke.store.database import Database
from todoke.store.ledger import Ledger

OTHER = "https://example.org/other"


async def test_parked_deliveries_are_listed_and_shown(database_url: str, ledger: Ledger, database: Database) -> None:
    old = await owe_parked(ledger, database, reason="gone", age_seconds=172_800)
    new = await owe_parked(ledger, database, url=OTHER, tenant_id="another")
    await owe(ledger)
    code, said, complained = await todoke(database_url, "webhooks", "parked")
    assert code == 0, complained
    assert [line.split("\t")[:3] for line in said.splitlines()] == [
        [str(new), "3", "another"],
        [str(old), "3", "default"],
    ]
    [row] = await database.fetch("SELECT to_char(now() - interval '1 day', 'YYYY-MM-DD') AS yesterday")
    for words, expected in (
        (["--tenant", "another"], [new]),
        (["--reason", "gone"], [old]),
        (["--url", OTHER], [new]),
        (["--since", row["yesterday"]], [new]),
        (["--until", row["yesterday"]], [old]),
    ):
        _, said, _ = await todoke(database_url, "webhooks", "parked", "--json", *words)
        assert [each["jobId"] for each in json.loads(said)] == list(map(str, expected)), words
    _, said, _ = await todoke(database_url, "webhooks", "parked", "--limit", "1")
    assert "more than 1" in said
    code, _, complained = await todoke(database_url, "webhooks", "parked", "--since", "yesterday")
    assert (code, "--since" in complained, "Traceback" in complained) == (2, True, False)
    await attempted(database, old, 1, excerpt="\x1b[31m")
    code, said, _ = await todoke(database_url, "webhooks", "show", str(old))
    assert code == 0
    assert "192.0.2.1" in said, "operators see which address answered"
    assert "\x1b" not in said
    _, said, _ = await todoke(database_url, "webhooks", "show", str(old), "--json")
    [shown] = json.loads(said)
    assert (shown["tenantId"], shown["attempts"][0]["peer"]) == ("default", "192.0.2.1")


async def test_deliveries_are_redelivered_and_replayed(database_url: str, ledger: Ledger, database: Database) -> None:
    job_id, theirs = await owe_parked(ledger, database), await owe_parked(ledger, database, tenant_id="another")
    code, said, _ = await todoke(database_url, "webhooks", "redeliver", str(job_id))
    assert (code, said) == (0, f"delivery 3 of job {job_id} is owed again\n")
    assert (await delivery_row(database, job_id))["state"] == "PENDING"
    code, said, _ = await todoke(database_url, "webhooks", "redeliver", str(job_id))
    assert (code, said) == (0, "none of its deliveries is parked\n")
    code, said, _ = await todoke(database_url, "webhooks", "redeliver", str(job_id), "3", "9", "3000000000")
    assert code == 1
    assert [line.partition(": ")[2][:11] for line in said.splitlines()] == ["", "there is no", "there is no"]
    code, _, complained = await todoke(database_url, "webhooks", "redeliver", str(new_id()))
    assert (code, "there is no job" in complained) == (2, True)
    await disable(database, OTHER)
    await park(database, job_id)
    await owe_parked(ledger, database, url=OTHER)
    code, said, _ = await todoke(database_url, "webhooks", "replay")
    assert code == 0
    assert said.splitlines()[0] == "1 deliveries of tenant default are owed again"
    assert said.splitlines()[1].startswith("1 stay parked")
    assert (await delivery_row(database, theirs))["state"] == "PARKED"
    for _ in range(3):
        await owe_parked(ledger, database)
    _, said, _ = await todoke(database_url, "webhooks", "replay", "--limit", "2", "--url", URL, "--reason", "timeout")
    assert said == "2 deliveries of tenant default are owed again, and there are more\n"


async def test_endpoints_are_listed_disabled_and_enabled(database_url: str, ledger: Ledger, database: Database) -> None:
    code, said, _ = await todoke(database_url, "webhooks", "endpoints", "list")
    assert (code, said) == (0, "no callback has ever failed\n")
    open_ = await endpoint(database, OTHER, "another", failures=5, is_open=True, blocked_until="2100-01-01")
    code, said, _ = await todoke(database_url, "webhooks", "endpoints", "disable", "--url", URL)
    assert (code, "is disabled" in said) == (0, True)
    job_id = await owe(ledger)
    assert (await delivery_row(database, job_id))["last_reason"] == "endpoint_disabled"
    _, said, _ = await todoke(database_url, "webhooks", "endpoints", "list", "--json")
    found = {each["callbackUrl"]: each for each in json.loads(said)}
    assert (found[URL]["state"], found[URL]["tenantId"], found[URL]["parked"]) == ("disabled", "default", 1)
    assert (found[OTHER]["id"], found[OTHER]["breaker"]) == (str(open_), "open")
    _, said, _ = await todoke(database_url, "webhooks", "endpoints", "list", "--tenant", "another")
    assert "open until 2100" in said
    _, said, _ = await todoke(database_url, "webhooks", "endpoints", "list", "--state", "disabled")
    assert [line.split("\t")[2] for line in said.splitlines()] == [URL]
    code, said, _ = await todoke(database_url, "webhooks", "endpoints", "enable", found[URL]["id"], "x", str(new_id()))
    assert code == 1
    assert "owed 1 deliveries" in said.splitlines()[0]
    assert ["there is no such endpoint" in line for line in said.splitlines()] == [False, True, True]
    assert (await delivery_row(database, job_id))["state"] == "PENDING"
    code, _, complained = await todoke(database_url, "webhooks", "endpoints", "disable")
    assert (code, "--url" in complained) == (2, True)
