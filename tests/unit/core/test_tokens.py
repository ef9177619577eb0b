"""Bearer tokens: those that are accepted, and all kinds that are not."""

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from media_core.auth.token_keys import JwksFile
from media_core.auth.tokens import (
    ALL,
    MAX_TOKEN_BYTES,
    Jwk,
    TokenVerifier,
    generate_key,
    load_signing_keys,
    mint,
    public_jwks,
    save_public_jwks,
    save_signing_keys,
)
from media_core.errors import Refused

KEY = generate_key()
MINUTE = timedelta(minutes=1)


class CountedKeys:
    """A fixed JWK Set that counts how often a key was asked for."""

    def __init__(self, keys: Iterable[Jwk]) -> None:
        self.keys = jwt.PyJWKSet.from_dict(public_jwks(keys)).keys
        self.asked = 0

    def version(self) -> object:
        return len(self.keys)

    async def find(self, kid: str | None) -> jwt.PyJWK | None:
        self.asked += 1
        if kid is None:
            return self.keys[0] if len(self.keys) == 1 else None
        return next((key for key in self.keys if key.key_id == kid), None)


def token(key: Jwk = KEY, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "tenant_id": "acme",
        "subject": "ann",
        "scopes": ["media:read", "media:write"],
        "rooms": ["lobby"],
        "lifetime": MINUTE,
    }
    return mint(key, **{**arguments, **changes})


def raw_token(claims: dict[str, Any], *, headers: dict[str, Any] | None = None, key: Jwk = KEY) -> str:
    complete = {"aud": "acme", "sub": "ann", "exp": int(time.time()) + 60, **claims}
    wanted = {name: value for name, value in complete.items() if value is not None}
    return jwt.encode(wanted, jwt.PyJWK(key).key, algorithm="EdDSA", headers={"kid": key["kid"], **(headers or {})})


def verifier(*keys: Jwk, **options: Any) -> TokenVerifier:
    return TokenVerifier("acme", CountedKeys(keys or (KEY,)), **options)


async def refusal(bearer: str, verify: TokenVerifier | None = None) -> str:
    with pytest.raises(Refused) as refused:
        await (verify or verifier()).verify(bearer)
    assert refused.value.code == "unauthorized"
    return refused.value.detail


async def test_a_minted_token_comes_back_as_its_claims() -> None:
    claims = await verifier().verify(token())
    assert claims.subject == "ann"
    assert claims.scopes == {"media:read", "media:write"}
    assert claims.rooms == {"lobby"}
    assert datetime.now(UTC) < claims.expires <= datetime.now(UTC) + MINUTE


async def test_a_star_means_every_room() -> None:
    assert (await verifier().verify(token(rooms=ALL))).rooms is ALL


@pytest.mark.parametrize("rooms", ["*", ["*"], ["lobby", "*"], "lobby *"])
async def test_a_star_may_be_a_text_or_in_a_list(rooms: object) -> None:
    assert (await verifier().verify(raw_token({"rooms": rooms}))).rooms is ALL


async def test_rooms_may_be_a_text() -> None:
    assert (await verifier().verify(raw_token({"rooms": "lobby"}))).rooms == {"lobby"}
    assert (await verifier().verify(raw_token({"rooms": "lobby garden"}))).rooms == {"lobby", "garden"}
    assert (await verifier().verify(raw_token({"rooms": ["the lobby"]}))).rooms == {"the lobby"}


async def test_scopes_that_this_platform_does_not_know_are_left_out() -> None:
    assert (await verifier().verify(token(scopes=["media:read", "openid", "ADMIN"]))).scopes == {"media:read"}


async def test_without_scope_and_rooms_a_token_may_do_nothing() -> None:
    claims = await verifier().verify(raw_token({}))
    assert claims.scopes == frozenset()
    assert claims.rooms == frozenset()


async def test_an_expired_token_is_refused() -> None:
    assert "expired" in await refusal(token(lifetime=timedelta(seconds=-11)))


async def test_the_clocks_may_differ_by_ten_seconds() -> None:
    assert await verifier().verify(token(lifetime=timedelta(seconds=-8)))


async def test_another_tenants_token_is_refused() -> None:
    assert "audience" in await refusal(token(tenant_id="globex"))


@pytest.mark.parametrize("claim", ["exp", "sub", "aud"])
async def test_a_token_must_bear(claim: str) -> None:
    assert claim in await refusal(raw_token({claim: None})) or claim == "aud"


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"sub": "a\0b"},
        {"sub": "\ud800"},
        {"sub": "system:canary"},
        {"scope": ["admin"]},
        {"scope": None, "rooms": 7},
        {"rooms": [1]},
        {"rooms": ["a\0b"]},
        {"exp": float("inf")},
        {"exp": 10**30},
        {"exp": "soon"},
        {"nbf": 4_000_000_000},
        {"iat": 4_000_000_000},
    ],
)
async def test_a_signed_token_with_nonsense_in_it_is_refused(claims: dict[str, Any]) -> None:
    await refusal(raw_token(claims))


async def test_a_tampered_token_is_refused() -> None:
    head, body, signature = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "scope": "admin"}).encode()).decode().rstrip("=")
    assert "not signed" in await refusal(f"{head}.{forged}.{signature}")


async def test_a_token_of_a_foreign_key_is_refused_even_under_our_key_id() -> None:
    stranger = {**generate_key(), "kid": KEY["kid"]}
    assert "not signed" in await refusal(token(stranger))
    assert "not signed" in await refusal(token(generate_key()))


def hs256(claims: dict[str, Any], secret: bytes, kid: str) -> str:
    """Signed by hand, as PyJWT does not accept a public key as an HMAC secret."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT", "kid": kid}, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")
    return (signed + b"." + signature).decode()


async def test_no_algorithm_but_the_keys_own_is_taken() -> None:
    public = json.dumps(public_jwks([KEY])["keys"][0])
    raw = base64.urlsafe_b64decode(KEY["x"] + "=")
    claims = {"aud": "acme", "sub": "ann", "exp": int(time.time()) + 60}
    for secret in (public.encode(), raw, KEY["x"].encode()):
        await refusal(hs256(claims, secret, KEY["kid"]))
    await refusal(jwt.encode(claims, None, algorithm="none", headers={"kid": KEY["kid"]}))
    other = ec.generate_private_key(ec.SECP256R1())
    await refusal(jwt.encode(claims, other, algorithm="ES256", headers={"kid": KEY["kid"]}))


def _rsa(bits: int = 2048, **members: str) -> tuple[rsa.RSAPrivateKey, Jwk]:
    private = rsa.generate_private_key(65537, bits)
    return private, {**json.loads(RSAAlgorithm.to_jwk(private.public_key())), "kid": "r", **members}


async def test_an_issuers_rsa_and_ec_keys_are_taken_with_the_algorithm_that_the_key_names() -> None:
    claims = {"aud": "acme", "sub": "ann", "exp": int(time.time()) + 60}
    private, public = _rsa(alg="PS256")
    assert await verifier(public).verify(jwt.encode(claims, private, algorithm="PS256", headers={"kid": "r"}))
    await refusal(jwt.encode(claims, private, algorithm="RS256", headers={"kid": "r"}), verifier(public))
    pem = private.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    await refusal(hs256(claims, pem, "r"), verifier(public))
    curve = ec.generate_private_key(ec.SECP256R1())
    on_curve = {**json.loads(ECAlgorithm.to_jwk(curve.public_key())), "kid": "e"}
    assert await verifier(on_curve).verify(jwt.encode(claims, curve, algorithm="ES256", headers={"kid": "e"}))


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_a_weak_rsa_key_is_refused() -> None:
    private, public = _rsa(1024)
    claims = {"aud": "acme", "sub": "ann", "exp": int(time.time()) + 60}
    await refusal(jwt.encode(claims, private, algorithm="RS256", headers={"kid": "r"}), verifier(public))


@pytest.mark.parametrize(
    "unusable",
    [
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ", "kid": "o"},
        {**KEY, "kid": "enc", "use": "enc"},
        {"kty": "OKP", "crv": "Ed448", "x": "AAAA", "kid": "q"},
        {"kty": "nonsense", "kid": "n"},
    ],
)
async def test_symmetric_encryption_and_unknown_keys_in_the_jwks_are_no_signing_keys(
    unusable: Jwk, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [unusable, *public_jwks([KEY])["keys"]]}))
    keys = JwksFile(path)
    assert await keys.find(unusable["kid"]) is None
    assert await keys.find(KEY["kid"]) is not None


async def test_the_key_id_is_needed_only_where_there_are_several_keys() -> None:
    nameless = jwt.encode(
        {"aud": "acme", "sub": "ann", "exp": int(time.time()) + 60}, jwt.PyJWK(KEY).key, algorithm="EdDSA"
    )
    assert await verifier().verify(nameless)
    assert "kid" in await refusal(nameless, verifier(KEY, generate_key()))


async def test_the_issuer_is_checked_where_one_is_set() -> None:
    assert await verifier(issuer="https://id.example").verify(raw_token({"iss": "https://id.example"}))
    assert "issuer" in await refusal(raw_token({"iss": "https://evil"}), verifier(issuer="https://id.example"))
    assert "iss" in await refusal(raw_token({}), verifier(issuer="https://id.example"))


async def test_another_audience_can_be_set_for_an_issuer_that_knows_no_tenants() -> None:
    assert await verifier(audience="media").verify(raw_token({"aud": ["other", "media"]}))
    await refusal(raw_token({"aud": "acme"}), verifier(audience="media"))


async def test_a_token_over_eight_kibibytes_is_refused_before_anything_is_parsed() -> None:
    keys = CountedKeys([KEY])
    long = token(rooms=[f"room-{number}" for number in range(2000)])
    assert len(long) > MAX_TOKEN_BYTES
    assert "8192" in await refusal(long, TokenVerifier("acme", keys))
    assert "8192" in await refusal("x" * 65536, TokenVerifier("acme", keys))
    assert keys.asked == 0


@pytest.mark.parametrize("garbage", ["", ".", "..", "a.b.c", "[" * 8000, "é.é.é", "\ud800", "eyJhbGciOiJFZERTQSJ9.."])
async def test_garbage_is_refused(garbage: str) -> None:
    await refusal(garbage)


async def test_a_header_nested_deeper_than_the_stack_is_refused() -> None:
    await refusal(base64.urlsafe_b64encode(b"[" * 6000).decode().rstrip("=") + ".e30.AA")


@given(st.text(max_size=200), st.binary(max_size=200))
async def test_no_bytes_at_all_make_the_verifier_do_anything_but_refuse(text: str, binary: bytes) -> None:
    await refusal(text)
    head, _, signature = token().split(".")
    await refusal(f"{head}.{base64.urlsafe_b64encode(binary).decode().rstrip('=')}.{signature}")
    await refusal(f"{base64.urlsafe_b64encode(binary).decode().rstrip('=')}.e30.{signature}")


async def test_refusals_quote_neither_the_token_nor_the_key() -> None:
    for bad in (token(tenant_id="globex"), token(lifetime=-MINUTE), token(generate_key()), "abc.def.ghi"):
        detail = await refusal(bad)
        assert not any(part in detail for part in bad.split("."))
        assert KEY["kid"] not in detail


async def test_a_verified_token_is_remembered_until_the_keys_change() -> None:
    keys = CountedKeys([KEY])
    verify = TokenVerifier("acme", keys)
    bearer = token()
    first = await verify.verify(bearer)
    assert await verify.verify(bearer) is first
    assert keys.asked == 1
    keys.keys = []
    await refusal(bearer, verify)


async def test_a_token_past_its_end_is_never_answered_from_memory() -> None:
    keys = CountedKeys([KEY])
    verify = TokenVerifier("acme", keys)
    bearer = token(lifetime=timedelta(seconds=-2))
    await verify.verify(bearer)
    await verify.verify(bearer)
    assert keys.asked == 2


async def test_the_memory_of_verified_tokens_is_bounded() -> None:
    keys = CountedKeys([KEY])
    verify = TokenVerifier("acme", keys, remember_at_most=2)
    bearers = [token(subject=name) for name in "abc"]
    for bearer in (*bearers, bearers[0]):
        await verify.verify(bearer)
    assert keys.asked == 4


def test_signing_keys_are_kept_readable_by_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "signing-keys.json"
    assert load_signing_keys(path) == []
    keys = [generate_key(), generate_key()]
    save_signing_keys(path, keys)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_signing_keys(path) == keys
    assert list(tmp_path.iterdir()) == [path]


def test_the_public_key_set_holds_nothing_private() -> None:
    keys = [generate_key(), generate_key()]
    text = json.dumps(public_jwks(keys))
    assert all(key["kid"] in text and key["d"] not in text for key in keys)


async def test_a_rotated_key_is_taken_without_a_restart_and_a_removed_one_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    old, new = generate_key(), generate_key()
    save_public_jwks(path, [old])
    verify = TokenVerifier("acme", JwksFile(path))
    of_old, of_new = token(old), token(new)
    assert await verify.verify(of_old)
    await refusal(of_new, verify)
    save_public_jwks(path, [new, old])
    assert await verify.verify(of_old)
    assert await verify.verify(of_new)
    save_public_jwks(path, [new])
    await refusal(of_old, verify)
    assert await verify.verify(of_new)


async def test_an_unreadable_key_file_keeps_the_keys_and_a_missing_one_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    save_public_jwks(path, [KEY])
    verify = TokenVerifier("acme", JwksFile(path))
    assert await verify.verify(token())
    broken: list[Callable[[], object]] = [
        lambda: path.write_text('{"keys": ['),
        lambda: path.write_text("[]"),
        lambda: path.write_text('{"keys": []}'),
    ]
    for breaks in broken:
        breaks()
        assert await verify.verify(token())
    path.unlink()
    await refusal(token(), verify)
