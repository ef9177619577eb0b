"""The caller and its scopes: a dependency of every /v1 route. `media_core.access` decides on single items."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Final

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from media_api.services import Wired
from media_core.errors import Refused
from media_core.tokens import Claims

_bearer: Final = HTTPBearer(
    auto_error=False,
    bearerFormat="JWT",
    scheme_name="bearer",
    description="A JSON Web Token of this tenant, with the claims `sub`, `scope` (of `media:read`, `media:write`, "
    "`transcribe`, `admin`), `rooms` and `exp`; `aud` is the tenant's id by default. `make run` writes one to "
    "`.run/env`. At `/docs` it is entered alone, without `Bearer`.",
)


def caller_with(*scopes: str) -> Callable[..., Awaitable[Claims]]:
    """A dependency that verifies the token and requires one of `scopes`; `admin` has every scope.

    It raises Refused `unauthorized`, `insufficient_scope`.
    """

    async def caller(
        services: Wired, request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Claims:
        if len(request.headers.getlist("authorization")) > 1:  # which of them counts would be a guess
            raise Refused("bad_request", "The request has more than one Authorization header; send one.")
        if credentials is None:
            raise Refused("unauthorized", "Send the header `Authorization: Bearer <token>`.")
        if credentials.credentials[:7].lower() == "bearer ":
            raise Refused("unauthorized", "The header says `Bearer` twice; give the token alone, without `Bearer`.")
        claims = await services.verifier.verify(credentials.credentials)
        request.state.subject = claims.subject
        if not claims.scopes & {*scopes, "admin"}:
            raise Refused(
                "insufficient_scope",
                f"This call needs a token with the scope {' or '.join(scopes)}.",
                scope=" ".join(scopes),
            )
        return claims

    return caller


Reader = Annotated[Claims, Depends(caller_with("media:read"))]
Writer = Annotated[Claims, Depends(caller_with("media:write"))]
Transcriber = Annotated[Claims, Depends(caller_with("transcribe"))]
Admin = Annotated[Claims, Depends(caller_with("admin"))]
JobOwner = Annotated[Claims, Depends(caller_with("transcribe", "media:read"))]
