"""A tenant's schema as an earlier version of the platform left it."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from media_core.schema import grants


def migrate_to(revision: str, url: str, schema: str, tenant: str) -> None:
    """Migrates an empty or older schema, as `media_core.schema.migrate` of that version did."""
    config = Config()
    config.set_main_option("script_location", str(files("media_core") / "migrations"))
    engine = create_engine(url, connect_args={"options": f"-c search_path={schema}"})
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
            for statement in grants(schema, tenant):
                connection.exec_driver_sql(statement)
    finally:
        engine.dispose()
