"""When a content was found to have lost its object, so that the same bytes are stored again."""

from importlib.resources import files

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    # Both at once, in the lock order: the functions' file makes a trigger of each anew.
    op.execute("LOCK TABLE blob, room_file IN ACCESS EXCLUSIVE MODE")
    op.add_column("blob", sa.Column("lost_at", sa.TIMESTAMP(timezone=True)))
    op.create_index("blob_lost", "blob", ["sha256"], postgresql_where=sa.text("lost_at IS NOT NULL"))
    op.get_bind().exec_driver_sql((files("media_core") / "contents/life.sql").read_text().replace("%", "%%"))
