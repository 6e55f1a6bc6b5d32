"""What ends up among the dead letters (rows 12 and 28): kept once, however often whoever keeps them is killed."""

import json
from typing import Any

import boto3
import pytest

from tests.faults.house import PATIENT, House, MakeHouse
from tests.faults.processes import until
from todoke.dev.aws import REGION
from todoke.model.ids import new_id

SETTINGS = PATIENT

BURY = "todoke.store.repair:Repair.bury"


def send(house: House, url: str, *bodies: str) -> None:
    """Past the proxy, as a stranger would."""
    client = boto3.client("sqs", endpoint_url=house.aws.target_url, region_name=REGION)
    for body in bodies:
        client.send_message(QueueUrl=url, MessageBody=body)
    client.close()


async def letters(house: House) -> list[dict[str, Any]]:
    return [dict(row) for row in await house.database.fetch("SELECT * FROM dead_letter")]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_whoever_keeps_dead_letters_may_be_killed_around_its_commit(house: House, when: str) -> None:
    """Row 12: the second look finds the same letters, and changes nothing twice."""
    dead = await house.submit("act", copies=0)
    await house.database.fetch("UPDATE job SET dispatch_count = 3, redispatch_at = now() + interval '1 h'")
    good = await house.submit("act", copies=0)
    await house.database.fetch("UPDATE job SET redispatch_at = now() + interval '1 h' WHERE id = $1", good)
    bodies = [json.dumps({"jobId": str(job)}) for job in (dead, good, new_id())]
    send(house, house.dead_letter_url, "no hint", *bodies)
    doomed = await house.start("worker", "kill", when, BURY, dlq_url=house.dead_letter_url, visibility_seconds=1)
    await house.struck(doomed)
    await house.start(dlq_url=house.dead_letter_url, visibility_seconds=1)
    row = await house.end(dead)
    assert (row["state"], row["error_code"], row["sequence"]) == ("FAILED", "DEAD_LETTERED", 2)
    assert (await house.end(good))["state"] == "SUCCESS", "a letter names it again"
    await until(lambda: house.left().dead == (), what=lambda: house.told(None))
    kept = await letters(house)
    assert sorted(letter["verdict"] for letter in kept) == ["dropped", "dropped", "failed", "unparseable"]
    await house.verdict()


async def test_what_no_worker_can_take_is_kept_and_harms_nothing(make_house: MakeHouse) -> None:
    """Row 28: an unparseable message, a job that is not there, a type nobody knows."""
    async with make_house(receives_max=2, visibility_seconds=1, **PATIENT) as house:
        await house.start(dlq_url=house.dead_letter_url)
        stranger = await house.submit("nobody-knows-this", expires_seconds=6.0)
        send(house, house.settings.sqs_queue_url, "no hint", json.dumps({"jobId": str(new_id())}))
        jobs = [await house.submit() for _ in range(5)]
        for job in jobs:
            assert (await house.end(job))["attempt"] == 1
        row = await house.end(stranger)
        assert (row["state"], row["error_code"], row["attempt"]) == ("FAILED", "EXPIRED", 0)
        await house.at_rest()
        kept = await letters(house)
        assert "no hint" in {letter["body"] for letter in kept if letter["verdict"] == "unparseable"}
        await house.verdict()
