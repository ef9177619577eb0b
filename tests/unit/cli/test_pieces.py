"""What `mediactl` shows and reads, without a server."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from httpx_sse import EventSource
from jwt.algorithms import OKPAlgorithm
from rich.cells import cell_len
from rich.console import Console

from mediactl import Client, Misuse
from mediactl.commands import jobs, rooms
from mediactl.download import _file_name
from mediactl.exchange import seconds_of
from mediactl.program import render, times, tokens


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1024, "1 KiB"),
        (184234, "180 KiB"),
        (512 * 2**20, "512 MiB"),
        (1020 * 2**20, "0.996 GiB"),
        (10 * 2**30, "10 GiB"),
        (3 * 2**50, "3072 TiB"),
        (None, "-"),
    ],
)
def test_sizes_read_like_the_limits_do(count: int | None, shown: str) -> None:
    assert render.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.25, "0.2 s"), (2, "2 s"), (3.214, "3.21 s"), (42, "42 s"), (600, "10 min"), (12_000, "3 h 20 min"),
     (43_200, "12 h"), (604_800, "7 days")],
)  # fmt: skip
def test_lengths_of_time_read_like_speech(seconds: float, shown: str) -> None:
    assert render.span(seconds) == shown


def test_positions_in_a_recording() -> None:
    assert [render.clock(s) for s in (7.9, 750, 3723)] == ["0:07", "12:30", "1:02:03"]


def test_long_byte_counts_in_a_sentence_get_units() -> None:
    assert (
        render.in_units("52,428,800 bytes do not fit: this tenant stores 10,716,446,720 of 10,737,418,240 bytes")
        == "50 MiB do not fit: this tenant stores 9.98 GiB of 10 GiB"
    )
    assert render.in_units("1,200 minutes") == "1,200 minutes"


def test_a_name_can_neither_colour_the_terminal_nor_split_a_line() -> None:
    assert render.printable("a\x1b[31mb\nc\td\u202egpj.exe") == "a�[31mb�c�d�gpj.exe"
    assert render.printable("Grüße 音声.m4a") == "Grüße 音声.m4a"
    for ordinary in ("می\u200cخواهم", "👩\u200d👩\u200d👧", "全角\u3000空白", "3.04.05\u202fPM", "a\u00a0b"):
        assert render.printable(ordinary) == ordinary


FILES = [
    [
        "Holiday in the mountains 2024.jpeg",
        "2.31 MiB",
        "image/jpeg",
        "clean",
        "May 17 12:30",
        "alice",
        f"med-{26 * '0'}",
    ],
    ["会議の録音と資料のまとめ.m4a", "881 MiB", "audio/mp4", "unscannable", "May 17 12:30", "bob", f"med-{26 * '1'}"],
]
JOBS = [
    [f"job-{26 * '0'}", "transcribe", "running", "40%", "May 17 12:30", "", f"med-{26 * '0'}"],
    [f"job-{26 * '1'}", "scan", "failed", "0%", "May 17 12:30", "file_lost: it is not there", f"med-{26 * '1'}"],
]


def shown(
    monkeypatch: pytest.MonkeyPatch,
    columns: Sequence[render.Column],
    rows: list[list[str]],
    *,
    terminal: int | None,
) -> list[str]:
    """The lines on a terminal of so many columns, or in a pipe."""
    console = Console(file=StringIO(), force_terminal=terminal is not None, width=terminal, color_system=None)
    monkeypatch.setattr(render, "out", console)
    with contextlib.redirect_stdout(StringIO()) as piped:
        render.table(columns, rows)
    assert isinstance(console.file, StringIO)
    return (console.file.getvalue() or piped.getvalue()).splitlines()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_a_list_has_what_is_essential_on_a_terminal_of_any_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    heading, *lines = shown(monkeypatch, rooms.COLUMNS, FILES, terminal=width)
    assert {"NAME", "SIZE", "SCAN", "ID"} <= set(heading.split())
    assert all(
        set(row[1].split()) | {row[3], row[6]} <= set(line.split()) for row, line in zip(FILES, lines, strict=True)
    )
    heading, *lines = shown(monkeypatch, jobs.COLUMNS, JOBS, terminal=width)
    assert {"ID", "KIND", "STATUS", "ERROR"} <= set(heading.split())
    assert all({row[0], row[1], row[2]} <= set(line.split()) for row, line in zip(JOBS, lines, strict=True))


def test_columns_are_left_out_for_a_narrow_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def headings(columns: Sequence[render.Column], rows: list[list[str]], width: int) -> list[str]:
        lines = shown(monkeypatch, columns, rows, terminal=width)
        assert width < 80 or max(map(cell_len, lines)) <= width
        return lines[0].split()

    assert headings(rooms.COLUMNS, FILES, 120) == ["NAME", "SIZE", "TYPE", "SCAN", "ADDED", "BY", "ID"]
    assert headings(rooms.COLUMNS, FILES, 80) == ["NAME", "SIZE", "SCAN", "ADDED", "ID"]
    assert headings(rooms.COLUMNS, FILES, 60) == ["NAME", "SIZE", "SCAN", "ID"]
    assert headings(jobs.COLUMNS, JOBS, 120) == ["ID", "KIND", "STATUS", "DONE", "CREATED", "ERROR", "FILE"]
    assert headings(jobs.COLUMNS, JOBS, 80) == ["ID", "KIND", "STATUS", "DONE", "ERROR"]
    assert headings(jobs.COLUMNS, JOBS, 60) == ["ID", "KIND", "STATUS", "ERROR"]


def test_a_name_is_shortened_in_the_middle_and_keeps_its_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [line.split("  ")[0].strip() for line in shown(monkeypatch, rooms.COLUMNS, FILES, terminal=80)[1:]]
    assert names == ["Holid….jpeg", "会議の….m4a"]


def test_a_pipe_gets_every_column_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, rooms.COLUMNS, FILES, terminal=None) == ["\t".join(row) for row in FILES]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="photo.jpg"', "photo.jpg"),
        ("attachment; filename=\"x.txt\"; filename*=UTF-8''Gr%C3%BC%C3%9Fe.txt", "Grüße.txt"),
        ('attachment; filename="a \\"b\\".txt"', 'a "b".txt'),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ("attachment; filename*=UTF-8''..%2F..%2F.bashrc", "_bashrc"),
        ('attachment; filename=".."', "_."),
        ("attachment; filename*=UTF-8''Screenshot%203.04.05%E2%80%AFPM.png", "Screenshot 3.04.05\u202fPM.png"),
        ("attachment; filename*=UTF-8''%D9%85%DB%8C%E2%80%8C.txt", "می\u200c.txt"),
        ('attachment; filename="a\x1b[31m.txt"', "a_[31m.txt"),
        ("attachment; filename*=UTF-8''" + "%C3%BC" * 200, "ü" * 127),
        ("attachment; filename*=UTF-8''" + "%C3%BC" * 125 + ".jpeg", "ü" * 125 + ".jpeg"),
        ("attachment; filename*=UTF-8''" + "%C3%BC" * 200 + ".jpeg", "ü" * 125 + ".jpeg"),
        ("inline", "med-1"),
        (None, "med-1"),
    ],
)
def test_a_name_from_the_api_is_made_harmless(disposition: str | None, name: str) -> None:
    assert _file_name(disposition, "med-1") == name


def test_events_survive_any_cut_and_any_line_end() -> None:
    stream = (
        b': ping\n\nid: 1\nevent: segment\ndata: {"text":"one \xe2\x80\xa8 line"}\n\n'
        b"data:first\r\ndata: second\r\n\r\nid:2\rdata: x\r\rdata: unfinished"
    )
    expected = [("1", '{"text":"one \u2028 line"}'), ("1", "first\nsecond"), ("2", "x")]
    for width in range(1, len(stream) + 1):
        chunks = (stream[i : i + width] for i in range(0, len(stream), width))
        answer = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=chunks)
        assert [(event.id, event.data) for event in EventSource(answer).iter_sse() if event.data] == expected


def test_retry_after_is_read_in_both_its_forms() -> None:
    assert seconds_of("2") == 2.0
    assert seconds_of(None) is None
    assert seconds_of("soon") is None
    assert seconds_of("nan") is None
    moment = datetime.now(UTC) + timedelta(seconds=90)
    assert 85 < (seconds_of(moment.strftime("%a, %d %b %Y %H:%M:%S GMT")) or 0) <= 90
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0


@pytest.mark.parametrize("base", ["localhost:8080", "ftp://x", "http://", "http://[::1"])
def test_a_base_that_is_no_address_is_named(base: str) -> None:
    with pytest.raises(Misuse, match="BASE is"):
        Client(base, "t")


@pytest.mark.parametrize("base", ["http://ann:secret@x", "http://x?a=secret", "http://x/#secret"])
def test_a_base_that_is_more_than_an_address_is_refused_and_not_repeated(base: str) -> None:
    with pytest.raises(Misuse, match="an address alone") as refused:
        Client(base, "t")
    assert "secret" not in str(refused.value)


def test_a_token_with_foreign_characters_is_refused_and_not_repeated() -> None:
    with pytest.raises(Misuse) as refused:
        Client("http://x", "secret\nX-Evil: 1")
    assert "secret" not in str(refused.value)


@pytest.fixture
def signing_keys(tmp_path: Path) -> tuple[Path, Ed25519PrivateKey]:
    private = Ed25519PrivateKey.generate()
    key = json.loads(OKPAlgorithm.to_jwk(private)) | {"kid": "k1", "alg": "EdDSA", "use": "sig"}
    folder = tmp_path / "acme"
    folder.mkdir()
    file = folder / "signing-keys.json"
    file.write_text(json.dumps({"keys": [key]}))
    return file, private


def test_a_minted_token_carries_what_the_contract_asks(signing_keys: tuple[Path, Ed25519PrivateKey]) -> None:
    file, private = signing_keys
    token = tokens.mint(file, subject="alice", tenant=None, scopes=["media:read"], rooms=["*"], seconds=60)
    claims = jwt.decode(token, private.public_key(), algorithms=["EdDSA"], audience="acme")
    assert (claims["sub"], claims["scope"], claims["rooms"]) == ("alice", "media:read", ["*"])
    assert claims["exp"] - claims["iat"] == 60
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "kid": "k1", "typ": "JWT"}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"keys": 3}', '{"keys": [{"crv": "Ed25519", "d": "s3cret"}]}'])
def test_a_broken_key_file_is_refused_without_quoting_it(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(Misuse) as refused:
        tokens.mint(file, subject="a", tenant="t", scopes=[], rooms=[], seconds=1)
    assert "s3cret" not in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_public_key_cannot_sign(signing_keys: tuple[Path, Ed25519PrivateKey]) -> None:
    file, _ = signing_keys
    key = json.loads(file.read_text())["keys"][0]
    del key["d"]
    file.write_text(json.dumps({"keys": [key]}))
    with pytest.raises(Misuse, match="no private Ed25519 key"):
        tokens.mint(file, subject="a", tenant="t", scopes=[], rooms=[], seconds=1)


@pytest.mark.parametrize("text", ["999999d", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "soon"])
def test_a_time_before_or_after_all_calendars_is_shown_one_that_is_none(text: str) -> None:
    with pytest.raises(Misuse, match="looks like 7d"):
        times.moment(text)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("15m", 900), ("12h", 43_200), ("7d", 604_800)])
def test_lifetimes(text: str, seconds: int) -> None:
    assert times.lifetime(text) == seconds


@pytest.mark.parametrize("text", ["12", "h", "-1h", "0s", "1.5h", "12 h"])
def test_a_lifetime_that_cannot_be_read_is_shown_one_that_can(text: str) -> None:
    with pytest.raises(Misuse, match="looks like 30s"):
        times.lifetime(text)


def test_it_starts_where_no_module_of_posix_is() -> None:
    """As on Windows."""
    missing = ("fcntl", "grp", "pwd", "resource", "termios", "tty")
    program = f"""
import sys
sys.modules.update(dict.fromkeys({missing}))
sys.argv = ["mediactl", "--version"]
from mediactl.__main__ import run
run()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip(), done.stderr
    assert done.returncode == 0, done.stderr
