"""Object keys. The first is published: "All media goes to MinIO/S3 via the path tenant/{tenant_id}/{sha256}"."""

import re
from typing import Final

_SHA256: Final = re.compile("[0-9a-f]{64}")


def content_key(tenant_id: str, sha256: str) -> str:
    return f"tenant/{tenant_id}/{sha256}"


def names_content(name: str) -> bool:
    """`name`: what a key has after `tenant/{tenant_id}/`, or after the prefix of thumbnails."""
    return _SHA256.fullmatch(name) is not None


def thumbnail_key(tenant_id: str, sha256: str) -> str:
    """Named after its content, not after its own bytes: so it is never the object of a file that somebody uploads."""
    return f"tenant/{tenant_id}/.thumbnails/{sha256}"


def birth_key(tenant_id: str) -> str:
    """The object that says which schema the bucket belongs to (`upkeep.births`)."""
    return f"tenant/{tenant_id}/.birth"
