"""How a child reports that it could not decode a source. The parent turns the report into DecodingFailed."""

from __future__ import annotations

from typing import Any

from PIL import Image, UnidentifiedImageError

from media_core.decoding.results import LONGEST_DETAIL


class CannotDecode(Exception):
    """The source cannot be decoded. `code` as in DecodingFailed."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def failure(error: Exception) -> dict[str, Any]:
    """The header that reports this error. An unexpected error of a decoder is reported as a corrupt source."""
    said = getattr(error, "strerror", None) or str(error)
    detail = "".join(c for c in said if c.isprintable())[:LONGEST_DETAIL] or type(error).__name__
    match error:
        case CannotDecode():
            code = error.code
        case MemoryError():
            code, detail = "memory", "decoding needs more memory than is allowed"
        case Image.DecompressionBombError():
            code = "too_large"
        case UnidentifiedImageError():
            code, detail = "unsupported", "it is damaged, or in a form that is not decoded here"
        case ImportError():
            code = "crashed"  # our bug, not the source's fault: something was not loaded before the confinement
        case _:
            code, detail = "corrupt", f"it is damaged, or its end is missing ({detail})"
    return {"failed": code, "detail": detail}
