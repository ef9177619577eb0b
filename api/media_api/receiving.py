"""Receiving a file over HTTP, for all routes that take one: its form, its headers, its errors."""

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from contextlib import aclosing
from typing import Annotated, Any, Final, Literal

from fastapi import Header, Request

from media_api.multipart import Form
from media_api.routes.parameters import known_room, request_id_of
from media_api.services import Services
from media_core.errors import Refused
from media_core.tokens import Claims
from media_core.uploads import Upload, Uploaded

REFUSALS: Final = (
    "digest_mismatch",
    "bad_request",
    "not_found",
    "request_timeout",
    "file_too_large",
    "quota_exceeded",
    "unsupported_media_type",
    "empty_file",
    "missing_file",
    "infected",
    "idempotency_key_reused",
    "invalid_request",
)
"""Codes of the errors that these routes may answer with."""


def text_field(description: str) -> dict[str, Any]:
    """An optional text. Without the default, Swagger would fill in the word `string`, and send it."""
    return {"type": "string", "default": "", "description": description}


FILE_FIELDS: Final[Mapping[str, Any]] = {
    "file": {"type": "string", "format": "binary", "description": "The file, one; any type."},
    "tenant_scope": {"type": "boolean", "default": False, "description": "Everybody of the tenant may see it."},
    "room_id": text_field("Attach it to this room, in the same transaction."),
}
_DIGEST: Final = re.compile(r"(?:^|,)\s*sha-256=:([^:]*):")

Digest = Annotated[
    str | None,
    Header(description="The file's digest, `sha-256=:<base64>:` (RFC 9530); compared with what arrives."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(max_length=255, description="The same key again within 24 hours is answered like the first time."),
]


async def begin_upload(services: Services, request: Request, digest: str | None) -> Upload:
    length = request.headers.get("content-length", "")
    return await services.uploads.start(announced=int(length) if length.isdecimal() else None, digest=digest)


async def read_form(services: Services, request: Request, upload: Upload, fields: Collection[str]) -> Form:
    """Reads the whole request, and writes the file's bytes into `upload`. `fields`: those that the form may have."""
    form = Form(request, fields, idle_seconds=services.settings.server.body_idle_seconds)
    async with aclosing(form.file()) as chunks:
        async for chunk in chunks:
            await upload.write(chunk)
            del chunk  # frees it while the next one is waited for
    room_id = form.text("room_id")
    if room_id is not None:
        known_room(room_id)
    return form


async def keep(
    upload: Upload,
    form: Form,
    caller: Claims,
    request: Request,
    idempotency_key: str | None,
    *,
    operation: Literal["upload", "transcribe"] = "upload",
) -> Uploaded:
    if form.filename is None:
        raise Refused("missing_file", "The form has no part `file` (with curl: -F file=@path).")
    return await upload.commit(
        caller=caller,
        filename=form.filename,
        claimed_type=form.claimed_type,
        tenant_scope=form.flag("tenant_scope"),
        room_id=form.text("room_id"),
        idempotency_key=idempotency_key or None,
        operation=operation,
        request_id=request_id_of(request),
    )


def file_digest(*headers: str | None) -> str | None:
    """The sha-256 of Content-Digest or Repr-Digest, in hex; other algorithms are ignored.

    Raises Refused `bad_request`, `digest_mismatch`.
    """
    found: set[str] = set()
    for header in headers:
        for value in _DIGEST.findall(header or ""):
            try:
                digest = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError):
                digest = b""
            if len(digest) != 32:
                raise Refused("bad_request", "The digest header must be sha-256=:<base64 of 32 bytes>:.")
            found.add(digest.hex())
    if len(found) > 1:
        raise Refused("digest_mismatch", "Content-Digest and Repr-Digest announce different contents.")
    return found.pop() if found else None
