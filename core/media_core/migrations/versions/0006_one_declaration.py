"""No check of a job's kind (`jobs.kinds` declares them), and no defaults for the policy's fields that have none."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_constraint("job_kind", "job")
    for column in ("max_upload_bytes", "max_transcription_seconds_per_day"):
        op.alter_column("policy", column, server_default=None)
