"""Object keys. The first is published: "All media goes to MinIO/S3 via the path tenant/{tenant_id}/{sha256}"."""


def content_key(tenant_id: str, sha256: str) -> str:
    return f"tenant/{tenant_id}/{sha256}"


def thumbnail_key(tenant_id: str, sha256: str) -> str:
    """Named after the content it was made from, so that a thumbnail someone uploads as a file is another object."""
    return f"tenant/{tenant_id}/.thumbnails/{sha256}"
