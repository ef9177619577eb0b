"""Thumbnails of videos: one frame, decoded in a limited child that reads a few MB of the object through ranges."""

import hashlib

from media_core.decoding import DecodingFailed, StoreSource
from media_core.errors import Refused, Unavailable, not_found
from media_core.keys import content_key
from media_core.queue import Lease
from media_core.store import ObjectMissing
from media_core.thumbnails import make_thumbnail
from media_workers.drain import Work


async def make_video_thumbnail(lease: Lease, work: Work) -> None:
    """Handles a `thumbnail` job. A film that can't be decoded goes without; one that is gone needs none."""
    sha256 = lease.payload["sha256"]
    content = await work.library.content(sha256)
    if content is None or content.scan_status == "infected":
        raise not_found()
    source = StoreSource(work.store, content_key(work.library.tenant_id, sha256), content.size)
    try:
        thumbnail = await make_thumbnail(work.decoder, source, content.mime_type)
    except ObjectMissing:
        raise not_found() from None
    except DecodingFailed as error:
        if error.code == "crashed" and lease.attempts == 1:
            raise Unavailable("decoder", error.detail) from error  # once more: the child may have been a victim
        raise Refused(error.code, error.detail) from error
    await work.library.keep_thumbnail(
        lease,
        data=thumbnail.data,
        digest=hashlib.sha256(thumbnail.data).hexdigest(),
        width=thumbnail.source_width,
        height=thumbnail.source_height,
    )
