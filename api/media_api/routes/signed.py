"""Signed URLs that the api itself serves: `/objects/…` of the folder store (an S3 store serves its own), and
`/shared/…`, which `media_core.items.signed_urls` signs.

The signature replaces only the token: content that was deleted or found infected meanwhile is not served.
"""

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from media_api.answers import downloads, serving
from media_api.requests import wrong_input
from media_api.requests.identifiers import known_id
from media_api.services import Wired
from media_core.errors import not_found
from media_core.examination import thumbnails
from media_core.store import FolderStore
from media_core.store.object_keys import thumbnail_key

router = APIRouter(include_in_schema=False)


@router.api_route("/objects/{key:path}", methods=["GET", "HEAD"], response_class=Response)
async def signed_object(services: Wired, request: Request, key: str) -> Response:
    store, tenant_id = services.store, services.tenant_id
    if not isinstance(store, FolderStore):
        raise not_found()
    signed = store.urls.verify(key, request.query_params, datetime.now(UTC))
    sha256 = signed.key.rpartition("/")[2]
    wanted = await services.library.require_servable(sha256)
    source = serving.Stored(services.library, sha256, thumbnail=signed.key == thumbnail_key(tenant_id, sha256))
    if signed.key != source.key:
        raise not_found()
    readable: downloads.Readable
    if source.thumbnail:
        picture = await serving.whole_thumbnail(source, wanted.thumbnail_sha256)
        size, etag, readable = len(picture), f'"{wanted.thumbnail_sha256}"', downloads.Whole(picture)
    else:
        stored = await store.head(signed.key)
        if stored is None or stored.size != wanted.size:
            raise await source.missed()
        size, etag, readable = wanted.size, f'"{sha256}"', source
    content = downloads.Representation(size, etag, signed.content_type, signed.content_disposition)
    return await downloads.respond(request, content, readable, safety=downloads.signed_headers(content.mime_type))


@router.api_route("/shared/{media_id}", methods=["GET", "HEAD"], response_class=Response)
async def shared_media(services: Wired, request: Request, media_id: str) -> Response:
    shared = await services.shared_urls.verify(media_id, request.query_params)
    item = await services.library.find_by_url(known_id(shared.media_id))
    if shared.thumbnail and (asked := request.query_params.get("size")) is not None:
        if asked not in map(str, thumbnails.ThumbnailSize):
            raise wrong_input.refused("size", f"it must be one of {', '.join(map(str, thumbnails.ThumbnailSize))}")
        safety = downloads.signed_headers(thumbnails.MASTER_TYPE)
        size = thumbnails.ThumbnailSize(int(asked))
        return await serving.respond_thumbnail(services, request, item, size, safety=safety)
    if shared.thumbnail:
        content, source = await serving.thumbnail_of(services, item)
    else:
        content, source = serving.content_of(services, item)
    return await downloads.respond(request, content, source, safety=downloads.signed_headers(content.mime_type))
