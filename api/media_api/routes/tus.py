"""`/v1/media/uploads`: uploads in several requests, by the protocol tus 1.0.0, and what it says of them as JSON."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from media_api.answers import openapi, problems
from media_api.auth import Writer
from media_api.models import Data, Media, UploadProgress
from media_api.requests import body, draft, tus
from media_api.requests.headers import described, listed
from media_api.requests.receiving import (
    IDEMPOTENCY_KEY,
    MAX_KEY_CHARACTERS,
    digest_header,
    file_digest,
    idempotency_key,
)
from media_api.routes.parameters import UploadId
from media_api.services import Services, Wired
from media_core.auth.tokens import Claims
from media_core.errors import Refused, Unavailable
from media_core.uploads.claims import Declared, shielded
from media_core.uploads.resumable import ALGORITHMS, Checksum
from media_core.uploads.rows import Progress


class VersionedRoute(APIRoute, ABC):
    """Every answer, an error too, names the version of the protocol."""

    @staticmethod
    @abstractmethod
    def version_header(request: Request) -> tuple[str, str]:
        """The header's name and value."""

    async def of_error(self, request: Request, error: Exception) -> Response:
        return await problems.of_error(request, error)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answered = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                response = await answered(request)
            except Exception as error:
                response = await self.of_error(request, error)
            name, version = self.version_header(request)
            response.headers[name] = version
            return response

        return handler


class _TusRoute(VersionedRoute):
    @staticmethod
    def version_header(_request: Request) -> tuple[str, str]:
        return "Tus-Resumable", tus.VERSION


router = APIRouter(tags=["Uploads in several requests"], route_class=_TusRoute)


_COUNT: Final[dict[str, Any]] = {"pattern": "^[0-9]{1,18}$", "format": "count-of-bytes"}
_VERSION: Final = described("tus-resumable", f"`{tus.VERSION}`; needed.", needed=True, enum=[tus.VERSION])
_VERSION_IF_ANY: Final = described("tus-resumable", f"`{tus.VERSION}`.", enum=[tus.VERSION])
_OFFSET: Final = described("upload-offset", "How many bytes have come before; needed.", needed=True, **_COUNT)
_LENGTH: Final = described("upload-length", "Bytes of the whole file.", **_COUNT)
_CHECKSUM: Final = described(
    "upload-checksum",
    f"Of this request's body: one of {', '.join(ALGORITHMS)}, a space, base64.",
    format="tus-checksum",
)
_BODY_DIGEST: Final = digest_header("content-digest", "This request's body's")
_END_DIGEST: Final = digest_header("repr-digest", "With the bytes that end the upload: the file's")
_OF_CREATION: Final = (
    digest_header("repr-digest"),
    described("upload-defer-length", "`1`: the length is told later.", enum=["1"]),
    described(
        "upload-metadata",
        "`filename`, `filetype`, `room_id`, `tenant_scope`, `labels` (JSON); each value in base64.",
        format="tus-metadata",
    ),
    described(
        "upload-concat",
        "`partial`, or `final;` and the URLs of the partial uploads, with spaces.",
        format="tus-concat",
    ),
    described(
        IDEMPOTENCY_KEY,
        "The same key again within 24 hours is answered with the same upload, and how far it is. Passed over with "
        "`partial`.",
        maxLength=MAX_KEY_CHARACTERS,
    ),
)
_BODY: Final[dict[str, Any]] = {"content": {tus.BODY_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_STATE: Final = {
    "Upload-Offset": openapi.header("Bytes that have come: send what follows them."),
    "Upload-Length": openapi.header("Bytes of the whole file; `Upload-Defer-Length: 1` while that is not known."),
    "Upload-Expires": openapi.header("Until when the upload can go on."),
    "Upload-Metadata": openapi.header("As it was sent."),
    "Upload-Concat": openapi.header("As it was sent."),
    "Upload-Media-Id": openapi.header("The file's `media_id`, once it is stored."),
}
_RECEIVED: Final = {name: _STATE[name] for name in ("Upload-Offset", "Upload-Expires", "Upload-Media-Id")}
_ANY: Final = ("not_found", "upload_expired")
_CREATION: Final = (
    "bad_request",
    "invalid_request",
    "file_too_large",
    "quota_exceeded",
    "file_quota_exceeded",
    "empty_file",
)
_BYTES: Final = (
    "bad_request",
    "tus_version_unsupported",
    "upload_locked",
    "offset_mismatch",
    "upload_final",
    "request_timeout",
    "file_too_large",
    "quota_exceeded",
    "file_quota_exceeded",
    "unsupported_media_type",
    "checksum_mismatch",
    "digest_mismatch",
    "infected",
    "empty_file",
)


_GOES_ON: Final = {"upload_locked", "offset_mismatch", "request_timeout"}
"""After these a creation that is sent again with its key goes on with the upload."""


@router.options(tus.PATH, include_in_schema=False)
@router.options(f"{tus.PATH}/{{upload_id}}", include_in_schema=False)
async def describe_uploads(services: Wired) -> Response:
    """The version and extensions of tus that the API offers. It needs no token."""
    headers = {
        "Tus-Version": tus.VERSION,
        "Tus-Extension": ",".join(tus.EXTENSIONS),
        "Tus-Max-Size": str((await services.policy.current()).max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    if services.settings.upload.draft:
        headers |= {"Accept-Patch": draft.MEDIA_TYPE, "Upload-Limit": draft.limits(int(headers["Tus-Max-Size"]))}
    return Response(status_code=204, headers=headers)


@router.post(
    tus.PATH,
    status_code=201,
    response_class=Response,
    openapi_extra={
        "requestBody": {**_BODY, "required": False},
        "parameters": [_VERSION, _LENGTH, _CHECKSUM, _BODY_DIGEST, *_OF_CREATION],
    },
    responses={
        201: {"headers": {"Location": openapi.header("The upload."), **_RECEIVED}},
        **problems.described(*_ANY, *_CREATION, *_BYTES, "too_many_uploads", "idempotency_key_reused"),
    },
)
async def create_upload(caller: Writer, services: Wired, request: Request) -> Response:
    """Begin an upload in several requests, by tus 1.0.0. The body may have its first bytes, or all of them.

    Send the bytes to `Location` by PATCH. After an interruption ask by HEAD how many have come, and go on from there:
    at any replica, until `Upload-Expires`. `Upload-Length` is reserved in the quota until the upload is complete,
    deleted or expired. With its last byte the file is stored and scanned like any other. `Upload-Media-Id` names it,
    and GET of the upload has the answer of an upload in one request. A final upload stores its parts as one file, and
    ends them.

    If the answer is lost, send the same headers again with the same `Idempotency-Key`. Where bytes have come before, a
    body is not read: go on from `Upload-Offset`.
    """
    headers = request.headers
    tus.check_version(headers.get("tus-resumable"))
    declared = tus.declared_of(listed(request, "upload-metadata"))
    concat = tus.concat_of(headers.get("upload-concat"))
    if isinstance(concat, tus.FinalUpload):
        progress = await services.finals.concatenate(
            caller,
            headers["upload-concat"],
            concat.parts,
            declared,
            digest=file_digest(listed(request, "repr-digest")),
            idempotency_key=idempotency_key(request),
        )
    else:
        length = tus.length_of(headers.get("upload-length"), headers.get("upload-defer-length"))
        progress = await _created(services, caller, request, declared, length, concat)
    return Response(status_code=201, headers=_moved_on(progress) | {"Location": f"{tus.PATH}/{progress.upload_id}"})


async def _created(
    services: Services, caller: Claims, request: Request, declared: Declared, length: int | None, partial: bool
) -> Progress:
    has_body = request.headers.get("content-type") is not None and request.headers.get("content-length") != "0"
    if has_body:
        _check_type(request)
    checksum = tus.checksum_of(request.headers.get("upload-checksum"))
    digest = file_digest(listed(request, "repr-digest"))
    key = None if partial else idempotency_key(request)  # clients send the same headers with all their parts
    progress = await services.resumables.create(
        caller, declared, length, partial=partial, digest=digest, idempotency_key=key
    )
    if not has_body or progress.received:  # an earlier request with this key has sent some
        return progress
    try:
        return await receive(services, caller, request, progress.upload_id, 0, checksum=checksum)
    except BaseException as error:
        # The client does not learn the upload's address. Without a key it could neither go on with it nor end it.
        if key is None or (isinstance(error, Refused) and error.code not in _GOES_ON):
            await shielded(_given_up(services, caller, progress.upload_id))
        raise


async def _given_up(services: Services, caller: Claims, upload_id: str) -> None:
    with contextlib.suppress(Refused, Unavailable):  # it has ended; or it expires
        await services.resumables.terminate(caller, upload_id)


async def receive(
    services: Services,
    caller: Claims,
    request: Request,
    upload_id: str,
    offset: int,
    *,
    length: int | None = None,
    checksum: Checksum | None = None,
    patience: float = 0,
    begun: Callable[[], None] = lambda: None,
) -> Progress:
    """Takes the request's body as the upload's bytes from `offset` on. Raises as `Resumables.receiving`.

    `begun` is called when the upload is this request's: whoever looks at it from then on waits for it.
    Content-Digest is of the body, as `checksum` is, which counts if both are sent. Repr-Digest is of the file.
    """
    announced = announced_of(request)
    of_body, of_file = (listed(request, name) for name in ("content-digest", "repr-digest"))
    # If the body is the file, what comes of it before the connection breaks counts: it is compared at the end.
    is_file = offset == 0 and announced is not None and announced == length
    digest = file_digest(of_file, of_body if is_file else None)
    if checksum is None and not is_file and (body_digest := file_digest(of_body)) is not None:
        checksum = Checksum("sha256", bytes.fromhex(body_digest), is_content_digest=True)
    async with services.resumables.receiving(
        caller,
        upload_id,
        offset,
        length=length,
        announced=announced,
        checksum=checksum,
        digest=digest,
        patience=patience,
    ) as receiving:
        begun()
        async with aclosing(body.chunks_or_socket(request, services.settings.server.body_idle_seconds)) as chunks:
            async for chunk in chunks:
                if chunk is None:
                    await receiving.pause()
                else:
                    await (receiving.write(chunk) if isinstance(chunk, bytes) else receiving.take(chunk))
        return await receiving.end()


def announced_of(request: Request) -> int | None:
    """Bytes of the body, as the request announces them. Raises Refused `bad_request`."""
    return tus.number("Content-Length", request.headers.get("content-length"))


_UPLOAD: Final = f"{tus.PATH}/{{upload_id}}"


@router.patch(
    _UPLOAD,
    status_code=204,
    response_class=Response,
    openapi_extra={
        "requestBody": {**_BODY, "required": True},
        "parameters": [_VERSION, _OFFSET, _LENGTH, _CHECKSUM, _BODY_DIGEST, _END_DIGEST],
    },
    responses={204: {"headers": _RECEIVED}, **problems.described(*_ANY, *_BYTES)},
)
async def continue_upload(caller: Writer, services: Wired, request: Request, upload_id: UploadId) -> Response:
    """Send the bytes from `Upload-Offset` on. With the last byte the file is stored, as an upload in one request is."""
    headers = request.headers
    tus.check_version(headers.get("tus-resumable"))
    _check_type(request)
    offset = tus.number("Upload-Offset", headers.get("upload-offset"))
    if offset is None:
        raise Refused("bad_request", "Send Upload-Offset: how many bytes have come before.")
    progress = await receive(
        services,
        caller,
        request,
        upload_id,
        offset,
        length=tus.number("Upload-Length", headers.get("upload-length")),
        checksum=tus.checksum_of(headers.get("upload-checksum")),
    )
    return Response(status_code=204, headers=_moved_on(progress))


@router.head(
    _UPLOAD,
    response_class=Response,
    openapi_extra={"parameters": [_VERSION_IF_ANY]},
    responses={
        200: {"headers": _STATE},
        **problems.described(*_ANY, "tus_version_unsupported", "upload_locked", "infected"),
    },
)
async def look_at_upload(caller: Writer, services: Wired, request: Request, upload_id: UploadId) -> Response:
    """How far an upload is, in headers. Only who began it may see it."""
    if (version := request.headers.get("tus-resumable")) is not None:
        tus.check_version(version)
    progress = await services.resumables.settled(caller, upload_id)
    return Response(headers=tus.headers_of(progress))


@router.get(_UPLOAD, responses=problems.described(*_ANY))
async def get_upload(caller: Writer, services: Wired, upload_id: UploadId) -> Data[UploadProgress]:
    """How far an upload is, and the file once it is stored. Only who began it may see it."""
    progress = await services.resumables.find(caller, upload_id)
    return Data(
        data=UploadProgress(
            upload_id=progress.upload_id,
            offset=progress.received,
            length=progress.length,
            expires_at=progress.expires_at,
            media=None if progress.uploaded is None else Media(**vars(progress.uploaded)),
        )
    )


@router.delete(
    _UPLOAD,
    status_code=204,
    response_class=Response,
    openapi_extra={"parameters": [_VERSION]},
    responses=problems.described(*_ANY, "tus_version_unsupported", "upload_locked"),
)
async def end_upload(caller: Writer, services: Wired, request: Request, upload_id: UploadId) -> Response:
    """Give up an upload, and the quota it holds. A file that is stored already stays."""
    tus.check_version(request.headers.get("tus-resumable"))
    await services.resumables.terminate(caller, upload_id)
    return Response(status_code=204)


@router.post(_UPLOAD, include_in_schema=False)
async def do_as_overridden(caller: Writer, services: Wired, request: Request, upload_id: UploadId) -> Response:
    """For clients whose network lets no PATCH or DELETE pass: `X-HTTP-Method-Override`, as tus has it."""
    match request.headers.get("x-http-method-override"):
        case "PATCH":
            return await continue_upload(caller, services, request, upload_id)
        case "DELETE":
            return await end_upload(caller, services, request, upload_id)
        case "HEAD":
            return await look_at_upload(caller, services, request, upload_id)
    return problems.method_not_allowed(request)


@router.api_route(tus.PATH, methods=["GET", "PUT", "PATCH", "DELETE"], include_in_schema=False)
@router.put(_UPLOAD, include_in_schema=False)
async def refuse_method(request: Request) -> Response:
    """The router's own 405 would not name the version of the protocol."""
    return problems.method_not_allowed(request)


def _check_type(request: Request) -> None:
    body.require_plain(request)
    if body.media_type_of(request) != tus.BODY_TYPE:
        raise Refused("unsupported_media_type", f"Send the bytes as Content-Type: {tus.BODY_TYPE}.")


def _moved_on(progress: Progress) -> dict[str, str]:
    return {name: value for name, value in tus.headers_of(progress).items() if name in _RECEIVED}
