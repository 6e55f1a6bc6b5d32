"""What a monitor sees of a real notifier."""

import asyncio
import math
import re
import socket
from collections.abc import Callable

import asyncpg
import httpx
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from tests.model.pages import table
from tests.notifier.conftest import row_when
from tests.notifier.receiver import receiving, status
from tests.notifier.test_process import notifier
from tests.owing import endpoint, owe, owe_parked, put
from todoke.dev.postgres import Postgres
from todoke.runtime import metrics
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.deliveries import SQL, Deliveries, Measured
from todoke.store.ledger import Ledger

NAME = re.compile(r"`(todoke_\w+)(?:\{(\w+)\})?`")

Samples = dict[tuple[str, str], float]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


async def scraped_when(port: int, condition: Callable[[Samples], bool]) -> Samples:
    """Samples by name and the value of their one label, as soon as `condition` holds."""
    async with httpx.AsyncClient(timeout=10) as client, asyncio.timeout(30):
        while True:
            page = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            samples = {
                (sample.name, next(iter(sample.labels.values()), "")): sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
                if not sample.name.endswith("_bucket")
            }
            if condition(samples):
                return samples
            await asyncio.sleep(0.05)


async def trouble(database: Database) -> None:
    """Endpoints of every standing but one that is well."""
    await endpoint(database, "https://a.example/", state="DISABLED", disabled_reason="gone")
    await endpoint(database, "https://b.example/", is_open=True, strain=5)
    await endpoint(database, "https://c.example/", is_open=True, strain=5, blocked_until="now")
    await endpoint(database, "https://d.example/", blocked_until="tomorrow")
    await endpoint(database, "https://e.example/", failures=1, failing_since="now", strain=1)


def test_the_page_names_what_there_is() -> None:
    measures = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    known = {name: list(each._labelnames) for each in measures for name in REGISTRY._get_names(each)}
    named = [NAME.search(cell) for cell, _ in table("Metric")]
    assert {found[1]: [found[2]] if found[2] else [] for found in named if found}.items() <= known.items()
    assert all(named)


async def test_nothing_is_measured_of_nothing(database: Database) -> None:
    assert await Deliveries(database, 4).measure() == Measured(0, 0, 0, 0, 0)


async def test_the_oldest_due_is_found_at_whichever_endpoint(database: Database, ledger: Ledger) -> None:
    deliveries, ages = Deliveries(database, 4), (10, 4000, 300)
    for place, seconds in enumerate(ages):
        for late in (0, seconds):
            job_id = await owe(ledger, f"https://{place}.example/", tenant_id=f"tenant{place % 2}")
            await database.fetch(
                "UPDATE delivery SET due_at = due_at - $2::int * interval '1 second' WHERE job_id = $1", job_id, late
            )
    assert 4000 <= (await deliveries.measure()).oldest_due_seconds < 4060
    await database.fetch("UPDATE delivery SET standing = 'held'")
    assert (await deliveries.measure()).oldest_due_seconds == 0, "what is held is not due"
    await put(database, job_id, "PENDING", "waiting")
    assert (await deliveries.measure()).oldest_due_seconds == 0, "nor is what waits"
    await database.fetch("UPDATE delivery SET due_at = clock_timestamp() - interval '90 seconds'")
    assert 90 <= (await deliveries.measure()).oldest_due_seconds < 150, "its lease is over, and nobody looks"


async def test_measuring_reads_a_bounded_part(database: Database, ledger: Ledger) -> None:
    """By indexes, whatever the tables hold."""
    await owe_parked(ledger, database)
    await trouble(database)
    async with database.transaction() as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        rows = await connection.fetch("EXPLAIN " + SQL["measure"].replace("$1", "10000").replace("$2", "1000"))
    plan = "\n".join(row[0] for row in rows)
    assert "Seq Scan" not in plan, plan


async def test_a_scrape_of_a_notifier(settings: Settings, database: Database, ledger: Ledger) -> None:
    port = free_port()
    await trouble(database)
    for _ in range(3):
        await owe_parked(ledger, database, url="https://f.example/")
    async with receiving(status(404)) as receiver, notifier(settings, TODOKE_METRICS_PORT=str(port)):
        job_id = await owe(ledger, receiver.url)
        await row_when(database, job_id, lambda found: found["last_status"] == 404)
        seen = await scraped_when(port, lambda samples: samples[("todoke_deliveries_parked_now", "")] == 3)
    assert {standing: seen[("todoke_endpoints", standing)] for standing in ("disabled", "open", "cooling")} == {
        "disabled": 1,
        "open": 2,
        "cooling": 1,
    }
    assert seen[("todoke_delivery_attempts_total", "http_status")] == 1
    assert seen[("todoke_delivery_lag_seconds_count", "")] == 1
    assert seen[("todoke_delivery_oldest_due_seconds", "")] >= 0
    assert seen[("todoke_deliveries_in_flight", "")] == 0


async def test_what_is_not_known_is_not_a_number(settings: Settings, database: Database, postgres: Postgres) -> None:
    """PostgreSQL is away from the start of the notifier's second look on."""
    port, name = free_port(), settings.database_url.get_secret_value().rsplit("/", 1)[1]
    admin = await asyncpg.connect(postgres.url.rsplit("/", 1)[0] + "/postgres")
    try:
        async with notifier(settings, TODOKE_METRICS_PORT=str(port)):
            await scraped_when(port, lambda samples: ("todoke_endpoints", "open") in samples)
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            seen = await scraped_when(port, lambda samples: math.isnan(samples[("todoke_deliveries_parked_now", "")]))
            assert math.isnan(seen[("todoke_endpoints", "open")])
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await scraped_when(port, lambda samples: samples[("todoke_deliveries_parked_now", "")] == 0)
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()
