"""Errors as RFC 9457 `application/problem+json`: one table from stable code to status and title.

Nothing of an unexpected exception reaches the client; its log line and the response have the same request id. The
request id is only in the header, so that the same problem has the same body, byte for byte.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from media_api.answers.methods import allowed
from media_api.answers.openapi import header
from media_api.requests import wrong_input
from media_core.errors import Lost, NotNow, Refused, Unavailable

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:media-platform:problem:"
REASON: Final = "reason"
"""In a request's state: the dependency that is away, and its error. For the log alone."""
UNLESS_SAID: Final[Mapping[str, str]] = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
"""What an answer has where its route says nothing else."""
RETRY_AFTER_OUTAGE: Final = 5
"""Seconds. A dependency is usually back soon, but clients should not try again at once."""


@dataclass(frozen=True)
class ProblemType:
    status: int
    title: str


PROBLEM_TYPES: Final[Mapping[str, ProblemType]] = MappingProxyType(
    {
        "digest_mismatch": ProblemType(400, "Content digest does not match"),
        "bad_request": ProblemType(400, "Bad request"),
        "unauthorized": ProblemType(401, "Valid bearer token needed"),
        "origin_not_allowed": ProblemType(403, "Origin not allowed"),
        "insufficient_scope": ProblemType(403, "Token without the needed scope"),
        "not_yours": ProblemType(403, "Not yours to change"),
        "transcription_disabled": ProblemType(403, "Transcription not offered"),
        "signature_invalid": ProblemType(403, "Signed URL not valid"),
        "signature_expired": ProblemType(403, "Signed URL expired"),
        "upload_final": ProblemType(403, "Final upload"),
        "unscannable": ProblemType(403, "File could not be scanned"),
        "not_found": ProblemType(404, "Not found"),
        "no_thumbnail": ProblemType(404, "No thumbnail"),
        "method_not_allowed": ProblemType(405, "Method not allowed"),
        "request_timeout": ProblemType(408, "Request took too long"),
        "not_completed": ProblemType(409, "Job not completed"),
        "offset_mismatch": ProblemType(409, "Upload is at another offset"),
        "cursor_expired": ProblemType(410, "Cursor expired"),
        "upload_expired": ProblemType(410, "Upload expired"),
        "precondition_failed": ProblemType(412, "Precondition failed"),
        "tus_version_unsupported": ProblemType(412, "Another version of tus"),
        "file_too_large": ProblemType(413, "File too large"),
        "quota_exceeded": ProblemType(413, "Storage quota exceeded"),
        "file_quota_exceeded": ProblemType(413, "As many files as allowed"),
        "not_audio_or_video": ProblemType(415, "Neither audio nor video"),
        "unsupported_media_type": ProblemType(415, "Unsupported media type"),
        "range_not_satisfiable": ProblemType(416, "Range not satisfiable"),
        "duration_exceeds_limit": ProblemType(422, "Recording too long"),
        "empty_file": ProblemType(422, "Empty file"),
        "idempotency_key_reused": ProblemType(422, "Idempotency key reused"),
        "infected": ProblemType(422, "Infected content"),
        "invalid_request": ProblemType(422, "Invalid request"),
        "missing_file": ProblemType(422, "File missing"),
        "translation_unavailable": ProblemType(422, "Translation not offered"),
        "transcription_failed": ProblemType(422, "Transcription failed"),
        "upload_locked": ProblemType(423, "Upload in use"),
        "scan_pending": ProblemType(425, "Not scanned yet"),
        "thumbnail_pending": ProblemType(425, "Thumbnail not made yet"),
        "transcription_limit_exceeded": ProblemType(429, "Transcription limit reached"),
        "too_many_changes": ProblemType(429, "Too many changes of a file"),
        "too_many_jobs": ProblemType(429, "Too many jobs"),
        "too_many_uploads": ProblemType(429, "Too many uploads under way"),
        "headers_too_large": ProblemType(431, "Request headers too large"),
        "checksum_mismatch": ProblemType(460, "Checksum does not match"),
        "internal_error": ProblemType(500, "Internal error"),
        "file_lost": ProblemType(503, "File lost by the object store"),
        "suspended": ProblemType(503, "Tenant suspended"),
        "unavailable": ProblemType(503, "Temporarily unavailable"),
    }
)


def problem(code: str, detail: str, facts: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The body: `type, title, status, detail, code`, and `facts` that a client needs to act (`retry_after` ...)."""
    kind = PROBLEM_TYPES[code]
    members = {
        "type": TYPE_PREFIX + code,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "code": code,
    }
    return {**members, **(facts or {}), **members}  # a fact never takes a member's place


def response(
    code: str, detail: str, facts: Mapping[str, object] | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    content = problem(code, detail, facts)
    if "retry_after" in content:
        headers = {"Retry-After": str(content["retry_after"]), **(headers or {})}
    return written(content, headers or {})


def written(content: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    """The answer with this problem as its body."""
    body = json.dumps(content, ensure_ascii=False).encode()
    return Response(body, content["status"], dict(headers), MEDIA_TYPE)


def internal_error() -> Response:
    return response(
        "internal_error",
        "Something broke on our side. It has been logged under the X-Request-Id of this answer; please quote it.",
    )


def challenge(refused: Refused, *, token_sent: bool) -> dict[str, str]:
    """A refusal's headers. RFC 6750, section 3: no error code when the request had no token at all."""
    match refused.code:
        case "unauthorized" if not token_sent:
            return {"WWW-Authenticate": "Bearer"}
        case "unauthorized":
            return {"WWW-Authenticate": f'Bearer error="invalid_token", error_description="{refused.detail}"'}
        case "insufficient_scope":
            return {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{refused.facts["scope"]}"'}
        case "range_not_satisfiable":
            return {"Content-Range": f"bytes */{refused.facts['size']}"}
        case "offset_mismatch":
            return {"Upload-Offset": str(refused.facts["offset"])}
        case "tus_version_unsupported":
            return {"Tus-Version": str(refused.facts["versions"])}
        case "request_timeout" | "headers_too_large":
            return {"Connection": "close"}
        case _:
            return {}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)  # noqa: S101 (what it is registered for)
    sent = request.headers.get("authorization", "").lower()
    return response(error.code, error.detail, error.facts, challenge(error, token_sent=sent.startswith("bearer ")))


async def _unavailable(request: Request, error: Exception) -> Response:
    assert isinstance(error, Unavailable)  # noqa: S101 (what it is registered for)
    request.scope.setdefault("state", {})[REASON] = _seen(error)
    return response(
        "unavailable",
        f"{told(error)} Nothing was changed. Try again in a few seconds.",
        {"retry_after": RETRY_AFTER_OUTAGE, "dependency": error.dependency},
    )


def told(error: Unavailable) -> str:
    """A sentence for a client. It has the details of NotNow alone: others may name hosts, and are for the log."""
    if isinstance(error, NotNow):
        return f"{error.detail[0].upper()}{error.detail[1:]}."
    return f"The {error.dependency} does not answer at the moment."


def _seen(error: Unavailable) -> str:
    """For the log, where the driver's own words may stand."""
    cause = error.__cause__
    return f"{error} ({type(cause).__name__}: {str(cause).partition(chr(10))[0]})" if cause else str(error)


async def _lost(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Lost)  # noqa: S101 (what it is registered for)
    return response(error.code, error.detail)


async def _invalid(request: Request, error: Exception) -> Response:
    """One sentence for each wrong parameter. What the client sent is not repeated."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 (what it is registered for)
    wrong = wrong_input.of_request(request, error.errors())
    return response("invalid_request", wrong_input.told(wrong), {"errors": wrong})


async def _http(request: Request, error: Exception) -> Response:
    """The errors of routing."""
    assert isinstance(error, HTTPException)  # noqa: S101 (what it is registered for)
    headers = error.headers or {}
    match error.status_code:
        case 404:
            return response("not_found", "There is no such address here; /openapi.json lists all there are.")
        case 405:
            return method_not_allowed(request)
        case 400:
            return response("bad_request", "The request could not be understood.", headers=headers)
        case _:
            raise error


def method_not_allowed(request: Request) -> Response:
    methods = ", ".join(sorted(allowed(request.scope)))
    detail = f"{request.method} is not for this address; it takes {methods}."
    return response("method_not_allowed", detail, headers={"Allow": methods})


_HANDLERS: Final[Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]] = {
    Refused: _refused,
    Lost: _lost,
    Unavailable: _unavailable,
    RequestValidationError: _invalid,
    HTTPException: _http,
}


def install(app: FastAPI) -> None:
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)


async def of_error(request: Request, error: Exception) -> Response:
    """The answer that the app gives for an error, for routes that add to it. Raises what it has no answer for."""
    for kind, handler in _HANDLERS.items():
        if isinstance(error, kind):
            return await handler(request, error)
    raise error


_ALWAYS: Final = ("bad_request", "unauthorized", "insufficient_scope", "internal_error", "suspended", "unavailable")


def described(*codes: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses of a route that may answer with these codes, and with those of every route under /v1."""
    return described_alone(*codes, *_ALWAYS)


def described_alone(*codes: str) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's responses of a route that may answer with these codes, and with no other."""
    by_status: dict[int | str, list[str]] = {}
    for code in codes:
        by_status.setdefault(PROBLEM_TYPES[code].status, []).append(code)
    return {
        status: {
            "description": " · ".join(dict.fromkeys(PROBLEM_TYPES[code].title for code in here)),
            "headers": {name: told for code in here for name, told in _HEADERS.get(code, {}).items()},
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "examples": {code: {"value": problem(code, PROBLEM_TYPES[code].title + ".")} for code in here},
                }
            },
        }
        for status, here in sorted(by_status.items())
    }


_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}
_HEADERS: Final[Mapping[str, dict[str, Any]]] = {
    "unauthorized": {"WWW-Authenticate": header("RFC 6750.")},
    "insufficient_scope": {"WWW-Authenticate": header("RFC 6750, naming the scope.")},
    "precondition_failed": {"ETag": header("Of what is here now.")},
    "range_not_satisfiable": {"Content-Range": header("`bytes */size`.")},
    "offset_mismatch": {"Upload-Offset": header("Bytes that have come: send what follows them.")},
    "tus_version_unsupported": {"Tus-Version": header("The versions that are spoken.")},
    **dict.fromkeys(
        (
            *("upload_locked", "scan_pending", "thumbnail_pending", "suspended", "unavailable"),
            *("too_many_changes", "too_many_jobs", "too_many_uploads", "transcription_limit_exceeded"),
        ),
        _RETRY_AFTER,
    ),
}
