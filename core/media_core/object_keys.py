"""Object keys. The first is published: "All media goes to MinIO/S3 via the path tenant/{tenant_id}/{sha256}"."""


def content_key(tenant_id: str, sha256: str) -> str:
    return f"tenant/{tenant_id}/{sha256}"


def thumbnail_key(tenant_id: str, sha256: str) -> str:
    """Named after the content it was made from, so that a thumbnail someone uploads as a file is another object."""
    return f"tenant/{tenant_id}/.thumbnails/{sha256}"


def birth_key(tenant_id: str) -> str:
    """Where the bucket says which schema it belongs to (`births`)."""
    return f"tenant/{tenant_id}/.birth"
