"""The read of one file as a function, which a session plans once."""

from importlib.resources import files

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.get_bind().exec_driver_sql((files("media_core") / "items/item.sql").read_text().replace("%", "%%"))
