"""What the search in transcripts reads. The sweep fills it with the transcripts that are there already."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute("LOCK TABLE job, media IN ACCESS EXCLUSIVE MODE")
    op.add_column("job", sa.Column("searchable", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.create_index(
        "job_unsearchable",
        "job",
        ["finished_at", "job_id"],
        postgresql_where=sa.text("kind = 'transcribe' AND status = 'completed' AND NOT searchable"),
    )
    op.create_index(
        "media_recordings_for_all",
        "media",
        ["media_id"],
        postgresql_where=sa.text("tenant_scope AND category IN ('audio','video')"),
    )
    op.create_table(
        "transcript",
        sa.Column("number", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("media_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("track", sa.Integer(), nullable=False),
        sa.Column("channel", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["media_id"], ["media.media_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("transcript_heard", "transcript", ["media_id", "task", "track", "channel"], unique=True)
    op.create_table(
        "passage",
        sa.Column("transcript", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("language", sa.Text()),
        sa.Column("stemmer", sa.Text(), nullable=False),
        sa.Column("segments", JSONB(), nullable=False),
        sa.Column("own", sa.Integer(), nullable=False),
        sa.Column("words", TSVECTOR(), nullable=False),
        sa.ForeignKeyConstraint(["transcript"], ["transcript.number"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("transcript", "number"),
    )
    op.execute(
        """
        CREATE INDEX passage_words ON passage USING gin (words, (ARRAY[transcript << 3, transcript >> 6 << 3 | 1,
            transcript >> 10 << 3 | 2, transcript >> 14 << 3 | 3, transcript >> 18 << 3 | 4])) WITH (fastupdate = off)
        """
    )
    op.create_table(
        "vocabulary",
        sa.Column("stemmer", sa.Text(), nullable=False),
        sa.Column("word", sa.Text(collation="C"), nullable=False),
        sa.Column("stem", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("stemmer", "word"),
    )
