"""Events, which triggers write in the transactions that make them true."""

from importlib.resources import files

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # All tables at once, in the lock order.
    op.execute("LOCK TABLE blob, job, media, room_file IN ACCESS EXCLUSIVE MODE")
    op.create_table(
        "event",
        sa.Column("number", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("position", sa.BigInteger()),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("rooms", ARRAY(sa.Text())),
        sa.Column("tenant_scope", sa.Boolean(), nullable=False, server_default="false"),
        sa.Column("data", JSONB(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("event_unplaced", "event", ["number"], postgresql_where=sa.text("position IS NULL"))
    op.create_index(
        "event_position", "event", ["position"], unique=True, postgresql_where=sa.text("position IS NOT NULL")
    )
    op.create_table(
        "event_head",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("placed", sa.BigInteger(), nullable=False, server_default="0"),
        sa.CheckConstraint("id = 1", name="event_head_one_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO event_head (id) VALUES (1)")
    op.get_bind().exec_driver_sql((files("media_core") / "events/feed.sql").read_text().replace("%", "%%"))
