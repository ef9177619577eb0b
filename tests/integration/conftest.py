"""Fixtures that tests share: one embedded PostgreSQL a session, one fresh tenant schema a test."""

import functools
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from media_core.contents.life import Contents
from media_core.database import Database
from media_core.decoding import children, pool
from media_core.decoding.pool import DecodingPool
from media_core.examination import examination
from media_core.examination.examination import Examination
from media_core.items.library import Library
from media_core.policy import PolicyReader
from media_core.store.folder import FolderStore
from media_core.uploads.upload import Uploads
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.servers.api import api, fresh_api, new_tenant  # noqa: F401  (api and fresh_api are fixtures)
from tests.integration.servers.clamd import clamd  # noqa: F401  (a fixture)
from tests.integration.servers.postgres_folder import CopiedPostgres, postgres_folder
from tests.integration.tenancy import GENEROUS, TenantDatabase


@pytest.fixture(scope="session", autouse=True)
def patience() -> Iterator[None]:
    """On a busy machine pictures take longer than an upload waits for them, and then are a worker's. There decoders and
    their starts take longer than they may, too.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination, "THUMBNAIL_SECONDS", 600.0)
        patch.setattr(pool, "ChildLimits", functools.partial(pool.ChildLimits, wall_seconds=600.0))
        patch.setattr(children, "START_SECONDS", 600.0)
        patch.setattr(children, "READY_SECONDS", 120.0)
        patch.setattr(children, "END_SECONDS", 60.0)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    with postgres_folder() as folder, CopiedPostgres(folder / "data") as server:
        yield server


@pytest.fixture
def tenant_database(postgres: EmbeddedPostgres) -> Iterator[TenantDatabase]:
    with new_tenant(postgres) as tenant:
        yield tenant


@pytest.fixture
async def database(tenant_database: TenantDatabase) -> AsyncIterator[Database]:
    """The tenant's database, with a generous policy; tests that need another policy apply it themselves."""
    await tenant_database.declare(GENEROUS)
    database = Database(tenant_database.url)
    yield database
    await database.aclose()


@pytest.fixture(scope="session")
async def decoding_pool() -> AsyncIterator[DecodingPool]:
    async with DecodingPool(processes=1) as decoders:
        yield decoders


@pytest.fixture
def folder_store(tmp_path: Path, tenant_database: TenantDatabase) -> FolderStore:
    return FolderStore(tmp_path / "bucket", tenant_database.tenant_id, secrets.token_bytes(32), "http://127.0.0.1:1")


@pytest.fixture
def uploads(
    tenant_database: TenantDatabase, database: Database, folder_store: FolderStore, decoding_pool: DecodingPool
) -> Uploads:
    return Uploads(
        tenant_id=tenant_database.tenant_id,
        database=database,
        store=folder_store,
        examiner=Examination(decoding_pool),
        policy=PolicyReader(database),
    )


@pytest.fixture
def library(tenant_database: TenantDatabase, database: Database, folder_store: FolderStore) -> Library:
    return Library(
        tenant_id=tenant_database.tenant_id, database=database, store=folder_store, policy=PolicyReader(database)
    )


@pytest.fixture
def contents(library: Library) -> Contents:
    return library.contents
