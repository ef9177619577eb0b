"""Receiving a file over HTTP, for all routes that take one: its form, its headers, its errors."""

from collections.abc import Collection, Mapping
from contextlib import aclosing
from typing import Any, Final, cast

import http_sf
from fastapi import Request

from media_api.requests import wrong_input
from media_api.requests.headers import described, listed
from media_api.requests.identifiers import ROOM_SCHEMA, known_room, labels_in
from media_api.requests.multipart import Form
from media_api.services import Services
from media_core.errors import Refused
from media_core.uploads.claims import Declared
from media_core.uploads.upload import Upload, another_digest, digests_differ

REFUSALS: Final = (
    "digest_mismatch",
    "bad_request",
    "not_found",
    "request_timeout",
    "file_too_large",
    "quota_exceeded",
    "file_quota_exceeded",
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
    return {"type": "string", "default": "", "format": "form-text", "description": description}


def form_request(title: str, fields: Mapping[str, Any], *, encoding: Any = None, **described: Any) -> dict[str, Any]:
    """OpenAPI's description of a form that `read_form` reads. `described`: other members of its schema."""
    schema = {"title": title, "type": "object", "additionalProperties": False, **described, "properties": dict(fields)}
    content = {"schema": schema} if encoding is None else {"schema": schema, "encoding": encoding}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": content}}}


FILE_FIELDS: Final[Mapping[str, Any]] = {
    "file": {"type": "string", "format": "binary", "description": "The file, one; any type."},
    "tenant_scope": {"type": "boolean", "default": False, "description": "Everybody of the tenant may see it."},
    "room_id": {
        **text_field("Attach it to this room, in the same transaction."),
        **ROOM_SCHEMA,
    },
    "labels": {
        **text_field('Its labels, as JSON: `{"project": "atlas"}`, as in a change of the file.'),
        "format": "labels",
    },
}
IDEMPOTENCY_KEY: Final = "idempotency-key"
MAX_KEY_CHARACTERS: Final = 255
MAX_DIGEST_CHARACTERS: Final = 1024
"""All algorithms that are registered need about 300. A header of 128 KiB took the parser up to 180 ms."""


def digest_header(name: str, of: str = "The file's") -> dict[str, Any]:
    """Only describes the header. `listed` reads it, from all its lines."""
    description = f"{of} digest, `sha-256=:<base64>:` (RFC 9530); compared with what arrives."
    return described(name, description, format="digest")


HEADERS: Final[Mapping[str, Any]] = {
    "parameters": [
        digest_header("content-digest", "The file's or this request's body's"),
        digest_header("repr-digest"),
        described(
            IDEMPOTENCY_KEY,
            "The same key again within 24 hours is answered like the first time.",
            maxLength=MAX_KEY_CHARACTERS,
        ),
    ]
}
"""Of a request with a file: OpenAPI's description."""


def idempotency_key(request: Request) -> str | None:
    """None if there is none, or an empty one. Raises Refused `invalid_request` if it is too long."""
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and len(key) > MAX_KEY_CHARACTERS:
        raise wrong_input.refused(IDEMPOTENCY_KEY, f"it must have at most {MAX_KEY_CHARACTERS} characters")
    return key or None


async def begin_upload(services: Services, request: Request, digest: str | None) -> Upload:
    """`digest`: the file's, as `Repr-Digest` announces it."""
    length = request.headers.get("content-length", "")
    return await services.uploads.start(announced=int(length) if length.isdecimal() else None, digest=digest)


async def read_form(
    services: Services,
    request: Request,
    upload: Upload,
    fields: Collection[str],
    repeatable: Collection[str] = (),
    *,
    content_digest: str | None = None,
) -> Form:
    """Reads the whole request, and writes the file's bytes into `upload`. `fields`: those that the form may have.

    `content_digest`: of the file, or of the body, as RFC 9530 has it and signers of requests send it. Where it is not
    that of the body, the upload's commit compares it with the file. Raises Refused `digest_mismatch` where the form has
    no file, or where the request has announced another digest of the file before.
    """
    form = Form(
        request,
        fields,
        idle_seconds=services.settings.server.body_idle_seconds,
        repeatable=repeatable,
        hashed=content_digest is not None,
    )
    async with aclosing(form.file()) as chunks:
        async for chunk in chunks:
            await (upload.write(chunk) if isinstance(chunk, bytes) else upload.take(chunk))
            del chunk  # frees it while the next one is waited for
    of_body = form.sha256()
    if content_digest is not None and content_digest != of_body:
        if form.filename is None and of_body is not None:
            raise another_digest(of_body, content_digest, what="body")
        upload.expect(content_digest)
    room_id = form.text("room_id")
    if room_id is not None:
        known_room(room_id)
    return form


def declared_of(form: Form) -> Declared:
    """What a form that has been read says of its file. Raises Refused `missing_file`, `invalid_request`."""
    if form.filename is None:
        raise Refused("missing_file", "The form has no part `file` (with curl: -F file=@path).")
    return Declared(
        filename=form.filename,
        claimed_type=form.claimed_type,
        tenant_scope=form.flag("tenant_scope"),
        room_id=form.text("room_id"),
        labels=labels_in(form.text("labels")),
    )


def announced_digests(request: Request) -> tuple[str | None, str | None]:
    """What Content-Digest and Repr-Digest announce. Raises as `file_digest`."""
    return file_digest(listed(request, "content-digest")), file_digest(listed(request, "repr-digest"))


def file_digest(*headers: str | None) -> str | None:
    """The sha-256 in hex that Content-Digest or Repr-Digest announce (RFC 9530); other algorithms are left alone.

    Raises Refused `bad_request` where it can't be read, and `digest_mismatch` where the headers differ.
    """
    found = {_sha256(header) for header in headers if header is not None and "sha-256" in header} - {None}
    if len(found) > 1:
        raise digests_differ()
    return found.pop() if found else None


def _sha256(header: str) -> str | None:
    unreadable = Refused("bad_request", "The digest header must be sha-256=:<base64 of 32 bytes>:.")
    if len(header) > MAX_DIGEST_CHARACTERS:
        raise unreadable
    try:
        announced = cast("dict[str, Any]", http_sf.parse(header.encode(), tltype="dictionary"))
    except http_sf.StructuredFieldError:
        raise unreadable from None
    if "sha-256" not in announced:
        return None
    digest, _ = announced["sha-256"]
    if not isinstance(digest, bytes) or len(digest) != 32:
        raise unreadable
    return digest.hex()
