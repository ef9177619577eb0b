"""A server with rows that take a minute to make, which are kept from one run to the next, in the cache of tools.

The folder of a server that was stopped is kept, named by a hash over all that makes the rows: the module that fills the
tables, the migrations, and PostgreSQL. Rows age, so they are made anew after some days.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

import media_core
from media_operator.local.postgres import WHEEL, EmbeddedPostgres
from tests.integration.servers.api import make_tenant
from tests.integration.servers.postgres_folder import CopiedPostgres, copy, postgres_folder
from tests.integration.tenancy import TenantDatabase
from tests.tools.build import cache

KEPT_SECONDS = 5 * 86400
UNFINISHED_SECONDS = 3600
ROOM = 20 << 30
"""Bytes that have to be free on the disk, or the rows are not kept."""
_CORE = Path(media_core.__file__).parent


@contextmanager
def filled_postgres(
    fill: Callable[[TenantDatabase], None], source: Path
) -> Iterator[tuple[EmbeddedPostgres, TenantDatabase]]:
    """A server, and its tenant with the rows of `fill`, which `source` defines. Tests may change both."""
    kept = cache() / "rows" / f"{source.stem}-{_digest(source)}"
    with postgres_folder(in_memory=False) as folder:
        server = CopiedPostgres(folder / "server")
        try:
            if kept.exists() and _age(kept) < KEPT_SECONDS:
                copy(kept, server.folder)
                server.start()
            else:
                server.start()
                fill(make_tenant(server))
                server.stop()
                _keep(server.folder, kept)
                server.start()
            yield server, _tenant(server)
        finally:
            server.stop()


def _digest(source: Path) -> str:
    # As root the server runs as another user, who owns the files.
    digest = hashlib.sha256(f"{importlib.metadata.version(WHEEL)} {os.geteuid()}".encode())
    migrations = (_CORE / "migrations").rglob("*.py")
    for file in (source, Path(__file__), _CORE / "schema.py", *sorted(migrations), *sorted(_CORE.rglob("*.sql"))):
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:12]


def _keep(folder: Path, place: Path) -> None:
    """Instead of all older ones, and of what runs that were killed left unfinished."""
    place.parent.mkdir(parents=True, exist_ok=True)
    kind = place.name.rpartition("-")[0]
    for old in (*place.parent.glob(f"{kind}-*"), *filter(_is_left, place.parent.glob(f".{kind}-*"))):
        shutil.rmtree(old, ignore_errors=True)
    if shutil.disk_usage(place.parent).free < ROOM:
        return
    with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as fresh:
        copy(folder, Path(fresh) / "server")
        with contextlib.suppress(OSError):  # another run was faster
            (Path(fresh) / "server").rename(place)


def _is_left(unfinished: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return _age(unfinished) > UNFINISHED_SECONDS
    return False


def _age(folder: Path) -> float:
    return time.time() - folder.stat().st_mtime


def _tenant(server: EmbeddedPostgres) -> TenantDatabase:
    """The only one, wherever the server listens today."""
    password = secrets.token_hex(16)
    with psycopg.connect(server.admin_url.replace("+psycopg", ""), autocommit=True) as owner:
        row = owner.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tenant\\_%'").fetchone()
        assert row is not None
        schema: str = row[0]
        owner.execute(f"ALTER ROLE {schema} PASSWORD '{password}'".encode())
    url = server.url("postgres", user=schema, password=password)
    return TenantDatabase(schema.removeprefix("tenant_"), schema, url, server.admin_url)
