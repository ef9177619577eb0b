"""Where an OpenID Connect issuer keeps its keys (OpenID Connect Discovery 1.0)."""

from __future__ import annotations

import asyncio
import json
import urllib.request

from media_core.spec import Oidc
from media_operator.reconcile import StepFailed


async def key_source(oidc: Oidc) -> str:
    """URL of the issuer's JWK Set, as the spec or the issuer says. Raises StepFailed."""
    if oidc.jwks_uri is not None:
        return oidc.jwks_uri
    return await asyncio.to_thread(_discover, oidc.issuer)


def _discover(issuer: str) -> str:
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  the spec allows http(s) only
            return str(json.load(answer)["jwks_uri"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = type(error).__name__
        raise StepFailed(f"{url} does not name the keys ({reason}): set spec.auth.oidc.jwksUri") from None
