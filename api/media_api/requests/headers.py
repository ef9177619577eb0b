"""Headers of a request that are lists, and may come in several lines."""

from typing import Final

from fastapi import Request

MOST_ACCEPT_CHARACTERS: Final = 4096
"""So much of `Accept` is read. Of 128 KiB it would take 200 ms."""


def listed(request: Request, name: str) -> str | None:
    """A header that is a list, from all its lines (RFC 9110, 5.3); None if there is none."""
    lines = request.headers.getlist(name)
    return ", ".join(lines) if lines else None


def weight(accept: str | None, media_type: str) -> float:
    """The weight that `Accept` gives a type, from the most specific range that names it (RFC 9110, 12.5.1)."""
    weights: dict[str, float] = {}
    for part in (accept or "*/*")[:MOST_ACCEPT_CHARACTERS].lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        given = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            weights.setdefault(media_range, min(1.0, max(0.0, float(given))))
        except ValueError:
            weights.setdefault(media_range, 0.0)
    kind = media_type.partition("/")[0]
    return next((weights[name] for name in (media_type, f"{kind}/*", "*/*") if name in weights), 0.0)
