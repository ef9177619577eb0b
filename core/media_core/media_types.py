"""The media type of content, by its first bytes. A file name or a claimed type only chooses among related types.

The type decides how a browser treats a download, so two rules hold. Types that a browser could run (SVG, HTML, XML,
scripts) are kept, and never served inline. A name or a claimed type may turn plain text into another harmless text
type, and a container into the same container with sound only, and nothing else. Files of two types at once (polyglots)
are possible, so downloads say `nosniff`.
"""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import Literal

_kept = {name: os.environ.get(name) for name in ("LD_LIBRARY_PATH", "LIBRARY_PATH", "MAGIC")}
import pylibmagic  # noqa: E402, I001 - makes ctypes find the bundled library, so it comes before magic
import magic  # noqa: E402

for _name, _value in _kept.items():  # otherwise child processes would inherit pylibmagic's paths
    if _value is None:
        os.environ.pop(_name, None)
    else:
        os.environ[_name] = _value

Category = Literal["image", "audio", "video", "document"]

HEAD = 4096
"""Bytes that `sniff` looks at."""

UNKNOWN = "application/octet-stream"

_magic = magic.Magic(mime=True, magic_file=str(pylibmagic.data / "magic.mgc"))
_text_magic = magic.Magic(mime=True, magic_file=str(pylibmagic.data / "magic.mgc"))
"""For text only: python-magic holds a lock while libmagic works, up to 5 ms for text and 0.3 ms for all else."""

_SYNONYMS = {
    "application/x-empty": UNKNOWN,
    "audio/x-wav": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-aiff": "audio/aiff",
    "audio/x-hx-aac-adts": "audio/aac",
    "audio/x-m4a": "audio/mp4",
    "image/x-ms-bmp": "image/bmp",
    "text/xml": "application/xml",
    "video/x-m4v": "video/mp4",
}
_TEXTS = {
    ".csv": "text/csv",
    ".json": "application/json",
    ".log": "text/plain",
    ".markdown": "text/markdown",
    ".md": "text/markdown",
    ".srt": "application/x-subrip",
    ".toml": "application/toml",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".vtt": "text/vtt",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
}
"""The types that an extension may give to text. A browser runs and renders none of them."""

_SOUND_ONLY = {
    "video/3gpp": "audio/3gpp",
    "video/3gpp2": "audio/3gpp2",
    "video/mp4": "audio/mp4",
    "video/ogg": "audio/ogg",
    "video/webm": "audio/webm",
    "video/x-matroska": "audio/x-matroska",
}
_SOUND_EXTENSIONS = (".m4a", ".m4b", ".mka", ".oga", ".opus", ".weba")
_HTML = re.compile("a|b|body|br|div|font|form|h[1-6]|head|html|iframe|img|link|meta|p|script|style|table|title|video")
_ACTIVE = re.compile(r"<\s*(?:script|html|svg|iframe|body|object|embed)\b", re.IGNORECASE)


def _types(kind: str, *names: str) -> frozenset[str]:
    return frozenset(f"{kind}/{name}" for name in names)


_WEB_PICTURES = _types("image", "jpeg", "png", "gif", "webp", "avif", "heic", "heif", "bmp")
_WEB_SOUND = _types("audio", "mpeg", "mp4", "ogg", "webm", "wav", "flac", "aac")
_WEB_FILMS = _types("video", "mp4", "webm", "ogg", "quicktime", "3gpp")
_INLINE = _WEB_PICTURES | _WEB_SOUND | _WEB_FILMS | {"application/pdf", "text/plain", "text/csv", "text/markdown"}

_PICTURES = _WEB_PICTURES | {"image/tiff"}
_SOUND = _WEB_SOUND | _types("audio", "amr", "aiff", "x-caf", "3gpp", "3gpp2", "x-matroska")
_FILMS = _WEB_FILMS | _types("video", "3gpp2", "x-matroska", "x-msvideo", "mp2t", "mpeg")
"""Types that media_core.decoding can read. A video container may hold sound only."""


def sniff(head: bytes, filename: str | None = None, claimed: str | None = None) -> str:
    """The media type of content by its first HEAD bytes (the rest is ignored), in lower case, without parameters.

    A container that holds sound only (WebM, MP4 whose brand does not tell) is "video/..." unless its name or the
    claimed type says audio. `settled` decides once it has been probed.
    """
    head = head[:HEAD]
    extension = PurePath(filename or "").suffix.lower()
    if container := _container(head):
        claims_sound = extension in _SOUND_EXTENSIONS or (claimed or "").lower().startswith("audio/")
        return _SOUND_ONLY.get(container, container) if claims_sound else container
    text = _text(head)
    if markup := _markup(text):
        return markup
    looking = _text_magic if looks_like_text(head) else _magic
    found = looking.from_buffer(head) if head else UNKNOWN
    found = _SYNONYMS.get(found, found)
    if found.startswith("text/"):
        return "text/html" if found == "text/html" or _ACTIVE.search(text) else _TEXTS.get(extension, found)
    return found


def looks_like_text(head: bytes) -> bool:
    """Whether `sniff` may take milliseconds; then the caller should run it in a thread."""
    return b"\0" not in head[:HEAD]


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


def _container(head: bytes) -> str | None:
    """The type of a container that libmagic does not know, or names by one of several possible types."""
    if head[4:8] == b"ftyp":
        return _iso_media(head)
    if head.startswith(b"OggS"):
        return "video/ogg" if b"\x80theora" in head else "audio/ogg"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "video/webm" if b"\x42\x82\x84webm" in head[:64] else "video/x-matroska"
    if head.startswith(b"ID3"):
        return "audio/mpeg"
    if len(head) > 3 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[2] >> 4 not in (0, 15):
        return "audio/mpeg"  # an MPEG audio frame, layer III (ISO 11172-3, 2.4.1.3)
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return "video/mp2t"
    return None


def _iso_media(head: bytes) -> str:
    """By the brands of the `ftyp` box (ISO 14496-12, 4.3)."""
    size = int.from_bytes(head[:4])
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(size, len(head)), 4))]
    major = brands[0]
    if major in (b"mif1", b"msf1", b"miaf"):
        return "image/avif" if b"avif" in brands else "image/heic" if b"heic" in brands else "image/heif"
    if major in (b"avif", b"avis"):
        return "image/avif"
    if major in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"):
        return "image/heic"
    if major in (b"M4A ", b"M4B ", b"M4P "):
        return "audio/mp4"
    if major == b"qt  ":
        return "video/quicktime"
    if major[:3] in (b"3gp", b"3g2"):
        return "video/3gpp" if major[:3] == b"3gp" else "video/3gpp2"
    return "video/mp4"


def _text(head: bytes) -> str:
    """The head as text, decoded by its byte order mark; as Latin-1 if there is none or it is UTF-8's."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "ignore")
    return head.removeprefix(b"\xef\xbb\xbf").decode("latin-1")


def _markup(text: str) -> str | None:
    """The type of a document that begins with markup, after white space, comments and processing instructions."""
    is_xml = False
    while (text := text.lstrip(" \t\r\n\f\0")).startswith("<"):
        if text.startswith("<!--"):
            _, closed, text = text.partition("-->")
            if not closed:
                return "text/html"  # the comment is longer than the head
        elif text.startswith("<?"):
            is_xml = is_xml or text[:5].lower() == "<?xml"
            _, closed, text = text.partition("?>")
            if not closed:
                break
        elif doctype := re.match(r"<!doctype\s+([\w:.-]+)", text, re.IGNORECASE):
            return _document(doctype[1], is_xml)
        elif element := re.match(r"<([a-z_][\w:.-]*)", text, re.IGNORECASE):
            return _document(element[1], is_xml)
        else:
            break
    return "application/xml" if is_xml else None


def _document(root: str, is_xml: bool) -> str:
    name = root.lower().rpartition(":")[2]
    if name == "svg":
        return "image/svg+xml"
    return "text/html" if name == "html" or (_HTML.fullmatch(name) and not is_xml) else "application/xml"
