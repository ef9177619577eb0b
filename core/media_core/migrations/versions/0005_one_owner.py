"""Functions for a content's life; claims for removals; births, orphans, suspicions; counters."""

from importlib.resources import files

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # All tables at once, in the lock order: otherwise a transaction that holds one and waits for another could deadlock
    # with this migration.
    op.execute("LOCK TABLE idempotency, blob, reservation, job, media, room_file, usage IN ACCESS EXCLUSIVE MODE")
    op.add_column("reservation", sa.Column("sha256", sa.Text()))
    op.create_index("reservation_sha256", "reservation", ["sha256"], postgresql_where=sa.text("sha256 IS NOT NULL"))

    op.add_column("blob", sa.Column("remove_after", sa.DateTime(timezone=True)))
    op.add_column("blob", sa.Column("removing_until", sa.DateTime(timezone=True)))
    op.add_column("blob", sa.Column("details", JSONB(), nullable=False, server_default="{}"))
    op.execute("UPDATE blob SET remove_after = doomed_at WHERE doomed_at IS NOT NULL")

    counters = ("objects", "object_bytes", "items", "item_bytes")
    for counter in counters:
        op.add_column("usage", sa.Column(counter, sa.BigInteger(), nullable=False, server_default="0"))
    # The locks above keep every writer out of these tables.
    op.execute(
        """
        WITH standing AS (
            SELECT sha256, size, thumbnail_size FROM blob WHERE doomed_at IS NULL AND scan_status <> 'infected'
        )
        UPDATE usage SET (objects, object_bytes, stored_bytes) = (
                SELECT count(*), coalesce(sum(size), 0)::bigint, coalesce(sum(size + thumbnail_size), 0)::bigint
                FROM standing),
            (items, item_bytes) = (
                SELECT count(*), coalesce(sum(size), 0)::bigint FROM media JOIN standing USING (sha256)),
            reserved_bytes = (SELECT coalesce(sum(bytes), 0)::bigint FROM reservation)
        """
    )

    op.add_column("job", sa.Column("postponed", sa.Integer(), nullable=False, server_default="0"))

    op.create_table(
        "birth",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("birth_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False, server_default="0"),
        sa.CheckConstraint("id = 1", name="birth_one_row"),
        sa.CheckConstraint("length(birth_id) <= 100", name="birth_id_length"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.execute("INSERT INTO birth (id, birth_id) VALUES (1, gen_random_uuid()::text)")
    op.create_table(
        "orphan",
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_in", sa.BigInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("sha256"),
    )
    op.create_table(
        "suspicion",
        sa.Column("signature", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("trusted_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("length(signature) <= 1000", name="suspicion_signature_length"),
        sa.PrimaryKeyConstraint("signature"),
    )
    op.create_table(
        "swept",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("swept_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("listed", sa.BigInteger(), nullable=False),
        sa.Column("orphans", sa.BigInteger(), nullable=False),
        sa.Column("orphan_bytes", sa.BigInteger(), nullable=False),
        sa.Column("orphans_kept", sa.Boolean(), nullable=False),
        sa.Column("orphans_since", sa.DateTime(timezone=True)),
        sa.Column("orphans_released_at", sa.DateTime(timezone=True)),
        sa.CheckConstraint("id = 1", name="swept_one_row"),
        sa.PrimaryKeyConstraint("id"),
    )

    op.add_column("room_file", sa.Column("category", sa.Text()))

    # For the queries of clients, sweeps, rescans and workers on a million rows.
    op.create_index("room_file_newest_of", "room_file", ["room_id", "category", "added_at", "media_id"])
    op.drop_index("blob_doomed", "blob")
    op.create_index(
        "blob_doomed",
        "blob",
        [sa.text("coalesce(remove_after, doomed_at)"), "sha256"],
        postgresql_where=sa.text("doomed_at IS NOT NULL"),
    )
    op.drop_index("blob_open_verdict", "blob")
    op.create_index(
        "blob_open_verdict", "blob", ["sha256"], postgresql_where=sa.text("scan_status IN ('pending','error')")
    )
    op.create_index(
        "blob_pending_thumbnail", "blob", ["sha256"], postgresql_where=sa.text("thumbnail_status = 'pending'")
    )
    op.create_index(
        "blob_scanned",
        "blob",
        ["scanned_at", "sha256"],
        postgresql_where=sa.text("doomed_at IS NULL AND scan_status IN ('clean','unscannable')"),
    )
    op.create_index(
        "blob_found",
        "blob",
        ["scan_detail"],
        postgresql_where=sa.text("scan_status = 'infected' AND doomed_at IS NOT NULL"),
    )
    op.create_index("job_leased", "job", ["lease_until"], postgresql_where=sa.text("status = 'running'"))
    op.create_index("job_due", "job", ["kind", "run_after"], postgresql_where=sa.text("status = 'queued'"))
    op.create_index("job_finished", "job", ["kind", "finished_at"], postgresql_where=sa.text("finished_at IS NOT NULL"))
    op.create_index(
        "job_awaiting_verdict",
        "job",
        [sa.text("(payload ->> 'sha256')")],
        postgresql_where=sa.text("kind = 'transcribe' AND status = 'queued'"),
    )
    op.create_index(
        "job_rescans",
        "job",
        ["job_id"],
        postgresql_where=sa.text("kind = 'scan' AND priority = -2 AND status IN ('queued','running')"),
    )
    op.create_index("idempotency_created", "idempotency", ["created_at"])
    op.create_index("media_tombstone_deleted", "media_tombstone", ["deleted_at"])

    op.get_bind().exec_driver_sql((files("media_core") / "contents/life.sql").read_text().replace("%", "%%"))

    op.execute(
        """
        UPDATE room_file SET category = content_category(mime_type)
        FROM media JOIN blob USING (sha256) WHERE media.media_id = room_file.media_id
        """
    )
    op.alter_column("room_file", "category", nullable=False)
