"""URLs that need no token: `GET /v1/media/signed/{media_id}` for one file, `POST /v1/media/sign` for many."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query, Request

from media_api.answers import downloads, problems, serving
from media_api.auth import Reader
from media_api.models import (
    MOST_SIGNED_SECONDS,
    SIGNED_SIZE,
    Data,
    Signed,
    SignedOne,
    SignError,
    SignRequest,
)
from media_api.requests import wrong_input
from media_api.requests.identifiers import is_id
from media_api.requests.json_bodies import json_request, read_json
from media_api.routes.media import UNREADABLE
from media_api.routes.parameters import KnownOnly, MediaId
from media_api.services import Services, Wired
from media_core.errors import Lost, Refused, not_found
from media_core.examination import thumbnails
from media_core.ids import media_id_of_thumbnail
from media_core.items.access import Item
from media_core.items.signed_urls import Shared, Signer
from media_core.store import SignedUrl
from media_core.store.object_keys import content_key, thumbnail_key

router = APIRouter(tags=["Media"])

SIGNED_FOR: Final = 300
"""Seconds. Published: "a URL valid for the next 5 minutes"."""
MAX_BODY_BYTES: Final = 32 * 1024

Via = Literal["store", "api"]


@router.get("/v1/media/signed/{media_id}", responses=problems.described(*UNREADABLE, "invalid_request"))
async def sign_media(
    caller: Reader,
    services: Wired,
    media_id: MediaId,
    thumbnail: Annotated[bool, Query(description="Sign the thumbnail instead.")] = False,
    size: Annotated[thumbnails.ThumbnailSize | None, Query(description=SIGNED_SIZE)] = None,
    expires_in: Annotated[
        int | None,
        Query(
            ge=1,
            description="Seconds that the URL is valid, up to what this tenant allows. Default: 300.",
            json_schema_extra={"maximum": MOST_SIGNED_SECONDS},
        ),
    ] = None,
    via: Annotated[
        Via,
        Query(
            description="`store`: a URL of the object store, which nobody can take back. `api`: a URL of this api, "
            "which ends early with the file or a verdict against it. Both outlive the caller's own right to see it."
        ),
    ] = "store",
) -> Data[Signed]:
    """A URL that works without a token for five minutes, with this type and disposition only."""
    sign = await _signing(services, expires_in, via, size)
    source = media_id_of_thumbnail(media_id)
    item = await services.library.find(caller, source or media_id, "share")
    signed = await sign.url(item, thumbnail=thumbnail or source is not None or size is not None)
    return Data(data=Signed(url=signed.url, expires_at=signed.expires_at))


@router.post(
    "/v1/media/sign",
    openapi_extra=json_request(SignRequest),
    responses=problems.described("unsupported_media_type", "invalid_request", "request_timeout"),
)
async def sign_many_media(
    caller: Reader, services: Wired, _known: KnownOnly, request: Request
) -> Data[list[SignedOne]]:
    """URLs of up to 200 files at once, in the order of their ids; where there is none, an error stands in its place."""
    wanted = await read_json(services, request, SignRequest, shape='{"media_ids": ["med-…"]}', at_most=MAX_BODY_BYTES)
    sign = await _signing(services, wanted.expires_in, wanted.via, wanted.size)
    sources = {given: media_id_of_thumbnail(given) or given for given in wanted.media_ids if is_id(given)}
    found = await services.library.find_all(caller, sources.values(), "share")
    answers = []
    for given in wanted.media_ids:
        item = found[sources[given]] if given in sources else not_found()
        thumbnail = wanted.thumbnail or media_id_of_thumbnail(given) is not None or wanted.size is not None
        answers.append(await _answer(sign, given, item, thumbnail=thumbnail))
    return Data(data=answers)


async def _answer(sign: "_Signing", media_id: str, item: Item | Refused, *, thumbnail: bool) -> SignedOne:
    try:
        if isinstance(item, Refused):
            raise item
        signed = await sign.url(item, thumbnail=thumbnail)
    except (Refused, Lost) as refused:
        error = SignError(code=refused.code, detail=refused.detail)
        return SignedOne(media_id=media_id, url=None, expires_at=None, error=error)
    return SignedOne(media_id=media_id, url=signed.url, expires_at=signed.expires_at, error=None)


async def _signing(services: Services, expires_in: int | None, via: Via, size: int | None) -> "_Signing":
    """Raises Refused `invalid_request` where the tenant allows less."""
    most = services.settings.server.signed_url_max_seconds
    if expires_in is not None and expires_in > most:
        raise wrong_input.refused("expires_in", f"a URL may be valid for at most {most} seconds here", limit=most)
    lifetime = timedelta(seconds=min(SIGNED_FOR, most) if expires_in is None else expires_in)
    # The store has thumbnails in one size only.
    is_ours = via == "api" or size not in (None, thumbnails.ThumbnailSize.LARGEST)
    signer = await services.shared_urls.signer(lifetime) if is_ours else None
    return _Signing(services, lifetime, signer, size)


class _Signing:
    """Signs URLs of the api with `signer`, of the object store without one. `size`: of thumbnails."""

    def __init__(self, services: Services, lifetime: timedelta, signer: Signer | None, size: int | None) -> None:
        self._services, self._lifetime, self._signer, self._size = services, lifetime, signer, size

    async def url(self, item: Item, *, thumbnail: bool) -> SignedUrl:
        """For an item that the caller may share. Raises Refused `thumbnail_pending`, `no_thumbnail`; Lost."""
        if thumbnail:
            serving.require_thumbnail(item)
        else:
            await serving.stored(self._services, item).require()
        if self._signer is not None:
            return self._signer.sign(Shared(item.media_id, thumbnail), self._size)
        store, tenant_id = self._services.store, self._services.tenant_id
        if thumbnail:
            key, mime_type = thumbnail_key(tenant_id, item.sha256), thumbnails.MASTER_TYPE
            disposition = serving.thumbnail_name(item)
        else:
            key, mime_type = content_key(tenant_id, item.sha256), downloads.content_type_of(item)
            disposition = downloads.disposition_of(item.filename, item.mime_type)
        return store.sign(key, expires_in=self._lifetime, content_type=mime_type, content_disposition=disposition)
