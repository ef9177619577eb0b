"""Statements and fsyncs of a small upload. They are counted, so the machine does not matter.

The PostgreSQL server is used by nothing else. Statements are those that reach the server, with BEGIN and COMMIT, as
`log_statement = all` logs them. Statements inside a function do not count, since they need no round trip. Syncs of
PostgreSQL's log are those of the api's sessions, from pg_stat_io. The api's own syncs, of an object and its folder, are
seen by strace.
"""

import asyncio
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from bench.clients import Content
from bench.load import SIZE
from bench.measure import Amount, Effort, Goal
from bench.parts import POLICY, Parts, Tenant, tenant
from bench.resources import descendants
from media_core.policy import Policy
from media_operator.local.postgres import EmbeddedPostgres

STATEMENTS = Goal(must=3, aim=2, allowance=0.05)
SYNCS = Goal(must=1, aim=1, allowance=0.05)
"""Some statements come once a second or once a connection, whatever is uploaded."""
UPLOADS = 200
STRACE = shutil.which("strace")
WITHOUT_STRACE = "strace is not installed or may not be used here, so the api's own fsyncs were not counted"
TOLD_SECONDS = 11.0
"""A session that has been idle for ten seconds tells pg_stat_io what it has not told yet."""
_STATEMENT = re.compile(r"^\S+ \S+ \S+ (?P<user>[^@]+)@\S+ LOG:  (?:statement|execute [^:]*): (?P<text>.*)$")


@dataclass(frozen=True)
class Counted:
    """Of UPLOADS uploads."""

    statements: Counter[str]
    """By how they begin."""
    wal_syncs: int
    own_syncs: int | None
    """None where strace can't be used."""


async def statements(parts: Parts, effort: Effort) -> list[Amount]:
    """Both at once, since most of the time is spent waiting for what sessions tell."""
    off, on = await asyncio.gather(_counted(parts, replace(POLICY, scan_enabled=False)), _counted(parts, POLICY))
    return [*_rows(parts, "scanning off", off), *_rows(parts, "scanning on", on)]


async def _counted(parts: Parts, policy: Policy) -> Counted:
    with EmbeddedPostgres(parts.place("counted")) as postgres:
        async with tenant(postgres, parts.place("api"), policy) as one:
            return await asyncio.to_thread(_count, postgres, one)


def _rows(parts: Parts, scanning: str, seen: Counted) -> list[Amount]:
    what = f"upload, {SIZE // 1024} KiB"
    sent = ", ".join(f"{count / UPLOADS:.3g} x «{text}»" for text, count in seen.statements.most_common())
    rows = [
        Amount(
            f"{what}: statements, {scanning}",
            seen.statements.total() / UPLOADS,
            "",
            f"as PostgreSQL logs them, of {UPLOADS} one after another: {sent}",
            STATEMENTS,
        ),
        Amount(
            f"{what}: fsyncs of PostgreSQL, {scanning}",
            seen.wal_syncs / UPLOADS,
            "",
            "of its log, by the api's sessions (pg_stat_io)",
            SYNCS,
        ),
    ]
    if seen.own_syncs is None:
        parts.without(WITHOUT_STRACE)
    else:
        legend = "of the object and its folder in a folder store (strace); none where S3 holds the objects"
        rows.append(Amount(f"{what}: fsyncs of the api, {scanning}", seen.own_syncs / UPLOADS, "", legend))
    return rows


def _count(postgres: EmbeddedPostgres, one: Tenant) -> Counted:
    with psycopg.connect(postgres.admin_url.replace("+psycopg", ""), autocommit=True) as admin, one.client() as client:

        def upload() -> None:
            content = Content(SIZE)
            client.upload(content, content.size)

        _log_statements(admin, "all")
        for _ in range(5):  # its pool is filled, and all that is read once is read
            upload()
        time.sleep(TOLD_SECONDS)
        upload()  # a session that rested is asked whether it is still there, which is not an upload's cost
        syncs, place = _wal_syncs(admin), postgres.log.stat().st_size
        with _own_syncs(one) as own_syncs:
            for _ in range(UPLOADS):
                upload()
        end = postgres.log.stat().st_size
        _log_statements(admin, "none")
        time.sleep(TOLD_SECONDS)
        # And the one before the first look, whose sync was told after it.
        syncs = round((_wal_syncs(admin) - syncs) * UPLOADS / (UPLOADS + 1))
    with postgres.log.open("rb") as log:
        log.seek(place)
        written = log.read(end - place).decode(errors="replace")
    return Counted(_statements(written, one.api.tenant.schema), syncs, own_syncs())


def _log_statements(admin: "psycopg.Connection[tuple[object, ...]]", which: str) -> None:
    admin.execute(f"ALTER SYSTEM SET log_statement = '{which}'".encode())
    admin.execute("SELECT pg_reload_conf()")
    time.sleep(0.5)  # nobody tells when the sessions have it


def _wal_syncs(admin: "psycopg.Connection[tuple[object, ...]]") -> int:
    """Since the server began, by sessions; the log writer's own belong to no upload."""
    row = admin.execute(
        "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal' AND backend_type = 'client backend'"
    ).fetchone()
    assert row
    assert isinstance(row[0], int)
    return row[0]


def _statements(log: str, user: str) -> Counter[str]:
    found: list[str] = []
    for line in log.splitlines():
        if match := _STATEMENT.match(line):
            if match["user"] == user:
                found.append(match["text"].strip())
        elif line.startswith("\t") and found:  # the statement goes on
            found[-1] = f"{found[-1]} {line.strip()}"
    return Counter(text if len(text) <= SHOWN else f"{text[:SHOWN].rstrip()}…" for text in map(str.strip, found))


SHOWN = 40
"""Characters of a statement that tell which it is."""


@contextmanager
def _own_syncs(one: Tenant) -> Iterator[Callable[[], int | None]]:
    """How many fsyncs the api's processes make in the block; may be asked after it."""
    assert one.api.process
    file = Path(one.api.jwks_file.parent / "strace")
    pids = [option for pid in descendants(one.api.process.pid) for option in ("-p", str(pid))]
    command = [STRACE or "strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-o", str(file), *pids]
    try:
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        yield lambda: None
        return
    time.sleep(1)  # it says nothing, quiet as it is, when it has attached itself
    if tracer.poll() is not None:
        yield lambda: None
        return
    try:
        yield lambda: len(re.findall(r"\bf(?:data)?sync\(", file.read_text()))
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
