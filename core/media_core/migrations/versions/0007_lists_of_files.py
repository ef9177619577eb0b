"""What lists of files filter and sort by, in the item's row; labels; the key that signs the api's own URLs."""

from importlib.resources import files

import sqlalchemy as sa
from alembic import op

from media_core.folding import folded

revision = "0007"
down_revision = "0006"

FOLDED_AT_ONCE = 1000


def upgrade() -> None:
    # All tables at once, in the lock order.
    op.execute("LOCK TABLE blob, media, room_file IN ACCESS EXCLUSIVE MODE")
    op.add_column("media", sa.Column("content_size", sa.BigInteger()))
    op.add_column("media", sa.Column("category", sa.Text()))
    op.add_column("media", sa.Column("folded", sa.Text(collation="C")))
    op.execute(
        """
        UPDATE media SET content_size = blob.size, category = content_category(blob.mime_type), folded = lower(filename)
        FROM blob WHERE blob.sha256 = media.sha256
        """
    )
    _fold_names()
    for column in ("content_size", "category", "folded"):
        op.alter_column("media", column, nullable=False)

    # A pod of the version before does not know these columns. What it inserts is folded as far as PostgreSQL can.
    op.execute(
        """
        CREATE OR REPLACE FUNCTION media_listed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            SELECT size, content_category(mime_type) INTO NEW.content_size, NEW.category FROM blob
            WHERE sha256 = NEW.sha256;
            NEW.folded := coalesce(NEW.folded, left(lower(NEW.filename), 128));
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER media_listed BEFORE INSERT ON media FOR EACH ROW
        WHEN (NEW.content_size IS NULL OR NEW.category IS NULL OR NEW.folded IS NULL) EXECUTE FUNCTION media_listed()
        """
    )

    op.create_index("media_newest", "media", ["uploaded_by", "created_at", "media_id"])
    op.create_index("media_newest_of", "media", ["uploaded_by", "category", "created_at", "media_id"])
    op.create_index("media_by_name", "media", ["uploaded_by", "folded", "media_id"])
    op.create_index("media_by_size", "media", ["uploaded_by", "content_size", "media_id"])
    op.create_index("media_all_newest", "media", ["created_at", "media_id"])
    op.create_index("media_all_by_name", "media", ["folded", "media_id"])
    op.create_index("media_all_by_size", "media", ["content_size", "media_id"])

    op.create_table(
        "label",
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["media_id"], ["media.media_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("media_id", "key"),
    )
    op.create_index("label_value", "label", ["key", "value", "media_id"])

    op.create_table(
        "url_key",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.CheckConstraint("id = 1", name="url_key_one_row"),
        sa.CheckConstraint("length(secret) >= 64", name="url_key_secret_length"),
        sa.PrimaryKeyConstraint("id"),
    )
    # Two random UUIDs have 244 bits of PostgreSQL's strong random numbers, which need no extension.
    op.execute("INSERT INTO url_key VALUES (1, replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''))")

    # Their arguments have changed: replacing would leave the old ones beside the new.
    op.execute(
        """
        DROP FUNCTION IF EXISTS content_add_item(
            blob, text, text, text, text, boolean, text, text, bigint, bigint, boolean);
        DROP FUNCTION IF EXISTS content_begin(
            text, text, bigint, interval, boolean, text, text, text, text, boolean, text, text, text);
        DROP FUNCTION IF EXISTS content_commit(
            text, text, bigint, text, integer, integer, double precision, jsonb, text, text, bigint, text, text, text,
            text, boolean, text, text, text, text, text, integer, text, text)
        """
    )
    op.get_bind().exec_driver_sql((files("media_core") / "contents/life.sql").read_text().replace("%", "%%"))


def _fold_names() -> None:
    """For ASCII `lower` does all that `folded` does."""
    connection = op.get_bind()
    after = ""
    while rows := connection.execute(
        sa.text(
            "SELECT media_id, filename FROM media WHERE media_id > :after AND filename ~ '[^\\x01-\\x7f]'"
            " ORDER BY media_id LIMIT :most"
        ),
        {"after": after, "most": FOLDED_AT_ONCE},
    ).all():
        connection.execute(
            sa.text("UPDATE media SET folded = :folded WHERE media_id = :media_id"),
            [{"media_id": row.media_id, "folded": folded(row.filename)} for row in rows],
        )
        after = rows[-1].media_id
