"""A reader of events waits for whoever is giving positions, and so sees what was committed before it asked."""

from importlib.resources import files

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    # All tables at once, in the lock order: the file makes their triggers anew. Reading goes on.
    op.execute("LOCK TABLE blob, job, media, room_file IN SHARE ROW EXCLUSIVE MODE")
    op.get_bind().exec_driver_sql((files("media_core") / "events/feed.sql").read_text().replace("%", "%%"))
