"""The migrations make what the tables say, and the hot statements stay on their indexes."""

import re

import asyncpg
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from todoke.store.database import queries, sqlalchemy_url
from todoke.store.tables import metadata

HOT = {
    "ledger": (
        "claim",
        "due",
        "due_again",
        "due_limited",
        "due_any",
        "is_ranked",
        "renew",
        "report",
        "settle",
        "landed",
        "cancel",
        "park",
        "strays",
    ),
    "limits": ("limited", "held_by_key", "held_by_tenant", "unpark_keys", "unpark_tenants"),
    "repair": ("end_doomed", "count_overdue", "redispatch", "dispatch_soon", "put_off", "bury"),
}


async def test_tables_and_migrations_agree(database_url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    engine = create_async_engine(sqlalchemy_url(database_url))
    async with engine.connect() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()
    assert found == []


async def test_every_table_names_its_tenant() -> None:
    for table in metadata.tables.values():
        # These say nothing of any tenant: the database's own epoch, the workers, messages that reached nobody,
        # the keys with which this deployment signs.
        assert table.name in ("epoch", "worker", "dead_letter", "signing_key") or "tenant_id" in table.columns, (
            table.name
        )


async def test_hot_statements_use_indexes(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "INSERT INTO job (id, tenant_id, type, params, max_attempts, timeout_seconds, due_at, created_at,"
            " updated_at, redispatch_at)"
            " SELECT gen_random_uuid(), 'default', 't', '{}', 5, 60, now(), now(), now(), now() + interval '1 hour'"
            " FROM generate_series(1, 20000)"
        )
        await connection.execute("ANALYZE job")
        for file, names in HOT.items():
            for name in names:
                plan = await _plan(connection, queries(file)[name])
                assert "Seq Scan on job" not in plan, f"{name}:\n{plan}"
    finally:
        await connection.close()


async def test_the_feed_is_read_along_its_index_however_long_it_is(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "INSERT INTO job (id, tenant_id, type, params, max_attempts, timeout_seconds, due_at, created_at,"
            " updated_at) SELECT gen_random_uuid(), 'default', 't', '{}', 5, 60, now(), now(), now()"
            " FROM generate_series(1, 20000)"
        )
        await connection.execute("ANALYZE job; ANALYZE event")
        plan = await _plan(connection, queries("feed")["pages"])
        assert "Index Scan using event_feed" in plan, plan
        assert "Seq Scan on event" not in plan, plan
        assert "Seq Scan on job" not in plan, plan
        assert 'AND (xid < horizon.xid) AND (ROW(xid, "position") > ROW(asked.xid, ' in plan, plan
        assert "Seq Scan on job" not in await _plan(connection, queries("feed")["snapshot"])
        assert "Seq Scan on job" not in await _plan(connection, queries("feed")["progress"])
    finally:
        await connection.close()


async def _plan(connection: "asyncpg.Connection[asyncpg.Record]", query: str) -> str:
    arguments = max(map(int, re.findall(r"\$(\d+)", query)), default=0)
    nulls = "(" + ", ".join(["NULL"] * arguments) + ")" if arguments else ""
    await connection.execute(f"SET plan_cache_mode = force_generic_plan; PREPARE hot AS {query}")
    rows = await connection.fetch(f"EXPLAIN EXECUTE hot {nulls}")
    await connection.execute("DEALLOCATE hot")
    return "\n".join(row[0] for row in rows)


async def test_an_epoch_holds_on_one_server_and_ends_on_another(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        first = await connection.fetchval("SELECT current_epoch()")
        await connection.execute("SELECT renew_epoch()")
        assert await connection.fetchval("SELECT current_epoch()") == first
        await connection.execute("UPDATE epoch SET system_identifier = 'of another server'")
        await connection.execute("SELECT renew_epoch()")
        second = await connection.fetchval("SELECT current_epoch()")
        assert second != first
        await connection.execute("SELECT renew_epoch()")
        assert await connection.fetchval("SELECT current_epoch()") == second
        assert re.fullmatch("[0-9a-f]{8}", second)
    finally:
        await connection.close()
