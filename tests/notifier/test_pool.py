"""Which idle connections are kept, for how long, and how many."""

import asyncio

import pytest

from notifier.connection import Connection
from notifier.pool import Pool
from tests.conftest import until
from tests.notifier.test_connection import ADDRESS, KEY, Wire

OTHER = ("http", "other.example.com", 80)


def resting(pool: Pool, key: tuple[str, str, int] = KEY, address: str = ADDRESS) -> tuple[Connection, Wire]:
    connection, wire = Connection(pool, key, address), Wire()
    connection.connection_made(wire)
    pool.rested(connection)
    return connection, wire


async def test_the_one_that_rested_last_is_taken_first() -> None:
    pool = Pool()
    first, second = resting(pool)[0], resting(pool)[0]
    assert [pool.take(KEY, [ADDRESS]) for _ in range(3)] == [second, first, None]
    assert (pool.open, pool.idle) == (2, 0)


@pytest.mark.parametrize(
    "key",
    [("https", KEY[1], 80), ("http", "hooks.example.org", 80), ("http", KEY[1], 81)],
    ids=["scheme", "host", "port"],
)
async def test_scheme_host_and_port_must_all_be_the_same(key: tuple[str, str, int]) -> None:
    pool = Pool()
    resting(pool)
    assert pool.take(key, [ADDRESS]) is None


async def test_only_one_that_leads_to_a_vetted_address_is_taken() -> None:
    pool = Pool()
    here, _ = resting(pool)
    there, _ = resting(pool, address="93.184.216.35")
    assert pool.take(KEY, ["93.184.216.36"]) is None
    assert pool.take(KEY, [ADDRESS]) is here
    assert pool.take(KEY, [ADDRESS, "93.184.216.35"]) is there


async def test_one_that_is_closing_is_not_taken() -> None:
    pool = Pool()
    _, wire = resting(pool)
    wire.abort()
    assert pool.take(KEY, [ADDRESS]) is None


async def test_the_oldest_of_a_receiver_and_of_all_give_way() -> None:
    pool = Pool(per_receiver=2, in_all=3)
    wires = [resting(pool)[1] for _ in range(3)]
    assert [wire.is_aborted for wire in wires] == [True, False, False]
    wires += [resting(pool, OTHER)[1] for _ in range(2)]
    assert [wire.is_aborted for wire in wires] == [True, True, False, False, False]
    assert pool.idle == 3


async def test_idle_ones_are_closed_when_their_time_is_over() -> None:
    pool = Pool(seconds=0.1)
    _, first = resting(pool)
    await asyncio.sleep(0.05)
    _, second = resting(pool)
    await until(lambda: first.is_aborted)
    assert pool.idle == (0 if second.is_aborted else 1)
    await until(lambda: second.is_aborted)
    assert pool.take(KEY, [ADDRESS]) is None


async def test_one_that_was_used_again_rests_its_full_time() -> None:
    pool = Pool(seconds=0.2)
    connection, wire = resting(pool)
    began = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < began + 0.5:
        await asyncio.sleep(0.02)
        assert pool.take(KEY, [ADDRESS]) is connection
        pool.rested(connection)
    assert not wire.is_aborted


async def test_nothing_rests_in_a_closed_pool() -> None:
    pool = Pool()
    connection, wire = resting(pool)
    assert pool.take(KEY, [ADDRESS]) is connection
    pool.lost(connection)
    await pool.close()
    pool.rested(connection)
    assert wire.is_aborted
    assert pool.idle == 0


async def test_idle_ones_give_way_when_we_run_out_of_something() -> None:
    pool = Pool()
    wires = [resting(pool)[1] for _ in range(3)]
    busy = pool.take(KEY, [ADDRESS])
    pool.shed()
    assert [wire.is_aborted for wire in wires] == [True, True, False]
    assert (busy is not None, pool.idle) == (True, 0)
