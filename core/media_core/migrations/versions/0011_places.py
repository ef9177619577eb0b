"""Where a transcription goes on after its worker ended, and the language of a segment."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("job", sa.Column("place", JSONB))
    op.add_column("segment", sa.Column("language", sa.Text))
