"""The machinery of the benchmarks with counts far too small to mean anything; nothing here looks at a clock."""

import asyncio
import base64
import hashlib
import importlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from mypy_boto3_sqs import SQSClient

from benchmarks import cpu, drain, drain_todoke, history, recovery
from benchmarks.drain_peers import PACKAGES, PINS, CelerySqs, Environment
from benchmarks.figures import Line, Round, percentile, table
from benchmarks.queue_memory import attributes_md5
from benchmarks.stage import Stage, stage


@pytest.fixture(scope="module")
def here() -> Iterator[Stage]:
    with stage() as found:
        yield found


@pytest.fixture
def queue_url(here: Stage) -> str:
    return here.new_queue()


def test_messages_are_hidden_extended_shown_again_and_deleted(here: Stage, queue_url: str) -> None:
    sqs = here.sqs
    sent = sqs.send_message(QueueUrl=queue_url, MessageBody="hello")
    assert sent["MD5OfMessageBody"] == hashlib.md5(b"hello").hexdigest()
    [first] = sqs.receive_message(QueueUrl=queue_url)["Messages"]
    assert "Messages" not in sqs.receive_message(QueueUrl=queue_url)
    sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)
    [second] = sqs.receive_message(QueueUrl=queue_url, MessageSystemAttributeNames=["All"])["Messages"]
    assert second["Attributes"]["ApproximateReceiveCount"] == "2"
    # The older receipt is worth nothing any more, the newer one deletes.
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=first["ReceiptHandle"])
    assert here.waiting(queue_url) == 1
    sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=second["ReceiptHandle"])
    assert here.waiting(queue_url) == 0


def test_a_long_poll_hears_of_a_message_sent_meanwhile(here: Stage, queue_url: str) -> None:
    with ThreadPoolExecutor() as threads:
        polls = here.calls().get("ReceiveMessage", 0)
        poll = threads.submit(_client(here).receive_message, QueueUrl=queue_url, WaitTimeSeconds=20)
        while here.calls().get("ReceiveMessage", 0) == polls:
            threading.Event().wait(0.01)
        here.sqs.send_message_batch(QueueUrl=queue_url, Entries=[{"Id": "1", "MessageBody": "hello"}])
        assert [message["Body"] for message in poll.result()["Messages"]] == ["hello"]


def test_a_held_queue_shows_nothing_until_it_is_opened(here: Stage, queue_url: str) -> None:
    here.hold()
    here.sqs.send_message(QueueUrl=queue_url, MessageBody="hello")
    assert "Messages" not in here.sqs.receive_message(QueueUrl=queue_url)
    here.open()
    assert len(here.sqs.receive_message(QueueUrl=queue_url)["Messages"]) == 1


def test_a_message_received_too_often_moves_to_the_dead_letters(here: Stage, queue_url: str) -> None:
    sqs, dead = here.sqs, here.new_queue()
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})}
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes=policy)
    sqs.send_message(QueueUrl=queue_url, MessageBody="hello")
    assert sqs.receive_message(QueueUrl=queue_url, VisibilityTimeout=0)["Messages"]
    assert "Messages" not in sqs.receive_message(QueueUrl=queue_url)
    assert sqs.receive_message(QueueUrl=dead)["Messages"][0]["Body"] == "hello"


def test_errors_are_named_as_sqs_names_them(here: Stage) -> None:
    with pytest.raises(here.sqs.exceptions.QueueDoesNotExist):
        here.sqs.get_queue_url(QueueName="nobody-made-it")


def test_digests_of_attributes_are_those_of_sqs() -> None:
    # Figures that moto's tests, too, take from the real service.
    assert attributes_md5({"timestamp": {"StringValue": "1493147359900", "DataType": "Number"}}) == (
        "235c5c510d26fb653d073faed50ae77c"
    )
    binary = {"data": {"DataType": "Binary", "BinaryValue": base64.b64encode(b"\0\1").decode()}}
    assert attributes_md5(binary) != attributes_md5({"data": {"DataType": "String", "StringValue": "\0\1"}})


def test_a_drain_counts_jobs_and_processor_time(here: Stage) -> None:
    contestant = drain_todoke.Todoke("here", 20, module="benchmarks.per_job_worker")
    found = asyncio.run(contestant.round(here))
    assert found.jobs == 20
    assert found.rate > 0
    assert set(found.cpu) == set(drain.PROCESSES)


def test_a_killed_workers_job_is_seen_to_run_again(here: Stage) -> None:
    short = {"TODOKE_LEASE_SECONDS": "0.6", "TODOKE_SWEEP_SECONDS": "0.2"}
    [seconds] = asyncio.run(recovery.one_round(here, 1, window_seconds=0, settings=short))
    assert seconds > 0


def test_history_compares_a_full_table_with_an_empty_one(here: Stage) -> None:
    found = asyncio.run(history.measure(here, jobs=200, samples=2, warm_up=0))
    assert {len(times) for by_house in found.values() for times in by_house.values()} == {2}
    assert {tuple(sorted(by_house)) for by_house in found.values()} == {("empty", "full")}
    assert "claim 10" in history.report(found, 200)


def test_a_peer_that_is_not_there_is_named_and_nothing_fails(here: Stage) -> None:
    environment = Environment()
    environment.missing["celery"] = "could not be installed: no network"
    lines = asyncio.run(drain.measure(here, [CelerySqs(10, environment)], 1))
    text = drain.report([Line(drain.HEADLINE, "rows", [Round(100, 1.0, {"worker": 0.5})]), *lines])
    assert "could not be installed: no network" in text
    assert "4x Celery over SQS, prefork 1: not measured" in text


def test_ratios_are_taken_from_medians() -> None:
    fast = [Round(100, seconds, {"worker": 0.01}) for seconds in (0.1, 0.2, 10.0)]
    slow = [Round(100, 2.0, {"worker": 0.5})]
    text = drain.report([Line(drain.HEADLINE, "rows", fast), Line(drain.BASELINE, "rows", slow)])
    assert f"at least 5x {drain.BASELINE}: 10.00x, reached" in text
    assert percentile([3, 1, 2], 0.5) == 2
    assert table(["a"], [["bb"]]).splitlines() == ["| a  |", "|----|", "| bb |"]


def test_processor_time_is_that_of_the_process_named() -> None:
    before = cpu.own(os.getpid())
    while cpu.own(os.getpid()) == before:
        sum(range(10_000))
    assert cpu.own(2**22 + 1) == 0


def test_every_peer_is_pinned() -> None:
    pins = {line.partition("==")[0] for line in PINS.read_text(encoding="utf-8").splitlines() if "==" in line}
    assert {name.partition("[")[0] for names in PACKAGES.values() for name in names} <= pins


def test_every_command_of_the_readme_is_there() -> None:
    text = (Path(drain.__file__).parent / "README.md").read_text(encoding="utf-8")
    for name in ("drain", "recovery", "history", "streams", "webhooks"):
        assert f"python -m benchmarks.{name}" in text
        assert callable(importlib.import_module(f"benchmarks.{name}").main)
    assert sys.version_info >= (3, 11)


def _client(here: Stage) -> SQSClient:
    """A connection of one's own, for a call that waits."""
    options: dict[str, Any] = {"aws_access_key_id": "benchmark", "aws_secret_access_key": "benchmark"}
    return boto3.client("sqs", endpoint_url=here.endpoint_url, region_name="us-east-1", **options)
