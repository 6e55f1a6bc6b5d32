"""Look-ups that stall, fail or come in crowds: nobody waits behind them, and one's own resolver is told from theirs."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from notifier.faults import SendError
from notifier.lookups import Crew
from notifier.resolver import Resolver
from notifier.transport import VettedTransport
from tests.conftest import until
from tests.notifier.internet import HOST, RULES, post
from todoke.model.delivery import Reason

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))]


class System:
    """The system's getaddrinfo, replaced: names below `stalled` wait until the test ends."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stalled: tuple[str, ...] = ()
        self.release = threading.Event()

    def getaddrinfo(self, host: str, *_args: object, **_options: object) -> list[object]:
        self.asked.append(host)
        if host.endswith(self.stalled):
            self.release.wait(20)
        return list(FOUND)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    made = System()
    monkeypatch.setattr(socket, "getaddrinfo", made.getaddrinfo)
    yield made
    made.release.set()


async def reason_of(resolver: Resolver, host: str) -> Reason:
    with pytest.raises(SendError) as caught:
        await resolver.addresses(host)
    return caught.value.reason


async def test_those_who_ask_at_the_same_moment_share_one_look_up(system: System) -> None:
    system.stalled = (HOST,)
    resolver = Resolver()
    asking = [asyncio.create_task(resolver.addresses(HOST)) for _ in range(20)]
    await until(lambda: bool(system.asked))
    system.release.set()
    assert await asyncio.gather(*asking) == [("93.184.216.34",)] * 20
    assert (system.asked, resolver.asked) == ([HOST], 1)
    await resolver.addresses(HOST)
    assert system.asked == [HOST, HOST], "no answer is kept"
    resolver.close()


async def test_one_who_leaves_takes_nothing_from_the_others(system: System) -> None:
    system.stalled = (HOST,)
    resolver = Resolver()
    first, second = (asyncio.create_task(resolver.addresses(HOST)) for _ in range(2))
    await until(lambda: bool(system.asked))
    first.cancel()
    await asyncio.wait((first,))
    system.release.set()
    assert await second == ("93.184.216.34",)
    resolver.close()


async def test_a_look_up_nobody_waits_for_is_joined_by_nobody(system: System) -> None:
    system.stalled = (HOST,)
    resolver = Resolver(seconds=0.05)
    assert await reason_of(resolver, HOST) is Reason.TIMEOUT
    system.stalled = ("no",)
    assert await resolver.addresses(HOST) == ("93.184.216.34",)
    assert system.asked == [HOST, HOST]
    resolver.close()


async def test_a_tar_pit_holds_a_few_threads_and_everybody_else_is_served(system: System) -> None:
    system.stalled = ("tar.example",)
    crew = Crew(threads=6, per_site=2)
    stalled = [asyncio.create_task(crew.look_up(f"{number}.tar.example")) for number in range(10)]
    await until(lambda: len(system.asked) == 2)
    for number in range(20):
        assert await crew.look_up(f"{number}.fine.example") == ("93.184.216.34",)
    assert sum(host.endswith("tar.example") for host in system.asked) == 2
    # Those who gave up waiting are not asked for any more.
    for task in stalled[2:]:
        task.cancel()
    await asyncio.wait(stalled[2:])
    system.release.set()
    await asyncio.gather(*stalled[:2])
    assert len(system.asked) == 22
    crew.dismiss()


async def test_when_every_thread_is_held_the_fault_is_ours(system: System) -> None:
    system.stalled = ("one.example", "two.example")
    resolver = Resolver(seconds=0.3, crew=Crew(threads=2, per_site=1))
    stalled = [asyncio.create_task(reason_of(resolver, host)) for host in ("a.one.example", "a.two.example")]
    await until(lambda: len(system.asked) == 2)
    assert await reason_of(resolver, "fine.example") is Reason.SENDER
    assert await asyncio.gather(*stalled) == [Reason.TIMEOUT] * 2
    resolver.close()


async def test_threads_are_used_again(system: System) -> None:
    crew = Crew()
    before = threading.active_count()
    for _ in range(50):
        await crew.look_up(HOST)
    assert threading.active_count() <= before + 1
    crew.dismiss()


async def test_when_no_thread_can_be_started_the_fault_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver()
    monkeypatch.setattr(threading.Thread, "start", start)
    assert await reason_of(resolver, HOST) is Reason.SENDER
    resolver.close()


async def failing(host: str) -> Sequence[str]:
    """Names say themselves how they fail."""
    error = {"none": socket.EAI_NONAME, "again": socket.EAI_AGAIN, "memory": socket.EAI_MEMORY}.get(
        host.split(".", maxsplit=1)[0]
    )
    if error is None:
        return ["93.184.216.34"]
    raise socket.gaierror(error, "failed")


async def test_one_site_without_an_answer_is_its_own_fault_however_often() -> None:
    resolver = Resolver(failing)
    for number in range(20):
        assert await reason_of(resolver, f"again.{number}.one.example") is Reason.DNS


@pytest.mark.parametrize("answer", ["fine.site.example", "none.site.example"])
async def test_three_sites_in_a_row_without_an_answer_are_our_resolver(answer: str) -> None:
    resolver = Resolver(failing)
    hosts = [f"again.{site}.example" for site in "abcde"]
    expected = [Reason.DNS, Reason.DNS, Reason.SENDER, Reason.SENDER, Reason.SENDER]
    assert [await reason_of(resolver, host) for host in hosts] == expected
    # Any answer, that a name does not exist too, shows that the resolver is there.
    if answer.startswith("none"):
        assert await reason_of(resolver, answer) is Reason.DNS
    else:
        assert await resolver.addresses(answer)
    assert [await reason_of(resolver, host) for host in hosts] == expected


async def test_stalls_count_as_no_answer() -> None:
    async def stall(_host: str) -> Sequence[str]:
        await asyncio.sleep(3600)
        return []

    resolver = Resolver(stall, seconds=0.01)
    reasons = [await reason_of(resolver, f"{site}.example") for site in "abc"]
    assert reasons == [Reason.TIMEOUT, Reason.TIMEOUT, Reason.SENDER]


async def test_too_little_memory_is_our_fault_and_no_address_is_none() -> None:
    async def nothing(_host: str) -> Sequence[str]:
        return []

    assert await reason_of(Resolver(failing), "memory.example") is Reason.SENDER
    assert await reason_of(Resolver(nothing), HOST) is Reason.DNS


async def test_a_stalled_look_up_ends_with_the_caller_s_deadline() -> None:
    async def stall(_host: str) -> Sequence[str]:
        await asyncio.sleep(3600)
        return []

    async with VettedTransport(RULES, lookup=stall) as transport:
        answer = await post(transport, f"https://{HOST}/", 0.2)
    assert answer.reason is Reason.TIMEOUT
    assert answer.seconds < 0.7


async def test_the_system_resolver_knows_localhost() -> None:
    resolver = Resolver()
    assert set(await resolver.addresses("localhost")) <= {"127.0.0.1", "::1"}
    assert await reason_of(resolver, "name.invalid") in (Reason.DNS, Reason.SENDER)
    # Longer than any name may be: refused before anybody is asked.
    assert await reason_of(resolver, "x" * 64 + ".invalid") is Reason.DNS
    resolver.close()
