"""How a process shares its few connections to PostgreSQL, and how it handles the ways in which one can break."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from media_core import connections, database
from media_core.database import CHANNEL, CONNECTING, Database
from media_core.errors import Unavailable
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.servers.api import new_tenant
from tests.integration.servers.failing_over import name
from tests.integration.tenancy import GENEROUS, TenantDatabase
from tests.ports import free_port
from tests.stopwatch import Stopwatch

Write = Callable[[Database, str], Awaitable[object]]


async def call(one: Database, statement: str) -> object:
    return await one.call(statement, ())  # type: ignore[arg-type]  # a test's own words


async def in_a_statement(one: Database, statement: str) -> object:
    async with one.transaction() as tx:
        return await tx.execute(statement)


async def in_a_transaction(one: Database, statement: str) -> object:
    async with one.transaction() as tx:
        return await tx.execute(statement)


ways = pytest.mark.parametrize("run", [call, in_a_statement, in_a_transaction])


@pytest.fixture(scope="module")
async def tenant_database(postgres: EmbeddedPostgres) -> AsyncIterator[TenantDatabase]:
    """One for all tests here: they are about connections. Of its tables they write to `idempotency` alone."""
    with new_tenant(postgres) as tenant:
        await tenant.declare(GENEROUS)
        yield tenant


@pytest.fixture
async def only(tenant_database: TenantDatabase) -> AsyncIterator[Database]:
    """A database with one connection."""
    one = Database(tenant_database.url, pool_size=1)
    await one.call("DELETE FROM idempotency", ())
    yield one
    await one.aclose()


@pytest.fixture
async def admin(postgres: EmbeddedPostgres) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    url = postgres.admin_url.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        yield connection


async def backend(one: Database) -> int:
    (row,) = await one.call("SELECT pg_backend_pid() AS pid", ())
    return int(row.pid)


async def running(admin: psycopg.AsyncConnection[Any], pid: int) -> str:
    """The state of that backend: `active`, `idle` ...; `waits` for a lock; `gone`."""
    state = "SELECT CASE wait_event_type WHEN 'Lock' THEN 'waits' ELSE state END FROM pg_stat_activity WHERE pid = %s"
    found = await (await admin.execute(state, (pid,))).fetchone()
    return found[0] if found else "gone"


async def becomes(admin: psycopg.AsyncConnection[Any], pid: int, *states: str) -> None:
    async with asyncio.timeout(60):
        while await running(admin, pid) not in states:  # noqa: ASYNC110 (another process's progress has no event)
            await asyncio.sleep(0.01)


# -- taking turns ------------------------------------------------------------------------------------------------------


async def test_who_waits_for_a_connection_gets_it_in_the_order_of_coming(only: Database) -> None:
    order: list[int] = []

    async def use(number: int) -> None:
        await only.call("SELECT 1", ())
        order.append(number)

    async with only.transaction():
        waiting = [asyncio.create_task(use(number)) for number in range(10)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order == list(range(10))


async def test_who_stops_to_wait_takes_nobodys_turn(only: Database) -> None:
    async with only.transaction():
        waiting = [asyncio.create_task(only.call("SELECT 1 AS n", ())) for _ in range(10)]
        await asyncio.sleep(0)
        for gone in waiting[::2]:
            gone.cancel()
        await asyncio.sleep(0)
    assert await asyncio.gather(*waiting[1::2]) == [[(1,)]] * 5
    async with asyncio.timeout(60):
        await only.call("SELECT 1", ())


async def test_a_turn_that_comes_as_its_owner_goes_is_the_next_ones(only: Database) -> None:
    async with only.transaction():
        first, second = (asyncio.create_task(only.call("SELECT 1 AS n", ())) for _ in range(2))
        await asyncio.sleep(0)
    first.cancel()  # the connection was given back an instant ago, and the first has not run since
    assert await second == [(1,)]
    with pytest.raises(asyncio.CancelledError):
        await first
    async with asyncio.timeout(60):
        await only.call("SELECT 1", ())


async def test_a_pool_that_stays_busy_is_an_outage(only: Database) -> None:
    async with only.transaction():
        with pytest.raises(Unavailable, match="busy"):
            await only._connections.take(seconds=0.05)
    await only.call("SELECT 1", ())


async def test_no_more_connections_are_opened_than_may_be(tenant_database: TenantDatabase) -> None:
    one = Database(tenant_database.url, pool_size=3)
    pids = await asyncio.gather(*(backend(one) for _ in range(30)))
    assert len(set(pids)) <= 3
    await one.aclose()


# -- what breaks -------------------------------------------------------------------------------------------------------


async def _broken_by(do: Callable[[], Awaitable[object]]) -> BaseException:
    try:
        await do()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


@ways
async def test_a_cancelled_statement_is_ended_at_the_server_and_its_connection_is_not_used_again(
    only: Database, admin: psycopg.AsyncConnection[Any], run: Write
) -> None:
    pid = await backend(only)
    sleeping = asyncio.create_task(run(only, "SELECT pg_sleep(60)"))  # type: ignore[arg-type]  # a coroutine
    await becomes(admin, pid, "active")
    began = Stopwatch()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    await becomes(admin, pid, "gone")
    assert began.seconds() < 5
    assert await backend(only) != pid


@ways
async def test_a_connection_whose_server_side_was_ended_is_an_outage_once_and_then_replaced(
    only: Database, admin: psycopg.AsyncConnection[Any], run: Write
) -> None:
    pid = await backend(only)
    sleeping = asyncio.create_task(run(only, "SELECT pg_sleep(60)"))  # type: ignore[arg-type]  # a coroutine
    await becomes(admin, pid, "active")
    await admin.execute("SELECT pg_terminate_backend(%s)", (pid,))
    with pytest.raises(Unavailable):
        await sleeping
    assert await backend(only) != pid


@ways
async def test_an_idle_connection_that_was_ended_is_nobodys_error(
    only: Database, admin: psycopg.AsyncConnection[Any], run: Write
) -> None:
    pid = await backend(only)
    await admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    await run(only, "SELECT 1")


@pytest.mark.parametrize(
    ("state", "outage"),
    [
        ("08006", True),  # connection failure
        ("08P01", True),  # PgBouncer's own words
        ("25006", True),  # read-only
        ("40001", True),  # serialization failure
        ("40P01", True),  # deadlock
        ("53100", True),  # disk full
        ("53300", True),  # too many connections
        ("55P03", True),  # lock not available
        ("57014", True),  # statement timeout
        ("57P01", True),  # admin shutdown
        ("57P03", True),  # cannot connect now
        ("58030", True),  # I/O error
        ("22001", False),  # string too long
        ("23505", False),  # unique violation
        ("42P01", False),  # undefined table
        ("42501", False),  # insufficient privilege
        ("54000", False),  # too large for an index
        ("MC001", False),  # our own
        ("XX000", False),  # internal error
    ],
)
@ways
async def test_what_says_nothing_of_the_statement_is_an_outage(
    only: Database, run: Write, state: str, outage: bool
) -> None:
    broken = await _broken_by(lambda: run(only, f"DO $$ BEGIN RAISE 'x' USING ERRCODE = '{state}'; END $$"))
    if outage:
        assert isinstance(broken, Unavailable)
        assert broken.dependency == "database"
    else:
        assert isinstance(broken, psycopg.Error)
        assert broken.sqlstate == state
    await only.call("SELECT 1", ())


@pytest.mark.parametrize("wrong", ["\0", object()])
async def test_arguments_that_the_driver_refuses_are_our_error_and_cost_no_connection(
    only: Database, wrong: object
) -> None:
    pid = await backend(only)
    with pytest.raises(psycopg.Error):
        await only.call("SELECT %s::text", (wrong,))
    with pytest.raises(psycopg.ProgrammingError):
        await only.call("SELECT %s", ())
    assert await backend(only) == pid


async def test_a_refused_statement_leaves_its_connection_as_good_as_new(only: Database) -> None:
    pid = await backend(only)
    for _ in range(3):
        with pytest.raises(psycopg.errors.DivisionByZero):
            await only.call("SELECT 1/0", ())
    assert await backend(only) == pid


async def test_a_statement_timeout_is_an_outage(only: Database) -> None:
    with pytest.raises(Unavailable, match="took too long"):
        async with only.transaction() as tx:
            await tx.execute("SET LOCAL statement_timeout = 10")
            await tx.execute("SELECT pg_sleep(5)")


async def test_a_deadlock_is_tried_once_more(
    only: Database, tenant_database: TenantDatabase, admin: psycopg.AsyncConnection[Any]
) -> None:
    await only.call("INSERT INTO idempotency (subject, key, fingerprint) VALUES ('a','1',''), ('a','2','')", ())
    pid = await backend(only)
    both = (
        "WITH first AS MATERIALIZED (SELECT FROM idempotency WHERE key = '1' FOR UPDATE)"
        " UPDATE idempotency SET fingerprint = 'x' WHERE key = '2' AND EXISTS (SELECT FROM first) RETURNING key"
    )
    table = sql.SQL("{}.idempotency").format(sql.Identifier(tenant_database.schema))
    take = sql.SQL("SELECT FROM {} WHERE key = %s FOR UPDATE").format(table)
    async with await psycopg.AsyncConnection.connect(tenant_database.owner_url.replace("+psycopg", "")) as other:
        await other.execute("SET deadlock_timeout = '1min'")  # so that not this statement is cancelled
        await other.execute(take, ("2",))
        calling = asyncio.create_task(call(only, both))
        await becomes(admin, pid, "waits")
        await other.execute(take, ("1",))  # has it once the call was ended
    assert await calling == [("2",)]


async def test_an_error_of_the_block_is_passed_on_and_undoes_the_transaction(only: Database) -> None:
    class Ours(Exception):
        pass

    pid = await backend(only)
    with pytest.raises(Ours):
        async with only.transaction() as tx:
            await tx.execute("INSERT INTO idempotency (subject, key, fingerprint) VALUES ('a','1','')")
            raise Ours
    assert await only.call("SELECT count(*) AS n FROM idempotency", ()) == [(0,)]
    assert await backend(only) == pid


async def test_a_block_that_is_cancelled_is_undone(only: Database, admin: psycopg.AsyncConnection[Any]) -> None:
    pid = await backend(only)
    inside = asyncio.Event()

    async def stay() -> None:
        async with only.transaction() as tx:
            await tx.execute("INSERT INTO idempotency (subject, key, fingerprint) VALUES ('a','1','')")
            inside.set()
            await asyncio.Event().wait()

    staying = asyncio.create_task(stay())
    await inside.wait()
    staying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await staying
    await becomes(admin, pid, "gone")
    assert await only.call("SELECT count(*) AS n FROM idempotency", ()) == [(0,)]


async def test_nothing_of_a_transaction_stays_where_the_server_goes_before_its_end(
    only: Database, admin: psycopg.AsyncConnection[Any]
) -> None:
    pid = await backend(only)
    with pytest.raises(Unavailable):
        async with only.transaction() as tx:
            await tx.execute("INSERT INTO idempotency (subject, key, fingerprint) VALUES ('a','1','')")
            await admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    assert await only.call("SELECT count(*) AS n FROM idempotency", ()) == [(0,)]


@ways
async def test_a_server_that_is_not_there_is_an_outage_at_once(tenant_database: TenantDatabase, run: Write) -> None:
    one = Database(f"postgresql+psycopg://a:b@127.0.0.1:{free_port()}/postgres")
    began = Stopwatch()
    broken = await asyncio.gather(*(run(one, "SELECT 1") for _ in range(20)), return_exceptions=True)
    assert {type(each) for each in broken} == {Unavailable}
    assert began.seconds() < 5
    assert "127.0.0.1" not in str(broken[0])  # hosts and roles are not shown to clients
    with pytest.raises(Unavailable):
        await one.probe()
    await one.aclose()


async def test_a_server_that_vanished_is_noticed_by_the_kernel(
    tenant_database: TenantDatabase, postgres: EmbeddedPostgres
) -> None:
    async with name() as network:
        network.lead_to(postgres)
        one = Database(network.url(tenant_database.url, tcp_user_timeout="7000"))
        connection = await one._connections.take()
        with socket.socket(fileno=connection.fileno()) as tcp:
            assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == int(CONNECTING["keepalives_idle"])
            assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000  # the URL's own parameters win
            tcp.detach()
        one._connections.give(connection)
        await one.aclose()


async def test_connections_to_a_server_that_fell_silent_are_given_up_together(
    tenant_database: TenantDatabase, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To test each of them would take seconds."""
    async with name() as network:
        network.lead_to(postgres)
        one = Database(network.url(tenant_database.url, connect_timeout="60"), pool_size=8)
        await asyncio.gather(*(one.call("SELECT pg_sleep(0.2)", ()) for _ in range(8)))
        network.silent = True
        monkeypatch.setattr(connections, "TRUSTED_SECONDS", 0.0)
        monkeypatch.setattr(connections, "ANSWER_SECONDS", 1.0)
        monkeypatch.setitem(one._connecting, "connect_timeout", "2")
        began = Stopwatch()
        with pytest.raises(Unavailable):
            await one.call("SELECT 1", ())
        assert began.seconds() < 6  # one second for one of them, two to connect anew
        network.silent = False
        monkeypatch.undo()
        assert await one.call("SELECT 1 AS n", ()) == [(1,)]
        await one.aclose()


async def test_nobody_waits_for_a_server_that_fell_silent_in_the_midst_of_a_statement(
    tenant_database: TenantDatabase, postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped server, whose machine still takes bytes. All that wait for it get the error together."""
    async with name() as network:
        network.lead_to(postgres)
        one = Database(network.url(tenant_database.url, connect_timeout="60"), pool_size=4)
        await asyncio.gather(*(one.call("SELECT pg_sleep(0.1)", ()) for _ in range(4)))
        network.silent = True
        monkeypatch.setattr(connections, "DOUBTED_SECONDS", 0.2)
        monkeypatch.setattr(connections, "ANSWER_SECONDS", 1.0)
        monkeypatch.setitem(one._connecting, "connect_timeout", "2")
        began = Stopwatch()
        waiting = [one.call("SELECT 1", ()) for _ in range(4)]
        assert {type(each) for each in await asyncio.gather(*waiting, return_exceptions=True)} == {Unavailable}
        assert began.seconds() < 8
        network.silent = False
        monkeypatch.undo()
        assert await one.call("SELECT 1 AS n", ()) == [(1,)]
        await one.aclose()


async def test_who_waits_long_for_a_server_that_is_there_goes_on_waiting(
    tenant_database: TenantDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "DOUBTED_SECONDS", 0.05)
    one = Database(tenant_database.url, pool_size=1)
    assert await one.call("SELECT pg_sleep(1)::text AS slept", ()) == [("",)]
    await one.aclose()


# -- readiness ---------------------------------------------------------------------------------------------------------


async def test_a_probe_goes_before_those_who_wait_longer(only: Database) -> None:
    order: list[str] = []

    async def use(who: str, do: Awaitable[object]) -> None:
        await do
        order.append(who)

    async with only.transaction():
        waiting = [asyncio.create_task(use("other", only.call("SELECT 1", ()))) for _ in range(5)]
        await asyncio.sleep(0)
        waiting.append(asyncio.create_task(use("probe", only.probe())))
        for _ in range(3):
            await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert order[0] == "probe"


async def test_a_pool_from_which_nothing_comes_back_is_not_ready(
    only: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "PROBE_SECONDS", 0.1)
    async with only.transaction():
        with pytest.raises(Unavailable, match="busy"):
            await only.probe()
    await only.probe()


async def test_a_schema_without_tables_is_not_ready(
    only: Database, tenant_database: TenantDatabase, admin: psycopg.AsyncConnection[Any]
) -> None:
    await admin.execute(
        sql.SQL("ALTER TABLE {}.policy RENAME TO elsewhere").format(sql.Identifier(tenant_database.schema))
    )
    with pytest.raises(Unavailable, match="tables"):
        await only.probe()
    await admin.execute(
        sql.SQL("ALTER TABLE {}.elsewhere RENAME TO policy").format(sql.Identifier(tenant_database.schema))
    )
    await only.probe()


async def test_many_probes_ask_once(only: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    take = only._connections.take

    async def counted(**options: Any) -> connections.Connection:
        nonlocal asked
        asked += 1
        return await take(**options)

    monkeypatch.setattr(only._connections, "take", counted)
    await asyncio.gather(*(only.probe() for _ in range(50)))
    assert asked == 1


# -- announcing, ending ------------------------------------------------------------------------------------------------


@pytest.fixture
async def heard(
    admin: psycopg.AsyncConnection[Any], tenant_database: TenantDatabase
) -> Callable[[float], Awaitable[int]]:
    """How many notifications of this tenant have come, once none has come for `quiet` seconds."""
    await admin.execute(f"LISTEN {CHANNEL}")

    async def count(quiet: float) -> int:
        return sum([1 async for one in admin.notifies(timeout=quiet) if one.payload == tenant_database.schema])

    return count


async def test_what_is_queued_in_many_transactions_is_announced_once(
    database: Database, heard: Callable[[float], Awaitable[int]]
) -> None:
    async def queue() -> None:
        async with database.transaction() as tx:
            tx.announce()

    await asyncio.gather(*(queue() for _ in range(20)))
    assert 1 <= await heard(1.0) <= 3


async def test_a_transaction_that_is_undone_announces_nothing(
    database: Database, heard: Callable[[float], Awaitable[int]]
) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with database.transaction() as tx:
            tx.announce()
            raise ZeroDivisionError
    async with database.transaction() as tx:
        await tx.execute("SELECT 1")
    assert await heard(0.5) == 0


async def test_what_was_queued_last_is_announced_before_the_process_ends(
    tenant_database: TenantDatabase, heard: Callable[[float], Awaitable[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "ANNOUNCE_SECONDS", 60.0)
    one = Database(tenant_database.url)
    one.announce()
    await asyncio.sleep(0)
    began = Stopwatch()
    await one.aclose()
    assert began.seconds() < 5
    assert await heard(1.0) == 1


async def test_the_end_waits_for_no_database_that_is_away(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "ENDING_SECONDS", 0.2)
    async with name() as network:
        network.lead_to(postgres)
        network.silent = True
        one = Database(f"postgresql+psycopg://a:b@127.0.0.1:{network.port}/postgres")
        one.announce()
        began = Stopwatch()
        await one.aclose()
        assert began.seconds() < 2


async def test_what_is_lent_at_the_end_is_ended_when_it_comes_back(
    tenant_database: TenantDatabase, admin: psycopg.AsyncConnection[Any]
) -> None:
    one = Database(tenant_database.url, pool_size=2)
    idle = await backend(one)
    async with one.transaction() as tx:
        lent = await tx.value("SELECT pg_backend_pid()")
        await one.aclose()
        assert (await tx.value("SELECT 1")) == 1
    await becomes(admin, idle, "gone")
    await becomes(admin, lent, "gone")


def test_a_database_serves_one_loop_after_the_other(tenant_database: TenantDatabase) -> None:
    one = Database(tenant_database.url, pool_size=1)

    async def use() -> None:
        await asyncio.gather(*(one.call("SELECT 1", ()) for _ in range(5)))
        async with one.transaction() as tx:
            await tx.execute("SELECT 1")
        await one.probe()

    for _ in range(2):
        asyncio.run(use())
    asyncio.run(one.aclose())


# -- prepared statements -----------------------------------------------------------------------------------------------


async def test_statements_are_prepared_only_where_a_setting_says_so(tenant_database: TenantDatabase) -> None:
    for prepare in (False, True):
        one = Database(tenant_database.url, pool_size=1, prepare=prepare)
        for _ in range(5):
            await one.call("SELECT %s::int AS n", (1,))
            async with one.transaction() as tx:
                await tx.execute("SELECT 1")
        (row,) = await one.call("SELECT count(*) AS n FROM pg_prepared_statements", ())
        assert (row.n > 0) is prepare
        await one.aclose()


async def test_a_prepared_statement_survives_a_change_of_what_it_calls(
    tenant_database: TenantDatabase, admin: psycopg.AsyncConnection[Any]
) -> None:
    """A migration makes such a change under a running api."""
    schema = sql.Identifier(tenant_database.schema)
    made = "CREATE FUNCTION {schema}.told() RETURNS {kind} LANGUAGE sql AS 'SELECT 1::{kind}'"
    await admin.execute(sql.SQL(made).format(schema=schema, kind=sql.SQL("int")))
    one = Database(tenant_database.url, pool_size=1, prepare=True)
    for _ in range(5):
        assert await one.call("SELECT * FROM told()", ()) == [(1,)]
    await admin.execute(sql.SQL("DROP FUNCTION {schema}.told()").format(schema=schema))
    await admin.execute(sql.SQL(made).format(schema=schema, kind=sql.SQL("text")))
    assert await one.call("SELECT * FROM told()", ()) == [("1",)]
    await one.aclose()
