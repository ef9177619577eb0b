"""An item's bytes and its thumbnail, as routes serve them: by a token, or by a URL that the api signed."""

from functools import partial
from typing import Final

from media_api import downloads
from media_api.services import Services
from media_core import media_types, thumbnails
from media_core.access import RETRY_AFTER_SECONDS, Item
from media_core.errors import Refused, not_found
from media_core.object_keys import content_key, thumbnail_key
from media_core.store import ObjectMissing

MAX_MASTER_BYTES: Final = 8 * 1024 * 1024


def content_of(services: Services, item: Item) -> tuple[downloads.Representation, downloads.Stream]:
    """The item's bytes. The caller of this function has asked `access`."""
    disposition = downloads.disposition_of(item.filename, item.mime_type)
    content = downloads.Representation(item.size, f'"{item.sha256}"', downloads.content_type_of(item), disposition)
    return content, partial(services.store.stream, content_key(services.tenant_id, item.sha256))


async def thumbnail_of(services: Services, item: Item) -> tuple[downloads.Representation, downloads.Stream]:
    """The thumbnail in its largest size. Raises Refused as `require_thumbnail`, `not_found`."""
    master = await master_of(services, item)
    picture = downloads.Representation(
        len(master), f'"{item.thumbnail_sha256}"', thumbnails.MASTER_TYPE, thumbnail_name(item)
    )
    return picture, downloads.slices_of(master)


async def master_of(services: Services, item: Item) -> bytes:
    require_thumbnail(item)
    try:
        return await services.store.read(thumbnail_key(services.tenant_id, item.sha256), 0, MAX_MASTER_BYTES)
    except ObjectMissing:
        raise not_found() from None


def require_thumbnail(item: Item) -> None:
    """Raises Refused `thumbnail_pending`, `no_thumbnail`."""
    if item.thumbnail_status == "pending":
        raise Refused(
            "thumbnail_pending",
            f"The thumbnail is being made. Try again in {RETRY_AFTER_SECONDS} seconds.",
            retry_after=RETRY_AFTER_SECONDS,
        )
    if item.thumbnail_status != "ready":
        why = f"{item.details['no_thumbnail']}; it" if "no_thumbnail" in item.details else "it"
        raise Refused(
            "no_thumbnail", f"This is {media_types.named(item.mime_type)}; {why} is kept, and has no thumbnail."
        )


def thumbnail_name(item: Item, extension: str = "webp") -> str:
    """The Content-Disposition of a thumbnail."""
    stem = item.filename.rpartition(".")[0] or item.filename
    return downloads.content_disposition(f"{stem}.{extension}", inline=True)
