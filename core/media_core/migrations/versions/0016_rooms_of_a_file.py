"""The rooms of a file in their order, from the index alone: a file can be in thousands."""

from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_index("room_file_of_media", "room_file", ["media_id", "room_id"])
    op.drop_index("room_file_media", "room_file")
