"""Two real PostgreSQL servers, a primary and its streaming standby, and a name that leads to one of them.

The name is a TCP port that is forwarded to a server's socket. A failover moves it, as it would change a Service's
selector or a DNS record. Open connections stay where they are.
"""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from unittest.mock import patch

import psycopg
from sqlalchemy import make_url

from media_operator.local import postgres as embedded
from media_operator.local.postgres import SUPERUSER, EmbeddedPostgres
from tests.integration.servers.api import mortal_postgres

REPLICATING = {"wal_level": "replica", "max_wal_senders": "4", "hot_standby": "on", "listen_addresses": ""}


class Name:
    """A `host:port` that leads to one server at a time, or to none: then connections are refused."""

    def __init__(self) -> None:
        self.port = 0
        self.silent = False
        """Accepts connections and bytes, and does not answer, like a server that vanished from the network."""
        self._to: EmbeddedPostgres | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    def lead_to(self, server: EmbeddedPostgres | None) -> None:
        self._to = server

    def cut(self) -> None:
        """Ends all open connections."""
        for one in self._open:
            one.cancel()

    def url(self, url: str, **query: str) -> str:
        named = make_url(url).set(host="127.0.0.1", port=self.port, query=query)
        return named.render_as_string(hide_password=False)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if self._to is None:
                return
            there, back = await asyncio.open_unix_connection(f"{self._to.socket_folder}/.s.PGSQL.5432")
            try:
                await asyncio.gather(self._pass_on(reader, back), self._pass_on(there, writer))
            finally:
                back.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            if not self.silent:
                sink.write(data)
                await sink.drain()
        raise OSError("one side has ended")


@asynccontextmanager
async def name() -> AsyncIterator[Name]:
    one = Name()
    await one.start()
    try:
        yield one
    finally:
        await one.stop()


@contextmanager
def server_that_may_fail(like: EmbeddedPostgres | None = None) -> Iterator[EmbeddedPostgres]:
    """A server for one test; with `like`, that server's streaming standby."""

    def prepare(server: EmbeddedPostgres) -> None:
        if like is not None:
            _copy(like, server)

    with patch.dict(embedded.SETTINGS, REPLICATING), mortal_postgres(prepare) as server:
        yield server


def _copy(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    standby.folder.mkdir(parents=True)
    shutil.copy(primary.folder / "admin-password", standby.folder / "admin-password")
    binaries = standby._place()
    owner = primary.data.stat()
    if os.geteuid() == 0:
        os.chown(standby.folder, owner.st_uid, owner.st_gid)
    done = subprocess.run(
        [
            *(binaries / "pg_basebackup", "--pgdata", standby.data, "--write-recovery-conf", "--checkpoint=fast"),
            *("--no-sync", "--wal-method=stream", "--host", str(primary.socket_folder), "--username", SUPERUSER),
        ],
        env={"PATH": os.defpath, "PGPASSWORD": make_url(primary.admin_url).password or ""},
        capture_output=True,
        text=True,
        check=False,
        **({"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}),
    )
    assert done.returncode == 0, done.stderr


def kill(server: EmbeddedPostgres) -> None:
    """Kills it, as when a node dies; `start` brings it back at the same address."""
    assert server._process is not None
    server._process.send_signal(signal.SIGQUIT)
    server._process.wait()


async def promote(standby: EmbeddedPostgres) -> None:
    """Promotes it, and returns when it takes writes."""
    await administer(standby, "SELECT pg_promote(wait => true)")


async def demote(server: EmbeddedPostgres) -> None:
    """Makes it read-only, as a fenced primary: sessions stay, and cannot write."""
    await administer(server, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
    await _until(server, "SELECT current_setting('default_transaction_read_only') = 'on'")


async def restore(server: EmbeddedPostgres) -> None:
    await administer(
        server,
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )
    await _until(server, "SELECT current_setting('default_transaction_read_only') = 'off'")


async def caught_up(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    ((written,),) = await administer(primary, "SELECT pg_current_wal_lsn()")
    await _until(standby, f"SELECT pg_last_wal_replay_lsn() >= '{written}'")


async def administer(server: EmbeddedPostgres, *statements: str) -> list[tuple[object, ...]]:
    """Runs statements as the superuser. Returns the last statement's rows."""
    url = server.admin_url.replace("+psycopg", "")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        for statement in statements:
            done = await connection.execute(statement)  # type: ignore[arg-type]  # a test's own words
        with suppress(psycopg.ProgrammingError):
            return await done.fetchall()
        return []


async def _until(server: EmbeddedPostgres, condition: str) -> None:
    while not (await administer(server, condition))[0][0]:  # noqa: ASYNC110 (another process's progress has no event)
        await asyncio.sleep(0.02)
