"""The OpenAPI description is complete and correct, and /docs needs no internet."""

import asyncio
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.openapi.utils import get_openapi

from media_api import app
from media_api.answers import problems
from media_operator.local.postgres import EmbeddedPostgres
from tests.fixtures.media import photo
from tests.integration.servers.api import USER, Api, anybody, problem, serving, upload
from tests.integration.tenancy import FIXTURES

PUBLISHED = {
    ("get", "/v1/media"),
    ("get", "/v1/transcripts/search"),
    ("post", "/v1/media/sign"),
    ("patch", "/v1/media/{media_id}"),
    ("post", "/v1/media/upload"),
    ("post", "/v1/media/uploads"),
    ("patch", "/v1/media/uploads/{upload_id}"),
    ("head", "/v1/media/uploads/{upload_id}"),
    ("get", "/v1/media/uploads/{upload_id}"),
    ("delete", "/v1/media/uploads/{upload_id}"),
    ("get", "/v1/media/{media_id}/info"),
    ("get", "/v1/media/download/{media_id}"),
    ("head", "/v1/media/download/{media_id}"),
    ("get", "/v1/media/download/{media_id}/thumbnail"),
    ("get", "/v1/media/signed/{media_id}"),
    ("delete", "/v1/media/{media_id}"),
    ("post", "/v1/media/{media_id}/rescan"),
    ("get", "/v1/events"),
    ("get", "/v1/transcripts/search"),
    ("get", "/v1/usage"),
    ("post", "/v1/transcribe"),
    ("post", "/v1/audio/transcriptions"),
    ("post", "/v1/audio/translations"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
    ("get", "/v1/jobs/{job_id}"),
    ("get", "/v1/jobs"),
    ("delete", "/v1/jobs/{job_id}"),
    ("get", "/v1/jobs/{job_id}/events"),
    ("get", "/v1/jobs/{job_id}/transcript.{extension}"),
    ("get", "/v1/rooms/{room_id}/files"),
    ("post", "/v1/rooms/{room_id}/files"),
    ("delete", "/v1/rooms/{room_id}/files/{media_id}"),
    ("get", "/healthz"),
    ("get", "/readyz"),
}


@pytest.fixture(scope="module")
async def described(api: Api) -> dict[str, Any]:
    async with anybody(api.base) as client:
        answer = await client.get("/openapi.json")
    assert answer.status_code == 200
    description: dict[str, Any] = answer.json()
    return description


def operations(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, call) for path, calls in described["paths"].items() for method, call in calls.items()]


async def test_others_are_served_while_it_is_made(
    postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_in: list[str] = []

    def made(**arguments: Any) -> dict[str, Any]:
        made_in.append(threading.current_thread().name)
        return get_openapi(**arguments)

    monkeypatch.setattr(app, "get_openapi", made)
    async with serving(postgres, tmp_path) as fresh, anybody(fresh.base) as client:
        first, second = [await client.get("/openapi.json") for _ in range(2)]
    assert first.json() == second.json()
    assert len(made_in) == 1
    assert "(run)" not in made_in[0], "that is the event loop's thread"


def test_it_describes_just_what_there_is(described: dict[str, Any]) -> None:
    assert {(method, path) for method, path, _ in operations(described)} == PUBLISHED


def test_every_call_has_a_name_of_its_own_a_summary_and_a_tag(described: dict[str, Any]) -> None:
    names = [call["operationId"] for _, _, call in operations(described)]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)
    tags = {tag["name"] for tag in described["tags"]}
    for _, path, call in operations(described):
        assert len(call["summary"].split()) > 2, path
        assert "\n" not in call["summary"], path
        assert set(call["tags"]) <= tags


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for value in node.values() for found in references(value)]
        return [found for value in node for found in references(value)] if isinstance(node, list) else []

    for reference in references(described):
        node: Any = described
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]
    assert "HTTPValidationError" not in described["components"]["schemas"]


def test_every_error_is_described_as_a_problem_with_its_codes(described: dict[str, Any]) -> None:
    seen = set()
    for method, path, call in operations(described):
        if path.startswith("/v1/"):
            assert {"401", "403", "500", "503"} <= call["responses"].keys(), path
        for status, answer in call["responses"].items():
            if int(status) < 400:
                continue
            assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
            examples = answer["content"]["application/problem+json"]["examples"]
            for code in examples:
                assert problems.PROBLEM_TYPES[code].status == int(status)
                seen.add(code)
    not_of_a_call = {"signature_invalid", "signature_expired", "method_not_allowed", "headers_too_large"}
    not_of_a_call.add("origin_not_allowed")  # a preflight's
    assert seen == set(problems.PROBLEM_TYPES) - not_of_a_call


def test_refusals_for_a_while_are_described_with_how_long_that_is(described: dict[str, Any]) -> None:
    for calls in described["paths"].values():
        for call in calls.values():
            for status in {"423", "425", "429", "503"} & set(call["responses"]):
                assert "Retry-After" in call["responses"][status]["headers"], (call["operationId"], status)


def test_the_shapes_of_openai_promise_nothing_of_headers_that_they_do_not_read(described: dict[str, Any]) -> None:
    for path in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        answers = described["paths"][path]["post"]["responses"]
        told = {
            code
            for answer in answers.values()
            for each in answer["content"].values()
            for code in each.get("examples", ())
        }
        assert {"missing_file", "too_many_jobs"} <= told
        assert not {"digest_mismatch", "idempotency_key_reused"} & told


def test_every_call_under_v1_wants_a_bearer_token_and_no_other_does(described: dict[str, Any]) -> None:
    assert described["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for _, path, call in operations(described):
        assert (call.get("security") == [{"bearer": []}]) is path.startswith("/v1/"), path


def test_the_conditions_and_ranges_of_downloads_are_described(described: dict[str, Any]) -> None:
    conditions = {"if-match", "if-none-match"}
    for path, method, read in (
        ("/v1/media/download/{media_id}", "get", {"range", "if-range"} | conditions),
        ("/v1/media/download/{media_id}", "head", conditions),
        ("/v1/media/download/{media_id}/thumbnail", "get", conditions),
    ):
        parameters = described["paths"][path][method]["parameters"]
        assert {each["name"] for each in parameters if each["in"] == "header"} == read


def test_forms_are_described_with_their_file(described: dict[str, Any]) -> None:
    for path in ("/v1/media/upload", "/v1/transcribe"):
        form = described["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert form["properties"]["file"]["format"] == "binary"
        assert {"tenant_scope", "room_id"} <= form["properties"].keys()


def test_what_a_form_is_filled_with_beforehand_does_no_harm_when_it_is_sent(described: dict[str, Any]) -> None:
    for path in ("/v1/media/upload", "/v1/transcribe"):
        form = described["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        for name, field in form["properties"].items():
            assert "example" not in field, name
            if field["type"] == "string" and name != "file" and "enum" not in field:
                assert field["default"] == "", name


def test_no_description_begins_with_its_summary(described: dict[str, Any]) -> None:
    for part in (described["info"], *(call for _, _, call in operations(described))):
        assert not part["description"].startswith(part["summary"])


class Resources(HTMLParser):
    """Collects the URLs that a page makes a browser load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attributes if name in ("src", "href")]


async def test_docs_load_nothing_from_elsewhere(api: Api) -> None:
    async with anybody(api.base) as client:
        page = await client.get("/docs")
        assert page.status_code == 200
        assert "https://" not in page.text
        assert "http://" not in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        assert "img-src 'self' data: blob:; media-src blob:" in policy
        resources = Resources(page.text).found
        assert len(resources) == 3
        for resource in resources:
            loaded = await client.get(f"/{resource}")
            assert loaded.status_code == 200, resource
            assert loaded.headers["x-content-type-options"] == "nosniff"
            assert len(loaded.content) > 100
        assert "url: 'openapi.json'" in page.text
        assert '"validatorUrl": null' in page.text


async def test_every_call_says_what_it_answers_to_a_parameter_that_it_does_not_know(
    api: Api, described: dict[str, Any]
) -> None:
    ulid = "01JD0Z3V5QH7W8K2M4N6P8R0T3"
    ids = {"media_id": f"med-{ulid}", "job_id": f"job-{ulid}", "upload_id": f"upl-{ulid}", "room_id": "garden"}
    async with api.client("root", scopes=[*USER, "admin"]) as client:
        for method, path, call in operations(described):
            address = path.format_map({**ids, "model": "whisper-1", "extension": "json"})
            answer = await client.request(method, address, params={"colour": "red"})
            assert str(answer.status_code) in call["responses"], (method, path)


async def test_head_works_wherever_get_does_and_allow_names_every_method(api: Api, described: dict[str, Any]) -> None:
    async with api.client("alice", scopes=[*USER, "admin"], rooms=["lobby"]) as client:
        sent = await upload(client, photo(20, 20), "a.jpg")
        await api.verdict(sent["sha256"])
        recording = await client.post(
            "/v1/transcribe",
            files={
                "file": ("a.wav", (FIXTURES / "whisper-tiny-words" / "samples" / "tone_no_speech.wav").read_bytes())
            },
        )
        ids = {
            "media_id": sent["media_id"],
            "job_id": recording.json()["data"]["job_id"],
            "room_id": "lobby",
            "upload_id": "upl-00000000000000000000000000",
            "extension": "txt",
            "model": "whisper-1",
        }
        for template, calls in described["paths"].items():
            path = template.format(**ids)
            answer = await client.put(path)
            problem(answer, 405, "method_not_allowed")
            documented = {method.upper() for method in calls} | ({"HEAD"} if "get" in calls else set())
            assert {*answer.headers["allow"].split(", ")} == documented, path
            if "get" in calls and not path.endswith("/events"):
                whole, head = await client.get(path), await client.head(path)
                assert (head.status_code, head.content) == (whole.status_code, b""), path
                if template not in ("/v1/media/uploads/{upload_id}", "/readyz", "/v1/media/signed/{media_id}"):
                    assert head.headers.get("content-length") == whole.headers.get("content-length"), path
        async with asyncio.timeout(60):  # the job is queued: the stream of a GET would go on
            head = await client.head(f"/v1/jobs/{ids['job_id']}/events")
        assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert (await client.get("/v1/usage")).status_code == 200
