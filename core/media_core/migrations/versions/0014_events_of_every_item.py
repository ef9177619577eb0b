"""A thumbnail or a verdict is told of an item too that is being added at this moment."""

from importlib.resources import files

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    # All tables at once, in the lock order. Reading goes on.
    op.execute("LOCK TABLE blob, job, media, room_file IN SHARE ROW EXCLUSIVE MODE")
    op.get_bind().exec_driver_sql((files("media_core") / "events/feed.sql").read_text().replace("%", "%%"))
