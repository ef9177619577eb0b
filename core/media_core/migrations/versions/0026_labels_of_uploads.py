"""The labels that an upload in several requests was begun with."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    op.add_column("upload", sa.Column("labels", JSONB))
