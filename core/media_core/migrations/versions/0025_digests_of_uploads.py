"""The digest of the file that an upload in several requests was begun with."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    op.add_column("upload", sa.Column("digest", sa.Text))
