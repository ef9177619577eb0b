"""An index of failed jobs by the time they ended: they are counted every few seconds, and stay for up to 90 days."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("job_failed", "job", ["finished_at"], postgresql_where=sa.text("status = 'failed'"))
