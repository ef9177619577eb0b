"""Webhooks: how far each has been told, and what it has not taken."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "webhook",
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("claim", sa.Text()),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        sa.Column("failures", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("failing_since", sa.DateTime(timezone=True)),
        sa.Column("retry_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("webhook_id"),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("first_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True)),
        sa.Column("dead_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhook.webhook_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("webhook_id", "position"),
    )
    op.create_index(
        "webhook_delivery_due",
        "webhook_delivery",
        ["webhook_id", "due_at"],
        postgresql_where=sa.text("dead_at IS NULL AND due_at IS NOT NULL"),
    )
    op.create_index(
        "webhook_delivery_of_file",
        "webhook_delivery",
        ["webhook_id", "media_id", "position"],
        postgresql_where=sa.text("dead_at IS NULL"),
    )
    op.create_index(
        "webhook_delivery_dead",
        "webhook_delivery",
        ["webhook_id", "dead_at"],
        postgresql_where=sa.text("dead_at IS NOT NULL"),
    )
    op.create_index(
        "webhook_delivery_open",
        "webhook_delivery",
        ["webhook_id", "first_at"],
        postgresql_where=sa.text("dead_at IS NULL"),
    )
