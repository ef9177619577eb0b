"""One master thumbnail per content, and its variants.

The master is WebP in sRGB without metadata. Its longest side has at most 1024 pixels, and it is never larger than the
source. Variants are made from the master, so a download decodes no untrusted bytes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

from media_core.decoding import BytesSource, DecodingFailed, Source, Thumbnail
from media_core.decoding.pool import DecodingPool
from media_core.examination.media_types import category, has_thumbnail

MASTER_TYPE = "image/webp"


class ThumbnailSize(IntEnum):
    """Longest sides in pixels that a client may ask for; the largest is the master itself."""

    SMALL = 160
    MEDIUM = 320
    LARGE = 640
    LARGEST = 1024


async def make_thumbnail(pool: DecodingPool, source: Source, mime_type: str) -> Thumbnail:
    """The master thumbnail of an image, of a video's frame that is worth looking at, or of a PDF's first page.

    Raises DecodingFailed, with code "unsupported" if the type has no thumbnail.
    """
    if not has_thumbnail(mime_type):
        raise DecodingFailed("unsupported", f"{mime_type} has no thumbnail")
    task = {"image": "thumbnail", "video": "video_frame"}.get(category(mime_type), "page")
    thumbnail: Thumbnail = await pool.run(task, source, max_side=ThumbnailSize.LARGEST)
    return thumbnail


async def variant(
    pool: DecodingPool, master: bytes, size: ThumbnailSize, image_format: Literal["webp", "jpeg"]
) -> bytes:
    """The master thumbnail scaled down to a longest side of `size`, encoded anew. Never scaled up."""
    return bytes(await pool.run("resize_thumbnail", BytesSource(master), size=size, image_format=image_format))
