"""How many files a tenant may have."""

from importlib.resources import files

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    # All at once, in the lock order: the functions' file makes a trigger of the first two anew.
    op.execute("LOCK TABLE blob, room_file, usage IN ACCESS EXCLUSIVE MODE")
    op.add_column("usage", sa.Column("max_items", sa.BigInteger()))
    op.get_bind().exec_driver_sql((files("media_core") / "contents/life.sql").read_text().replace("%", "%%"))
