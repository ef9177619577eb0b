"""Headers of a request: how they are described, which may come in several lines, and which may not."""

from typing import Any, Final

from fastapi import Request

from media_core.errors import Refused

ONCE: Final = frozenset(
    {
        b"authorization",
        b"idempotency-key",
        b"tus-resumable",
        b"upload-checksum",
        b"upload-complete",
        b"upload-concat",
        b"upload-defer-length",
        b"upload-draft-interop-version",
        b"upload-incomplete",
        b"upload-length",
        b"upload-offset",
        b"x-http-method-override",
    }
)
"""Which of two would count would be a guess, and a proxy may guess otherwise."""
MOST_ACCEPT_CHARACTERS: Final = 4096
"""So much of `Accept` is read. Of 128 KiB it would take 200 ms."""


def described(name: str, description: str, *, needed: bool = False, **schema: Any) -> dict[str, Any]:
    """A header, for the `parameters` of OpenAPI's description of a request.

    Routes that take many bytes or many requests a second read their headers themselves: as a parameter of FastAPI's
    each takes 40 us, whether it is sent or not.
    """
    schema = {"type": "string", **schema}
    return {"name": name, "in": "header", "required": needed, "description": description, "schema": schema}


def require_once(request: Request) -> None:
    """Raises Refused `bad_request` where a header of `ONCE` comes in several lines."""
    seen = set()
    for name, _ in request.scope["headers"]:
        if name in seen:
            raise Refused("bad_request", f"The request has more than one {name.decode().title()} header; send one.")
        if name in ONCE:
            seen.add(name)


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
