"""The migrations and the declared tables say the same, and migrating is safe from several processes at once."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, text
from sqlmodel import SQLModel

from media_core import tables
from media_core.database import migrate
from media_operator.embedded.postgres import EmbeddedPostgres
from tests.integration.api_server import new_tenant
from tests.integration.tenancy import TenantDatabase


def differences(tenant: TenantDatabase) -> list[object]:
    """What the database has other than the declared tables say."""
    assert tables.Blob.__tablename__ in SQLModel.metadata.tables
    engine = create_engine(tenant.owner_url, connect_args={"options": f"-c search_path={tenant.schema}"})
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        found = compare_metadata(context, SQLModel.metadata)
    engine.dispose()
    return list(found)


def test_the_migrated_schema_is_the_declared_one(tenant_database: TenantDatabase) -> None:
    assert differences(tenant_database) == []


def test_migrating_again_and_at_once_changes_nothing(tenant_database: TenantDatabase) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bring_up, [tenant_database] * 4))
    assert differences(tenant_database) == []


def test_an_empty_schema_may_be_migrated_by_several_at_once(tenant_database: TenantDatabase) -> None:
    empty(tenant_database)
    assert differences(tenant_database) != []
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(bring_up, [tenant_database] * 4))
    assert differences(tenant_database) == []


def bring_up(tenant: TenantDatabase) -> None:
    migrate(tenant.owner_url, tenant.schema, tenant.schema)


def empty(tenant: TenantDatabase) -> None:
    engine = create_engine(tenant.owner_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        there = connection.execute(
            text("SELECT tablename FROM pg_tables WHERE schemaname = :schema"), {"schema": tenant.schema}
        ).scalars()
        for table in list(there):
            connection.execute(text(f"DROP TABLE {tenant.schema}.{table} CASCADE"))
    engine.dispose()


def test_migrations_of_many_tenants_at_once_do_not_meet(postgres: EmbeddedPostgres) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        tenants = [stack.enter_context(new_tenant(postgres)) for _ in range(8)]
        for tenant in tenants:
            empty(tenant)
        list(pool.map(bring_up, tenants))
        assert [differences(tenant) for tenant in tenants] == [[]] * 8


def test_a_tenants_role_sees_nothing_of_another_tenant(tenant_database: TenantDatabase) -> None:
    engine = create_engine(tenant_database.url)
    with engine.connect() as connection:
        schemas = connection.execute(
            text("SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_schema LIKE 'tenant_%'")
        ).scalars()
        assert list(schemas) == [tenant_database.schema]
    engine.dispose()
