"""The thumbnail worker, with real films."""

import base64
import struct
from datetime import timedelta
from typing import Any

import pytest

from media_core.database import Database
from media_core.decoding import DecodingFailed
from media_core.decoding.pool import DecodingPool
from media_core.items.library import Library
from media_core.jobs.queue import Queue
from media_core.policy import PolicyReader
from media_core.store.folder import FolderStore
from media_core.store.object_keys import thumbnail_key
from media_core.uploads.upload import Uploads
from media_workers.drain import Drain, Work
from media_workers.settings import DrainSettings
from media_workers.thumbnail import make_video_thumbnail
from tests.fixtures import media
from tests.integration.acting import upload


async def worked_through(uploads: Uploads, library: Library, decoding_pool: DecodingPool) -> None:
    database, store = uploads.database, uploads.store
    queue = Queue(database, retry_base=timedelta(0))
    work = Work(database, queue, library, store, decoding_pool, PolicyReader(database))
    settings = DrainSettings(lease_seconds=30, linger_seconds=0.05, poll_seconds=0.01)
    await Drain("thumbnail", make_video_thumbnail, work, settings).run()


async def test_a_film_of_which_no_picture_can_be_made_says_why(
    uploads: Uploads, database: Database, library: Library, decoding_pool: DecodingPool
) -> None:
    film = media.still_film(media.quadrants(320, 240))
    moved = struct.pack(">I4s16x", 24, b"uuid") + film  # its index says where each frame is, counted from the start
    uploaded = await upload(uploads, moved, filename="film.mp4")
    await worked_through(uploads, library, decoding_pool)
    async with database.transaction() as tx:
        query = "SELECT details, thumbnail_status FROM blob WHERE sha256 = %(sha256)s"
        row = await tx.first(query, {"sha256": uploaded.sha256})
    assert (row.thumbnail_status, row.details) == ("failed", {"no_thumbnail": "there is no picture in it"})


async def test_a_films_thumbnail_brings_its_thumbhash_and_its_shape(
    uploads: Uploads, database: Database, library: Library, folder_store: FolderStore, decoding_pool: DecodingPool
) -> None:
    film = media.still_film(media.quadrants(720, 576), aspect=(64, 45))
    uploaded = await upload(uploads, film, filename="film.mp4")
    await worked_through(uploads, library, decoding_pool)
    async with database.transaction() as tx:
        query = "SELECT width, height, details, thumbnail_status FROM blob WHERE sha256 = %(sha256)s"
        row = await tx.first(query, {"sha256": uploaded.sha256})
    assert (row.width, row.height, row.thumbnail_status) == (1_024, 576, "ready")
    assert 5 < len(base64.b64decode(row.details["thumbhash"], validate=True)) < 30
    assert (await folder_store.read(thumbnail_key(library.tenant_id, uploaded.sha256), 0, 4)) == b"RIFF"


@pytest.mark.parametrize("code", ["crashed", "timeout"])
@pytest.mark.parametrize(("times", "status"), [(1, "ready"), (2, "failed")])
async def test_a_film_is_decoded_once_more_where_the_machine_may_be_the_cause(
    uploads: Uploads,
    database: Database,
    library: Library,
    decoding_pool: DecodingPool,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    times: int,
    status: str,
) -> None:
    uploaded = await upload(uploads, media.film(1), filename="film.mp4")
    failures, run = [code] * times, decoding_pool.run

    async def failing(*order: Any, **arguments: Any) -> Any:
        if failures:
            raise DecodingFailed(failures.pop(), "no answer")
        return await run(*order, **arguments)

    monkeypatch.setattr(decoding_pool, "run", failing)
    await worked_through(uploads, library, decoding_pool)
    query = "SELECT thumbnail_status FROM blob WHERE sha256 = %s"
    assert await database.call(query, (uploaded.sha256,)) == [(status,)]
