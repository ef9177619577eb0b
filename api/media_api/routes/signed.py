"""`/objects/…`: the folder store's signed URLs, served by the api itself. An S3 store serves its own.

The signature replaces only the token: content that was deleted or found infected meanwhile is not served.
"""

from datetime import UTC, datetime
from functools import partial
from typing import Final

from fastapi import APIRouter, Request, Response

from media_api import downloads
from media_api.services import Wired
from media_core.errors import not_found
from media_core.object_keys import content_key, thumbnail_key
from media_core.store import FolderStore

router = APIRouter(include_in_schema=False)

FOR_ANY_PAGE: Final = "cross-origin"
"""Signed URLs are for image tags and players of other sites."""


@router.api_route("/objects/{key:path}", methods=["GET", "HEAD"], response_class=Response)
async def signed_object(services: Wired, request: Request, key: str) -> Response:
    store, tenant_id = services.store, services.tenant_id
    if not isinstance(store, FolderStore):
        raise not_found()
    signed = store.verify(key, request.query_params, datetime.now(UTC))
    sha256 = signed.key.rpartition("/")[2]
    await services.library.servable(sha256)
    stored = await store.head(signed.key)
    if stored is None or signed.key not in (content_key(tenant_id, sha256), thumbnail_key(tenant_id, sha256)):
        raise not_found()
    etag = f'"{sha256}"' if signed.key == content_key(tenant_id, sha256) else f'"{sha256}-thumbnail"'
    content = downloads.Representation(stored.size, etag, signed.content_type, signed.content_disposition)
    return await downloads.respond(request, content, partial(store.stream, key), embedding=FOR_ANY_PAGE)
