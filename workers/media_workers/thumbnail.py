"""Thumbnails of videos: one frame, decoded in a confined child that reads a few MB of the object in ranges."""

import hashlib

from media_core.contents.life import Again
from media_core.decoding import DecodingFailed
from media_core.decoding.results import FAILURES_OF_THE_MACHINE
from media_core.errors import Refused, Unfinished, not_found
from media_core.examination.thumbnails import make_thumbnail
from media_core.jobs.queue import Lease, LeaseLost
from media_core.store import ObjectMissing
from media_workers.drain import Handler, Work
from media_workers.settings import Settings
from media_workers.timed_source import TimedSource


def thumbnailer(_settings: Settings) -> Handler:
    return make_video_thumbnail


async def make_video_thumbnail(lease: Lease, work: Work) -> None:
    """Handles a `thumbnail` job. Raises Unavailable, Unfinished, Lost, LeaseLost, and Refused if the quota is full or
    the video cannot be decoded or is gone.
    """
    sha256 = lease.payload["sha256"]
    content = lease.content or await work.library.content(sha256)
    if content is None or content.scan_status == "infected":
        raise not_found()
    source = TimedSource(work, content)
    try:
        with source.decoded():
            thumbnail = await make_thumbnail(work.decoder, source, content.mime_type)
    except ObjectMissing:
        raise await source.missed() from None
    except DecodingFailed as error:
        if error.code in FAILURES_OF_THE_MACHINE and lease.attempts == 1:
            raise Unfinished("decoder", error.detail) from error  # one more try
        raise Refused(error.code, error.detail) from error
    try:
        await work.library.contents.keep_thumbnail(
            job_id=lease.job_id,
            token=lease.token,
            sha256=sha256,
            data=thumbnail.data,
            digest=hashlib.sha256(thumbnail.data).hexdigest(),
            width=thumbnail.source_width,
            height=thumbnail.source_height,
            details=thumbnail.details,
        )
    except Again:
        raise LeaseLost(lease.job_id) from None
