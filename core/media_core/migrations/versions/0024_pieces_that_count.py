"""A function makes new pieces of an upload count: its statements were planned for every piece."""

from importlib.resources import files

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.get_bind().exec_driver_sql((files("media_core") / "uploads/claims.sql").read_text().replace("%", "%%"))
