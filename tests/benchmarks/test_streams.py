"""The machinery of the streams benchmark with a handful of streams; nothing here looks at a clock."""

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import streams, streams_broadcast, streams_churn, streams_latency, streams_memory, streams_servers
from benchmarks.figures import spread
from benchmarks.stage import Stage, stage
from benchmarks.streams_crowd import Crowd


@pytest.fixture(scope="module")
def here() -> Iterator[Stage]:
    with stage() as found:
        yield found


def test_every_event_of_the_load_is_timed_beside_the_bare_notify(here: Stage) -> None:
    found = streams_latency.measure(here, streams=3, rate=40.0, seconds=0.5, rounds=1)
    assert [len(each) for each in found.seconds[streams_latency.TODOKE]] == [20]
    assert all(seconds for rounds in found.seconds.values() for seconds in rounds)
    assert "none lost" in streams_latency.report(found)


def test_memory_is_read_at_every_step_of_every_server(here: Stage) -> None:
    # Two kinds are enough: the broadcast starts the others.
    chosen, counts = [each for each in streams_memory.CONTESTANTS if not each.is_shared], [6, 8]
    found = streams_memory.measure(here, chosen, counts, rounds=1, warm_up=3)
    there = [each.name for each in chosen if not each.trouble]
    assert {name: [len(figures) for figures in rounds] for name, rounds in found.items() if rounds} == {
        name: [3] for name in there
    }
    assert "KB a stream at 8" in streams_memory.report(found, chosen, counts)


@pytest.mark.full
def test_everybody_hears_what_is_broadcast(here: Stage) -> None:
    chosen = streams_broadcast.CONTESTANTS
    found = streams_broadcast.measure(here, chosen, streams=4, events=1, rounds=1)
    assert [len(found[each.name]) for each in chosen] == [0 if each.trouble else 1 for each in chosen]
    assert "one event to 4" in streams_broadcast.report(found, chosen, 4)


@pytest.mark.full
def test_streams_come_back_while_the_loop_is_watched(here: Stage) -> None:
    found = streams_churn.measure(here, streams_churn.CONTESTANTS, streams=10, seconds=1.5, rounds=1, seed=1)
    assert all(figure.first_p50 > 0 for [figure] in found.values())
    assert "10 streams" in streams_churn.report(found, 10)


def test_a_server_that_is_not_installed_is_named_and_nothing_fails(
    here: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(streams_servers, "NCHAN_MODULE", tmp_path / "nothing")
    chosen = [each for each in streams_broadcast.CONTESTANTS if each.kind == "nchan"]
    found = streams_broadcast.measure(here, chosen, streams=2, events=1, rounds=1)
    assert "apt-get install libnginx-mod-nchan" in streams_broadcast.report(found, chosen, 2)


@pytest.mark.parametrize("cut", range(1, 30))
def test_an_id_that_is_cut_in_two_is_seen_once(cut: int) -> None:
    arrivals, data = streams_latency.Arrivals(), b"1f\r\nid: 0abc.12\nevent: x\ndata: y\n\n\r\n"
    arrivals.news(7, data[:cut], 1.0)
    arrivals.news(7, data[cut:], 2.0)
    assert set(arrivals.at) == {(7, 12)}


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"HTTP/1.1 503 no\r\n\r\nlater", "was refused"), (b"HTTP/1.1 200 OK\r\n\r\n: hello\n\n", "ended stream 0")],
)
def test_a_stream_that_is_refused_or_ended_is_an_error(answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        crowd = Crowd(listener.getsockname()[1])
        with pytest.raises(RuntimeError, match=words):
            _watch(crowd)
        crowd.close()
        thread.join()


def _watch(crowd: Crowd) -> None:
    crowd.open(["/"])
    crowd.read_for(10)


def test_more_streams_than_files_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_servers.resource, "getrlimit", lambda _: (1024, 1024))
    monkeypatch.setattr(streams_servers.resource, "setrlimit", lambda *_: None)
    with pytest.raises(RuntimeError, match="5000 streams need 5500 open files"):
        streams_servers.check_files(5000)


def test_an_unknown_mode_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        streams.main(["speed"])
    assert "no such mode: speed" in capsys.readouterr().err


def test_a_spread_is_the_median_with_its_range() -> None:
    assert [spread([3, 1, 2]), spread([4]), spread([])] == ["2 (1–3)", "4", "-"]
