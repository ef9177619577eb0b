"""Uploads that come in several requests, and their pieces."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "upload",
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("declared", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("claimed_type", sa.Text()),
        sa.Column("tenant_scope", sa.Boolean(), nullable=False),
        sa.Column("room_id", sa.Text()),
        sa.Column("concat", sa.Text()),
        sa.Column("length", sa.BigInteger()),
        sa.Column("received", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("pieces", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("sealed", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("claim", sa.Text()),
        sa.Column("claimed_until", sa.DateTime(timezone=True)),
        sa.Column("ending", sa.Boolean(), nullable=False, server_default="false"),
        sa.Column("answer", JSONB()),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("upload_id"),
    )
    op.create_index("upload_expires", "upload", ["expires_at"])
    op.create_index("upload_owner", "upload", ["owner"])
    op.create_table(
        "upload_piece",
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["upload_id"], ["upload.upload_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("upload_id", "number"),
    )
