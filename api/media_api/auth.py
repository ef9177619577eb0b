"""The caller and its scopes: a dependency of every /v1 route. `media_core.items.access` decides on single items."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from media_api.requests.headers import require_once
from media_api.services import services_at
from media_core.auth.tokens import Claims
from media_core.errors import Refused


class CallerWith(HTTPBearer):
    """A dependency that verifies the token and requires one of `scopes`; `admin` has every scope.

    It raises Refused `unauthorized`, `insufficient_scope`. It has no dependencies of its own: FastAPI solves each anew
    for every request.
    """

    def __init__(self, *scopes: str) -> None:
        super().__init__(
            auto_error=False,
            bearerFormat="JWT",
            scheme_name="bearer",
            description="A JSON Web Token of this tenant, with the claims `sub`, `scope` (of `media:read`, "
            "`media:write`, `transcribe`, `admin`), `rooms` and `exp`; `aud` is the tenant's id by default. `make run` "
            "writes one to `.run/env`. At `/docs` it is entered alone, without `Bearer`.",
        )
        self._scopes = scopes
        self._accepted = frozenset((*scopes, "admin"))

    async def __call__(self, request: Request) -> Claims:  # type: ignore[override]  # it may say what it returns
        require_once(request)
        credentials = await super().__call__(request)
        if credentials is None:
            raise Refused("unauthorized", "Send the header `Authorization: Bearer <token>`.")
        if credentials.credentials[:7].lower() == "bearer ":
            raise Refused("unauthorized", "The header says `Bearer` twice; give the token alone, without `Bearer`.")
        claims = await services_at(request).verifier.verify(credentials.credentials)
        request.state.subject = claims.subject
        if not claims.scopes & self._accepted:
            raise Refused(
                "insufficient_scope",
                f"This call needs a token with the scope {' or '.join(self._scopes)}.",
                scope=" ".join(self._scopes),
            )
        return claims


Reader = Annotated[Claims, Depends(CallerWith("media:read"))]
Writer = Annotated[Claims, Depends(CallerWith("media:write"))]
Transcriber = Annotated[Claims, Depends(CallerWith("transcribe"))]
Admin = Annotated[Claims, Depends(CallerWith("admin"))]
JobOwner = Annotated[Claims, Depends(CallerWith("transcribe", "media:read"))]
