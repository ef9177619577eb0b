"""Kinds of jobs are declared in `job_kinds` alone, and what a policy says without a default has none here either."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_constraint("job_kind", "job")
    for column in ("max_upload_bytes", "max_transcription_seconds_per_day"):
        op.alter_column("policy", column, server_default=None)
