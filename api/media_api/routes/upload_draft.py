"""`/v1/media/uploads` by the IETF's draft of resumable uploads, where the tenant has it on: requests that name one of
its versions. All others are those of tus (`tus.py`); both have the same uploads.
"""

import contextlib
from collections.abc import Callable
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Scope

from media_api.answers import problems
from media_api.auth import Writer
from media_api.models import Media
from media_api.requests import draft, tus
from media_api.requests.body import require_plain
from media_api.requests.headers import listed
from media_api.requests.receiving import file_digest
from media_api.routes.parameters import UploadId
from media_api.routes.tus import VersionedRoute, announced_of, receive
from media_api.services import Services, Wired, services_at
from media_core.auth.tokens import Claims
from media_core.errors import Refused, Unavailable
from media_core.uploads.claims import STALLED_SECONDS
from media_core.uploads.rows import Progress


class _DraftRoute(VersionedRoute):
    """It serves requests that name a version of the draft."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is not Match.FULL or draft.version_of(Headers(scope=scope)) is None:
            return Match.NONE, {}
        return match, child

    async def of_error(self, request: Request, error: Exception) -> Response:
        response = await super().of_error(request, error)
        if not isinstance(error, Refused) or _version(request) < draft.LIMITS_SINCE:
            return response
        if members := draft.problem_of(error, request.headers):
            content = problems.problem(error.code, error.detail, error.facts) | members
            response = problems.written(content, problems.challenge(error, token_sent=True))
        if response.status_code == 413:
            at_most = (await services_at(request).policy.current()).max_upload_bytes
            response.headers["Upload-Limit"] = draft.limits(at_most)
        return response

    @staticmethod
    def version_header(request: Request) -> tuple[str, str]:
        return draft.INTEROP, _version(request)


router = APIRouter(include_in_schema=False, route_class=_DraftRoute)
_UPLOAD = f"{tus.PATH}/{{upload_id}}"


@router.post(tus.PATH)
async def create_by_draft(caller: Writer, services: Wired, request: Request) -> Response:
    """Begins an upload with the first bytes of a file, or with all of them."""
    require_plain(request)
    complete = draft.is_complete(request.headers, _version(request))
    length = draft.length_of(request.headers, _version(request), 0, announced_of(request))
    declared = draft.declared_of(request.headers, request.query_params)
    digest = file_digest(listed(request, "repr-digest"))
    progress = await services.resumables.create(caller, declared, length, digest=digest)
    location = draft.location_of(services.settings.store.public_url, f"{tus.PATH}/{progress.upload_id}")
    inform = request.scope.get("extensions", {}).get(draft.INFORM, lambda _: None)
    state = await _state(services, request, progress)
    limits = {"Upload-Limit": state["Upload-Limit"]} if "Upload-Limit" in state else {}
    told = {"Location": location, draft.INTEROP: _version(request), **limits}
    begun = partial(inform, told)
    progress = await _received(services, caller, request, progress.upload_id, 0, complete=complete, begun=begun)
    answer = await _answer(services, request, progress, 201)
    answer.headers["Location"] = location
    return answer


@router.patch(_UPLOAD)
async def continue_by_draft(caller: Writer, services: Wired, request: Request, upload_id: UploadId) -> Response:
    """The bytes from `Upload-Offset` on."""
    offset = tus.number("Upload-Offset", request.headers.get("upload-offset"))
    if offset is None:
        raise Refused("bad_request", "Send Upload-Offset: how many bytes have come before.")
    complete = draft.is_complete(request.headers, _version(request))
    progress = await _received(services, caller, request, upload_id, offset, complete=complete)
    return await _answer(services, request, progress, 200)


@router.head(_UPLOAD)
async def look_by_draft(caller: Writer, services: Wired, request: Request, upload_id: UploadId) -> Response:
    progress = await services.resumables.settled(caller, upload_id, patience=STALLED_SECONDS)
    return Response(status_code=204, headers=await _state(services, request, progress))


@router.delete(_UPLOAD)
async def end_by_draft(caller: Writer, services: Wired, upload_id: UploadId) -> Response:
    await services.resumables.terminate(caller, upload_id, patience=STALLED_SECONDS)
    return Response(status_code=204)


async def _received(
    services: Services,
    caller: Claims,
    request: Request,
    upload_id: str,
    offset: int,
    *,
    complete: bool,
    begun: Callable[[], None] = lambda: None,
) -> Progress:
    """Takes the request's body; where the upload ends with it, its length is known from then on."""
    announced = announced_of(request)
    length = draft.length_of(request.headers, _version(request), offset, announced)
    try:
        progress = await receive(
            services, caller, request, upload_id, offset, length=length, patience=STALLED_SECONDS, begun=begun
        )
    except Refused as refused:
        if _version(request) >= draft.INVALID_SINCE and draft.is_beyond(refused, offset, announced):
            with contextlib.suppress(Refused, Unavailable):  # it has ended; or it expires
                await services.resumables.invalidate(caller, upload_id)
        raise
    if complete and not progress.is_whole:  # the body came without Content-Length
        came = progress.received
        async with services.resumables.receiving(caller, upload_id, came, length=came) as receiving:
            progress = await receiving.end()
    return progress


async def _answer(services: Services, request: Request, progress: Progress, stored: int) -> Response:
    """With the last byte the published answer of an upload, with the status `stored`; else how far it is."""
    headers = await _state(services, request, progress)
    if progress.uploaded is None:
        return Response(status_code=201 if request.method == "POST" else 204, headers=headers)
    media = Media(**vars(progress.uploaded))
    return JSONResponse({"data": media.model_dump(mode="json")}, status_code=stored, headers=headers)


async def _state(services: Services, request: Request, progress: Progress) -> dict[str, str]:
    at_most = (await services.policy.current()).max_upload_bytes
    return draft.headers_of(progress, _version(request), at_most=at_most)


def _version(request: Request) -> str:
    return draft.version_of(request.headers) or draft.VERSIONS[-1]
