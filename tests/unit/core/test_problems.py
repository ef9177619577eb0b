"""Errors as RFC 9457 problems: the table has every code that is raised anywhere."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import media_api
import media_core
from media_api.answers import problems
from media_core.errors import Refused

ONLY_A_JOB_ENDS_WITH = {"scan_failed"}
"""Codes of a job's `error`, which are never an answer."""


def _raised(package: Path) -> Iterator[str]:
    for path in package.rglob("*.py"):
        source = path.read_text()
        for node in ast.walk(ast.parse(source)) if "Refused" in source else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused" and node.args:
                code = node.args[0]
                assert isinstance(code, ast.Constant), f"{path}:{node.lineno}: a code must be a literal"
                yield str(code.value)


def test_every_code_that_core_and_api_raise_has_a_status() -> None:
    raised = {code for package in (media_core, media_api) for code in _raised(Path(package.__file__ or "").parent)}
    assert raised - set(problems.PROBLEM_TYPES) == ONLY_A_JOB_ENDS_WITH


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("file_too_large", 413),
        ("quota_exceeded", 413),
        ("infected", 422),
        ("empty_file", 422),
        ("missing_file", 422),
        ("digest_mismatch", 400),
        ("not_found", 404),
        ("no_thumbnail", 404),
        ("scan_pending", 425),
        ("thumbnail_pending", 425),
        ("unscannable", 403),
        ("unauthorized", 401),
        ("insufficient_scope", 403),
        ("not_audio_or_video", 415),
        ("duration_exceeds_limit", 422),
        ("transcription_limit_exceeded", 429),
        ("suspended", 503),
        ("range_not_satisfiable", 416),
        ("idempotency_key_reused", 422),
        ("invalid_request", 422),
    ],
)
def test_the_published_codes_have_their_published_status(code: str, status: int) -> None:
    assert problems.PROBLEM_TYPES[code].status == status


def test_a_problem_bears_what_a_client_needs_to_act() -> None:
    answer = problems.response("quota_exceeded", "It is full.", {"used": 5, "limit": 5, "retry_after": 7})
    assert answer.media_type == "application/problem+json"
    assert answer.headers["retry-after"] == "7"
    assert json.loads(bytes(answer.body)) == {
        "type": "urn:media-platform:problem:quota_exceeded",
        "title": "Storage quota exceeded",
        "status": 413,
        "detail": "It is full.",
        "code": "quota_exceeded",
        "used": 5,
        "limit": 5,
        "retry_after": 7,
    }


@pytest.mark.parametrize(
    ("refused", "headers"),
    [
        (
            Refused("unauthorized", "It has expired."),
            {"WWW-Authenticate": 'Bearer error="invalid_token", error_description="It has expired."'},
        ),
        (
            Refused("insufficient_scope", "No.", scope="media:write"),
            {"WWW-Authenticate": 'Bearer error="insufficient_scope", scope="media:write"'},
        ),
        (Refused("range_not_satisfiable", "Beyond.", size=9), {"Content-Range": "bytes */9"}),
        (Refused("not_found", "Nothing."), {}),
    ],
)
def test_some_problems_answer_in_headers_too(refused: Refused, headers: dict[str, str]) -> None:
    assert problems.challenge(refused, token_sent=True) == headers


def test_a_request_without_a_token_is_not_told_that_its_token_is_bad() -> None:
    assert problems.challenge(Refused("unauthorized", "Send one."), token_sent=False) == {"WWW-Authenticate": "Bearer"}


def test_a_fact_never_takes_the_place_of_a_member() -> None:
    assert problems.problem("not_found", "Nothing.", {"status": "running", "code": "x", "more": 1}) == {
        **problems.problem("not_found", "Nothing."),
        "more": 1,
    }


def test_the_internal_error_says_where_to_look_and_nothing_else() -> None:
    body = json.loads(bytes(problems.internal_error().body))
    assert body["status"] == 500
    assert "X-Request-Id" in body["detail"]
