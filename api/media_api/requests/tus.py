"""The headers of tus 1.0.0 (tus.io/protocols/resumable-upload), as clients send them and as answers have them.

Every function that reads raises Refused `bad_request` for what cannot be understood.
"""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import format_datetime
from typing import Final, cast
from urllib.parse import urlsplit

from media_api.requests.filenames import sanitized, text_of
from media_api.requests.identifiers import known_id, known_room, labels_in
from media_api.requests.multipart import claimed_type_of, flag_of
from media_core.errors import Refused
from media_core.uploads.claims import Declared
from media_core.uploads.resumable import ALGORITHMS, Algorithm, Checksum
from media_core.uploads.rows import Progress

VERSION: Final = "1.0.0"
EXTENSIONS: Final = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
)
BODY_TYPE: Final = "application/offset+octet-stream"
PATH: Final = "/v1/media/uploads"
MAX_METADATA_CHARACTERS: Final = 16 * 1024
MAX_CONCAT_CHARACTERS: Final = 64 * 1024

_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_KEY: Final = re.compile(r"[!-+\--~]+")
"""Printable ASCII without space and comma."""


@dataclass(frozen=True)
class FinalUpload:
    """A final upload: the ids of its parts, in their order."""

    parts: tuple[str, ...]


def check_version(sent: str | None) -> None:
    """Raises Refused `tus_version_unsupported`."""
    if sent != VERSION:
        raise Refused(
            "tus_version_unsupported",
            f"Send `Tus-Resumable: {VERSION}`; this server speaks no other version.",
            versions=VERSION,
        )


def number(name: str, sent: str | None) -> int | None:
    """A count of bytes; None if the header is not there."""
    if sent is None:
        return None
    if not _NUMBER.fullmatch(sent):
        raise _unreadable(f"{name} must be a whole number of bytes.")
    return int(sent)


def length_of(length: str | None, deferred: str | None) -> int | None:
    """The length that a new upload is announced with; None if it comes later."""
    if (length is None) == (deferred is None):
        raise _unreadable("Send either Upload-Length or `Upload-Defer-Length: 1`.")
    if deferred is not None and deferred != "1":
        raise _unreadable("Upload-Defer-Length must be 1.")
    return number("Upload-Length", length)


def declared_of(sent: str | None) -> Declared:
    """Upload-Metadata: `filename` (or `name`), `filetype` (or `type`), `room_id`, `tenant_scope` and `labels`; the rest
    is only given back. Raises also Refused `invalid_request`, as the form's fields do.
    """
    values = _metadata(sent or "")
    name = values.get("filename", values.get("name", b""))
    room_id = text_of(values.get("room_id", b""))
    scope = text_of(values.get("tenant_scope", b""))
    return Declared(
        text=sent or "",
        filename=sanitized(text_of(name)),
        claimed_type=claimed_type_of(text_of(values.get("filetype", values.get("type", b"")))),
        tenant_scope=flag_of("tenant_scope", scope) if scope else False,
        room_id=known_room(room_id) if room_id else None,
        labels=labels_in(text_of(values.get("labels", b""))),
    )


def _metadata(sent: str) -> dict[str, bytes]:
    if len(sent) > MAX_METADATA_CHARACTERS:
        raise _unreadable(f"Upload-Metadata may have at most {MAX_METADATA_CHARACTERS} characters.")
    values: dict[str, bytes] = {}
    for pair in sent.split(",") if sent.strip() else ():
        key, _, value = pair.strip().partition(" ")
        if not _KEY.fullmatch(key) or key in values:
            raise _unreadable("Upload-Metadata must be a list of `key base64` with commas between, each key once.")
        try:
            values[key] = base64.b64decode(value.strip(), validate=True)
        except (binascii.Error, ValueError):
            raise _unreadable(f"The value of `{key[:64]}` in Upload-Metadata is not base64.") from None
    return values


def checksum_of(sent: str | None) -> Checksum | None:
    if sent is None:
        return None
    algorithm, _, value = sent.partition(" ")
    if algorithm not in ALGORITHMS:
        raise _unreadable(f"The algorithm of Upload-Checksum must be one of {', '.join(ALGORITHMS)}.")
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    # One of another length would be answered 460, at which clients send the bytes again.
    if len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise _unreadable("Upload-Checksum must be an algorithm, a space, and the digest in base64.")
    return Checksum(cast("Algorithm", algorithm), digest)


def concat_of(sent: str | None) -> FinalUpload | bool:
    """False: an upload by itself; True: a partial one."""
    if sent is None:
        return False
    if len(sent) > MAX_CONCAT_CHARACTERS:
        raise _unreadable(f"Upload-Concat may have at most {MAX_CONCAT_CHARACTERS} characters.")
    kind, _, urls = sent.partition(";")
    if kind == "partial" and not urls:
        return True
    if kind != "final" or not urls.strip():
        raise _unreadable("Upload-Concat must be `partial`, or `final;` and the URLs of the parts.")
    return FinalUpload(tuple(_id_in(url) for url in urls.split()))


def _id_in(url: str) -> str:
    """Of a part's URL, whole or without its origin. Whatever names nothing here is unknown."""
    try:
        path = urlsplit(url).path
    except ValueError:
        path = ""
    folder, _, upload_id = path.rpartition("/")
    return known_id(upload_id if folder.endswith(PATH) else "")


def headers_of(progress: Progress) -> dict[str, str]:
    """What HEAD tells of an upload."""
    headers = {
        "Upload-Offset": str(progress.received),
        "Upload-Expires": format_datetime(progress.expires_at.astimezone(UTC), usegmt=True),
    }
    if progress.length is None:
        headers["Upload-Defer-Length"] = "1"
    else:
        headers["Upload-Length"] = str(progress.length)
    if progress.declared:
        headers["Upload-Metadata"] = progress.declared
    if progress.concat is not None:
        headers["Upload-Concat"] = progress.concat
    return headers | media_of(progress)


def media_of(progress: Progress) -> dict[str, str]:
    """The file that was made of it, if it is stored."""
    return {} if progress.uploaded is None else {"Upload-Media-Id": progress.uploaded.media_id}


def _unreadable(detail: str) -> Refused:
    return Refused("bad_request", detail)
