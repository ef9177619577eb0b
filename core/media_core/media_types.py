"""What a media type means here: its kind, whether it is shown inline, whether it has a picture or speech.

`sniffing` finds the type of content. It stands on libmagic; these rules stand on nothing.
"""

from __future__ import annotations

from typing import Literal

Category = Literal["image", "audio", "video", "document"]

_SOUND_ONLY = {
    "video/3gpp": "audio/3gpp",
    "video/3gpp2": "audio/3gpp2",
    "video/mp4": "audio/mp4",
    "video/ogg": "audio/ogg",
    "video/webm": "audio/webm",
    "video/x-matroska": "audio/x-matroska",
}


def _types(kind: str, *names: str) -> frozenset[str]:
    return frozenset(f"{kind}/{name}" for name in names)


_WEB_PICTURES = _types("image", "jpeg", "png", "gif", "webp", "avif", "heic", "heif", "bmp")
_WEB_SOUND = _types("audio", "mpeg", "mp4", "ogg", "webm", "wav", "flac", "aac")
_WEB_FILMS = _types("video", "mp4", "webm", "ogg", "quicktime", "3gpp")
_INLINE = _WEB_PICTURES | _WEB_SOUND | _WEB_FILMS | {"application/pdf", "text/plain", "text/csv", "text/markdown"}

_PICTURES = _WEB_PICTURES | {"image/tiff", "image/vnd.microsoft.icon", "image/x-icon"}
_SOUND = _WEB_SOUND | _types("audio", "amr", "aiff", "x-caf", "3gpp", "3gpp2", "x-matroska")
_FILMS = _WEB_FILMS | _types("video", "3gpp2", "x-matroska", "x-msvideo", "mp2t", "mpeg")
"""Types that media_core.decoding can read. A video container may hold sound only."""


def settled(mime_type: str, *, has_video: bool) -> str:
    """The type once the container has been probed: "video/webm" without a video stream is "audio/webm"."""
    return mime_type if has_video else _SOUND_ONLY.get(mime_type, mime_type)


def inline_allowed(mime_type: str) -> bool:
    """Whether a download may be served inline (http-api.md, download). All else is an attachment."""
    return mime_type in _INLINE


def category(mime_type: str) -> Category:
    """The category by which a room's list is filtered."""
    match mime_type.partition("/")[0]:
        case "image":
            return "image"
        case "audio":
            return "audio"
        case "video":
            return "video"
        case _:
            return "document"


def has_thumbnail(mime_type: str) -> bool:
    """Whether thumbnails are made of this type (a damaged file may still have none)."""
    return mime_type in _PICTURES or mime_type in _FILMS


def transcribable(mime_type: str) -> bool:
    """Whether it may hold speech that can be decoded here."""
    return mime_type in _SOUND or mime_type in _FILMS
