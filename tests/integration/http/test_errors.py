"""Errors: each is a problem, says what to do, leaks nothing, and writes a line in the log."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from sqlalchemy import create_engine, text

from media_api import server
from media_api.requests.wrong_input import TIME
from media_operator.local.postgres import EmbeddedPostgres
from tests.integration.servers.api import Api, anybody, eventually, log_lines, problem, process, upload
from tests.integration.tenancy import GENEROUS

UNKNOWN = "med-01JD0Z3V5QH7W8K2M4N6P8R0T2"


async def raw(api: Api, sent: bytes, *, end: bool = False) -> tuple[bytes, dict[str, Any]]:
    """Sends raw bytes. Returns the answer's head and problem."""
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(sent)
    if end:
        writer.write_eof()
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    body = await reader.readexactly(int(length[1])) if length else b""
    writer.close()
    return head, json.loads(body)


async def test_an_address_that_is_not_there_is_a_404_problem(api: Api) -> None:
    async with anybody(api.base) as client:
        for path in ("/", "/v2", "/v1", "/v1/rooms", "/v1/nothing", "/docs/secret", "/%00", "/v1/usage/"):
            problem(await client.get(path), 404, "not_found")


async def test_a_method_that_is_not_for_an_address_is_405_and_says_which_are(api: Api) -> None:
    async with api.client() as client:
        for method, path, allowed in (
            ("PUT", "/v1/media/upload", "POST"),
            ("PATCH", "/v1/usage", "GET"),
            ("POST", f"/v1/media/{UNKNOWN}/info", "GET"),
            ("DELETE", "/healthz", "GET"),
            ("OPTIONS", "/v1/usage", "GET"),
        ):
            answer = await client.request(method, path)
            problem(answer, 405, "method_not_allowed")
            assert allowed in answer.headers["allow"]


async def test_wrong_parameters_are_named_and_not_echoed(api: Api) -> None:
    async with api.client() as client:
        answer = await client.get("/v1/jobs", params={"limit": "<script>"})
    body = problem(answer, 422, "invalid_request")
    assert body["errors"] == [{"where": "limit", "what": body["errors"][0]["what"]}]
    assert body["detail"].startswith("limit: ")
    assert "<script>" not in answer.text


SENTENCES = (
    ("/v1/jobs", "limit=ten", "limit: it must be a whole number from 1 to 200."),
    ("/v1/jobs", "limit=201", "limit: it must be a whole number from 1 to 200."),
    ("/v1/jobs", f"limit={'9' * 5000}", "limit: it must be a whole number from 1 to 200."),
    ("/v1/media", "type=picture", "type: it must be image, audio, video or document."),
    ("/v1/media", "name=", "name: it must have 1 to 255 characters."),
    ("/v1/media", "name=%00", "name: it must be a text without NUL."),
    ("/v1/media", "&".join(f"label=a{n}=b" for n in range(17)), "label: it must have at most 16 entries."),
    ("/v1/events", "&".join(["type=stored"] * 9), "type: it must have at most 8 entries."),
    ("/v1/media", "created_after=2026-01-01T00:00:00", f"created_after: {TIME}."),
    ("/v1/media", "created_after=2026-01-01T00:00:00+01:00", f"created_after: {TIME}."),
    ("/v1/media", "created_before=2026-13-01T00:00:00Z", f"created_before: {TIME}."),
    ("/v1/events", "type=stored&type=x", "type: it must be stored, scanned, thumbnail, transcript, "),
    ("/v1/transcripts/search", "limit=5", "q: it is needed."),
    ("/v1/transcripts/search", "q=a&language=english", "language: it must be an ISO 639-1 code such as en."),
    ("/v1/media", "cursor=abc", "cursor: not one that this list gave out"),
    ("/v1/media", "label=a", "label: it must be key=value."),
    ("/v1/media", "filename=a", "`filename` is not a query parameter of this call; did you mean `name`?"),
    ("/v1/media", "label[]=a=b", "`label[]` is not a query parameter of this call; send `label` once for each value."),
    (
        "/v1/jobs",
        "status[0]=queued&status[1]=running",
        "`status[0]` is not a query parameter of this call; send `status` ",
    ),
    ("/v1/media", "type[]=image", "`type[]` is not a query parameter of this call; did you mean `type`?"),
    (f"/v1/media/signed/{UNKNOWN}", "expires_in=301", "expires_in: a URL may be valid for at most 300 seconds here."),
    (f"/v1/media/signed/{UNKNOWN}", "thumbnail=perhaps", "thumbnail: it must be true or false."),
    (f"/v1/media/signed/{UNKNOWN}", "expires_in=soon", "expires_in: it must be a whole number, at least 1."),
    (f"/v1/media/download/{UNKNOWN}/thumbnail", "size=3", "size: it must be 160, 320, 640 or 1024."),
    (
        "/v1/jobs/job-01JD0Z3V5QH7W8K2M4N6P8R0T3/transcript.srt",
        "max_seconds=x",
        "max_seconds: it must be a number from",
    ),
    ("/v1/jobs/job-01JD0Z3V5QH7W8K2M4N6P8R0T3/transcript.srt", "max_seconds=nan", "max_seconds: it must be a number f"),
)
BODIES = (
    (
        "PATCH",
        f"/v1/media/{UNKNOWN}",
        {"filname": "a"},
        "filname: `filname` is not a member of this body; did you mean",
    ),
    ("PATCH", f"/v1/media/{UNKNOWN}", {"filename": 5}, "filename: it must be a text."),
    (
        "PATCH",
        f"/v1/media/{UNKNOWN}",
        {"name": "a", "filename": "b"},
        "name: it is another name of `filename`; send one of the two.",
    ),
    ("PATCH", f"/v1/media/{UNKNOWN}", {"tenant_scope": "yes"}, "tenant_scope: it must be true or false."),
    ("PATCH", f"/v1/media/{UNKNOWN}", {"labels": []}, "labels: it must be an object."),
    ("PATCH", f"/v1/media/{UNKNOWN}", {"labels": {"a": 5}}, "labels.a: it must be a text."),
    ("POST", "/v1/media/sign", {}, "media_ids: it is needed."),
    ("POST", "/v1/media/sign", {"media_ids": []}, "media_ids: it must have 1 to 200 entries."),
    ("POST", "/v1/media/sign", {"media_ids": "x"}, "media_ids: it must be a list."),
    ("POST", "/v1/media/sign", {"media_ids": ["x" * 65]}, "media_ids.0: it must have at most 64 characters."),
    (
        "POST",
        "/v1/media/sign",
        {"media_ids": ["x"], "expires_in": 0.5},
        "expires_in: it must be a whole number, at least",
    ),
)


async def test_a_refusal_says_in_a_sentence_what_a_parameter_must_be(api: Api) -> None:
    async with api.client("root") as client:
        for path, query, said in SENTENCES:
            told = problem(await client.get(f"{path}?{query}"), 422, "invalid_request")
            assert said in told["detail"]
            (wrong,) = told["errors"]
            assert wrong["where"] in parse_qs(query, keep_blank_values=True) or "needed" in said, query
        for method, path, body, said in BODIES:
            detail = problem(await client.request(method, path, json=body), 422, "invalid_request")["detail"]
            assert said in detail
            assert "?." not in detail


async def test_a_body_that_is_not_json_is_told_so_and_where(api: Api) -> None:
    async with api.client() as client:
        for body, said in (
            (b"{'media_ids': []}", "It is not JSON: key must be a string at line 1 column 2."),
            (b"media_ids=x", "It is not JSON: expected value at line 1 column 1."),
            (b"", "It is not JSON: EOF while parsing a value at line 1 column 0."),
            ('{"media_ids": []}'.encode("utf-16"), "It is not JSON: expected value at line 1 column 1."),
        ):
            answer = await client.post("/v1/media/sign", content=body, headers={"Content-Type": "application/json"})
            detail = problem(answer, 422, "invalid_request")["detail"]
            assert detail == f'The body must be {{"media_ids": ["med-…"]}}. {said}'


async def test_a_byte_order_mark_before_json_is_passed_over(api: Api) -> None:
    """.NET's StreamWriter with Encoding.UTF8 begins with one (RFC 8259, 8.1)."""
    body = b"\xef\xbb\xbf" + json.dumps({"media_ids": [UNKNOWN]}).encode()
    async with api.client() as client:
        answer = await client.post("/v1/media/sign", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["data"][0]["error"]["code"] == "not_found"


async def test_every_answer_bears_a_request_id_the_clients_own_if_it_is_one(api: Api) -> None:
    async with api.client() as client:
        for path in ("/v1/usage", "/nothing", "/healthz", f"/v1/media/{UNKNOWN}/info"):
            assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", (await client.get(path)).headers["x-request-id"])
            own = await client.get(path, headers={"X-Request-Id": "trace-1.a:b_c"})
            assert own.headers["x-request-id"] == "trace-1.a:b_c"
            for bad in ("a b", "x" * 65, "", 'a"b'):
                answer = await client.get(path, headers={"X-Request-Id": bad})
                assert answer.headers["x-request-id"] != bad
        same = {(await client.get(f"/v1/media/{UNKNOWN}/info")).content for _ in range(3)}
    assert len(same) == 1


async def test_what_is_not_http_is_a_400_problem(api: Api) -> None:
    for garbage in (b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03", b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        head, body = await raw(api, garbage)
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"x-request-id: " in head.lower()
        assert b"connection: close" in head.lower()
        assert b"cache-control: no-store\r\n" in head.lower()
        assert b"x-content-type-options: nosniff\r\n" in head.lower()
        assert body["code"] == "bad_request"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"GET /healthz HTTP/1.1\r\n", "Send one Host header."),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n", "Send one Host header."),
        (
            b"POST /v1/transcribe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n",
            "A body may have the Transfer-Encoding `chunked`, and no other.",
        ),
    ],
)
async def test_a_request_that_rfc_9112_has_refused_is_refused(api: Api, head: bytes, said: str) -> None:
    answer, body = await raw(api, head + b"\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert (body["code"], body["detail"]) == ("bad_request", said)


async def test_a_client_of_http_1_0_needs_no_host_and_is_sent_no_100(api: Api) -> None:
    form = b"POST /v1/media/upload HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 0\r\n"
    answer, _ = await raw(api, form + f"Authorization: Bearer {api.token()}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 422 ")


async def test_smuggled_lengths_are_refused(api: Api) -> None:
    for headers in (
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 5x\r\n",
    ):
        head, body = await raw(api, b"POST /v1/media/upload HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\nhello")
        assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 401 ")), head
        assert body["status"] in (400, 401)


@pytest.mark.parametrize("endless", [True, False])
async def test_a_head_that_is_too_large_is_a_431_problem(api: Api, endless: bool) -> None:
    line = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 140_000
    head, body = await raw(api, line if endless else line + b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")
    assert body["code"] == "headers_too_large"
    head, body = await raw(api, b"GET /" + b"x" * 140_000 + (b"" if endless else b" HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert head.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost:", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
async def test_a_head_that_does_not_come_is_not_waited_for(
    api: Api, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(sent)
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("trailer", [b"x: y\r\n", b"x" * 4096], ids=["many", "one without end"])
async def test_an_endless_trailer_is_cut_off_and_kept_nowhere(api: Api, trailer: bytes) -> None:
    reader, writer = await asyncio.open_connection(*api.address)
    writer.write(b"POST /v1/media/upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 64 * server.MAX_HEAD_BYTES:
            writer.write(trailer * (4096 // len(trailer)))
            await writer.drain()
            sent += 4096
            await asyncio.sleep(0)  # lets the server, in this same loop, read
        raise AssertionError(f"{sent} bytes of trailer were taken")
    writer.close()
    reader.feed_eof()


async def test_a_request_that_would_upgrade_is_answered_as_it_is(api: Api) -> None:
    reader, writer = await asyncio.open_connection(*api.address)
    for upgrade in ("h2c", "websocket"):
        head = f"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        await reader.readexactly(len(b'{"status":"ok","detail":null}'))
    writer.close()


async def test_a_head_within_the_limit_is_served(api: Api) -> None:
    async with anybody(api.base) as client:
        assert (await client.get("/healthz", headers={"X-Long": "x" * 100_000})).status_code == 200


async def test_ids_and_rooms_of_any_shape_are_never_an_internal_error(api: Api) -> None:
    strange = [
        "%00",
        "%FF%FE",
        "%F0%9F%92%A9",
        "a" * 3000,
        "..",
        "%2e%2e",
        "'; DROP TABLE media; --",
        "%E2%80%AE",
        "%20",
    ]
    async with api.client("root") as client:
        for text_of in strange:
            for path in (
                f"/v1/media/{text_of}/info",
                f"/v1/media/download/{text_of}",
                f"/v1/media/download/{text_of}/thumbnail",
                f"/v1/media/signed/{text_of}",
                f"/v1/jobs/{text_of}",
                f"/v1/jobs/{text_of}/events",
                f"/v1/jobs/{text_of}/transcript.txt",
                f"/objects/{text_of}",
                f"/v1/rooms/{text_of}/files",
            ):
                answer = await client.get(path)
                assert answer.status_code < 500, (path, answer.text)
            assert (await client.delete(f"/v1/rooms/{text_of}/files/{text_of}")).status_code < 500
            attach = await client.post("/v1/rooms/garden/files", json={"media_id": f"\0{text_of}"[:60]})
            assert attach.status_code < 500


# -- dependencies ----------------------------------------------------------------------------------------------------


async def test_what_nobody_foresaw_is_a_500_that_tells_the_log_and_not_the_client(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with process(postgres, tmp_path) as api, api.client() as client:
        async with api.tenant.as_owner() as tx:
            await tx.execute("ALTER TABLE media RENAME TO secret_table")
        answer = await client.get(f"/v1/media/{UNKNOWN}/info", headers={"X-Request-Id": "find-me"})
        body = problem(answer, 500, "internal_error")
        assert body.keys() == {"type", "title", "status", "detail", "code"}
        for hint in ("media.", "relation", "sql", "psycopg", "traceback", "secret"):
            assert hint not in answer.text.lower()
        problem(await client.post("/v1/media/upload", files={"file": ("a", b"x")}), 500, "internal_error")
        logged = [line for line in log_lines(tmp_path) if line.get("request_id") == "find-me"]
    logged = logged[-2:]
    assert [(line["event"], line["level"]) for line in logged] == [("unforeseen", "error"), ("request", "info")]
    assert "UndefinedTable" in logged[0]["exception"]
    assert logged[1]["status"] == 500


async def test_why_a_dependency_did_not_serve_is_in_the_log_and_not_in_the_answer(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with process(postgres, tmp_path) as api, api.client() as client:
        put_a_file_in_place_of(Path(api.store._root))
        headers = {"X-Request-Id": "find-me"}
        answer = await client.post("/v1/media/upload", files={"file": ("a", b"x")}, headers=headers)
        assert "directory" not in problem(answer, 503, "unavailable")["detail"]
        line = await request_line(tmp_path, "find-me")
    assert (line["status"], line["level"]) == (503, "warning")
    assert re.match("object store: .*Not a directory", line["reason"])


async def request_line(folder: Path, request_id: str) -> dict[str, Any]:
    """The one line of a request, which is written after its answer."""
    found: list[dict[str, Any]] = []

    async def is_there() -> bool:
        lines = log_lines(folder)
        found[:] = [each for each in lines if each["event"] == "request" and each["request_id"] == request_id]
        return bool(found)

    await eventually(is_there)
    (line,) = found
    return line


def put_a_file_in_place_of(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.write_text("no folder")


@contextmanager
def locked_out(postgres: EmbeddedPostgres, api: Api) -> Iterator[None]:
    """Locks the tenant's role out: for the api the database is away."""
    engine = create_engine(postgres.admin_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as admin:
        admin.execute(text(f"ALTER ROLE {api.tenant.schema} NOLOGIN"))
        admin.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = :role"),
            {"role": api.tenant.schema},
        )
        try:
            yield
        finally:
            admin.execute(text(f"ALTER ROLE {api.tenant.schema} LOGIN"))
    engine.dispose()


async def test_while_the_database_is_away_calls_are_503_and_the_api_comes_back_by_itself(
    postgres: EmbeddedPostgres, fresh_api: Api
) -> None:
    async with fresh_api.client() as client:
        uploaded = await upload(client, b"before the outage")
        with locked_out(postgres, fresh_api):
            await asyncio.sleep(1.1)  # a policy that was just read stands for a second
            for answer in (
                await client.get("/v1/usage"),
                await client.get(f"/v1/media/{uploaded['media_id']}/info"),
                await client.post("/v1/media/upload", files={"file": ("a", b"x")}),
                await client.get("/v1/jobs"),
            ):
                body = problem(answer, 503, "unavailable")
                assert (body["dependency"], answer.headers["retry-after"]) == ("database", "5")
                assert fresh_api.tenant.schema not in answer.text
            ready = await client.get("/readyz")
            body = problem(ready, 503, "unavailable")
            assert (body["dependency"], ready.headers["retry-after"]) == ("database", "5")
            assert (await client.get("/healthz")).status_code == 200

        async def back() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await eventually(back)
        assert (await client.get(f"/v1/media/{uploaded['media_id']}/info")).status_code == 200


async def test_a_full_disk_of_the_database_is_told_to_client_and_log_and_files_can_be_read(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    async with process(postgres, tmp_path) as api, api.client() as client:
        before = await upload(client, b"before the disk was full")
        async with api.tenant.as_owner() as tx:
            await tx.execute(
                "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$"
            )
            await tx.execute("CREATE TRIGGER full_disk BEFORE INSERT ON media EXECUTE FUNCTION full_disk()")
        answer = await client.post("/v1/media/upload", files={"file": ("a", b"x")}, headers={"X-Request-Id": "find-me"})
        body = problem(answer, 503, "unavailable")
        assert body["detail"].startswith("The disk of the database is full; whoever runs it has to make room. Nothing")
        assert (await client.get(f"/v1/media/{before['media_id']}/info")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        reason = (await request_line(tmp_path, "find-me"))["reason"]
    assert reason.startswith("database: the disk of the database is full")
    assert "DiskFull: could not extend file" in reason


async def test_a_suspended_tenant_answers_503_on_every_call_and_keeps_its_files(fresh_api: Api) -> None:
    async with fresh_api.client() as client, anybody() as nobody:
        uploaded = await upload(client, b"before")
        await fresh_api.verdict(uploaded["sha256"])
        url = (await client.get(f"/v1/media/signed/{uploaded['media_id']}")).json()["data"]["url"]
        await fresh_api.apply(replace(GENEROUS, suspended=True))
        for answer in (
            await client.get("/v1/usage"),
            await client.get(f"/v1/media/download/{uploaded['media_id']}"),
            await client.post("/v1/media/upload", files={"file": ("a", b"x")}),
            await nobody.get(url),
        ):
            body = problem(answer, 503, "suspended")
            assert answer.headers["retry-after"] == str(body["retry_after"])
        assert (await client.get("/readyz")).status_code == 200
        await fresh_api.apply(GENEROUS)
        assert (await client.get(f"/v1/media/download/{uploaded['media_id']}")).content == b"before"


async def test_a_tenant_without_a_policy_is_closed(fresh_api: Api) -> None:
    async with fresh_api.client() as client:
        async with fresh_api.tenant.as_owner() as tx:
            await tx.execute("DELETE FROM policy")
        await asyncio.sleep(1.1)
        problem(await client.get("/v1/usage"), 503, "suspended")


async def test_uvicorn_does_not_log_a_second_time_what_was_logged(api: Api) -> None:
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 0, "Exception in ASGI application\n", None, None)
    assert not logging.getLogger("uvicorn.error").filter(record)
