"""What tests say of tenants: a schema, a policy that is in nobody's way, callers as a verified token describes them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from media_core.policy import Policy
from media_core.tokens import ALL, Claims

MIB = 1024 * 1024
FIXTURES = Path(__file__).parent.parent / "fixtures"

GENEROUS = Policy(max_bytes=2048 * MIB, max_upload_bytes=1536 * MIB, max_transcription_seconds_per_day=36000)


@dataclass(frozen=True)
class TenantDatabase:
    """A migrated schema and the role that sees only it."""

    tenant_id: str
    schema: str
    url: str


_NEVER = datetime(2100, 1, 1, tzinfo=UTC)
_USER = frozenset({"media:read", "media:write", "transcribe"})


def person(subject: str, *rooms: str) -> Claims:
    return Claims(subject, _USER, frozenset(rooms), _NEVER)


ALICE = person("alice", "garden")
BOB = person("bob", "garden")
STRANGER = person("stranger", "cellar")
ADMIN = Claims("root", frozenset({"admin"}), ALL, _NEVER)
