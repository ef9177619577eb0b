"""Headers of a request that may come in several lines."""

from fastapi import Request


def listed(request: Request, name: str) -> str | None:
    """A header that is a list, from all its lines (RFC 9110, 5.3); None if there is none."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None
