"""Reads and mints bearer tokens. Nothing here asks the API or verifies a token."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt

from mediactl.errors import Misuse

SCOPES = ("media:read", "media:write", "transcribe", "admin")
DEFAULT_SCOPES = SCOPES[:3]


def claims_of(token: str) -> dict[str, Any]:
    """The claims in `token`, unverified. Raises Misuse if it is no JWT."""
    try:
        return dict(jwt.decode(token, options={"verify_signature": False}))
    except jwt.PyJWTError as error:
        raise Misuse("TOKEN is not a JSON Web Token; was it copied whole?") from error


def words_of(claim: Any) -> list[str]:
    """Those of a claim that is a text with words, or a list; of any other none."""
    return claim.split() if isinstance(claim, str) else list(map(str, claim)) if isinstance(claim, list) else []


def expiry_of(claims: dict[str, Any]) -> datetime | None:
    """None: it has none, or one beyond all calendars, as one in milliseconds is."""
    moment = claims.get("exp")
    try:
        return datetime.fromtimestamp(moment, UTC) if isinstance(moment, (int, float)) else None
    except (ValueError, OverflowError, OSError):
        return None


def mint(key_file: Path, *, subject: str, tenant: str | None, scopes: list[str], rooms: list[str], seconds: int) -> str:
    """A token signed with the first private key in `key_file`, a JWK set such as `make run` keeps for each tenant.

    `tenant` None takes the name of the file's folder: `.run/acme/signing-keys.json` signs for acme. Raises Misuse if
    the file holds no Ed25519 private key; the text never quotes the file.
    """
    try:
        keys = json.loads(key_file.read_text())["keys"]
        key = next(key for key in keys if key.get("crv") == "Ed25519" and key.get("d"))
        signing = jwt.PyJWK(key, algorithm="EdDSA").key
    except StopIteration:
        raise Misuse(f"{key_file} holds no private Ed25519 key; a public one can't sign") from None
    except (ValueError, LookupError, TypeError, AttributeError, jwt.PyJWTError):
        # Without the cause: a parser's message may quote the file.
        raise Misuse(f"{key_file} is not a file of signing keys (a JWK set)") from None
    now = int(time.time())
    claims = {
        "aud": tenant or key_file.resolve().parent.name,
        "sub": subject,
        "scope": " ".join(scopes),
        "rooms": rooms,
        "iat": now,
        "exp": now + seconds,
    }
    return jwt.encode(claims, signing, algorithm="EdDSA", headers={"kid": key["kid"]} if key.get("kid") else None)
