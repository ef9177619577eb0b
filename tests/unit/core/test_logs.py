"""What a log line contains, and what it never does."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from media_core import logs

TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJhdWQiOiJhY21lIn0.c2lnbmF0dXJl"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """The stream of the lines. Afterwards logging is restored."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.configure("json", "info", stream)
    yield stream
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_what_was_bound(written: io.StringIO) -> None:
    with logs.bound(request_id="r-1"):
        structlog.stdlib.get_logger("media.test").info("request", status=200, path="/ü\n")
    structlog.stdlib.get_logger("media.test").warning("after")
    first, second = lines(written)
    assert first.pop("time").endswith("Z")
    assert first == {
        "event": "request",
        "status": 200,
        "path": "/ü\n",
        "request_id": "r-1",
        "level": "info",
        "logger": "media.test",
    }
    assert "request_id" not in second


def test_the_standard_librarys_loggers_write_the_same_lines(written: io.StringIO) -> None:
    with logs.bound(job_id="j-1"):
        logging.getLogger("somebody.else").warning("%s is %d", "it", 5)
    (line,) = lines(written)
    assert (line["event"], line["job_id"], line["logger"]) == ("it is 5", "j-1", "somebody.else")


def test_less_severe_lines_and_chatty_libraries_are_left_out(written: io.StringIO) -> None:
    structlog.stdlib.get_logger("media.test").debug("detail")
    logging.getLogger("httpx").info("HTTP Request: GET http://x/?signature=abc")
    assert written.getvalue() == ""


@pytest.mark.parametrize(
    "secret",
    [
        f"Bearer {TOKEN}",
        f"authorization: bearer {TOKEN}",
        TOKEN,
        "postgresql+psycopg://role:hunter2@host/db",
        "https://minio/b/k?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2&x=1",
        "/objects/k?expires=1&signature=hunter2",
        "?token=hunter2",
    ],
)
def test_no_secret_reaches_a_line_wherever_it_stands(written: io.StringIO, secret: str) -> None:
    log = structlog.stdlib.get_logger("media.test")
    log.info(secret)
    log.info("event", url=secret, deep={"list": [secret, {"x": secret}]})
    logging.getLogger("other").warning("says %s", secret)
    log.error("failed", exc_info=ValueError(secret))
    assert len(lines(written)) == 4
    assert "***" in written.getvalue()
    for part in ("hunter2", *TOKEN.split(".")):
        assert part not in written.getvalue()


@pytest.mark.parametrize("name", ["password", "access_token", "Authorization", "secret_key", "signature", "cookie"])
def test_a_value_under_a_secrets_name_is_masked(written: io.StringIO, name: str) -> None:
    structlog.stdlib.get_logger("media.test").info("event", **{name: "hunter2"}, settings={name: "hunter2"})
    assert "hunter2" not in written.getvalue()


def test_a_terminal_gets_readable_text(written: io.StringIO) -> None:
    logs.configure("text", "info", written)
    structlog.stdlib.get_logger("media.test").info("request", status=200, token=TOKEN)
    assert "request" in written.getvalue()
    assert "status=200" in written.getvalue()
    assert TOKEN not in written.getvalue()
