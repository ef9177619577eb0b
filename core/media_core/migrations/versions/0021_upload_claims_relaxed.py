"""The claim of an upload in several requests is not durable any more."""

from importlib.resources import files

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.get_bind().exec_driver_sql((files("media_core") / "uploads/claims.sql").read_text().replace("%", "%%"))
