"""The machinery of the webhooks benchmark with a handful of deliveries; nothing here looks at a clock."""

from collections.abc import Iterator

import pytest

from benchmarks import webhooks, webhooks_backlog, webhooks_hanging, webhooks_throughput
from benchmarks.stage import Stage, stage
from benchmarks.webhooks_hanging import Figures, Size
from benchmarks.webhooks_throughput import Client, Contestant, Notifier


@pytest.fixture(scope="module")
def here() -> Iterator[Stage]:
    with stage() as found:
        yield found


def test_every_delivery_and_every_post_is_counted(here: Stage) -> None:
    naive = ("-m", "benchmarks.webhooks_notifiers", "per_delivery")
    clients = [Client(kind, 20, kind) for kind in ("transport", "raw", "aiohttp", "httpx")]
    notifiers = [Notifier(webhooks_throughput.TODOKE, 40), Notifier(webhooks_throughput.NAIVE, 20, naive)]
    chosen: list[Contestant] = [*notifiers, *clients]
    lines = webhooks_throughput.measure(here, chosen, rounds=1)
    assert [[found.jobs for found in line.rounds] for line in lines] == [[each.jobs] for each in chosen]
    assert set(lines[0].rounds[0].cpu) == set(webhooks_throughput.PROCESSES)
    assert "Goal: 5,000 deliveries/s from one notifier" in webhooks_throughput.report(lines)


@pytest.mark.full
def test_healthy_endpoints_are_timed_beside_hanging_ones(here: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shared pool waits for a time-out of 15 s, as it should.
    monkeypatch.setattr(webhooks_hanging, "CASES", webhooks_hanging.CASES[:2])
    size = Size(deliveries=200, rate=40, seconds=1)
    found = webhooks_hanging.measure(here, size, rounds=1)
    assert [[len(each.rates), len(each.worst)] for each in found.values()] == [[1, 1], [1, 1]]
    assert "20 % hanging" in webhooks_hanging.report(found, size)


@pytest.mark.full
def test_a_dead_endpoints_backlog_is_timed(here: Stage) -> None:
    found = webhooks_backlog.measure(here, owed=20, rate=20, seconds=1)
    assert [len(delays) for delays in found.values()] == [20] * 3
    assert "20 owed to one that hangs" in webhooks_backlog.report(found, 20, 1)


def test_a_goal_is_judged_on_medians() -> None:
    found = {
        webhooks_hanging.ALONE: Figures([100, 200, 300], [0.1], [0.2]),
        webhooks_hanging.BESIDE: Figures([180, 10, 180], [0.1], [0.3]),
    }
    text = webhooks_hanging.report(found, Size(10, 1, 1))
    assert "85% of their throughput: 90%, reached" in text


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        webhooks.main(["--parts", "throughput,speed"])
    assert "no such part: speed" in capsys.readouterr().err
