"""`mediactl` against a loopback server that keeps to the API's contract, or breaks it as a test demands.

tests/integration/clients/test_mediactl.py has the real api; here are answers that it rarely gives.
"""

import email
import email.policy
import fcntl
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from typer.testing import CliRunner, Result

from mediactl.commands import app

Answer = Callable[["Handler"], None]


@dataclass
class Script:
    """`answers[(method, path)]` are given in turn, and the last one repeatedly; `seen`: the requests."""

    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    seen: list["Handler"] = field(default_factory=list)
    base: str = ""
    refuses_unread: set[str] = field(default_factory=set)
    """Methods that are answered before the request's body is read."""

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self.answers[method, path] = list(answers)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: Script
    body: bytes
    query: dict[str, list[str]]

    def answer(self) -> None:
        self.body = b"" if self.command in self.script.refuses_unread else self._read_body()
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.script.seen.append(self)
        answers = self.script.answers.get((self.command, address.path), [problem(404, "not_found", "Nothing here.")])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815  # the names that http.server looks for

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def log_message(self, *_: object) -> None:
        pass

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def form(self) -> dict[str, Any]:
        """The multipart body, parsed by an independent parser."""
        text = b"Content-Type: " + self.headers["Content-Type"].encode() + b"\r\n\r\n" + self.body
        message = email.message_from_bytes(text, policy=email.policy.HTTP)
        return {part.get_param("name", header="content-disposition"): part for part in message.iter_parts()}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Ignores clients that close the connection: some tests do that."""


def data(value: Any, status: int = 200, **more: Any) -> Answer:
    return lambda handler: handler.send(
        status, json.dumps({"data": value, **more}).encode(), Content_Type="application/json"
    )


def problem(status: int, code: str, detail: str, retry_after: str | None = None, **facts: Any) -> Answer:
    body = json.dumps({"type": "about:blank", "status": status, "code": code, "detail": detail, **facts}).encode()
    headers = {"Content_Type": "application/problem+json", "X_Request_Id": "req-1"}
    if retry_after is not None:
        headers["Retry_After"] = retry_after
    return lambda handler: handler.send(status, body, **headers)


def nothing(handler: Handler) -> None:
    handler.send(204, b"")


@pytest.fixture
def server() -> Iterator[Script]:
    script = Script()
    http = Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    script.base = f"http://127.0.0.1:{http.server_address[1]}"
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            http.handle_request()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield script
    over.set()
    socket.create_connection(http.server_address[:2]).close()  # else it would wait for another request
    thread.join()
    http.server_close()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The lengths of its pauses, none of which is made."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mediactl(server: Script, *arguments: str | Path, code: int = 0, **env: str) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"BASE": server.base, "TOKEN": "a.b.c", **env})
    assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    if code:
        assert result.stderr.count("\n") == 1, result.stderr
    return result


def started(server: Script, *arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "mediactl", *map(str, arguments)],
        env={**os.environ, "BASE": server.base, "TOKEN": "a.b.c"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


ITEM = {
    "media_id": "med-1",
    "sha256": hashlib.sha256(b"hello").hexdigest(),
    "size": 5,
    "mime_type": "text/plain",
    "thumbnail_id": None,
    "width": None,
    "height": None,
    "scan_status": "pending",
}
INFO = {**ITEM, "filename": "a.txt", "created_at": "2026-05-17T14:00:00Z", "uploaded_by": "alice", "rooms": ["r"]}


# --- Ctrl-C ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_in_the_first_moments_ends_it_without_a_traceback(server: Script) -> None:
    program = [sys.executable, "-X", "importtime", "-m", "mediactl", "--base", server.base, "usage"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("| " in line and "mediactl.errors" in line for line in process.stderr)  # it imports the rest now
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode in {-signal.SIGINT, 130}
    assert "Traceback" not in told
    assert server.seen == []


def test_ctrl_c_that_the_shell_keeps_from_it_does_not_end_it(server: Script) -> None:
    """As of `mediactl … &` in a script."""
    server.on("GET", "/v1/media/med-1/info", data(INFO))
    keep = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); from mediactl.__main__ import run; run()"
    program = [sys.executable, "-X", "importtime", "-c", keep, "--base", server.base, "--token", "t", "info", "med-1"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert any("mediactl.errors" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "a.txt" in shown


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_missing_base_says_how_to_get_one(server: Script) -> None:
    assert "make run" in mediactl(server, "usage", code=2, BASE="").stderr


def test_a_missing_token_says_how_to_get_one(server: Script) -> None:
    assert "mediactl token --signing-key" in mediactl(server, "usage", code=2, TOKEN="").stderr


def test_base_and_token_can_be_given_as_options(server: Script) -> None:
    server.on("GET", "/v1/media/med-1/info", data(INFO))
    mediactl(server, "info", "med-1", "--base", server.base, "--token", "other", BASE="http://127.0.0.1:1", TOKEN="x")
    assert server.seen[0].headers["Authorization"] == "Bearer other"


def test_base_token_and_json_can_come_before_the_command_too(server: Script) -> None:
    server.on("GET", "/v1/media/med-1/info", data(INFO))
    before = ("--base", server.base, "--token", "other", "--json")
    shown = mediactl(server, *before, "info", "med-1", BASE="http://127.0.0.1:1", TOKEN="x").stdout
    assert json.loads(shown) == INFO
    assert server.seen[0].headers["Authorization"] == "Bearer other"
    mediactl(server, "--base", "http://127.0.0.1:1", "info", "med-1", "--base", server.base)


def test_a_base_that_ends_in_the_apis_version_is_told_the_right_one(server: Script) -> None:
    shown = mediactl(server, "usage", code=2, BASE=f"{server.base}/v1/").stderr
    assert shown == f"mediactl: BASE must be given without /v1: {server.base}\n"


def test_nobody_at_base_is_said_with_the_address_and_the_way_to_start_it(server: Script) -> None:
    shown = mediactl(server, "usage", code=3, BASE="http://127.0.0.1:1").stderr
    assert "http://127.0.0.1:1 (connection refused)" in shown
    assert "make run" in shown


@pytest.mark.parametrize(
    ("today", "said"),
    [
        ({"transcribed_seconds_today": 720}, "transcribed\t12 min of audio today\n"),
        ({"transcribed_seconds_today": 0}, ""),
        ({}, ""),
    ],
)
def test_usage_says_how_much_was_transcribed_today(server: Script, today: dict[str, int], said: str) -> None:
    limits = {"max_storage_mb": 1, "max_files": None, "max_upload_mb": 1, "max_transcription_minutes_per_day": 600}
    numbers = dict.fromkeys(("stored_bytes", "reserved_bytes", "objects", "files", "dedupe_saved_bytes"), 0)
    server.on("GET", "/v1/usage", data({"limits": limits, **numbers, **today}))
    assert mediactl(server, "usage").stdout.endswith(f"transcription\tup to 10 h of audio a day\n{said}")


def test_blanks_around_base_are_passed_over(server: Script) -> None:
    server.on("GET", "/v1/media/med-1/info", data(INFO))
    mediactl(server, "info", "med-1", BASE=f" {server.base}/\r\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ls", "--name"],
        ["search"],
        ["rename", "med-1"],
        ["info"],
        ["jobs", "get"],
        ["watch", "--file"],
        ["rooms", "attach", "lobby"],
    ],
)
def test_what_is_no_text_is_said_and_not_blamed_on_base(server: Script, arguments: list[str]) -> None:
    shown = mediactl(server, *arguments, os.fsdecode(b"Gr\xfc\xdfe"), code=2).stderr
    assert "no UTF-8" in shown
    assert server.seen == []


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://x"])
def test_a_proxy_that_is_no_http_proxy_is_said(server: Script, proxy: str) -> None:
    shown = mediactl(server, "usage", code=2, ALL_PROXY=proxy).stderr
    assert shown.startswith("mediactl: the environment names a proxy that is no HTTP proxy; unset ALL_PROXY")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_name_that_the_terminals_encoding_lacks_ends_nothing(server: Script, as_json: bool) -> None:
    server.on("GET", "/v1/media/med-1/info", data(INFO | {"filename": "Grüße 日本.txt"}))
    program = [sys.executable, "-m", "mediactl", *(["--json"] if as_json else []), "info", "med-1"]
    environment = {**os.environ, "BASE": server.base, "TOKEN": "x", "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(program, env=environment, check=True, capture_output=True, text=True).stdout
    if as_json:
        assert json.loads(shown)["filename"] == "Grüße 日本.txt"
    else:
        assert "Gr??e ??.txt" in shown


def test_a_closed_or_full_output_is_no_crash(server: Script) -> None:
    server.on("GET", "/v1/media/med-1/info", data(INFO))
    environment = {**os.environ, "BASE": server.base, "TOKEN": "x"}
    for arguments, code, said in (
        ("info med-1 >&-", 0, ""),
        ("info med-1 > /dev/full", 2, "mediactl: this machine: No space left on device\n"),
        ("--help > /dev/full", 1, "mediactl: this machine: No space left on device\n"),
    ):
        program = ["sh", "-c", f"{sys.executable} -m mediactl {arguments}"]
        told = subprocess.run(program, env=environment, check=False, stderr=subprocess.PIPE, text=True)
        assert (told.returncode, told.stderr) == (code, said)


def test_a_refusal_is_one_line_from_the_problem(server: Script) -> None:
    server.on("GET", "/v1/media/med-1/info", problem(404, "not_found", "There is nothing here."))
    assert mediactl(server, "info", "med-1", code=1).stderr == "mediactl: There is nothing here\n"


def test_a_refused_token_says_how_to_get_another(server: Script) -> None:
    server.on("GET", "/v1/usage", problem(401, "unauthorized", "The token has expired."))
    assert "The token has expired; `source .run/env`" in mediactl(server, "usage", code=1).stderr


MEDIA_ID = "med-01JD0Z3V5QH7W8K2M4N6P8R0T2"


def test_a_room_that_the_token_may_lack_is_named(server: Script, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    for arguments in (
        ["ls", "lobby"],
        ["rooms", "attach", "lobby", MEDIA_ID],
        ["rooms", "detach", "lobby", MEDIA_ID],
        ["upload", str(tmp_path / "a.txt"), "--room", "lobby"],
    ):
        told = mediactl(server, *arguments, code=1).stderr
        assert told.strip() == (
            "mediactl: Nothing here; does your token name the room lobby? `mediactl token` shows its rooms"
        )


@pytest.mark.parametrize("verb", ["attach", "detach"])
def test_a_file_in_place_of_the_room_is_told_before_anything_is_sent(server: Script, verb: str) -> None:
    told = mediactl(server, "rooms", verb, MEDIA_ID, "lobby", code=2).stderr
    assert told == f"mediactl: {MEDIA_ID} is a file's id; the room comes first, then the file\n"
    assert server.seen == []


def test_what_can_be_no_file_is_not_waited_for(server: Script) -> None:
    told = mediactl(server, "watch", "--file", "med-abc", code=1).stderr
    assert told == "mediactl: Nothing here\n"


def test_a_files_name_in_place_of_its_id_is_told_with_the_way_to_the_id(server: Script) -> None:
    for arguments in (
        ["info", "photo.jpg"],
        ["labels", "photo.jpg", "a=b"],
        ["download", "photo.jpg"],
        ["rm", "photo.jpg"],
    ):
        told = mediactl(server, *arguments, code=1).stderr
        assert told == (
            "mediactl: Nothing here; photo.jpg is no file's id, which looks like med-…; `mediactl ls` shows them\n"
        )
    told = mediactl(server, "jobs", "get", MEDIA_ID, code=1).stderr
    assert "is no job's id, which looks like job-…; `mediactl jobs ls` shows them" in told


def test_a_script_gets_the_problem_as_json(server: Script) -> None:
    server.on("DELETE", "/v1/media/med-1", problem(403, "not_yours", "Only its uploader.", limit=3))
    told = json.loads(mediactl(server, "rm", "med-1", "--json", code=1).stderr)
    assert told == {
        "detail": "Only its uploader.",
        "status": 403,
        "code": "not_yours",
        "request_id": "req-1",
        "limit": 3,
    }


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (lambda h: h.send(502, b"<html>Bad Gateway</html>", Content_Type="text/html"), 1, "answered 502 Bad Gateway"),
        (lambda h: h.send(200, b"<html>Welcome</html>", Content_Type="text/html"), 3, "is not the media API"),
        (lambda h: h.send(301, b"", Location="https://media.example/"), 1, "redirects to https://media.example/"),
        (lambda h: h.send(200, b"{}", Content_Length="50"), 3, "broke"),
        (lambda h: h.send(500, b"x" * 10_000_000), 1, "answered 500"),
    ],
)
def test_what_is_no_answer_of_the_api_is_one_line_too(server: Script, answer: Answer, code: int, words: str) -> None:
    def then_hang_up(handler: Handler) -> None:
        answer(handler)
        handler.close_connection = True

    server.on("GET", "/v1/media/med-1/info", then_hang_up)
    assert words in mediactl(server, "info", "med-1", code=code).stderr


def test_an_error_of_our_own_is_one_line(server: Script) -> None:
    server.on("GET", "/v1/media/med-1/info", data({"nothing": "that info needs"}))
    assert "unexpected KeyError" in mediactl(server, "info", "med-1", code=1).stderr


@pytest.mark.parametrize("status", [425, 429, 503])
def test_later_is_honoured_as_the_api_says(server: Script, status: int, pauses: list[float]) -> None:
    later = problem(status, "scan_pending", "Not yet.", retry_after="7")
    server.on("GET", "/v1/media/med-1/info", later, later, data(INFO))
    assert "clean" not in mediactl(server, "info", "med-1").stdout
    assert pauses == [7.0, 7.0]


def test_waiting_ends(server: Script, pauses: list[float]) -> None:
    server.on("GET", "/v1/media/med-1/info", problem(503, "unavailable", "The database is away.", retry_after="25"))
    shown = mediactl(server, "info", "med-1", code=1).stderr
    assert pauses == [25.0, 25.0]
    assert "The database is away; try again in 25 s; request req-1" in shown


def test_later_than_anybody_waits_is_said_at_once(server: Script, pauses: list[float]) -> None:
    server.on("POST", "/v1/transcribe", problem(429, "transcription_limit_exceeded", "600 minutes.", "20000"))
    shown = mediactl(server, "transcribe", MEDIA_ID, code=1).stderr
    assert pauses == []
    assert "600 minutes; try again in 5 h 33 min" in shown


def test_a_suspended_tenant_is_not_waited_for(server: Script, pauses: list[float]) -> None:
    server.on("GET", "/v1/media/med-1/info", problem(503, "suspended", "This tenant is suspended.", retry_after="1"))
    mediactl(server, "info", "med-1", code=1)
    assert pauses == []


def test_an_id_is_one_segment_whatever_it_holds(server: Script) -> None:
    mediactl(server, "rooms", "detach", "a b?", "med/../../x?y", code=1)
    assert server.seen[0].path == "/v1/rooms/a%20b%3F/files/med%2F..%2F..%2Fx%3Fy"


# --- upload ----------------------------------------------------------------------------------------------------------


def test_upload_sends_a_form_and_prints_id_and_status(server: Script, tmp_path: Path) -> None:
    file = tmp_path / 'Grü"ße.txt'
    file.write_bytes(b"hello")
    server.on("POST", "/v1/media/upload", data(ITEM, 201))
    shown = mediactl(server, "upload", file, "--room", "kitchen", "--tenant-scope", "--label", "a=b").stdout
    assert shown == 'med-1\tpending\t5 bytes\ttext/plain\tGrü"ße.txt\n'
    request = server.seen[0]
    assert int(request.headers["Content-Length"]) == len(request.body)
    form = request.form()
    assert list(form) == ["tenant_scope", "room_id", "labels", "file"]
    assert json.loads(form["labels"].get_content()) == {"a": "b"}
    assert form["room_id"].get_content().strip() == "kitchen"
    assert form["file"].get_payload(decode=True) == b"hello"
    assert form["file"].get_content_type() == "text/plain"
    assert 'filename="Grü%22ße.txt"'.encode() in request.body


def test_upload_tells_when_other_bytes_arrived(server: Script, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"HELLO")
    server.on("POST", "/v1/media/upload", data(ITEM, 201))
    assert "was stored as med-1 with wrong bytes" in mediactl(server, "upload", tmp_path / "a.txt", code=1).stderr


def test_an_upload_told_to_come_later_sends_the_same_bytes_again(
    server: Script, tmp_path: Path, pauses: list[float]
) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    server.on("POST", "/v1/media/upload", problem(503, "unavailable", "S3 is away.", "1"), data(ITEM, 201))
    mediactl(server, "upload", tmp_path / "a.txt")
    first, second = server.seen
    assert first.body == second.body
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]


def test_an_upload_in_several_requests_whose_begin_was_not_answered_is_begun_again_under_its_key(
    server: Script, here: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mediactl.client.FROM_BYTES", 1)
    Path("a.txt").write_bytes(b"hello")
    env = {"XDG_STATE_HOME": str(here)}

    keys: list[str] = []
    sent: list[tuple[str, bytes]] = []

    def is_lost(handler: Handler) -> None:
        keys.append(handler.headers["Idempotency-Key"])
        handler.close_connection = True

    def begins(handler: Handler) -> None:
        keys.append(handler.headers["Idempotency-Key"])
        handler.send(201, b"", Location="/v1/media/uploads/one", Upload_Offset="2")

    def takes(handler: Handler) -> None:
        sent.append((handler.headers["Upload-Offset"], handler.body))
        handler.send(204, b"")

    server.on("PATCH", "/v1/media/uploads/one", takes)
    server.on("GET", "/v1/media/uploads/one", data({"media": ITEM}))
    server.on("POST", "/v1/media/uploads", is_lost)
    given_up = CliRunner().invoke(app, ["upload", "a.txt"], env={"BASE": server.base, "TOKEN": "a.b.c", **env})
    assert given_up.exit_code == 3, given_up.stderr
    server.on("POST", "/v1/media/uploads", is_lost, begins)
    mediactl(server, "upload", "a.txt", **env)
    assert sent == [("2", b"llo")]
    assert (len(keys) > 3, len(set(keys))) == (True, 1), "it is the same upload"
    mediactl(server, "upload", "a.txt", **env)
    assert len(set(keys)) == 2, "another one"

    asked = len(pauses)
    nowhere = mediactl(server, "upload", "a.txt", code=3, BASE="http://127.0.0.1:1", **env)
    assert "nothing answers" in nowhere.stderr
    assert len(pauses) == asked, "nothing was sent, so nothing is asked again"


def test_a_refusal_is_heard_while_the_file_is_still_going_out(server: Script, tmp_path: Path) -> None:
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(2 << 40)

    def refuse(handler: Handler) -> None:
        problem(413, "file_too_large", "A file may have at most 536,870,912 bytes.")(handler)
        handler.close_connection = True
        handler.connection.settimeout(60)
        while handler.rfile.read1(1 << 20):
            pass

    server.refuses_unread.add("POST")
    server.on("POST", "/v1/media/upload", refuse)
    assert "at most 512 MiB" in mediactl(server, "upload", tmp_path / "big.bin", code=1).stderr


def several(server: Script, *arguments: str | Path) -> Result:
    """A command that fails for some of its arguments."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"BASE": server.base, "TOKEN": "t"})
    assert result.exit_code == 1, (result.exit_code, result.stdout, result.stderr)
    return result


def test_of_several_files_each_failure_names_its_own_and_the_others_go_up(server: Script, here: Path) -> None:
    (here / "empty.txt").touch()
    (here / "a.txt").write_bytes(b"hello")
    (here / "folder").mkdir()
    server.on("POST", "/v1/media/upload", problem(422, "empty_file", "The file is empty."), data(ITEM, 201))
    result = several(server, "upload", "none", "folder", "empty.txt", "a.txt")
    assert result.stderr.splitlines() == [
        "mediactl: none: No such file or directory",
        "mediactl: folder: is a folder; give the files in it",
        "mediactl: empty.txt: The file is empty",
    ]
    assert result.stdout == "med-1\tpending\t5 bytes\ttext/plain\ta.txt\n"


def test_nobody_answering_is_said_once_however_many_files(server: Script, here: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (here / name).write_bytes(b"hello")
    mediactl(server, "upload", "a.txt", "b.txt", code=3, BASE="http://127.0.0.1:1")


def test_of_several_ids_each_failure_names_its_own_and_the_others_are_deleted(server: Script) -> None:
    server.on("DELETE", "/v1/media/med-2", nothing)
    result = several(server, "rm", "med-1", "med-2")
    assert (result.stdout, result.stderr) == ("deleted\tmed-2\n", "mediactl: med-1: Nothing here\n")
    told = json.loads(several(server, "rm", "med-1", "med-2", "--json").stderr)
    assert (told["argument"], told["code"]) == ("med-1", "not_found")


@pytest.mark.parametrize("room", ["", "a/b", "..", "a\nb", "x" * 256])
@pytest.mark.parametrize(
    "arguments",
    [
        ["upload", "a.txt", "--room"],
        ["ls"],
        ["rooms", "attach", "ROOM", "med-1"],
        ["rooms", "detach", "ROOM", "med-1"],
        ["token", "--signing-key", "k.json", "--sub", "a", "--room"],
    ],
)
def test_what_cannot_be_a_room_is_refused_here(server: Script, here: Path, arguments: list[str], room: str) -> None:
    (here / "a.txt").write_bytes(b"hello")
    given = [room if word == "ROOM" else word for word in arguments] + ([] if "ROOM" in arguments else [room])
    assert "1-255 printable characters and no /" in mediactl(server, *given, code=2).stderr
    assert server.seen == []


def test_the_longest_room_is_asked_for(server: Script) -> None:
    server.on("GET", f"/v1/rooms/{'x' * 255}/files", data([], next_cursor=None))
    mediactl(server, "ls", "x" * 255)


def test_ls_without_a_room_lists_what_one_uploaded(server: Script) -> None:
    server.on("GET", "/v1/media", page_of)
    assert mediactl(server, "ls", "--type", "image").stdout == mediactl(server, "ls", "--mine").stdout
    assert [request.query.get("room_id") for request in server.seen] == [None, None]


def test_a_value_that_an_option_does_not_have_is_refused_with_those_it_has(server: Script) -> None:
    refused = CliRunner().invoke(app, ["ls", "--type", "pictures"], env={"BASE": server.base})
    told = " ".join(refused.stderr.replace("│", " ").split())
    assert "Invalid value for '--type': 'pictures' is not one of 'image', 'audio', 'video', 'document'." in told


def test_a_full_quota_says_what_to_delete(server: Script, here: Path) -> None:
    (here / "a.txt").write_bytes(b"hello")
    server.on("POST", "/v1/media/upload", problem(413, "quota_exceeded", "It is full."))
    shown = mediactl(server, "upload", "a.txt", code=1).stderr
    assert "`mediactl rm ID` makes room" in shown
    assert "`mediactl ls --sort -size`" in shown


def test_upload_waits_for_the_verdict(server: Script, tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    server.on("POST", "/v1/media/upload", data(ITEM, 201))
    server.on(
        "GET", "/v1/media/med-1/info", data(INFO), data({**INFO, "scan_status": "error"}),
        data({**INFO, "scan_status": "clean"}),
    )  # fmt: skip
    assert "\tclean\t" in mediactl(server, "upload", "--wait", tmp_path / "a.txt").stdout


def test_upload_waits_for_the_verdict_while_the_api_is_away_for_less_than_a_minute(
    server: Script, tmp_path: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    monkeypatch.setattr(time, "monotonic", lambda: 1000 + sum(pauses))
    server.on("POST", "/v1/media/upload", data(ITEM, 201))
    clean = data({**INFO, "scan_status": "clean"})
    server.on("GET", "/v1/media/med-1/info", breaks, breaks, breaks, clean)
    shown = mediactl(server, "upload", "--wait", tmp_path / "a.txt")
    assert "\tclean\t" in shown.stdout
    assert shown.stderr.count("trying again") == 1
    server.on("GET", "/v1/media/med-1/info", breaks)
    before = sum(pauses)
    shown = CliRunner().invoke(
        app, ["upload", "--wait", str(tmp_path / "a.txt")], env={"BASE": server.base, "TOKEN": "t"}
    )
    assert shown.exit_code == 3
    assert 60 < sum(pauses) - before < 70


def test_infected_content_is_told_by_its_404(server: Script, tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    server.on("POST", "/v1/media/upload", data(ITEM, 201))
    server.on("GET", "/v1/media/med-1/info", data(INFO), problem(404, "not_found", "Nothing here."))
    result = CliRunner().invoke(
        app, ["upload", "--wait", str(tmp_path / "a.txt")], env={"BASE": server.base, "TOKEN": "t"}
    )
    assert (result.exit_code, "\tinfected\t" in result.stdout) == (1, True)


def test_standard_input_is_streamed_under_a_given_name(server: Script) -> None:
    server.on("POST", "/v1/media/upload", data(ITEM, 201))
    process = started(server, "upload", "-", "--name", "note.txt", stdin=subprocess.PIPE)
    out, err = process.communicate(b"hello", timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert out.startswith(b"med-1\tpending")
    assert server.seen[0].headers["Transfer-Encoding"] == "chunked"
    assert server.seen[0].form()["file"].get_payload(decode=True) == b"hello"
    assert server.seen[0].form()["file"].get_filename() == "note.txt"


def test_standard_input_needs_a_name(server: Script) -> None:
    assert "--name" in mediactl(server, "upload", "-", code=2).stderr


# --- download --------------------------------------------------------------------------------------------------------

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = "/v1/media/download/med-1"


def file_of(content: bytes = CONTENT, digest: str = DIGEST, name: str = "a.bin", stop: int | None = None) -> Answer:
    """An object with Range and If-Range; the connection breaks after `stop` bytes."""

    def answer(handler: Handler) -> None:
        headers = {"ETag": f'"{digest}"', "Content_Disposition": f'attachment; filename="{name}"'}
        start = 0
        if "Range" in handler.headers and handler.headers.get("If-Range") == headers["ETag"]:
            start = int(handler.headers["Range"].removeprefix("bytes=").rstrip("-"))
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        if stop is not None:
            headers["Content_Length"] = str(len(body))
            body = body[:stop]
            handler.close_connection = True
        handler.send(206 if start else 200, body, **headers)

    return answer


def test_download_takes_the_files_own_name(server: Script, here: Path) -> None:
    server.on("GET", PATH, file_of())
    assert mediactl(server, "download", "med-1").stdout == "a.bin\t293 KiB\tverified\n"
    assert [path.name for path in here.iterdir()] == ["a.bin"]
    assert (here / "a.bin").read_bytes() == CONTENT


def test_download_overwrites_nothing_unasked(server: Script, here: Path) -> None:
    server.on("GET", PATH, file_of())
    (here / "a.bin").write_bytes(b"mine")
    assert "-o a.bin replaces it" in mediactl(server, "download", "med-1", code=2).stderr
    assert (here / "a.bin").read_bytes() == b"mine"
    mediactl(server, "download", "med-1", "-o", "a.bin")
    assert (here / "a.bin").read_bytes() == CONTENT
    assert "already here" in mediactl(server, "download", "med-1").stdout


def test_a_download_that_breaks_goes_on_by_itself(server: Script, here: Path, pauses: list[float]) -> None:
    server.on("GET", PATH, file_of(stop=100_000), file_of(stop=100_000), file_of())
    mediactl(server, "download", "med-1")
    assert (here / "a.bin").read_bytes() == CONTENT
    assert len(server.seen) == 3
    assert server.seen[2].headers["If-Range"] == f'"{DIGEST}"'


def test_a_download_that_gave_up_goes_on_next_time(server: Script, here: Path, pauses: list[float]) -> None:
    server.on("GET", PATH, file_of(stop=200_000), file_of(stop=0))
    assert "broke at " in mediactl(server, "download", "med-1", code=3).stderr
    [part] = here.iterdir()
    assert part.name == f"a.bin.{DIGEST[:12]}.part"
    kept = part.stat().st_size
    assert kept > 100_000
    server.seen.clear()
    server.on("GET", PATH, file_of())
    mediactl(server, "download", "med-1")
    assert server.seen[-1].headers["Range"] == f"bytes={kept}-"
    assert (here / "a.bin").read_bytes() == CONTENT
    assert not part.exists()


def test_a_part_that_is_whole_is_only_checked_and_named(server: Script, here: Path) -> None:
    (here / f"a.bin.{DIGEST[:12]}.part").write_bytes(CONTENT)
    server.on("GET", PATH, file_of())
    mediactl(server, "download", "med-1")
    assert len(server.seen) == 1
    assert (here / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["x" * 251 + ".bin", "ü" * 125 + ".jpeg"])
def test_a_file_whose_name_leaves_no_room_for_another_word_is_downloaded_under_it(
    server: Script, here: Path, name: str, pauses: list[float]
) -> None:
    server.on("GET", PATH, file_of(stop=200_000), file_of(stop=0))
    mediactl(server, "download", "med-1", "-o", name, code=3)
    [part] = here.iterdir()
    assert part.name.endswith(f".{DIGEST[:12]}.part")
    server.on("GET", PATH, file_of())
    mediactl(server, "download", "med-1", "-o", name)
    assert [path.name for path in here.iterdir()] == [name]


def test_another_files_part_is_never_continued(server: Script, here: Path) -> None:
    (here / "a.bin.000000000000.part").write_bytes(b"other")
    server.on("GET", PATH, file_of())
    mediactl(server, "download", "med-1")
    assert (here / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"", b"x" * 1000, b"x" * 400_000])
def test_wrong_bytes_are_never_kept(server: Script, here: Path, part: bytes) -> None:
    (here / f"a.bin.{DIGEST[:12]}.part").write_bytes(part)
    server.on("GET", PATH, file_of(content=bytes(300_000)))
    assert "does not have the sha256" in mediactl(server, "download", "med-1", code=1).stderr
    assert list(here.iterdir()) == []


def test_two_downloads_never_write_into_one_part(server: Script, here: Path) -> None:
    with (here / f"a.bin.{DIGEST[:12]}.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        server.on("GET", PATH, file_of())
        assert "under way" in mediactl(server, "download", "med-1", code=2).stderr


def test_standard_output_gets_the_bytes_and_nothing_else(server: Script) -> None:
    server.on("GET", PATH, file_of(stop=100_000), file_of())
    process = started(server, "download", "med-1", "-o", "-")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err, out == CONTENT) == (0, b"", True)


def test_a_device_or_pipe_is_written_to_and_never_replaced(server: Script, here: Path) -> None:
    pipe = here / "pipe"
    os.mkfifo(pipe)
    server.on("GET", PATH, file_of())
    process = started(server, "download", "med-1", "-o", str(pipe))
    assert pipe.read_bytes() == CONTENT
    assert process.wait(120) == 0
    assert pipe.is_fifo()


def test_a_thumbnail_is_asked_for_in_its_size(server: Script, here: Path) -> None:
    server.on("GET", f"{PATH}/thumbnail", file_of(name="a.webp"))
    mediactl(server, "download", "med-1", "--thumbnail", "--size", "320", "-o", here)
    assert server.seen[0].query == {"size": ["320"]}
    assert (here / "a.webp").exists()


def test_a_size_that_no_thumbnail_has_is_refused_with_those_there_are(server: Script) -> None:
    shown = mediactl(server, "download", "med-1", "--thumbnail", "--size", "99", code=2).stderr
    assert shown == "mediactl: --size 99: it has to be one of 160, 320, 640, 1024\n"


def test_a_folder_that_does_not_exist_is_named_before_anything_is_asked(server: Script, here: Path) -> None:
    shown = mediactl(server, "download", "med-1", "-o", here / "nope" / "x", code=2).stderr
    assert shown == f"mediactl: there is no folder {here / 'nope'}\n"
    assert server.seen == []


def test_a_folder_that_takes_no_file_is_named_and_not_the_part(server: Script) -> None:
    server.on("GET", PATH, file_of())
    shown = mediactl(server, "download", "med-1", "-o", "/proc", code=2).stderr
    assert shown.startswith("mediactl: the folder /proc cannot be written to: ")
    assert ".part" not in shown


# --- lists -----------------------------------------------------------------------------------------------------------


def page_of(handler: Handler) -> None:
    start = int(handler.query.get("cursor", ["0"])[0])
    count = int(handler.query["limit"][0])
    items = [
        {
            **INFO,
            "media_id": f"med-{n}",
            "added_at": "2026-05-17T14:00:00Z",
            "added_by": "bob",
            "filename": f"{n}\t\x1b",
        }
        for n in range(start, min(start + count, 450))
    ]
    data(items, next_cursor=str(start + count) if start + count < 450 else None)(handler)


def test_ls_in_a_pipe_is_one_line_a_file(server: Script) -> None:
    server.on("GET", "/v1/rooms/kitchen/files", page_of)
    lines = mediactl(server, "ls", "kitchen", "--limit", "3", "--type", "image").stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].split("\t")[0] == "0��"
    assert all(len(line.split("\t")) == 7 for line in lines)
    assert server.seen[0].query == {"limit": ["3"], "type": ["image"]}


@pytest.mark.parametrize(("arguments", "count"), [(["--all"], 450), (["--limit", "250"], 250), ([], 50)])
def test_ls_follows_pages_as_far_as_it_was_asked(server: Script, arguments: list[str], count: int) -> None:
    server.on("GET", "/v1/rooms/kitchen/files", page_of)
    assert len(json.loads(mediactl(server, "ls", "kitchen", "--json", *arguments).stdout)) == count


def test_ls_of_what_is_mine_asks_for_no_room(server: Script) -> None:
    server.on("GET", "/v1/media", page_of)
    (line, *_) = mediactl(server, "ls", "--mine", "--name", "a b", "--limit", "1").stdout.splitlines()
    assert line.split("\t")[-1] == "med-0"
    assert server.seen[0].query == {"limit": ["1"], "name": ["a b"]}
    assert "--mine" in mediactl(server, "ls", "kitchen", "--name", "x", code=2).stderr


def test_ls_of_what_is_mine_passes_every_filter_on(server: Script) -> None:
    server.on("GET", "/v1/media", data([], next_cursor=None))
    filters = ["--label", "a=b", "--label", "c=d=e", "--since", "2026-05-17T14:00Z", "--sort", "-size"]
    mediactl(server, "ls", "kitchen", "--mine", "--type", "video", *filters)
    assert server.seen[0].query == {
        "limit": ["50"],
        "room_id": ["kitchen"],
        "type": ["video"],
        "label": ["a=b", "c=d=e"],
        "created_after": [datetime(2026, 5, 17, 14, tzinfo=UTC).astimezone().isoformat()],
        "sort": ["-size"],
    }
    mediactl(server, "ls", "--owner", "all", "--since", "7d")
    assert server.seen[1].query["owner"] == ["all"]
    week = datetime.now(UTC) - datetime.fromisoformat(server.seen[1].query["created_after"][0])
    assert 6.99 < week.total_seconds() / 86400 < 7.01
    for wrong, words in (("--since", "a time looks like 7d"), ("--label", "a label looks like key=value")):
        assert words in mediactl(server, "ls", "--mine", wrong, "x", code=2).stderr
    assert "--since is for what you uploaded" in mediactl(server, "ls", "kitchen", "--since", "7d", code=2).stderr


def test_a_file_is_renamed_and_its_kept_name_is_printed(server: Script) -> None:
    server.on("PATCH", "/v1/media/med-1", data({**INFO, "filename": "b.txt"}))
    assert mediactl(server, "rename", "med-1", "../b.txt").stdout == "renamed\tmed-1\tb.txt\n"
    assert json.loads(server.seen[0].body) == {"filename": "../b.txt"}


def test_single_labels_are_set_and_removed_and_the_others_stay(server: Script) -> None:
    server.on("GET", "/v1/media/med-1/info", data({**INFO, "labels": {"a": "1", "b": "2"}}))
    server.on("PATCH", "/v1/media/med-1", lambda h: data({**INFO, **json.loads(h.body)})(h))
    assert mediactl(server, "labels", "med-1").stdout == "a\t1\nb\t2\n"
    assert [request.command for request in server.seen] == ["GET"]
    assert mediactl(server, "labels", "med-1", "c=x=y", "a=3", "--remove", "b").stdout == "a\t3\nc\tx=y\n"
    assert json.loads(server.seen[-1].body) == {"labels": {"a": "3", "c": "x=y"}}
    assert json.loads(mediactl(server, "labels", "med-1", "--remove", "a", "--json").stdout) == {"b": "2"}
    assert mediactl(server, "labels", "med-1", "--remove", "a", "--remove", "b").stdout == ""
    assert json.loads(server.seen[-1].body) == {"labels": {}}


def test_of_a_refused_body_only_what_is_wrong_is_said(server: Script) -> None:
    wrong = [{"where": "labels", "what": "The key of a label has 1 to 63 characters"}]
    detail = 'The body must be {"labels": {"key": "value"}}. labels: The key of a label has 1 to 63 characters.'
    server.on("GET", "/v1/media/med-1/info", data({**INFO, "labels": {}}))
    server.on("PATCH", "/v1/media/med-1", problem(422, "invalid_request", detail, errors=wrong))
    done = mediactl(server, "labels", "med-1", "Ort=Ulm", code=1)
    assert done.stderr == "mediactl: labels: The key of a label has 1 to 63 characters\n"
    whole = json.loads(mediactl(server, "labels", "med-1", "Ort=Ulm", "--json", code=1).stderr)
    assert whole["detail"] == detail


def test_several_are_signed_in_one_request_and_one_without_a_url_is_a_complaint(server: Script) -> None:
    signed = [
        {"media_id": "med-1", "url": "https://s3.example/1", "expires_at": "2026-05-17T14:05:00Z", "error": None},
        {"media_id": "med-2", "url": None, "expires_at": None, "error": {"code": "not_found", "detail": "Not here."}},
    ]
    server.on("POST", "/v1/media/sign", data(signed))
    gallery = ("--thumbnail", "--size", "320", "--via", "api")
    done = mediactl(server, "sign", "med-1", "med-2", "--seconds", "60", *gallery, code=1)
    assert done.stdout == "med-1\thttps://s3.example/1\n"
    assert "med-2: Not here." in done.stderr
    wanted = {"media_ids": ["med-1", "med-2"], "thumbnail": True, "size": 320, "expires_in": 60, "via": "api"}
    assert json.loads(server.seen[0].body) == wanted


@pytest.mark.parametrize("count", ["1", "450"])
def test_a_reader_that_has_seen_enough_is_no_error(server: Script, count: str) -> None:
    server.on("GET", "/v1/rooms/kitchen/files", page_of)
    process = started(server, "ls", "kitchen", "--limit", count)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(120) == 0


# --- transcription ---------------------------------------------------------------------------------------------------

JOB: dict[str, Any] = {
    "job_id": "job-1",
    "kind": "transcribe",
    "status": "running",
    "progress": 0.5,
    "queue_position": None,
    "error": None,
}
DONE = {
    **JOB,
    "status": "completed",
    "progress": 1.0,
    "transcript": "Hello there.",
    "segments": [{"id": 0, "start": 0, "end": 1, "text": "Hello"}, {"id": 1, "start": 1, "end": 2, "text": "there."}],
    "language": "en",
    "duration": 2.0,
}


def stream_of(*messages: dict[str, Any]) -> Answer:
    body = "".join(f"id: {n}\ndata: {json.dumps(m)}\n\n" for n, m in enumerate(messages)).encode()

    def answer(handler: Handler) -> None:
        handler.send(200, body, Content_Type="text/event-stream")

    return answer


def test_transcribe_prints_the_job_and_goes(server: Script) -> None:
    server.on("POST", "/v1/transcribe", data({"job_id": "job-1", "status": "queued"}, 202))
    assert mediactl(server, "transcribe", MEDIA_ID, "--language", "en", "--words").stdout == "job-1\tqueued\n"
    fields = {name: part.get_content().strip() for name, part in server.seen[0].form().items()}
    assert fields == {"media_id": MEDIA_ID, "language": "en", "word_timestamps": "true"}


def test_transcribe_chooses_what_is_heard(server: Script) -> None:
    server.on("POST", "/v1/transcribe", data({"job_id": "job-1", "status": "queued"}, 202))
    chosen = (["--track", "2", "--channel", "1"], {"track": "2", "channel": "1"})
    for options, sent in (
        chosen,
        (["--split-channels", "--multilingual"], {"channels": "split", "multilingual": "true"}),
    ):
        mediactl(server, "transcribe", MEDIA_ID, *options)
        fields = {name: part.get_content().strip() for name, part in server.seen[-1].form().items()}
        assert fields == {"media_id": MEDIA_ID, **sent}


def test_transcribe_sends_a_file_that_is_here(server: Script, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    server.on("POST", "/v1/transcribe", data({"job_id": "job-1", "status": "queued"}, 202))
    mediactl(server, "transcribe", tmp_path / "a.wav", "--translate")
    form = server.seen[0].form()
    assert form["task"].get_content().strip() == "translate"
    assert form["file"].get_payload(decode=True) == b"RIFF"


@pytest.mark.parametrize(
    "what", ["med-thumb-01JD0Z3V5QH7W8K2M4N6P8R0T2", "med-meeting", MEDIA_ID[:-1], MEDIA_ID.lower()]
)
def test_transcribe_takes_what_is_no_id_for_a_file(server: Script, what: str) -> None:
    assert what in mediactl(server, "transcribe", what, code=2).stderr
    assert server.seen == []


def test_transcribe_waits_and_prints_the_text(server: Script, pauses: list[float]) -> None:
    server.on("POST", "/v1/transcribe", data({"job_id": "job-1", "status": "queued"}, 202))
    server.on("GET", "/v1/jobs/job-1/events", stream_of(JOB, {"id": 0, "start": 0, "end": 1, "text": "Hello"}, DONE))
    server.on("GET", "/v1/jobs/job-1", data(DONE))
    assert mediactl(server, "transcribe", MEDIA_ID, "--wait").stdout == "Hello there.\n"
    assert json.loads(mediactl(server, "transcribe", MEDIA_ID, "--wait", "--json").stdout) == DONE
    assert pauses == []


@pytest.mark.parametrize(
    "events", [problem(404, "not_found", "No."), lambda h: h.send(200, b"{}"), stream_of(JOB), stream_of()]
)
def test_without_a_stream_it_asks_once_a_second(server: Script, events: Answer, pauses: list[float]) -> None:
    server.on("GET", "/v1/jobs/job-1/events", events)
    server.on("GET", "/v1/jobs/job-1", data(JOB), data(JOB), data(DONE))
    assert mediactl(server, "jobs", "get", "job-1", "--wait").stdout == "Hello there.\n"
    assert pauses == [1, 1]


def test_a_job_names_its_file(server: Script) -> None:
    job = {**JOB, "media_id": "med-1", "created_at": None}
    server.on("GET", "/v1/jobs", data([job], next_cursor=None))
    server.on("GET", "/v1/jobs/job-1", data(job))
    assert mediactl(server, "jobs", "ls").stdout.rstrip("\n").split("\t")[-1] == "med-1"
    mediactl(server, "jobs", "ls", "--kind", "transcribe", "--status", "queued", "--status", "running")
    wanted = {"limit": ["50"], "kind": ["transcribe"], "status": ["queued", "running"]}
    assert server.seen[1].query == wanted
    assert "file\tmed-1\n" in mediactl(server, "jobs", "get", "job-1").stdout


def test_watch_names_the_types_there_are(server: Script) -> None:
    shown = " ".join(mediactl(server, "watch", "--help").stdout.replace("│", " ").split())
    assert "stored, scanned, thumbnail, transcript, changed, attached, removed, deleted" in shown


def streams(handler: Handler) -> None:
    """One event, then the connection breaks."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    told = {"event_id": "evt-1", "type": "stored", "media_id": "med-1", "created_at": INFO["created_at"], "data": {}}
    event = f"id: at-1\ndata: {json.dumps(told)}\n\n".encode()
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
    handler.close_connection = True


def breaks(handler: Handler) -> None:
    handler.close_connection = True


def test_watch_says_once_that_nothing_answers_and_goes_on_however_long_that_lasts(
    server: Script, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: sum(pauses) * 100)  # each second of a pause takes a hundred
    away = problem(503, "unavailable", "The database is away.", "70")
    expired = problem(410, "cursor_expired", "These events are gone.")
    server.on("GET", "/v1/events", streams, breaks, away, breaks, breaks, streams, breaks, breaks, expired)
    shown = CliRunner().invoke(app, ["watch"], env={"BASE": server.base, "TOKEN": "a.b.c"})
    assert shown.exit_code == 1
    assert shown.stdout.count("med-1") == 2
    lost, lost_again, last = shown.stderr.splitlines()
    assert lost == lost_again
    assert lost == f"mediactl: the connection to {server.base} broke (in the middle of an answer); trying again in 1 s"
    assert last == "mediactl: These events are gone"
    assert [request.headers["Last-Event-ID"] for request in server.seen] == [None, *["at-1"] * 8]


def test_watch_gives_up_where_nothing_ever_answered(pauses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: sum(pauses))
    shown = CliRunner().invoke(app, ["watch"], env={"BASE": "http://127.0.0.1:1", "TOKEN": "a.b.c"})
    assert (shown.exit_code, round(sum(pauses))) == (3, 61)
    again, last = shown.stderr.splitlines()
    assert "nothing answers at http://127.0.0.1:1" in again
    assert "make run" in last


def test_cues_are_asked_for_in_another_shape(server: Script) -> None:
    server.on("GET", "/v1/jobs/job-1", data(DONE))
    server.on("GET", "/v1/jobs/job-1/transcript.vtt", lambda h: h.send(200, b"WEBVTT\n"))
    shape = ("--max-chars", "20", "--max-lines", "1", "--max-seconds", "2.5", "--word-highlights")
    assert mediactl(server, "jobs", "get", "job-1", "--format", "vtt", *shape).stdout == "WEBVTT\n"
    assert server.seen[-1].query == {
        "max_chars": ["20"],
        "max_lines": ["1"],
        "max_seconds": ["2.5"],
        "word_highlights": ["true"],
    }
    assert "is for --format srt or vtt" in mediactl(server, "jobs", "get", "job-1", "--max-chars", "20", code=2).stderr


def test_a_search_goes_through_files_with_all_of_its_labels(server: Script) -> None:
    server.on("GET", "/v1/transcripts/search", data([], next_cursor=None))
    mediactl(server, "search", "budget", "--label", "team=a", "--label", "year=2026")
    assert server.seen[0].query["label"] == ["team=a", "year=2026"]


def test_a_format_is_printed_as_the_api_wrote_it(server: Script) -> None:
    server.on("GET", "/v1/jobs/job-1", data(DONE))
    server.on("GET", "/v1/jobs/job-1/transcript.srt", lambda h: h.send(200, "1\n00:00 --> 00:01\nGrüße\n".encode()))
    assert mediactl(server, "jobs", "get", "job-1", "--format", "srt").stdout == "1\n00:00 --> 00:01\nGrüße\n"


SILENT = {**DONE, "transcript": "", "segments": [], "language": None}


@pytest.mark.parametrize(
    ("arguments", "text", "printed"),
    [
        (["--wait"], "", ""),
        ([], "", None),
        (["--format", "txt"], "\n", ""),
        (["--format", "vtt"], "WEBVTT\n", "WEBVTT\n"),
    ],
)
def test_silence_is_said_beside_an_empty_answer(
    server: Script, arguments: list[str], text: str, printed: str | None
) -> None:
    server.on("GET", "/v1/jobs/job-1", data(SILENT))
    for name in ("txt", "vtt"):
        server.on("GET", f"/v1/jobs/job-1/transcript.{name}", lambda handler: handler.send(200, text.encode()))
    result = mediactl(server, "jobs", "get", "job-1", *arguments)
    assert result.stderr == "no speech was heard\n"
    assert printed is None or result.stdout == printed


def test_a_job_that_failed_is_a_failure(server: Script) -> None:
    failed = {**JOB, "status": "failed", "error": {"code": "duration_exceeds_limit", "detail": "Too long."}}
    server.on("GET", "/v1/jobs/job-1", data(failed))
    assert "job-1 failed: Too long." in mediactl(server, "jobs", "get", "job-1", "--wait", code=1).stderr


def test_ctrl_c_leaves_the_job_running_and_says_its_id(server: Script) -> None:
    listening = threading.Event()

    def endless(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b'data: {"status": "running", "progress": 0.1}\n\n')
        listening.set()
        handler.rfile.read(1)

    server.on("GET", "/v1/jobs/job-1/events", endless)
    process = started(server, "jobs", "get", "job-1", "--wait")
    assert listening.wait(120)
    time.sleep(0.2)  # until the client reads again; this side has nothing to await
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "job-1 goes on running" in err.decode()
    assert all(request.command == "GET" for request in server.seen)


# --- rescan ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("verdict", "code"), [("clean", 0), ("infected", 1)])
def test_rescan_prints_its_job_or_waits_for_the_verdict(server: Script, verdict: str, code: int) -> None:
    server.on("POST", "/v1/media/med-1/rescan", data({"job_id": "job-1", "status": "queued"}, 202))
    server.on("GET", "/v1/jobs/job-1", data({**JOB, "kind": "scan", "status": "completed", "scan_status": verdict}))
    assert mediactl(server, "rescan", "med-1").stdout == "job-1\tqueued\n"
    result = CliRunner().invoke(app, ["rescan", "med-1", "--wait"], env={"BASE": server.base, "TOKEN": "t"})
    assert (result.exit_code, result.stdout, result.stderr) == (code, f"job-1\t{verdict}\n", "")


# --- usage -----------------------------------------------------------------------------------------------------------


def test_usage_is_told_in_human_units(server: Script) -> None:
    limits = {"max_storage_mb": 10240, "max_upload_mb": 512.0, "max_transcription_minutes_per_day": 600}
    facts = {"stored_bytes": 5 << 30, "reserved_bytes": 1 << 20, "objects": 3, "files": 4, "dedupe_saved_bytes": 2048}
    server.on("GET", "/v1/usage", data({"limits": limits, **facts}))
    assert mediactl(server, "usage").stdout.splitlines() == [
        "storage\t5 GiB of 10 GiB, 1 MiB reserved by uploads under way",
        "files\t4, of 3 distinct contents",
        "saved\t2 KiB by storing the same bytes once",
        "one upload\tup to 512 MiB",
        "transcription\tup to 10 h of audio a day",
    ]
    server.on("GET", "/v1/usage", data({"limits": {**limits, "max_files": 5000}, **facts}))
    assert "files\t4, of 3 distinct contents; at most 5,000" in mediactl(server, "usage").stdout


# --- token -----------------------------------------------------------------------------------------------------------


def test_token_says_what_it_carries_and_that_nobody_checked(server: Script, tmp_path: Path) -> None:
    from media_core.auth import tokens

    keys = tmp_path / "acme" / "signing-keys.json"
    keys.parent.mkdir()
    tokens.save_signing_keys(keys, [tokens.generate_key()])
    minted = mediactl(server, "token", "--signing-key", keys, "--sub", "alice", "--room", "*").stdout
    assert minted.count("\n") == 1
    shown = mediactl(server, "token", TOKEN=minted).stdout
    assert dict(line.split("\t") for line in shown.splitlines()[:4]) == {
        "subject": "alice", "tenant": "acme", "scopes": "media:read media:write transcribe", "rooms": "all"
    }  # fmt: skip
    assert "expires\tin 12 h" in shown
    assert server.seen == []


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["acme", "other"], "scp": ["media:read", "admin"], "rooms": "lobby garden"},
        {"aud": ["acme", "other"], "scope": "media:read admin", "rooms": ["lobby", "garden"]},
    ],
)
def test_a_token_of_another_issuer_is_shown_as_the_api_reads_it(server: Script, claims: dict[str, Any]) -> None:
    shown = mediactl(server, "token", TOKEN=jwt.encode(claims, "k" * 32)).stdout
    assert dict(line.split("\t") for line in shown.splitlines()) == {
        "subject": "nobody", "tenant": "acme, other", "scopes": "media:read admin", "rooms": "lobby, garden",
        "expires": "never",
    }  # fmt: skip


@pytest.mark.parametrize("expires", [1_764_545_776_000, 10**30, -(10**30)])
def test_an_end_that_no_calendar_has_is_shown_as_the_token_says_it(server: Script, expires: int) -> None:
    token = jwt.encode({"exp": expires}, "k" * 32)
    assert f"expires\t{expires}\n" in mediactl(server, "token", TOKEN=token).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--signing-key", "k.json"], "--sub"),
        (["--sub", "alice"], "--signing-key"),
        (["--signing-key", "k.json", "--sub", "a", "--scope", "root"], "unknown scope: root"),
        (["--signing-key", "k.json", "--sub", "a", "--lifetime", "long"], "looks like 30s"),
        (["--signing-key", "no-such-file", "--sub", "a"], "no-such-file: No such file"),
        ([], "is not a JSON Web Token"),
    ],
)
def test_a_token_that_cannot_be_made_or_read_says_why(server: Script, arguments: list[str], words: str) -> None:
    assert words in mediactl(server, "token", *arguments, code=2).stderr


def test_version_is_the_packages_and_asks_no_server(server: Script) -> None:
    assert mediactl(server, "--version").stdout == f"mediactl {metadata.version('mediactl')}\n"
    assert server.seen == []
