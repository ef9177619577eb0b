"""`/v1/media`: upload, look at, change, download, delete. Lists are in `media_list`, signed URLs in `signing`."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from media_api.answers import downloads, openapi, problems, serving
from media_api.auth import Admin, Reader, Writer
from media_api.models import Change, Data, Job, Media, MediaInfo
from media_api.requests.filenames import sanitized
from media_api.requests.headers import described
from media_api.requests.json_bodies import json_request, read_json
from media_api.requests.receiving import (
    FILE_FIELDS,
    HEADERS,
    REFUSALS,
    announced_digests,
    begin_upload,
    declared_of,
    form_request,
    idempotency_key,
    read_form,
)
from media_api.routes.parameters import KnownOnly, MediaId
from media_api.services import Wired
from media_core.examination import thumbnails
from media_core.ids import media_id_of_thumbnail

router = APIRouter(tags=["Media"])

MAX_CHANGE_BYTES: Final = 64 * 1024
_CHANGE_SHAPE: Final = '{"filename": "…", "tenant_scope": true, "labels": {"key": "value"}}, any of these'


_UPLOAD_FORM: Final = {**form_request("UploadForm", FILE_FIELDS, required=["file"]), **HEADERS}


@router.post(
    "/v1/media/upload",
    status_code=201,
    openapi_extra=_UPLOAD_FORM,
    responses={
        201: {"headers": {"Location": openapi.header("Where its metadata is.")}},
        **problems.described(*REFUSALS),
    },
)
async def upload_media(caller: Writer, services: Wired, request: Request, response: Response) -> Data[Media]:
    """Upload a file. The same bytes again make a new `media_id` and are stored once.

    The file stays as it was sent. A photo keeps its EXIF, which may tell its readers where it was taken. Remove the
    EXIF before the upload, or show the thumbnail, which has none.
    """
    (of_content, of_file), key = announced_digests(request), idempotency_key(request)
    async with await begin_upload(services, request, of_file) as upload:
        form = await read_form(services, request, upload, FILE_FIELDS, content_digest=of_content)
        uploaded = await upload.commit(caller, declared_of(form), idempotency_key=key)
    response.headers["Location"] = f"/v1/media/{uploaded.media_id}/info"
    return Data(data=Media(**vars(uploaded)))


@router.get("/v1/media/{media_id}/info", responses=problems.described("not_found"), response_model_exclude_unset=True)
async def get_media_info(caller: Reader, services: Wired, media_id: MediaId) -> Data[MediaInfo]:
    """What is known of a file. Visible to its uploader, to its rooms, to all if `tenant_scope`, and to admins."""
    return Data(data=MediaInfo.of(await services.library.find(caller, media_id, "see"), caller))


UNREADABLE: Final = ("unscannable", "not_found", "no_thumbnail", "scan_pending", "thumbnail_pending", "file_lost")
_BYTES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The bytes. Shown in place only for safe types, else `Content-Disposition: attachment`.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {
            "ETag": openapi.header("The content's sha256."),
            "Accept-Ranges": {"schema": {"type": "string"}},
            "Content-Disposition": {"schema": {"type": "string"}},
        },
    },
    206: {
        "description": "The first of the ranges asked for that the file has.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        "headers": {"Content-Range": {"schema": {"type": "string"}}},
    },
    304: {"description": "You have it (`If-None-Match`)."},
}
_DOWNLOAD: Final = "/v1/media/download/{media_id}"
_DOWNLOAD_RESPONSES: Final = {
    **_BYTES,
    **problems.described(*UNREADABLE, "precondition_failed", "range_not_satisfiable"),
}
_HEAD_RESPONSES: Final = {status: answer for status, answer in _DOWNLOAD_RESPONSES.items() if status not in (206, 416)}
_CONDITIONS: Final = (
    described("if-match", "Answer 412 unless one of these ETags is that of the bytes."),
    described("if-none-match", "Answer 304 if one of these ETags is that of the bytes."),
)
_RANGE: Final = (
    described("range", "`bytes=0-99`: only these bytes. Of several ranges one is answered."),
    described("if-range", "An ETag: all bytes, if it is no longer theirs."),
)
_THUMBNAIL_RESPONSES: Final = {
    200: {
        "description": "The picture, without metadata, upright.",
        "content": {
            thumbnails.MASTER_TYPE: {"schema": {"type": "string", "format": "binary"}},
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    304: _BYTES[304],
    **problems.described(*UNREADABLE, "precondition_failed", "invalid_request"),
}


@router.head(
    _DOWNLOAD,
    name="head_media",
    response_class=Response,
    openapi_extra={"parameters": list(_CONDITIONS)},
    responses=_HEAD_RESPONSES,
)
@router.get(
    _DOWNLOAD,
    name="download_media",
    response_class=Response,
    openapi_extra={"parameters": [*_RANGE, *_CONDITIONS]},
    responses=_DOWNLOAD_RESPONSES,
)
async def download_media(caller: Reader, services: Wired, request: Request, media_id: MediaId) -> Response:
    """The bytes of a file, or of a thumbnail by its `thumbnail_id`."""
    source = media_id_of_thumbnail(media_id)
    item = await services.library.find(caller, source or media_id, "read")
    content, readable = (
        serving.content_of(services, item) if source is None else await serving.thumbnail_of(services, item)
    )
    return await downloads.respond(request, content, readable)


@router.get(
    "/v1/media/download/{media_id}/thumbnail",
    response_class=Response,
    openapi_extra={"parameters": list(_CONDITIONS)},
    responses=_THUMBNAIL_RESPONSES,
)
async def download_thumbnail(
    caller: Reader,
    services: Wired,
    request: Request,
    media_id: MediaId,
    size: Annotated[
        thumbnails.ThumbnailSize, Query(description="Longest side in pixels; small pictures are not enlarged.")
    ] = thumbnails.ThumbnailSize.LARGEST,
) -> Response:
    """The thumbnail of a picture, a video or a PDF (its first page): WebP, or JPEG where `Accept` prefers it."""
    item = await services.library.find(caller, media_id_of_thumbnail(media_id) or media_id, "read")
    return await serving.respond_thumbnail(services, request, item, size)


@router.patch(
    "/v1/media/{media_id}",
    openapi_extra=json_request(Change),
    responses=problems.described(
        "not_yours", "not_found", "unsupported_media_type", "invalid_request", "request_timeout", "too_many_changes"
    ),
    response_model_exclude_unset=True,
)
async def change_media(
    caller: Writer, services: Wired, _known: KnownOnly, request: Request, media_id: MediaId
) -> Data[MediaInfo]:
    """Rename a file, label it, or say who may see it: its uploader or an admin. What is not given stays as it is."""
    change = await read_json(services, request, Change, shape=_CHANGE_SHAPE, at_most=MAX_CHANGE_BYTES)
    item = await services.library.change(
        caller,
        media_id,
        filename=None if change.filename is None else sanitized(change.filename),
        tenant_scope=change.tenant_scope,
        labels=change.labels,
    )
    return Data(data=MediaInfo.of(item, caller))


@router.delete(
    "/v1/media/{media_id}",
    status_code=204,
    response_class=Response,
    responses=problems.described("not_yours", "not_found", "invalid_request"),
)
async def delete_media(caller: Writer, services: Wired, _known: KnownOnly, media_id: MediaId) -> None:
    """Delete a file: its uploader or an admin. The bytes go with the last upload of the same content. Repeatable."""
    await services.library.delete(caller, media_id)


@router.post(
    "/v1/media/{media_id}/rescan",
    status_code=202,
    responses={
        202: {"headers": {"Location": openapi.header("The job.")}},
        **problems.described("not_found", "invalid_request"),
    },
    response_model_exclude_unset=True,
)
async def rescan_media(
    caller: Admin, services: Wired, _known: KnownOnly, response: Response, media_id: MediaId
) -> Data[Job]:
    """Scan a file's content again. Admins only."""
    job_id = await services.library.rescan(caller, media_id)
    response.headers["Location"] = f"/v1/jobs/{job_id}"
    return Data(data=Job.of(await services.jobs.find(caller, job_id)))
