"""Who may do what: tokens, scopes, and who sees which file, on every path."""

import asyncio
import contextlib
import http.server
import itertools
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from media_api.settings import AuthSettings
from media_core.auth.token_keys import OidcKeys
from media_core.auth.tokens import ALL, generate_key, public_jwks, save_public_jwks
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import photo
from tests.integration.servers.api import Api, anybody, problem, serving, upload

UNKNOWN = "med-01JD0Z3V5QH7W8K2M4N6P8R0T2"
NO_JOB = "job-01JD0Z3V5QH7W8K2M4N6P8R0T3"
NO_UPLOAD = "upl-01JD0Z3V5QH7W8K2M4N6P8R0T4"

CALLS = {
    ("GET", "/v1/media"): "media:read",
    ("POST", "/v1/media/upload"): "media:write",
    ("POST", "/v1/media/sign"): "media:read",
    ("PATCH", f"/v1/media/{UNKNOWN}"): "media:write",
    ("POST", "/v1/media/uploads"): "media:write",
    ("PATCH", f"/v1/media/uploads/{NO_UPLOAD}"): "media:write",
    ("HEAD", f"/v1/media/uploads/{NO_UPLOAD}"): "media:write",
    ("GET", f"/v1/media/uploads/{NO_UPLOAD}"): "media:write",
    ("DELETE", f"/v1/media/uploads/{NO_UPLOAD}"): "media:write",
    ("GET", f"/v1/media/{UNKNOWN}/info"): "media:read",
    ("GET", f"/v1/media/download/{UNKNOWN}"): "media:read",
    ("HEAD", f"/v1/media/download/{UNKNOWN}"): "media:read",
    ("GET", f"/v1/media/download/{UNKNOWN}/thumbnail"): "media:read",
    ("GET", f"/v1/media/signed/{UNKNOWN}"): "media:read",
    ("DELETE", f"/v1/media/{UNKNOWN}"): "media:write",
    ("POST", f"/v1/media/{UNKNOWN}/rescan"): "admin",
    ("GET", "/v1/rooms/garden/files"): "media:read",
    ("POST", "/v1/rooms/garden/files"): "media:write",
    ("DELETE", f"/v1/rooms/garden/files/{UNKNOWN}"): "media:write",
    ("POST", "/v1/transcribe"): "transcribe",
    ("POST", "/v1/audio/transcriptions"): "transcribe",
    ("POST", "/v1/audio/translations"): "transcribe",
    ("GET", "/v1/models"): "transcribe",
    ("GET", "/v1/models/whisper-1"): "transcribe",
    ("GET", "/v1/jobs"): "transcribe",
    ("GET", f"/v1/jobs/{NO_JOB}"): "transcribe",
    ("DELETE", f"/v1/jobs/{NO_JOB}"): "transcribe",
    ("GET", f"/v1/jobs/{NO_JOB}/events"): "transcribe",
    ("GET", f"/v1/jobs/{NO_JOB}/transcript.srt"): "transcribe",
    ("GET", "/v1/transcripts/search"): "media:read",
    ("GET", "/v1/events"): "media:read",
    ("GET", "/v1/usage"): "media:read",
}
"""Every call, with a sufficient scope."""


async def test_every_call_is_in_the_table(api: Api) -> None:
    async with anybody(api.base) as nobody:
        described = (await nobody.get("/openapi.json")).json()["paths"]
    under_v1 = {
        (method.upper(), path) for path, calls in described.items() for method in calls if path.startswith("/v1/")
    }
    assert len(under_v1) == len(CALLS)


async def test_without_a_token_every_call_is_401(api: Api) -> None:
    async with anybody(api.base) as nobody:
        for method, path in CALLS:
            for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}, {"Authorization": "x"}):
                answer = await nobody.request(method, path, headers=headers)
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
        problem(await nobody.get("/v1/usage"), 401, "unauthorized")


async def test_a_token_pasted_with_its_bearer_is_told_apart_from_a_bad_one(api: Api) -> None:
    async with anybody(api.base) as nobody:
        headers = {"Authorization": f"Bearer Bearer {api.token()}"}
        body = problem(await nobody.get("/v1/usage", headers=headers), 401, "unauthorized")
    assert "without `Bearer`" in body["detail"]


async def test_two_authorization_headers_are_a_400(api: Api) -> None:
    headers = [("Authorization", f"Bearer {api.token('bob')}"), ("Authorization", f"Bearer {api.token()}")]
    async with anybody(api.base) as nobody:
        for method, path in CALLS:
            answer = await nobody.request(method, path, headers=headers)
            assert answer.status_code == 400, (method, path)
        problem(await nobody.get("/v1/usage", headers=headers), 400, "bad_request")


async def test_bad_tokens_are_401_on_every_call(api: Api) -> None:
    stranger = generate_key()
    bad = {
        "expired": api.token(lifetime=timedelta(minutes=-1)),
        "other audience": api.token(tenant_id="globex"),
        "other key": api.token(key=stranger),
        "other key under our id": api.token(key={**stranger, "kid": api.key["kid"]}),
        "none": jwt.encode({"sub": "a", "aud": api.tenant.tenant_id, "exp": 2**31}, None, algorithm="none"),
        "garbage": "garbage",
        "dots": "..",
        "64 KiB": "x" * 65536,
        "not ascii": "ä" * 10,
    }
    async with anybody(api.base) as nobody:
        for name, token in bad.items():
            headers = {"Authorization": f"Bearer {token}".encode("latin-1")}
            answer = await nobody.get("/v1/usage", headers=headers)
            problem(answer, 401, "unauthorized")
            assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_token"'), name
            assert token not in answer.text
        for method, path in CALLS:
            headers = {"Authorization": f"Bearer {bad['expired']}"}
            assert (await nobody.request(method, path, headers=headers)).status_code == 401


async def test_a_valid_token_without_the_scope_is_403_and_names_the_scope(api: Api) -> None:
    scopes = ["media:read", "media:write", "transcribe"]
    for (method, path), needed in CALLS.items():
        enough = {"media:read", needed} if "/jobs" in path else {needed}
        async with api.client(scopes=[scope for scope in scopes if scope not in enough]) as client:
            answer = await client.request(method, path)
            assert answer.status_code == 403, (method, path)
            assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
            assert needed in answer.headers["www-authenticate"]
        for granted in (needed, "admin"):
            async with api.client(scopes=[granted]) as client:
                assert (await client.request(method, path)).status_code not in (401, 403), (method, path, granted)


async def test_keys_rotate_while_the_api_runs(api: Api) -> None:
    new = generate_key()
    async with anybody(api.base) as nobody:

        async def status(**how: Any) -> int:
            return (await nobody.get("/v1/usage", headers={"Authorization": f"Bearer {api.token(**how)}"})).status_code

        try:
            assert await status(key=new) == 401
            save_public_jwks(api.jwks_file, [new, api.key])
            assert (await status(key=new), await status()) == (200, 200)
            save_public_jwks(api.jwks_file, [new])
            assert (await status(key=new), await status()) == (200, 401)
        finally:
            save_public_jwks(api.jwks_file, [api.key])
        assert (await status(key=new), await status()) == (401, 200)


# -- visibility ------------------------------------------------------------------------------------------------------


async def paths_of(client: httpx.AsyncClient, media_id: str) -> dict[str, httpx.Response]:
    """Every path with an item's id, as each could reveal that the item exists."""
    thumbnail = media_id.replace("med-", "med-thumb-")
    return {
        "info": await client.get(f"/v1/media/{media_id}/info"),
        "download": await client.get(f"/v1/media/download/{media_id}"),
        "head": await client.head(f"/v1/media/download/{media_id}"),
        "range": await client.get(f"/v1/media/download/{media_id}", headers={"Range": "bytes=0-"}),
        "thumbnail": await client.get(f"/v1/media/download/{media_id}/thumbnail"),
        "thumbnail id": await client.get(f"/v1/media/download/{thumbnail}"),
        "signed": await client.get(f"/v1/media/signed/{media_id}"),
        "signed by the api": await client.get(f"/v1/media/signed/{media_id}?via=api"),
        "change": await client.patch(f"/v1/media/{media_id}", json={"filename": "mine"}),
        "delete": await client.delete(f"/v1/media/{media_id}"),
        "attach": await client.post("/v1/rooms/garden/files", json={"media_id": media_id}),
        "transcribe": await client.post("/v1/transcribe", files={"media_id": (None, media_id)}),
    }


async def test_unknown_invisible_and_foreign_ids_are_the_same_404_byte_for_byte(
    api: Api, postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with api.client() as client, serving(postgres, tmp_path) as other_tenant:
        hidden = await upload(client, photo(31, 31))
        await api.verdict(hidden["sha256"])
        async with other_tenant.client() as other:
            foreign = await upload(other, photo(31, 32))
        async with api.client("stranger", rooms=["cellar", "garden"]) as stranger:
            answers = {
                media_id: await paths_of(stranger, media_id)
                for media_id in (hidden["media_id"], foreign["media_id"], UNKNOWN, "med-nonsense", "x", "%00", "a%00b")
            }
        for path in answers[UNKNOWN]:
            seen = {(a[path].status_code, a[path].content, _comparable(a[path])) for a in answers.values()}
            assert len(seen) == 1, (path, seen)
            if path != "head":
                problem(answers[UNKNOWN][path], 404, "not_found")
        assert (await paths_of(client, hidden["media_id"]))["info"].status_code == 200


def _comparable(answer: httpx.Response) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((n, v) for n, v in answer.headers.items() if n not in ("x-request-id", "date")))


async def test_who_sees_a_file(api: Api) -> None:
    """Its uploader, everybody if tenant_scope, callers with one of its rooms, and admins. Nobody else."""
    callers: dict[str, dict[str, Any]] = {
        "alice": {},
        "same room": {"rooms": ["garden", "attic"]},
        "other room": {"rooms": ["cellar"]},
        "no room": {"rooms": []},
        "all rooms": {"rooms": ALL},
        "admin": {"scopes": ["admin"], "rooms": []},
    }
    expected = {
        (False, False): {"alice", "admin"},
        (False, True): {"alice", "admin", "same room", "all rooms"},
        (True, False): set(callers),
        (True, True): set(callers),
    }
    for (scope, room), wanted in expected.items():
        fields = {"tenant_scope": str(scope).lower(), **({"room_id": "garden"} if room else {})}
        async with api.client() as owner:
            uploaded = await upload(owner, photo(32, 40 + 2 * scope + room), **fields)
            await api.verdict(uploaded["sha256"])
        for read in (
            "/v1/media/{}/info",
            "/v1/media/download/{}",
            "/v1/media/download/{}/thumbnail",
            "/v1/media/signed/{}",
        ):
            seen = set()
            for name, claims in callers.items():
                async with api.client(name, **claims) as client:
                    status = (await client.get(read.format(uploaded["media_id"]))).status_code
                    assert status in (200, 404)
                    if status == 200:
                        seen.add(name)
            assert seen == wanted, (scope, room, read)


async def test_signing_many_tells_nothing_of_what_its_caller_may_not_see(api: Api) -> None:
    async with api.client() as owner, api.client("stranger", rooms=["cellar"]) as stranger:
        hidden = await upload(owner, b"hidden from strangers")
        ids = [hidden["media_id"], hidden["media_id"].replace("med-", "med-thumb-"), UNKNOWN, "x", "med-nonsense"]
        answers = (await stranger.post("/v1/media/sign", json={"media_ids": ids})).json()["data"]
    assert [answer["media_id"] for answer in answers] == ids
    assert all(answer["url"] is None and answer["expires_at"] is None for answer in answers)
    assert len({json.dumps(answer["error"]) for answer in answers}) == 1
    assert answers[0]["error"]["code"] == "not_found"


async def test_only_the_rooms_that_the_caller_may_see_are_told(api: Api) -> None:
    async with api.client(rooms=["garden", "attic", "cellar"]) as owner:
        uploaded = await upload(owner, b"in three rooms", room_id="garden", tenant_scope="true")
        for room in ("attic", "cellar"):
            assert (await owner.post(f"/v1/rooms/{room}/files", json={"media_id": uploaded["media_id"]})).is_success
    for rooms, told in ((["garden", "cellar"], ["cellar", "garden"]), ([], []), (ALL, ["attic", "cellar", "garden"])):
        async with api.client("bob", rooms=rooms) as client:
            info = (await client.get(f"/v1/media/{uploaded['media_id']}/info")).json()["data"]
            assert info["rooms"] == told


# -- OIDC ------------------------------------------------------------------------------------------------------------


class Issuer:
    """A real HTTP server with a JWK Set that can rotate and break."""

    def __init__(self) -> None:
        self.keys = [generate_key()]
        self.fetched = 0
        self.broken = False
        self.others: list[object] = []
        """Members of the JWK Set before the keys."""
        self.body: bytes | None = None
        """The whole answer, in place of the JWK Set."""
        self.drips: str | None = None
        """Where an answer never ends: in its `headers`, or in its `body`."""
        self.gate = threading.Event()
        """Answers wait for it."""
        self.gate.set()
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.fetched += 1
                issuer.gate.wait()
                document = {"keys": [*issuer.others, *public_jwks(issuer.keys)["keys"]]}
                body = b"oops" if issuer.broken else issuer.body or json.dumps(document).encode()
                if issuer.drips is not None:
                    self.drip()
                    return
                self.send_response(500 if issuer.broken else 200)
                self.end_headers()
                self.wfile.write(body)

            def drip(self) -> None:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if issuer.drips == "body" else b"X-Slow: "))
                with contextlib.suppress(OSError):
                    while issuer.drips is not None:
                        self.wfile.write(b" ")
                        time.sleep(0.02)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def issuing() -> Iterator[Issuer]:
    issuer = Issuer()
    thread = threading.Thread(target=issuer.server.serve_forever)
    thread.start()
    try:
        yield issuer
    finally:
        issuer.gate.set()
        issuer.server.shutdown()
        issuer.server.server_close()
        thread.join()


@asynccontextmanager
async def behind(issuer: Issuer, postgres: EmbeddedPostgres, folder: Path) -> AsyncIterator[Api]:
    auth = AuthSettings(
        oidc_jwks_uri=f"{issuer.url}/jwks", oidc_issuer="https://id.example", oidc_audience="media", jwks_file=None
    )
    async with serving(postgres, folder, auth=auth) as api:
        yield api


async def test_an_oidc_issuers_tokens_are_taken_by_its_jwks(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with issuing() as issuer:
        async with behind(issuer, postgres, tmp_path) as api, anybody(api.base) as http_client:
            numbers = itertools.count()

            async def status(key: Any = None, **changes: Any) -> int:
                claims = {
                    "iss": "https://id.example",
                    "aud": "media",
                    "sub": "ann",
                    "exp": 2**31,
                    "scope": "media:read",
                }
                claims |= {"jti": str(next(numbers)), **changes}
                key = key or issuer.keys[0]
                token = jwt.encode(claims, jwt.PyJWK(key).key, algorithm="EdDSA", headers={"kid": key["kid"]})
                answer = await http_client.get("/v1/usage", headers={"Authorization": f"Bearer {token}"})
                return answer.status_code

            assert await asyncio.gather(*(status() for _ in range(8))) == [200] * 8
            assert issuer.fetched == 1
            assert await status(iss="https://evil.example") == 401
            assert await status(aud=api.tenant.tenant_id) == 401
            assert [await status(generate_key()) for _ in range(5)] == [401] * 5
            assert issuer.fetched == 1, "made-up key ids cause no traffic while the keys are fresh"
            issuer.broken = True
            assert await status() == 200, "an issuer that is away for a moment locks nobody out"


async def test_nobody_waits_for_keys_that_are_fetched_anew_and_a_new_key_is_known_afterwards() -> None:
    with issuing() as issuer:
        keys = OidcKeys(f"{issuer.url}/jwks", lifespan=timedelta(0), cooldown=timedelta(0))
        (old,) = issuer.keys
        assert await keys.find(old["kid"]) is not None
        issuer.gate.clear()
        issuer.keys = [old, generate_key()]
        async with asyncio.timeout(60):
            for _ in range(3):
                assert await keys.find(old["kid"]) is not None
        issuer.gate.set()
        async with asyncio.timeout(60):
            while await keys.find(issuer.keys[1]["kid"]) is None:
                pass
        issuer.broken = True
        assert await keys.find(old["kid"]) is not None
        late = OidcKeys(f"{issuer.url}/jwks", max_stale=timedelta(0))
        assert await late.find(old["kid"]) is None


@pytest.mark.parametrize(
    "other",
    [
        {"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "none", "kid": "a"},
        {**public_jwks([generate_key()])["keys"][0], "alg": ["EdDSA"]},
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ", "kid": "b"},
        *({"kty": 7}, {}, None, 7, "key", ["key"], {"kty": "RSA", "n": "é", "e": 7, "kid": "c"}),
    ],
)
async def test_one_key_that_is_none_does_not_lose_an_issuers_others(other: object) -> None:
    with issuing() as issuer:
        issuer.others = [other]
        keys = OidcKeys(f"{issuer.url}/jwks")
        assert await keys.find(issuer.keys[0]["kid"]) is not None
        for kid in ("a", "b", "c", "", "../jwks", "\0"):
            assert await keys.find(kid) is None


async def test_an_issuers_answer_without_an_end_or_sense_is_given_up_and_the_next_one_counts() -> None:
    with issuing() as issuer:
        keys = OidcKeys(f"{issuer.url}/jwks", timeout=timedelta(seconds=0.5), cooldown=timedelta(0))
        kid = issuer.keys[0]["kid"]
        for where in ("body", "headers"):
            issuer.drips = where
            async with asyncio.timeout(60):
                assert await keys.find(kid) is None
            issuer.drips = None
            async with asyncio.timeout(60):
                while await keys.find(kid) is None:
                    pass
            keys = OidcKeys(f"{issuer.url}/jwks", timeout=timedelta(seconds=0.5), cooldown=timedelta(0))
        for body in (b"[" * 100_000, b"[]", b"null", b"\xff", b" " * (2 << 20), b'{"keys": []}'):
            issuer.body = body
            assert await keys.find(kid) is None
        issuer.body = None
        async with asyncio.timeout(60):
            while await keys.find(kid) is None:
                pass


def test_an_issuers_keys_are_at_no_other_kind_of_url() -> None:
    for url in ("file:///etc/passwd", "ftp://id.example/keys", "data:,{}"):
        with pytest.raises(ValueError, match="must begin with https://"):
            OidcKeys(url)


async def test_while_an_issuer_never_answered_nobody_gets_in(postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    with issuing() as issuer:
        issuer.broken = True
        async with behind(issuer, postgres, tmp_path) as api, api.client(key=issuer.keys[0]) as client:
            problem(await client.get("/v1/usage"), 401, "unauthorized")
