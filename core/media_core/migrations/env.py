"""Alembic's entry point. The connection comes from `media_core.schema.migrate`, inside its transaction and lock."""

from alembic import context
from sqlmodel import SQLModel

from media_core import tables  # noqa: F401  (declares the tables)

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
context.run_migrations()
