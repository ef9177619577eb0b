"""An item's bytes and its thumbnail, as routes serve them: by a token, or by a URL that the api signed."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from fastapi import Request, Response

from media_api.answers import downloads
from media_api.requests.headers import listed
from media_api.services import Services
from media_core.decoding import DecodingFailed
from media_core.errors import Lost, Refused, Unavailable
from media_core.examination import media_types, thumbnails
from media_core.items.access import RETRY_AFTER_SECONDS, Item
from media_core.items.library import Library
from media_core.store import Chunk, ObjectMissing
from media_core.store.object_keys import content_key, thumbnail_key

MAX_MASTER_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True)
class Stored:
    """A Readable of a content's object, or of its thumbnail's. `lost_bytes`: the size of an object that was noted as
    lost; it may be there again.
    """

    library: Library
    sha256: str
    lost_bytes: int | None = None
    thumbnail: bool = False

    @property
    def key(self) -> str:
        return (thumbnail_key if self.thumbnail else content_key)(self.library.tenant_id, self.sha256)

    async def require(self) -> None:
        """Raises Lost, Unavailable."""
        if self.lost_bytes is None:
            return
        if not await self.library.contents.is_there(self.sha256, self.lost_bytes):
            raise Lost

    def stream(self, start: int, length: int) -> AsyncIterator[Chunk]:
        return self.library.store.stream(self.key, start, length)

    async def missed(self) -> Exception:
        """See `Contents.missed`. A thumbnail alone is made again: Refused `thumbnail_pending`."""
        if self.thumbnail:
            return await self.library.contents.thumbnail_missed(self.sha256) or _thumbnail_pending()
        return await self.library.contents.missed(self.sha256)


def stored(services: Services, item: Item) -> Stored:
    """The object of the item's content."""
    return Stored(services.library, item.sha256, item.size if item.lost else None)


def content_of(services: Services, item: Item) -> tuple[downloads.Representation, downloads.Readable]:
    """The item's bytes. The caller of this function has asked `access`."""
    disposition = downloads.disposition_of(item.filename, item.mime_type)
    content = downloads.Representation(item.size, f'"{item.sha256}"', downloads.content_type_of(item), disposition)
    return content, stored(services, item)


async def thumbnail_of(services: Services, item: Item) -> tuple[downloads.Representation, downloads.Readable]:
    """The thumbnail in its largest size. Raises as `master_of`."""
    master = await master_of(services, item)
    picture = downloads.Representation(
        len(master), f'"{item.thumbnail_sha256}"', thumbnails.MASTER_TYPE, thumbnail_name(item)
    )
    return picture, downloads.Whole(master)


async def master_of(services: Services, item: Item) -> bytes:
    """Raises Refused as `require_thumbnail`, and `not_found`; Lost, Unavailable."""
    require_thumbnail(item)
    return await whole_thumbnail(Stored(services.library, item.sha256, thumbnail=True), item.thumbnail_sha256)


async def whole_thumbnail(stored: Stored, sha256: str | None) -> bytes:
    """`sha256`: of the thumbnail. One that the store has spoilt counts as missing. Raises what `missed` gives."""
    try:
        picture = await stored.library.store.read(stored.key, 0, MAX_MASTER_BYTES)
    except ObjectMissing:
        raise await stored.missed() from None
    if hashlib.sha256(picture).hexdigest() != sha256:
        found = await stored.library.store.head(stored.key)
        if found is not None and min(found.size, MAX_MASTER_BYTES) != len(picture):
            raise Unavailable("object store", "it gives other bytes of a thumbnail than it has")
        raise await stored.missed()
    return picture


async def respond_thumbnail(
    services: Services,
    request: Request,
    item: Item,
    size: thumbnails.ThumbnailSize,
    *,
    safety: Mapping[str, str] = downloads.SAFETY_HEADERS,
) -> Response:
    """The thumbnail in this size: WebP, or JPEG where the request prefers it. Raises as `master_of`."""
    image_format: Literal["jpeg", "webp"] = "jpeg" if downloads.prefers_jpeg(listed(request, "accept")) else "webp"
    require_thumbnail(item)
    etag = f'"{item.thumbnail_sha256}-{size}-{image_format}"'
    headers = {"ETag": etag, "Vary": "Accept", "Cache-Control": downloads.CACHING, **safety}
    if unsent := downloads.without_body(request, etag, headers):
        return unsent
    picture = await master_of(services, item)
    if (size, image_format) != (thumbnails.ThumbnailSize.LARGEST, "webp"):
        try:
            picture = await thumbnails.variant(services.decoder, picture, size, image_format)
        except DecodingFailed as error:  # our own picture is not corrupt: the decoder is out of time or memory
            raise Unavailable("thumbnail decoder", error.code) from error
    headers["Content-Disposition"] = thumbnail_name(item, image_format)
    return Response(picture, headers=headers, media_type=f"image/{image_format}")


def require_thumbnail(item: Item) -> None:
    """Raises Refused `thumbnail_pending`, `no_thumbnail`."""
    if item.thumbnail_status == "pending":
        raise _thumbnail_pending()
    if item.thumbnail_status != "ready":
        why = f"{item.details['no_thumbnail']}; it" if "no_thumbnail" in item.details else "it"
        raise Refused(
            "no_thumbnail", f"This is {media_types.named(item.mime_type)}; {why} is kept, and has no thumbnail."
        )


def _thumbnail_pending() -> Refused:
    return Refused(
        "thumbnail_pending",
        f"The thumbnail is being made. Try again in {RETRY_AFTER_SECONDS} seconds.",
        retry_after=RETRY_AFTER_SECONDS,
    )


def thumbnail_name(item: Item, extension: str = "webp") -> str:
    """The Content-Disposition of a thumbnail."""
    stem = item.filename.rpartition(".")[0] or item.filename
    return downloads.content_disposition(f"{stem}.{extension}", inline=True)
