"""Which channel a segment was heard in, of jobs that hear each by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("segment", sa.Column("channel", sa.Integer()))
