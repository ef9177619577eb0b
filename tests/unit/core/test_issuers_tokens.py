"""Access and ID tokens in the shapes that the usual issuers give them, with what a tenant has to declare for each."""

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from media_core.auth.tokens import ALL, ClaimNames, Claims, TokenVerifier
from media_core.errors import Refused

PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
JWK: dict[str, Any] = {**RSAAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True), "kid": "k1", "use": "sig"}
"""As Entra publishes it: without `alg`."""


class Keys:
    def version(self) -> object:
        return 1

    async def find(self, kid: str | None) -> jwt.PyJWK | None:
        return next((key for key in jwt.PyJWKSet.from_dict({"keys": [JWK]}).keys if key.key_id == kid), None)


async def verified(
    claims: dict[str, Any], *, issuer: str | None, audience: str | None = None, names: ClaimNames | None = None
) -> Claims:
    now = int(time.time())
    token = jwt.encode({"iat": now, "exp": now + 300, **claims}, PRIVATE, algorithm="RS256", headers={"kid": "k1"})
    verifier = TokenVerifier("acme", Keys(), audience=audience, issuer=issuer, claims=names or ClaimNames())
    return await verifier.verify(token)


async def refused(claims: dict[str, Any], **how: Any) -> str:
    with pytest.raises(Refused) as refusal:
        await verified(claims, **how)
    assert refusal.value.code == "unauthorized"
    return refusal.value.detail


ENTRA = "https://login.microsoftonline.com/8a5f3c1e-0000-4000-8000-1d1d1d1d1d1d/v2.0"
ENTRA_USER = {
    "aud": "6f0d3c7a-0000-4000-8000-2e2e2e2e2e2e",
    "iss": ENTRA,
    "nbf": 1_700_000_000,
    "aio": "AWQAm/8",
    "azp": "11111111-0000-4000-8000-000000000000",
    "oid": "b6f1d6c8-0000-4000-8000-3f3f3f3f3f3f",
    "preferred_username": "ann@acme.example",
    "rh": "0.AAA",
    "scp": "media:read media:write",
    "sub": "pairwise-for-this-app",
    "tid": "8a5f3c1e-0000-4000-8000-1d1d1d1d1d1d",
    "ver": "2.0",
}


async def test_entra() -> None:
    """Delegated scopes in `scp`, as one text; app roles in `roles`; one subject for all apps in `oid`."""
    how: dict[str, Any] = {"issuer": ENTRA, "audience": ENTRA_USER["aud"]}
    claims = await verified(ENTRA_USER, **how)
    assert (claims.subject, claims.scopes, claims.rooms) == (
        "pairwise-for-this-app",
        {"media:read", "media:write"},
        frozenset(),
    )
    names = ClaimNames(subject="oid", tenant_role="roles")
    daemon = {name: value for name, value in ENTRA_USER.items() if name not in ("scp", "sub")}
    claims = await verified({**daemon, "roles": ["admin", "Reader"]}, names=names, **how)
    assert (claims.subject, claims.scopes) == (ENTRA_USER["oid"], {"admin"})
    assert (await verified({**daemon, "roles": ["admin"], "sub": "s"}, **how)).scopes == frozenset()
    assert "`oid`" in await refused({**ENTRA_USER, "oid": None}, names=names, **how)


OKTA = "https://acme.okta.example/oauth2/default"


async def test_okta() -> None:
    """`scp` as a list; the user's login in `sub`; groups of an own claim."""
    okta = {
        "ver": 1,
        "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
        "iss": OKTA,
        "aud": "api://default",
        "sub": "ann@acme.example",
        "cid": "nmdP1fcyvdVO11AL7ECm",
        "uid": "00ulthapbErVUwVJy4x6",
        "scp": ["openid", "media:read", "transcribe"],
        "groups": ["Everyone", "lobby"],
    }
    claims = await verified(okta, issuer=OKTA, audience="api://default", names=ClaimNames(rooms="groups"))
    assert (claims.subject, claims.scopes, claims.rooms) == (
        "ann@acme.example",
        {"media:read", "transcribe"},
        {"Everyone", "lobby"},
    )


async def test_auth0() -> None:
    """`scope` as a text, several audiences, own claims under the names of URLs, `permissions` as a list."""
    auth0 = {
        "iss": "https://acme.eu.auth0.example/",
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "aud": ["https://media.acme.example/", "https://acme.eu.auth0.example/userinfo"],
        "azp": "my_client_id",
        "scope": "openid profile media:read",
        "permissions": ["media:read", "media:write"],
        "https://media.acme.example/rooms": ["garden"],
    }
    how: dict[str, Any] = {"issuer": auth0["iss"], "audience": "https://media.acme.example/"}
    names = ClaimNames(rooms="https://media.acme.example/rooms", tenant_role="permissions")
    claims = await verified(auth0, names=names, **how)
    assert (claims.subject, claims.scopes, claims.rooms) == (
        auth0["sub"],
        {"media:read", "media:write"},
        {"garden"},
    )
    assert (await verified(auth0, **how)).scopes == {"media:read"}
    assert "issuer" in await refused(auth0, issuer="https://acme.eu.auth0.example", audience=how["audience"])


async def test_keycloak() -> None:
    """Roles within `realm_access` and `resource_access`; `aud` is `account` unless a mapper adds another."""
    keycloak = {
        "iss": "https://id.acme.example/realms/acme",
        "aud": ["media", "account"],
        "sub": "24be6cd8-3ab9-4d66-8b3d-0d0f0e0c0b0a",
        "typ": "Bearer",
        "azp": "web",
        "realm_access": {"roles": ["offline_access", "admin"]},
        "resource_access": {
            "media": {"roles": ["media:write"]},
            "https://media.acme.example": {"roles": ["transcribe"]},
            "account": {"roles": ["view-profile"]},
        },
        "scope": "openid media:read email",
        "rooms": ["*"],
    }
    how: dict[str, Any] = {"issuer": keycloak["iss"], "audience": "media"}
    claims = await verified(keycloak, **how)
    assert (claims.scopes, claims.rooms) == ({"media:read"}, ALL)
    for role, granted in (
        ("realm_access.roles", "admin"),
        ("resource_access.media.roles", "media:write"),
        ("resource_access.https://media.acme.example.roles", "transcribe"),
    ):
        claims = await verified(keycloak, names=ClaimNames(tenant_role=role), **how)
        assert claims.scopes == {"media:read", granted}
    only = ClaimNames(scopes="resource_access.media.roles")
    assert (await verified(keycloak, names=only, **how)).scopes == {"media:write"}
    missing = ClaimNames(tenant_role="realm_access.roles.more")
    assert (await verified(keycloak, names=missing, **how)).scopes == {"media:read"}


COGNITO = "https://cognito-idp.eu-central-1.amazonaws.example/eu-central-1_example"
COGNITO_ACCESS = {
    "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "cognito:groups": ["admin", "lobby"],
    "iss": COGNITO,
    "version": 2,
    "client_id": "xxxxxxxxxxxxexample",
    "token_use": "access",
    "scope": "openid acme/media:read other/media:write",
    "auth_time": 1_700_000_000,
    "username": "ann",
}


async def test_cognito() -> None:
    """`client_id` in place of `aud`; scopes with their resource server's identifier; groups."""
    how: dict[str, Any] = {"issuer": COGNITO, "audience": "xxxxxxxxxxxxexample"}
    claims = await verified(COGNITO_ACCESS, **how)
    assert (claims.subject, claims.scopes) == (COGNITO_ACCESS["sub"], {"media:read"})
    names = ClaimNames(subject="username", rooms="custom:rooms", tenant_role="cognito:groups")
    claims = await verified({**COGNITO_ACCESS, "custom:rooms": "lobby garden"}, names=names, **how)
    assert (claims.subject, claims.scopes, claims.rooms) == ("ann", {"media:read", "admin"}, {"lobby", "garden"})
    assert "audience" in await refused({**COGNITO_ACCESS, "client_id": "another"}, **how)
    assert "audience" in await refused({**COGNITO_ACCESS, "aud": "another"}, **how)
    assert "client_id" in await refused({k: v for k, v in COGNITO_ACCESS.items() if k != "client_id"}, **how)
    assert "audience" in await refused({**COGNITO_ACCESS, "aud": []}, **how)
    assert "`aud`" in await refused(COGNITO_ACCESS, issuer=None, audience="xxxxxxxxxxxxexample")


async def test_dex() -> None:
    """An ID token: no scope, groups of the directory behind."""
    dex = {
        "iss": "https://dex.acme.example",
        "sub": "CgNhbm4SBGxkYXA",
        "aud": "media",
        "at_hash": "XYZ",
        "email": "ann@acme.example",
        "email_verified": True,
        "groups": ["media:read", "media:write", "authors"],
        "name": "ann",
    }
    how: dict[str, Any] = {"issuer": dex["iss"], "audience": "media"}
    assert (await verified(dex, **how)).scopes == frozenset()
    claims = await verified(dex, names=ClaimNames(subject="email", tenant_role="groups"), **how)
    assert (claims.subject, claims.scopes) == ("ann@acme.example", {"media:read", "media:write"})


async def test_identityserver() -> None:
    """Of Duende, and others that came of it: `scope` is a list unless they are told otherwise."""
    access = {
        "iss": "https://login.acme.example",
        "aud": "acme",
        "client_id": "app",
        "sub": "818727",
        "scope": ["openid", "media:read", "acme/media:write", "offline_access"],
    }
    claims = await verified(access, issuer=access["iss"])
    assert (claims.subject, claims.scopes) == ("818727", {"media:read", "media:write"})


async def test_zitadel() -> None:
    """Its roles are the names in an object, each with the organizations in which it is held."""
    access = {
        "iss": "https://acme-abc123.zitadel.cloud",
        "aud": ["278612345678901234@media", "278600000000000000"],
        "client_id": "278612345678901234@media",
        "sub": "278611111111111111",
        "urn:zitadel:iam:org:project:roles": {
            "media:read": {"278622222222222222": "acme.zitadel.cloud"},
            "media:write": {"278622222222222222": "acme.zitadel.cloud"},
            "authors": {"278622222222222222": "acme.zitadel.cloud"},
            "admin": {},
        },
    }
    names = ClaimNames(tenant_role="urn:zitadel:iam:org:project:roles")
    claims = await verified(access, issuer=access["iss"], audience="278600000000000000", names=names)
    assert (claims.subject, claims.scopes) == ("278611111111111111", {"media:read", "media:write"})


@pytest.mark.parametrize(
    "claims",
    [
        *(
            {"scp": 7},
            {"scp": [7]},
            {"scp": {"media:read": True}},
            {"scope": {"media:read": 1}},
            {"scope": 7},
            {"scope": [7]},
        ),
        *({"rooms": {"lobby": 1}}, {"rooms": True}, {"rooms": 7}, {"rooms": [["lobby"]]}, {"rooms": ["a", None]}),
        *({"sub": ["a"]}, {"sub": {"sub": "ann"}}, {"sub": True}, {"sub": None}),
    ],
)
async def test_claims_of_another_form_are_refused(claims: dict[str, Any]) -> None:
    assert "claim" in await refused({"iss": "i", "aud": "acme", "sub": "ann", **claims}, issuer="i") or "sub" in claims


@pytest.mark.parametrize(
    "realm",
    [
        None,
        7,
        "admin",
        ["admin"],
        {"roles": None},
        {"roles": {"admin": 1}},
        {"roles": [7]},
        {"roles": {"admin": {"roles": ["a"]}}},
    ],
)
async def test_a_path_that_leads_to_no_words_grants_nothing(realm: object) -> None:
    names = ClaimNames(tenant_role="realm_access.roles")
    claims = {"iss": "i", "aud": "acme", "sub": "ann", "scope": "media:read", "realm_access": realm}
    assert (await verified(claims, issuer="i", names=names)).scopes == {"media:read"}
    subject = ClaimNames(subject="realm_access.roles")
    assert "`realm_access.roles`" in await refused(claims, issuer="i", names=subject)
