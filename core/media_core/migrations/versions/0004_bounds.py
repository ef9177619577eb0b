"""Length limits for columns that the operator reads, and usage that cannot be negative."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_check_constraint("usage_not_negative", "usage", "stored_bytes >= 0 AND reserved_bytes >= 0")
    op.create_check_constraint("job_id_length", "job", "length(job_id) <= 100")
    op.create_check_constraint("canary_sha256_length", "canary", "length(sha256) = 64")
