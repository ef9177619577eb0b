"""A change of an item's name, labels or tenant scope is an event."""

from importlib.resources import files

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    # All tables at once, in the lock order. Reading goes on.
    op.execute("LOCK TABLE blob, job, media, room_file IN SHARE ROW EXCLUSIVE MODE")
    op.get_bind().exec_driver_sql((files("media_core") / "events/feed.sql").read_text().replace("%", "%%"))
