"""The claim of an upload in several requests as a function."""

from importlib.resources import files

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.get_bind().exec_driver_sql((files("media_core") / "uploads/claims.sql").read_text().replace("%", "%%"))
