"""What content is, by looking at it: its media type, its measures, the thumbnail of a picture or a page.

The one `examiner.Examiner` for content that comes from outside. It stands on libmagic and the decoders, which not every
image carries.
"""

import asyncio
import contextlib
import hashlib
from dataclasses import replace

import structlog

from media_core.contents.life import Facts
from media_core.decoding import DecodingFailed, ImageFacts, MediaFacts, Source, Thumbnail
from media_core.decoding.pool import DecodingPool
from media_core.decoding.results import FAILURES_OF_THE_MACHINE, FAILURES_OF_THE_SOURCE
from media_core.examination import media_types, packages, sniffing
from media_core.examination.examiner import Examined
from media_core.examination.thumbnails import make_thumbnail

CHARSET_BYTES = 1 << 20
"""So much of a text is looked at for its character set."""
THUMBNAIL_SECONDS = 5.0
"""How long an upload waits for its thumbnail, other uploads' pictures before it included."""

_log = structlog.stdlib.get_logger("media.uploads")

_BY_A_FRAME = frozenset(
    (
        *("audio/aac", "audio/ac3", "audio/eac3", "audio/mpeg", "audio/x-mp4a-latm"),
        *("video/av1", "video/h264", "video/h265", "video/mp4v-es"),
    )
)
"""Sounds and films that begin with a frame."""


class Examination:
    def __init__(self, decoder: DecodingPool) -> None:
        self.decoder = decoder

    async def examine(self, source: Source, head: bytes, filename: str, claimed_type: str | None) -> Examined:
        """Bytes that can't be decoded are a file like any other, without a picture."""
        if sniffing.looks_like_text(head):
            mime_type = await asyncio.to_thread(sniffing.sniff, head, filename, claimed_type)
        else:
            mime_type = sniffing.sniff(head, filename, claimed_type)
        media: MediaFacts | None = None
        mime_type = await _of_package(source, head, filename, mime_type)
        if mime_type == media_types.UNKNOWN:
            mime_type, media = await self._recognized(source, head, filename, claimed_type)
        try:
            if media_types.category(mime_type) in ("image", "document") and media_types.has_thumbnail(mime_type):
                async with asyncio.timeout(THUMBNAIL_SECONDS):
                    thumbnail = await make_thumbnail(self.decoder, source, mime_type)
                return Examined(_of_picture(source.size, mime_type, thumbnail), thumbnail.data)
            if media_types.transcribable(mime_type):
                media = media or await self.decoder.run("probe", source)
                if _may_be_chance(mime_type, head) and not _plays(media):
                    return Examined(Facts(source.size, media_types.UNKNOWN))
                return Examined(_of_what_plays(source.size, _settled(mime_type, media, head), media))
        except TimeoutError:
            # A worker's job then, as for videos.
            return Examined(Facts(source.size, mime_type, thumbnail_status="pending"))
        except DecodingFailed as error:
            _log.info("not_decoded", mime_type=mime_type, size=source.size, code=error.code, detail=error.detail)
            may_succeed_later = error.code in FAILURES_OF_THE_MACHINE and media_types.has_thumbnail(mime_type)
            status = "pending" if may_succeed_later else "none"
            match media_types.category(mime_type):
                case "image":
                    measured = await self._measure(source, mime_type, _said_of(error))
                    return Examined(replace(measured, thumbnail_status=status))
                case "audio" | "video" if _may_be_chance(mime_type, head) and error.code in ("unsupported", "corrupt"):
                    mime_type = media_types.UNKNOWN
                case "video" | "document":
                    facts = Facts(source.size, mime_type, details=_said_of(error), thumbnail_status=status)
                    return Examined(facts)
        if mime_type.startswith("text/"):
            looked_at = await source.read(0, CHARSET_BYTES)
            found = await asyncio.to_thread(sniffing.charset, looked_at, is_whole=len(looked_at) == source.size)
            return Examined(Facts(source.size, mime_type, details={"charset": found} if found else {}))
        return Examined(Facts(source.size, mime_type))

    async def _recognized(
        self, source: Source, head: bytes, filename: str, claimed: str | None
    ) -> tuple[str, MediaFacts | None]:
        """The type of what its first bytes do not tell, where a name, a claim or the structure says that it plays or
        shows something: what a decoder makes of it. UNKNOWN if no part of it can be decoded.
        """
        kind = media_types.hinted(filename, claimed)
        is_iso = sniffing.is_iso_media(head)
        if kind == "image" or (is_iso and b"pict" in head):
            with contextlib.suppress(DecodingFailed):
                image: ImageFacts = await self.decoder.run("inspect_image", source)
                return media_types.of_picture(image.format), None
        elif kind in ("audio", "video") or is_iso:
            with contextlib.suppress(DecodingFailed):
                media: MediaFacts = await self.decoder.run("probe", source)
                if _plays(media):
                    return media_types.of_container(media.container, has_video=media.has_video), media
        return media_types.UNKNOWN, None

    async def _measure(self, source: Source, mime_type: str, details: dict[str, str]) -> Facts:
        """A picture too large for a thumbnail, or damaged further down, still says its size in the header."""
        try:
            image: ImageFacts = await self.decoder.run("inspect_image", source)
        except DecodingFailed:
            return Facts(source.size, mime_type, details=details)
        return Facts(source.size, mime_type, image.width, image.height, details=details)


def _of_picture(size: int, mime_type: str, thumbnail: Thumbnail) -> Facts:
    return Facts(
        size,
        mime_type,
        thumbnail.source_width,
        thumbnail.source_height,
        details=thumbnail.details,
        thumbnail_status="ready",
        thumbnail_sha256=hashlib.sha256(thumbnail.data).hexdigest(),
        thumbnail_size=len(thumbnail.data),
    )


def _of_what_plays(size: int, mime_type: str, media: MediaFacts) -> Facts:
    why = media.no_picture
    if not media.has_video and media_types.category(mime_type) == "video":
        why = "it has sound and no picture"
    return Facts(
        size,
        mime_type,
        media.width,
        media.height,
        media.duration,
        details={"no_thumbnail": why} if why else {},
        thumbnail_status="pending" if media.has_picture and media_types.has_thumbnail(mime_type) else "none",
    )


def _said_of(error: DecodingFailed) -> dict[str, str]:
    """What a person is told of a file without a thumbnail. A decoder that died says nothing of it."""
    return {"no_thumbnail": error.detail} if error.code in (*FAILURES_OF_THE_SOURCE, "memory") else {}


async def _of_package(source: Source, head: bytes, filename: str, sniffed: str) -> str:
    """The type of a ZIP or of an OLE file by its directory, which its first bytes need not have; else what they say."""
    if head.startswith(packages.ZIP):
        if packages.says_its_type(head):
            return packages.stated(head) or sniffed
        tail = await source.read(max(source.size - packages.TAIL, 0), packages.TAIL)
        return packages.of_zip(tail, filename) or ("application/zip" if sniffed == media_types.UNKNOWN else sniffed)
    at = packages.directory_of_ole(head)
    if at is not None and at < source.size:
        return packages.of_ole(await source.read(at, packages.DIRECTORY), filename)
    return sniffed


def _may_be_chance(mime_type: str, head: bytes) -> bool:
    """Whether content is taken for a sound by the first bits of a frame alone. One file in two thousand has them by
    chance, so it has to play.
    """
    return mime_type in _BY_A_FRAME and not head.startswith(b"ID3")


def _plays(media: MediaFacts) -> bool:
    return media.has_picture or any(track.decodes for track in media.tracks)


def _settled(mime_type: str, media: MediaFacts, head: bytes) -> str:
    if mime_type == "audio/mpeg":  # a tag (ID3) may stand before any sound
        tagged = media_types.of_container(media.container, has_video=media.has_video)
        return mime_type if tagged == media_types.UNKNOWN else tagged
    if media.has_video and media_types.category(mime_type) == "audio":
        return sniffing.sniff(head)  # a name or a claim may have made a sound of it
    return media_types.settled(mime_type, has_video=media.has_video, has_audio=media.has_audio)
