"""Bearer tokens: minting and verifying them.

Invariants (http-api.md, "Who may do what"):
- The key decides the algorithm, never the token: a JWK is for exactly one of `token_keys.ALGORITHMS` (no HS*, no none).
- `aud` is the tenant, `exp` and `sub` are required, clocks may differ by `LEEWAY`.
- A token longer than `MAX_TOKEN_BYTES` is refused unparsed.
- A token that cannot be verified is refused, also when the keys cannot be fetched (fail closed).
- A verified token is remembered for a few seconds, but not past its `exp`, nor past a change of the keys.
Only the process that mints has private keys; the api has the public JWKS.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal, TypeGuard

import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from media_core.auth.token_keys import TokenKeys
from media_core.errors import Refused

SCOPES: Final = frozenset({"media:read", "media:write", "transcribe", "admin"})
LEEWAY: Final = timedelta(seconds=10)
MAX_TOKEN_BYTES: Final = 8192

CANARY: Final = "system:canary"
"""The subject that uploads the test virus (`upkeep.canary`). Nobody sees its items, not even an admin. A token
with this subject is refused."""

Jwk = dict[str, Any]
"""One JSON Web Key (RFC 7517)."""

_log = structlog.stdlib.get_logger("media.tokens")


class AllRooms(Enum):
    """The claim `rooms: ["*"]`: every room of the tenant."""

    ALL = "*"


ALL: Final = AllRooms.ALL


@dataclass(frozen=True)
class Claims:
    """What a verified token says. Unknown scopes are left out."""

    subject: str
    scopes: frozenset[str]
    rooms: frozenset[str] | Literal[AllRooms.ALL]
    expires: datetime


@dataclass(frozen=True)
class ClaimNames:
    """Which claims of an issuer's tokens say what.

    `realm_access.roles` is `roles` within `realm_access`, unless a claim has this whole name.
    """

    subject: str = "sub"
    scopes: str = "scope"
    """Words in a text, or a list; `scope` itself is a text (RFC 8693). A token without `scope` may have `scp`."""
    rooms: str = "rooms"
    """A list, or words in a text; `*`: every room."""
    tenant_role: str | None = None
    """Roles, a list or words in a text, or as Zitadel's: one that is named like a scope grants it."""


PUBLISHED: Final = ClaimNames()
"""The claims of tokens of a tenant's own key."""


def generate_key() -> Jwk:
    """A new Ed25519 private key as a JWK with `kid`, `alg` and `use`."""
    key: Jwk = json.loads(OKPAlgorithm.to_jwk(Ed25519PrivateKey.generate()))
    return {**key, "kid": secrets.token_urlsafe(9), "alg": "EdDSA", "use": "sig"}


def public_jwks(private_keys: Iterable[Jwk]) -> dict[str, list[Jwk]]:
    """The JWK Set with the public halves of `private_keys`, for the api's `MEDIA_JWKS_FILE`."""
    return {"keys": [{name: value for name, value in key.items() if name != "d"} for key in private_keys]}


def save_public_jwks(path: Path, private_keys: Iterable[Jwk]) -> None:
    """Replaces `path` atomically, so that a running api never reads half a file."""
    _replace(path, public_jwks(private_keys), mode=0o644)


def save_signing_keys(path: Path, private_keys: Sequence[Jwk]) -> None:
    """Writes the private keys, readable by the owner only. The first one mints."""
    _replace(path, {"keys": list(private_keys)}, mode=0o600)


def load_signing_keys(path: Path) -> list[Jwk]:
    """The private keys in `path`; the first one mints. An empty list when there is no such file."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return []
    keys: list[Jwk] = document["keys"]
    return keys


def _replace(path: Path, document: dict[str, Any], *, mode: int) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def mint(
    private_jwk: Jwk,
    *,
    tenant_id: str,
    subject: str,
    scopes: Iterable[str],
    rooms: Iterable[str] | Literal[AllRooms.ALL] = (),
    lifetime: timedelta,
) -> str:
    """A signed token for `subject`. A negative `lifetime` makes one that has already expired."""
    now = datetime.now(UTC)
    claims = {
        "aud": tenant_id,
        "sub": subject,
        "scope": " ".join(scopes),
        "rooms": ["*"] if rooms is ALL else list(rooms),
        "iat": min(now, now + lifetime),
        "exp": now + lifetime,
    }
    key = jwt.PyJWK(private_jwk)
    return jwt.encode(claims, key.key, algorithm=key.algorithm_name, headers={"kid": private_jwk["kid"]})


class TokenVerifier:
    """Verifies bearer tokens of one tenant.

    `aud` must contain `audience`, by default the tenant's id. `iss` must be `issuer`, if that is given; then a token
    without `aud`, as Cognito's access tokens are, may name the audience in `client_id`. `claims`: their names.
    """

    def __init__(
        self,
        tenant_id: str,
        keys: TokenKeys,
        *,
        audience: str | None = None,
        issuer: str | None = None,
        claims: ClaimNames = PUBLISHED,
        remember: timedelta = timedelta(seconds=5),
        remember_at_most: int = 1024,
    ) -> None:
        self._audience = audience or tenant_id
        self._issuer = issuer
        self._names = claims
        # A scope of a resource server bears its identifier (Cognito); of others' resource servers none counts.
        self._prefixes = (f"{self._audience}/", f"{tenant_id}/")
        self._keys = keys
        self._remember, self._remember_at_most = remember, remember_at_most
        self._verified: dict[bytes, tuple[Claims, object, float]] = {}

    async def verify(self, token: str) -> Claims:
        """The token's claims. Raises Refused `unauthorized` with a sentence that says what is wrong with it."""
        if len(token) > MAX_TOKEN_BYTES:
            raise _refused(f"The token is longer than {MAX_TOKEN_BYTES} bytes.")
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        remembered = self._verified.get(digest)
        version = self._keys.version()
        if remembered is not None:
            claims, known_version, until = remembered
            if known_version == version and time.time() < until:
                return claims
            self._verified.pop(digest, None)
        claims = await self._verify(token)
        until = min(time.time() + self._remember.total_seconds(), claims.expires.timestamp())
        while len(self._verified) >= self._remember_at_most:
            self._verified.pop(next(iter(self._verified)))
        self._verified[digest] = (claims, version, until)
        return claims

    async def _verify(self, token: str) -> Claims:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _refused("The bearer token is not a JSON Web Token. Was it copied whole?") from None
        key = await self._keys.find(kid)
        if key is None:
            raise _refused(
                "The token names no signing key (`kid`), which it must when there is more than one."
                if kid is None
                else "The token is not signed with a key of this tenant."
            )
        try:
            try:
                claims = self._decoded(token, key)
            except jwt.MissingRequiredClaimError as missing:
                if missing.claim != "aud" or self._issuer is None:
                    raise
                claims = self._decoded_for_client(token, key)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise _refused(_reason(error)) from None
        if self._issuer is None and not isinstance(claims.get("scope"), str | None):
            raise _refused("The token's claim `scope` must be words separated by spaces.")
        return _claims(claims, self._names, self._prefixes)

    def _decoded(self, token: str, key: jwt.PyJWK, audience_claim: str = "aud") -> dict[str, Any]:
        """The claims of a token that is signed, for this audience and in time. Raises PyJWT's errors."""
        subject = ["sub"] if self._names.subject == "sub" else []
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=self._audience if audience_claim == "aud" else None,
            issuer=self._issuer,
            leeway=LEEWAY,
            options={
                "require": ["exp", audience_claim, *subject],
                "verify_sub": bool(subject),
                "enforce_minimum_key_length": True,
            },
        )
        return claims

    def _decoded_for_client(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        """The same, of a token without `aud`."""
        claims = self._decoded(token, key, "client_id")
        if "aud" in claims or claims["client_id"] != self._audience:
            raise jwt.InvalidAudienceError
        return claims


def _reason(error: Exception) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "The token has expired."
        case jwt.ImmatureSignatureError():
            return "The token is not valid yet."
        case jwt.InvalidAudienceError():
            return "The token is for another audience than this tenant."
        case jwt.InvalidIssuerError():
            return "The token comes from another issuer than this tenant's."
        case jwt.MissingRequiredClaimError():
            return f"The token has no claim `{error.claim}`."
        case jwt.InvalidAlgorithmError():
            return "The token is signed with another algorithm than its key is for."
        case jwt.InvalidSignatureError():
            return "The token is not signed with a key of this tenant."
        case _:
            return "The token is malformed."


def _claims(raw: dict[str, Any], names: ClaimNames, prefixes: tuple[str, ...]) -> Claims:
    subject = _named(raw, names.subject)
    if subject is None:
        raise _refused(f"The token has no claim `{names.subject}`.")
    if not _is_text(subject) or not 0 < len(subject) <= 255:
        raise _refused(f"The token's claim `{names.subject}` must be 1 to 255 characters.")
    if subject == CANARY:
        raise _refused(f"The token's claim `{names.subject}` is {CANARY}, which only the platform itself is.")
    rooms = _named(raw, names.rooms)
    if rooms is not None and _words(rooms) is None:
        raise _refused(f"The token's claim `{names.rooms}` must be a list of room ids, or a text with them.")
    room_ids = frozenset(_words(rooms) or ())
    try:
        expires = datetime.fromtimestamp(int(raw["exp"]), UTC)
    except (ValueError, OverflowError, OSError):
        raise _refused("The token's claim `exp` is out of range.") from None
    scopes = _scopes(raw, names, prefixes)
    return Claims(subject, scopes, ALL if "*" in room_ids else room_ids, expires)


def _scopes(raw: dict[str, Any], names: ClaimNames, prefixes: tuple[str, ...]) -> frozenset[str]:
    name = "scp" if names.scopes == "scope" and "scope" not in raw else names.scopes
    given = _named(raw, name)
    granted = _words("" if given is None else given)
    if granted is None:
        raise _refused(f"The token's claim `{name}` must be words separated by spaces, or a list of them.")
    roles = None if names.tenant_role is None else _named(raw, names.tenant_role)
    granted += _words(roles) or _names_of_roles(roles)
    bare = {next((each.removeprefix(p) for p in prefixes if each.startswith(p)), each) for each in granted}
    return frozenset(bare) & SCOPES


def _named(raw: dict[str, Any], name: str) -> Any:
    """The claim, or what lies within claims where the name has dots. None where there is none.

    A claim's own name may have dots, too: `com.example.media` in `resource_access.com.example.media.roles`.
    """
    if name in raw:
        return raw[name]
    for dot in (place for place, character in enumerate(name) if character == "."):
        within = raw.get(name[:dot])
        if isinstance(within, dict) and (found := _named(within, name[dot + 1 :])) is not None:
            return found
    return None


def _words(value: Any) -> list[str] | None:
    """A text's words, or a list of texts. None: it is something else."""
    if _is_text(value):
        return value.split()
    if isinstance(value, list) and all(_is_text(each) for each in value):
        return list(value)
    return None


def _names_of_roles(value: Any) -> list[str]:
    """The roles of a Zitadel project, an object: by their names, the organizations in which each is held."""
    if not isinstance(value, dict):
        return []
    return [
        role
        for role, holders in value.items()
        if isinstance(holders, dict) and holders and all(isinstance(domain, str) for domain in holders.values())
    ]


def _is_text(value: object) -> TypeGuard[str]:
    """Whether it is a string that PostgreSQL can store: no NUL and no lone surrogates."""
    return isinstance(value, str) and "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _refused(detail: str) -> Refused:
    return Refused("unauthorized", detail)
