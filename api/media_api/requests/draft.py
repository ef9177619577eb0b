"""The headers of draft-ietf-httpbis-resumable-upload, in the versions that clients speak (iOS 17 and later among them).

`Upload-Draft-Interop-Version` names the version: 3 is draft 01, 4 is 02, 5 is 03, 6 is 04 and 05, 7 is 06 to 08, and 8
is 09 and later. Version 3 says `Upload-Incomplete` where later ones say `Upload-Complete`. From 5 on there are
`Upload-Limit` and types of problems, from 6 on requests may have `Upload-Length`, and from 7 on `max-age` is a limit.
From 8 on an upload to which more bytes come than its length ends.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from multipart import parse_options_header  # type: ignore[import-untyped]  # it publishes no types
from starlette.datastructures import URL, QueryParams

from media_api.requests.filenames import filename_of
from media_api.requests.identifiers import known_room, labels_in
from media_api.requests.multipart import claimed_type_of, flag_of
from media_api.requests.tus import number
from media_core.errors import Refused
from media_core.uploads.claims import Declared
from media_core.uploads.rows import Progress

INTEROP: Final = "Upload-Draft-Interop-Version"
VERSIONS: Final = ("3", "4", "5", "6", "7", "8")
MEDIA_TYPE: Final = "application/partial-upload"
"""Of bytes that continue an upload. Clients of versions 3 and 4 send another type, or none."""
INFORM: Final = "media.inform"
"""ASGI extension of our server: a function that sends headers as 104 (Upload Resumption Supported) before the answer.
Only then does a client know where to go on when its first request breaks."""

LIMITS_SINCE: Final = "5"
_LENGTH_SINCE: Final = "6"
_AGE_SINCE: Final = "7"
INVALID_SINCE: Final = "8"
_TYPE: Final = "https://iana.org/assignments/http-problem-types#{}"
MAX_DISPOSITION_CHARACTERS: Final = 8 * 1024
"""A name of 255 characters takes 3 KiB where each byte is quoted."""


def version_of(headers: Mapping[str, str]) -> str | None:
    """The version that the request speaks; None: none of the draft's."""
    sent = headers.get(INTEROP.lower())
    return sent if sent in VERSIONS else None


def is_complete(headers: Mapping[str, str], version: str) -> bool:
    """Whether the upload ends with this request. Raises Refused `bad_request`."""
    name, ends = ("upload-incomplete", "?0") if version == "3" else ("upload-complete", "?1")
    sent = headers.get(name, "").strip()
    if sent not in ("?0", "?1"):
        raise Refused("bad_request", f"Send {name.title()}: ?1 or ?0, as draft-ietf-httpbis-resumable-upload has it.")
    return sent == ends


def declared_of(headers: Mapping[str, str], query: QueryParams) -> Declared:
    """What the request that begins an upload says of the file: its type and name in Content-Type and
    Content-Disposition, its room, scope and labels in the query. Raises Refused `invalid_request`, `bad_request`.
    """
    disposition = headers.get("content-disposition", "")
    if len(disposition) > MAX_DISPOSITION_CHARACTERS:
        raise Refused("bad_request", f"Content-Disposition may have at most {MAX_DISPOSITION_CHARACTERS} characters.")
    options = parse_options_header(disposition)[1] if disposition else {}
    room_id, scope = query.get("room_id"), query.get("tenant_scope")
    return Declared(
        filename=filename_of(disposition, options.get("filename")) or "file",
        claimed_type=claimed_type_of(headers.get("content-type", "")),
        tenant_scope=flag_of("tenant_scope", scope) if scope else False,
        room_id=known_room(room_id) if room_id else None,
        labels=labels_in(query.get("labels")),
    )


def length_of(headers: Mapping[str, str], version: str, offset: int, announced: int | None) -> int | None:
    """The length of the whole upload; None if the request does not tell it. `announced`: the bytes that come from
    `offset` on. Raises Refused `bad_request`.
    """
    told = number("Upload-Length", headers.get("upload-length")) if version >= _LENGTH_SINCE else None
    if announced is None or not is_complete(headers, version):
        return told
    length = offset + announced
    if told not in (None, length):
        raise Refused("bad_request", f"Upload-Length is {told:,}, and the upload ends at {length:,}.", length=length)
    return length


def limits(at_most: int, version: str = "", expires_at: datetime | None = None) -> str:
    """`Upload-Limit`. `at_most`: bytes of one file that the tenant takes."""
    told = f"max-size={at_most}"
    if expires_at is None or version < _AGE_SINCE:
        return told
    return f"{told}, max-age={max(0, int((expires_at - datetime.now(UTC)).total_seconds()))}"


def problem_of(refused: Refused, headers: Mapping[str, str]) -> dict[str, Any]:
    """What the draft adds to the body of a refusal. Empty where the draft has no type for it."""
    if refused.code == "offset_mismatch":
        provided = number("Upload-Offset", headers.get("upload-offset"))
        expected = {"expected-offset": refused.facts["offset"], "provided-offset": provided}
        return {"type": _TYPE.format("mismatching-upload-offset"), **expected}
    if "length" in refused.facts:
        # Not 413, on which a client tries again with fewer bytes at once.
        return {"type": _TYPE.format("inconsistent-upload-length"), "status": 400}
    return {}


def is_beyond(refused: Refused, offset: int, announced: int | None) -> bool:
    """Whether more bytes came than the length of the upload, or were announced (`announced`, from `offset` on)."""
    length = refused.facts.get("length")
    return isinstance(length, int) and (refused.code == "file_too_large" or offset + (announced or 0) > length)


def headers_of(progress: Progress, version: str, *, at_most: int) -> dict[str, str]:
    """How far an upload is. `at_most`: bytes of one file that the tenant takes."""
    flag = "?1" if progress.is_whole is (version != "3") else "?0"
    headers = {
        "Upload-Offset": str(progress.received),
        "Upload-Incomplete" if version == "3" else "Upload-Complete": flag,
    }
    if version >= LIMITS_SINCE:
        headers["Upload-Limit"] = limits(at_most, version, progress.expires_at)
        if progress.length is not None:
            headers["Upload-Length"] = str(progress.length)
    if progress.uploaded is not None:
        headers["Upload-Media-Id"] = progress.uploaded.media_id
    return headers


def location_of(public_url: str, path: str) -> str:
    """The whole URL of an upload, which a client keeps for later."""
    return str(URL(public_url.rstrip("/") + path))
