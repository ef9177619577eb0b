"""How often a file was attached and changed within a day, from an index."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_index(
        "event_changes",
        "event",
        ["media_id", "created_at"],
        postgresql_where=sa.text("type IN ('attached','changed')"),
    )
