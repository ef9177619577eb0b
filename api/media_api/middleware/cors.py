"""What web apps of other origins may do (the Fetch standard's CORS): call everything, with a token, never with cookies.

The library decides; only its answers to preflights are ours. It is the outermost layer, so that the app that made a
call can read errors, too.
"""

from collections.abc import Callable, Sequence
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from media_api.answers import problems
from media_api.requests.request_ids import REQUEST_ID, offered_or_new
from media_core.origins import matching

METHODS: Final = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
EXPOSED: Final = (
    "Accept-Ranges",
    "Allow",
    "Content-Disposition",
    "Content-Length",
    "Content-Range",
    "ETag",
    "Last-Modified",
    "Location",
    "Retry-After",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Complete",
    "Upload-Concat",
    "Upload-Defer-Length",
    "Upload-Draft-Interop-Version",
    "Upload-Expires",
    "Upload-Incomplete",
    "Upload-Length",
    "Upload-Limit",
    "Upload-Media-Id",
    "Upload-Metadata",
    "Upload-Offset",
    "WWW-Authenticate",
    "X-Request-Id",
    "X-Should-Retry",
)
"""What scripts may read beside the headers that every script may. A `*` would not do for requests with credentials."""
_MOST_SHOWN: Final = 300
"""Characters of an origin in the log."""

_log = structlog.stdlib.get_logger("media.api")


class Cors(CORSMiddleware):
    """Answers preflights and marks answers for `origins`. Without credentials mode: no cookie is ever looked at."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], max_age: int) -> None:
        super().__init__(
            app,
            allow_origin_regex="|".join(f"(?:{matching(origin)})" for origin in origins),
            allow_methods=METHODS,
            allow_headers=("*",),
            expose_headers=EXPOSED,
            max_age=max_age,
            # An origin that is named may also call an API at a private address: browsers ask for that in the same
            # preflight, and take a refusal of it for one of the call.
            allow_private_network=True,
        )

    def marks(self, origin: str) -> dict[str, str]:
        """Headers by which a web app of `origin` may read an answer that the server gives without the app."""
        allowed = {"Access-Control-Allow-Origin": origin} if self.is_allowed_origin(origin) else {}
        return {"Vary": "Origin", **self.simple_headers, **allowed}

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
        # A preflight is answered before `RequestMiddleware` sees it.
        own = {REQUEST_ID: offered_or_new(request_headers.get(REQUEST_ID, "")), **problems.UNLESS_SAID}
        if answer.status_code == 200:
            return Response(status_code=204, headers=headers | own)
        origin = request_headers["origin"]
        if not self.is_allowed_origin(origin):  # else it is the method that is refused
            # Browsers tell neither the app nor its user what this answer says.
            _log.info("origin_refused", origin=origin[:_MOST_SHOWN], request_id=own[REQUEST_ID])
        return problems.response(
            "origin_not_allowed",
            f"Web apps of {origin} may not make this call; the platform names the origins that may, "
            "in the tenant's `spec.api.cors.origins`.",
            headers={"Vary": headers["vary"], **own},
        )


def marks_of(origins: Sequence[str]) -> Callable[[str], dict[str, str]]:
    """`Cors.marks` for these origins; without any nothing is said."""
    return Cors(_no_app, origins, max_age=0).marks if origins else lambda _origin: {}


async def _no_app(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NotImplementedError
