"""Alembic's entry point. The connection comes from `media_core.schema.migrate`, inside its transaction and lock.

The migrations say themselves what they make. The declared tables are for the test that compares the two: to import them
takes a fifth of a second.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
