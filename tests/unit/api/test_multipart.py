"""Forms in any chunks, with fields before or after the file, and malformed in every way."""

import asyncio
import codecs
import contextlib
import fcntl
import itertools
import os
import secrets
from collections.abc import Collection, Iterable
from typing import Any

import aiohttp
import pytest
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st

from media_api.requests.body import FAST_CHUNK_BYTES, ClientGone
from media_api.requests.multipart import DELIMITER_BYTES, MAX_FIELD_BYTES, MAX_FIELDS, MAX_OVERHEAD_BYTES, Form
from media_api.requests.socket_body import EXTENSION, SocketBody
from media_core.errors import Refused

BOUNDARY = "----boundary"
FIELDS = ("tenant_scope", "room_id", "media_id", "prompt", "task", "before", "after", "flag")


def part(
    name: str, value: bytes | str, filename: str | None = None, content_type: str | None = None, *headers: str
) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'
    if filename is not None:
        head += f'; filename="{filename}"'
    if content_type is not None:
        head += f"\r\nContent-Type: {content_type}"
    head = "\r\n".join((head, *headers))
    data = value.encode() if isinstance(value, str) else value
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


def body_of(*parts: bytes) -> bytes:
    return b"".join(parts) + END


def request(
    pieces: Iterable[bytes],
    *,
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}",
    gone: bool = False,
    silent: bool = False,
    by_socket: bytes = b"",
) -> Request:
    """`by_socket`: what a socket has behind the first piece."""
    waiting = list(pieces)
    pipe: list[int] = []
    if by_socket:
        pipe += os.pipe2(os.O_NONBLOCK)
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 1024 * 1024)
        assert os.write(pipe[1], by_socket) == len(by_socket)

    def socket_body() -> SocketBody | None:
        return SocketBody(pipe[0], len(by_socket), left) if pipe else None

    def left(body: SocketBody) -> None:
        waiting[:0] = [os.read(pipe[0], body.left)] if body.left else []
        while pipe:
            os.close(pipe.pop())

    async def receive() -> dict[str, Any]:
        if waiting:
            piece = waiting.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(waiting) or gone or silent}
        if silent:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"} if gone else {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(b"content-type", content_type.encode("latin-1"))],
        "extensions": {EXTENSION: socket_body},
    }
    return Request(scope, receive)


async def read(*pieces: bytes, fields: Collection[str] = FIELDS, **options: Any) -> tuple[Form, bytes]:
    form = Form(request(pieces, **options), fields, idle_seconds=options.pop("idle", 5))
    data = b"".join([chunk async for chunk in form.file()])
    return form, data


async def refusal(*pieces: bytes, code: str = "invalid_request", **options: Any) -> str:
    with pytest.raises(Refused) as refused:
        await read(*pieces, **options)
    assert refused.value.code == code, refused.value.detail
    return refused.value.detail


async def test_a_file_and_its_fields_come_apart() -> None:
    body = body_of(part("tenant_scope", "true"), part("file", b"\x00\xff", "a.bin", "image/png"), part("room_id", "r"))
    form, data = await read(body)
    assert data == b"\x00\xff"
    assert (form.filename, form.claimed_type) == ("a.bin", "image/png")
    assert form.flag("tenant_scope") is True
    assert form.text("room_id") == "r"


@given(
    st.binary(max_size=300).filter(lambda data: BOUNDARY.encode() not in data),
    st.lists(st.integers(1, 40), min_size=1, max_size=60),
)
async def test_the_pieces_in_which_it_arrives_make_no_difference(data: bytes, cuts: list[int]) -> None:
    body = body_of(part("before", "ä"), part("file", data, "x"), part("after", "ö"))
    pieces = []
    for cut in cuts:
        pieces.append(body[:cut])
        body = body[cut:]
    form, received = await read(*[piece for piece in (*pieces, body) if piece])
    assert received == data
    assert (form.text("before"), form.text("after")) == ("ä", "ö")


FRAGMENTS = [b"\r", b"\n", b"\r\n--", f"\r\n--{BOUNDARY[:-1]}".encode(), b"-", b"x", bytes(1000), b"\r" * 400]


@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=300).map(b"".join),
    st.integers(1, 3000),
    st.lists(st.integers(1, 2500), min_size=1, max_size=30),
)
async def test_a_file_that_is_read_from_the_socket_is_the_same(data: bytes, cut: int, rooms: list[int]) -> None:
    """`cut`: bytes of the body that only come once the socket has been left. `rooms`: bytes that the consumer takes."""
    file = bytes(FAST_CHUNK_BYTES) + data
    body = body_of(part("before", "ä"), part("file", file, "x"), part("after", "ö"))
    end = max(FAST_CHUNK_BYTES, len(body) - cut)
    by_socket = body[FAST_CHUNK_BYTES:end]
    form = Form(request([body[:FAST_CHUNK_BYTES], body[end:]], by_socket=by_socket), FIELDS, idle_seconds=5)
    received, taken = b"", 0
    async for chunk in form.file():
        if isinstance(chunk, bytes):
            received += chunk
            continue
        for room in itertools.cycle(rooms):
            buffer = memoryview(bytearray(DELIMITER_BYTES + room))
            if not (read := await asyncio.to_thread(chunk.read_into, buffer)):
                break
            received, taken = received + buffer[:read], taken + read
    assert received == file
    assert taken >= len(by_socket) - 200
    assert (form.text("before"), form.text("after")) == ("ä", "ö")


@pytest.mark.parametrize("name", ["words[]", "words", "words[{}]", "words%5B%5D", "words%5B{}%5D"])
async def test_a_list_is_taken_by_every_name_that_clients_give_it(name: str) -> None:
    sent = [part(name.format(number), word) for number, word in enumerate(("one", "two", "three"))]
    form = Form(
        request([body_of(*sent, part("file", b"x", "a"))]), ("words[]", "flag"), idle_seconds=5, repeatable=["words[]"]
    )
    assert [chunk async for chunk in form.file()] == [b"x"]
    assert form.texts("words[]") == ["one", "two", "three"]


@pytest.mark.parametrize("name", ["flag[]", "flag[0]", "word[]", "words[x]", "words[0][1]", "words[]x"])
async def test_what_is_no_list_has_one_name(name: str) -> None:
    form = Form(request([body_of(part(name, "true"))]), ("words[]", "flag"), idle_seconds=5, repeatable=["words[]"])
    with pytest.raises(Refused, match="not a field of this form"):
        [chunk async for chunk in form.file()]


@pytest.mark.parametrize("header", ["Content-Transfer-Encoding: base64", "Content-Encoding: gzip"])
async def test_a_part_that_is_encoded_is_refused_and_not_stored_as_the_file(header: str) -> None:
    for name, filename in (("file", "a.txt"), ("room_id", None)):
        encoded = part(name, "aGVsbG8=", filename, None, header)
        assert header.partition(":")[0] in await refusal(body_of(encoded), code="unsupported_media_type")
    for plain in ("Content-Transfer-Encoding: binary", "content-transfer-encoding: 8BIT", "Content-Encoding: identity"):
        assert (await read(body_of(part("file", "hello", "a.txt", None, plain))))[1] == b"hello"


async def test_line_breaks_and_dashes_in_the_file_stay_in_the_file() -> None:
    for data in (b"\r\n", b"\r\n--", b"--" + BOUNDARY.encode()[:-1], b"\r\n\r\n--\r\n", b"\r" * 70_000):
        _, received = await read(body_of(part("file", data, "x")))
        assert received == data


async def test_a_form_without_a_file_has_none() -> None:
    form, data = await read(body_of(part("media_id", "med-1")))
    assert (form.filename, data, form.text("media_id")) == (None, b"", "med-1")


async def test_an_empty_form_has_neither_file_nor_fields() -> None:
    form, _ = await read(END)
    assert (form.filename, form.text("a")) == (None, None)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        ("C:\\Users\\ann\\photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("a\tb\x7f.txt", "ab.txt"),
        ("..", "file"),
        (".", "file"),
        ("", "file"),
        ("folder/", "file"),
        ("名前.png", "名前.png"),
        ("x" * 300 + ".jpeg", "x" * 250 + ".jpeg"),
        ("x" * 300 + ".tar.gz", "x" * 248 + ".tar.gz"),
        ("y" * 300, "y" * 255),
        ("会" * 100 + ".jpeg", "会" * 83 + ".jpeg"),
        ("Screenshot 2026-01-02 at 3.04.05\u202fPM.png", "Screenshot 2026-01-02 at 3.04.05\u202fPM.png"),
        ("全角\u3000空白.txt", "全角\u3000空白.txt"),
        ("می\u200cخواهم.txt", "می\u200cخواهم.txt"),
        ("👩\u200d👩\u200d👧.png", "👩\u200d👩\u200d👧.png"),
        (".gitignore", ".gitignore"),
        ("AC\\DC.mp3", "AC\\DC.mp3"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("\\\\server\\share\\a.txt", "a.txt"),
        ("a%22b.txt", 'a"b.txt'),
        ("Ende.", "Ende."),
        ("...", "file"),
        (" a.txt ", "a.txt"),
        ("=?utf-8?B?w7xiZXIudHh0?=", "über.txt"),
        ("=?ISO-8859-1?Q?=FCber?= =?utf-8?B?LnR4dA==?=", "über.txt"),
        ("=?utf-8*de-AT?Q?=C3=BCber.txt?=", "über.txt"),
        ("=?*de?Q?a.txt?=", "=?*de?Q?a.txt?="),
        ("=?nonsense?B?w7xiZXIudHh0?=", "=?nonsense?B?w7xiZXIudHh0?="),
        ("1=?2.txt", "1=?2.txt"),
        ("evil\u202egnp.exe", "evilgnp.exe"),
    ],
)
async def test_a_file_name_loses_its_path_and_what_can_not_be_shown(sent: str, kept: str) -> None:
    form, _ = await read(body_of(part("file", b"x", sent)))
    assert form.filename == kept


@pytest.mark.parametrize(
    "sent",
    [
        b"filename=\"=?utf-8?B?w7xiZXIudHh0?=\"; filename*=utf-8''%C3%BCber.txt",  # .NET
        b"filename*=UTF-8''%C3%BCber.txt; filename=\"?ber.txt\"",
        b"filename*=iso-8859-1'en'%FCber.txt",
        b"filename*=\"utf-8''%C3%BCber.txt\"",
        "filename=über.txt".encode(),
        'filename="über.txt"'.encode("latin-1"),
        b"filename*=martian''%00; filename=\"\xc3\xbcber.txt\"",
        "filename*=UTF-8''über.txt".encode(),
        b"filename*0*=utf-8''%C3%BC; filename*1=ber; filename*2=\".txt\"",  # Python's email
        'filename*0="übe"; filename*1="r.txt"'.encode(),
        b"filename*=undefined''a; filename=\"\xc3\xbcber.txt\"",  # Python knows this one, and cannot read it
        b"filename*=martian''%C3%BCber.txt",
        b"filename*=utf-8''%FCber.txt",
        b"filename*=punycode''%E4; filename=\"\xc3\xbcber.txt\"",
        b"filename*=punycode''ber.txt-goa; filename=\"\xc3\xbcber.txt\"",  # no character set, and slow to read
        b"filename*=IDNA''xn--ber-goa.txt; filename=\"\xc3\xbcber.txt\"",
        b"filename*=unicode_escape''%5Cxfcber.exe; filename=\"\xc3\xbcber.txt\"",
    ],
)
async def test_a_file_name_is_understood_as_clients_write_it(sent: bytes) -> None:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; '.encode() + sent
    form, _ = await read(head + b"\r\n\r\nx\r\n" + END)
    assert form.filename == "über.txt"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'filename="a\\\\b.txt"', "a\\b.txt"),  # Go, urllib3
        (b"filename*=UTF-8''my file.txt", "my file.txt"),
        (b"filename=\"x; filename*=utf-8''evil.txt\"", "x; filename*=utf-8''evil.txt"),
        (b"filename*1=a.txt", None),
        (b'filename="=?punycode?q?ber.txt-goa?="', "=?punycode?q?ber.txt-goa?="),
        (b'filename="say "a".txt"', 'say "a".txt'),  # Guzzle, Faraday, rest-client, request: a quote as it is
        (b'filename="say "a" \\ b.txt"; size=1', 'say "a" \\ b.txt'),
        (b'filename="a"b; c.txt', "a"),
        (b'filename="a"; b="c".txt"', "a"),
        (b'filename="a\\"; b"c".txt"', 'a\\"; b"c".txt'),
        (b'filename="say "a; filename*=utf-8\'\'b"c.txt"', "say \"a; filename*=utf-8''b\"c.txt"),
        # .NET Framework: in `filename*` each half of an emoji by itself, in `filename` the whole name
        (b"filename=\"=?utf-8?B?8J+OiS50eHQ=?=\"; filename*=utf-8''%EF%BF%BD%EF%BF%BD.txt", "🎉.txt"),
        (b"filename=\"__.txt\"; filename*=utf-8''%EF%BF%BD%EF%BF%BD.txt", "\ufffd\ufffd.txt"),
    ],
)
async def test_a_name_is_what_its_parameter_says(sent: bytes, kept: str | None) -> None:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; '.encode() + sent
    form, _ = await read(head + b"\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END)
    assert form.filename == (kept or "file")


@pytest.mark.parametrize(
    "name",
    [
        "filename*=martian-{}''a.txt",
        *('filename="=?martian-{}?q?a.txt?="', 'filename="=?martian-{}*de?q?a.txt?="', 'filename="=?*{}?q?a.txt?="'),
    ],
)
async def test_python_is_asked_for_no_character_set_that_it_does_not_have(name: str) -> None:
    """It would keep each such name for ever."""
    asked: list[str] = []
    codecs.register(asked.append)
    try:
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; {name.format(secrets.token_hex(8))}'
        await read(f"{head}\r\n\r\nx\r\n".encode() + END)
    finally:
        codecs.unregister(asked.append)
    assert asked == []


class _Kept:
    """What aiohttp writes to."""

    def __init__(self) -> None:
        self.data = b""

    async def write(self, chunk: bytes) -> None:
        self.data += chunk


@pytest.mark.parametrize(
    ("name", "quotes"),
    [
        ("über uns (1).txt", False),
        ("My%20File(1).pdf", False),
        *((name, True) for name in ("über uns (1).txt", "a b.txt", "100%.txt", "My%20File.pdf", "会.png", "a.txt")),
        *((name, True) for name in ('say "a".txt', "a\\b.txt")),
    ],
)
async def test_a_file_name_is_understood_as_aiohttp_writes_it(name: str, quotes: bool) -> None:
    sent, kept = aiohttp.FormData(quote_fields=quotes), _Kept()
    sent.add_field("file", b"x", filename=name)
    body = sent()
    await body.write(kept)  # type: ignore[arg-type]  # all that it needs of a writer
    form, data = await read(kept.data, content_type=body.headers["Content-Type"])
    assert (form.filename, data) == (name, b"x")


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("it's%20%22quoted%22%20(1).txt", 'it\'s "quoted" (1).txt'),
        ("%E4%BC%9A.png", "会.png"),
        ("100%25.txt", "100%.txt"),
        ("100%.txt", "100%.txt"),
    ],
)
async def test_a_file_name_is_understood_as_needle_writes_it(sent: str, kept: str) -> None:
    boundary = "--------------------NODENEEDLEHTTPCLIENT"
    head = f'Content-Disposition: form-data; name="file"; filename="{sent}"\r\nContent-Transfer-Encoding: binary'
    body = f"--{boundary}\r\n{head}\r\nContent-Type: text/plain\r\n\r\nx\r\n--{boundary}--".encode()
    form, data = await read(body, content_type=f"multipart/form-data; boundary={boundary}")
    assert (form.filename, data) == (kept, b"x")


@pytest.mark.parametrize(
    ("boundary", "head"),
    [
        ("dart-http-boundary-abc", "content-type: text/plain\r\ncontent-disposition: {}"),
        ("0123456789abcdef" * 2, "Content-Disposition: {}\r\nContent-Type: text/plain"),  # requests, httpx
        ("----WebKitFormBoundaryabc", "Content-Disposition: {}\r\nContent-Type: text/plain"),
    ],
)
async def test_percent_signs_stay_in_the_name_as_other_clients_write_it(boundary: str, head: str) -> None:
    part_head = head.format('form-data; name="file"; filename="My%20File.pdf"')
    body = f"--{boundary}\r\n{part_head}\r\n\r\nx\r\n--{boundary}--\r\n".encode()
    form, _ = await read(body, content_type=f"multipart/form-data; boundary={boundary}")
    assert form.filename == "My%20File.pdf"


async def test_what_upload_widgets_send_beside_the_file_is_not_read() -> None:
    widgets = [part(name, "x") for name in ("name", "type", "relativePath", "name")]
    form, data = await read(body_of(part("file", "{}"), *widgets, part("file", b"data", "a.txt"), part("room_id", "a")))
    assert (form.filename, data, form.text("room_id"), form.text("name")) == ("a.txt", b"data", "a", None)


async def test_a_file_part_may_do_without_a_name_if_it_says_its_type() -> None:
    form, data = await read(body_of(part("file", b"x", None, "audio/wav")))
    assert (form.filename, form.claimed_type, data) == ("file", "audio/wav", b"x")


async def test_a_forgotten_at_sign_is_told() -> None:
    assert "-F file=@path" in await refusal(body_of(part("file", "./photo.jpg")), code="missing_file")


@pytest.mark.parametrize("size", [1, 16 * 1024 + 1])
async def test_a_file_that_was_added_without_its_name_is_told_what_it_lacks(size: int) -> None:
    """As .NET writes `form.Add(new ByteArrayContent(bytes), "file")`."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=file\r\n\r\n".encode()
    told = await refusal(head + b"\x89" * size + b"\r\n" + END, code="missing_file")
    assert "its part has neither a file name nor a type" in told


async def test_a_second_file_is_refused() -> None:
    assert "one file" in await refusal(body_of(part("file", b"x", "a"), part("file", b"y", "b")))


async def test_a_file_under_another_name_is_refused_with_the_right_one() -> None:
    assert "`file`" in await refusal(body_of(part("upload", b"x", "a")))


@pytest.mark.parametrize("name", ["blob", "labels.json", ""])
async def test_a_field_may_come_as_a_file(name: str) -> None:
    """As browsers send a `Blob`, to say its type, and requests what is in `files`."""
    sent = part("prompt", "Küche", name, "application/json")
    form, data = await read(body_of(sent, part("file", b"x", "a.txt")))
    assert (form.text("prompt"), form.filename, data) == ("Küche", "a.txt", b"x")


@pytest.mark.parametrize(
    ("charset", "value"),
    [
        ("ISO-8859-1", "Küche".encode("latin-1")),  # Apache's HttpClient, by default
        ("utf-16", "Küche".encode("utf-16-le")),  # .NET's Encoding.Unicode
        ('"UTF-8"', b"\xef\xbb\xbf" + "Küche".encode()),
        ("us-ascii", "Küche".encode()),
        ("martian", "Küche".encode()),
        ("hex", "Küche".encode()),
    ],
)
async def test_a_field_is_read_in_the_character_set_that_it_names(charset: str, value: bytes) -> None:
    form, _ = await read(body_of(part("prompt", value, None, f"text/plain; charset={charset}")))
    assert form.text("prompt") == "Küche"


async def test_a_field_sent_twice_is_refused() -> None:
    assert "`room_id` was sent twice" in await refusal(body_of(part("room_id", "a"), part("room_id", "b")))


@pytest.mark.parametrize("value", ["true", "1", "YES", "on"])
async def test_what_counts_as_true(value: str) -> None:
    form, _ = await read(body_of(part("flag", value)))
    assert form.flag("flag")


@pytest.mark.parametrize("value", ["false", "0", "No", "off"])
async def test_what_counts_as_false(value: str) -> None:
    form, _ = await read(body_of(part("flag", value)))
    assert not form.flag("flag", default=True)


async def test_an_empty_field_is_one_that_was_not_sent() -> None:
    form, _ = await read(body_of(*(part(name, "") for name in ("file", "room_id", "flag", "task"))))
    assert (form.filename, form.text("room_id")) == (None, None)
    assert (form.flag("flag"), form.flag("flag", default=True)) == (False, True)
    assert form.choice("task", ("transcribe", "translate")) == "transcribe"


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("roomid", "`roomid` is not a field of this form; did you mean `room_id`?"),
        ("TenantScope", "`TenantScope` is not a field of this form; did you mean `tenant_scope`?"),
        ("xyz", "`xyz` is not a field of this form; it has `file`, `room_id`, `tenant_scope`."),
        ("", "That is not a field of this form; it has `file`, `room_id`, `tenant_scope`."),
        ("\u202eroom_id", "That is not a field of this form; did you mean `room_id`?"),
        ("q" * 2000, "That is not a field of this form; it has `file`, `room_id`, `tenant_scope`."),
    ],
)
async def test_a_field_that_the_form_does_not_have_is_refused_with_the_nearest_it_has(sent: str, told: str) -> None:
    fields = ("file", "room_id", "tenant_scope")
    assert await refusal(body_of(part("file", b"x", "a"), part(sent, "attic")), fields=fields) == told


async def test_a_flag_that_is_neither_and_a_choice_that_is_none_are_refused() -> None:
    form, _ = await read(body_of(part("flag", "maybe"), part("task", "sing")))
    with pytest.raises(Refused, match="`flag` must be true or false"):
        form.flag("flag")
    with pytest.raises(Refused, match="`task` must be one of transcribe, translate"):
        form.choice("task", ("transcribe", "translate"))


@pytest.mark.parametrize("value", [b"\xff\xfe", b"a\0b"])
@pytest.mark.parametrize("charset", [None, "us-ascii", "hex"])
async def test_a_field_that_is_no_text_is_refused(value: bytes, charset: str | None) -> None:
    sent = part("room_id", value, None, charset and f"text/plain; charset={charset}")
    assert (await refusal(body_of(sent))).startswith("`room_id` must be a text")


async def test_fields_are_few_and_small() -> None:
    many = [f"f{number}" for number in range(MAX_FIELDS + 2)]
    too_long = await refusal(body_of(part("prompt", "x" * (MAX_FIELD_BYTES + 1))))
    assert too_long.startswith("`prompt` may have at most")
    too_many = await refusal(body_of(*(part(name, "x") for name in many)), fields=many)
    assert f"more than {MAX_FIELDS} fields" in too_many
    await refusal(body_of(part("x" * 5000, "y")))
    await refusal(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n'.encode() + b"X: y\r\n" * 20)


async def test_what_surrounds_the_parts_is_bounded_too() -> None:
    padding = b"p" * 70_000
    before = [padding] * (MAX_OVERHEAD_BYTES // len(padding) + 1)
    await refusal(*before, b"\r\n" + body_of(part("file", b"x", "a")))
    await refusal(body_of(part("file", b"x", "a")), *before)


async def test_a_large_file_is_no_overhead() -> None:
    piece = b"d" * 65536
    whole = [part("file", b"", "a")[:-2], *[piece] * 16, b"\r\n" + END]
    _, data = await read(*whole)
    assert len(data) == 16 * 65536


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/mixed; boundary=x", "garbage\xff"],
)
async def test_another_content_type_is_told_what_to_send(content_type: str) -> None:
    assert "multipart/form-data" in await refusal(b"x", content_type=content_type, code="unsupported_media_type")


URLENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("content_type", [URLENCODED, f"{URLENCODED}; charset=UTF-8", URLENCODED.upper()])
async def test_a_form_without_a_file_may_be_urlencoded(content_type: str) -> None:
    pieces = b"media_id=med-1&prompt=sch%C3", b"%B6n+und+gut&tenant_scope=true&room_id=&lastModified=7"
    form, data = await read(*pieces, content_type=content_type)
    assert (form.filename, data) == (None, b"")
    assert (form.text("media_id"), form.text("prompt"), form.text("room_id")) == ("med-1", "schön und gut", None)
    assert form.flag("tenant_scope") is True


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("file=text", "missing_file"),
        ("colour=red", "invalid_request"),
        ("room_id=a&room_id=b", "invalid_request"),
        ("room_id=%00", "invalid_request"),
        ("room_id=%FF", "invalid_request"),
        ("room_id=" + "r" * (MAX_FIELD_BYTES + 1), "invalid_request"),
        ("&".join(f"lastModified={n}" for n in range(MAX_FIELDS + 2)), "invalid_request"),
        ("lastModified=1&" * (MAX_OVERHEAD_BYTES // 15 + 1), "invalid_request"),
    ],
)
async def test_an_urlencoded_form_has_the_limits_of_any_form(body: str, code: str) -> None:
    await refusal(body.encode(), content_type=URLENCODED, code=code)


@pytest.mark.parametrize(
    "content", [b"just words", b"\xff\xd8\xff\xe0", b"a&" * (MAX_FIELDS + 2), b"x" * (MAX_OVERHEAD_BYTES + 1)]
)
async def test_a_file_that_was_sent_as_an_urlencoded_form_is_told_how_to_send_it(content: bytes) -> None:
    assert "-F file=@path" in await refusal(content, content_type=URLENCODED)


@pytest.mark.parametrize(
    ("stated", "boundary"),
    [
        ('"a;b c"', "a;b c"),
        ('"a\\\\b\\"c"', 'a\\b"c'),
        ("----=_Part_1_2.3", "----=_Part_1_2.3"),  # what needs quotes, and clients send without
        ("==abc==; charset=utf-8", "==abc=="),
        ("a/b:c?d", "a/b:c?d"),
        ("abc, multipart/form-data", "abc"),
    ],
)
async def test_a_boundary_may_be_quoted_or_lack_its_quotes(stated: str, boundary: str) -> None:
    body = body_of(part("file", b"x", "a.txt")).replace(BOUNDARY.encode(), boundary.encode())
    form, data = await read(body, content_type=f'multipart/form-data; x="; boundary=y"; Boundary = {stated}')
    assert (form.filename, data) == ("a.txt", b"x")


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=" + "x" * 201,
        "multipart/form-data; boundary=\xe4\xf6",
        "multipart/form-data; charset=utf-8",
    ],
)
async def test_a_content_type_without_a_usable_boundary_is_refused(content_type: str) -> None:
    assert "boundary" in await refusal(b"x", content_type=content_type)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"\r\n\r\n",
        f"--{BOUNDARY}".encode(),
        f"--{BOUNDARY}\n".encode(),
        f"--{BOUNDARY}xx\r\n".encode(),
        f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--".encode(),
        f"--{BOUNDARY}\r\nContent-Disposition: attachment\r\n\r\nx\r\n--{BOUNDARY}--".encode(),
        f"--{BOUNDARY}\r\nno colon here\r\n\r\nx\r\n--{BOUNDARY}--".encode(),
        f"--{BOUNDARY}\r\n\xff\xfe: x\r\n\r\nx\r\n--{BOUNDARY}--".encode("latin-1"),
        part("file", b"x", "a"),
        part("file", b"x", "a")[:-1],
        part("file", b"x" * 100, "a")[:-50],
    ],
)
async def test_a_broken_form_is_refused(body: bytes) -> None:
    assert "broken" in await refusal(body)


@given(st.binary(max_size=400), st.sampled_from([b"", body_of(part("file", b"abc", "a"))]))
async def test_no_bytes_do_worse_than_a_refusal(garbage: bytes, rest: bytes) -> None:
    for body in (garbage + rest, f"--{BOUNDARY}\r\n".encode() + garbage + rest):
        with contextlib.suppress(Refused):
            await read(body)


async def test_a_client_that_goes_away_is_no_refusal() -> None:
    with pytest.raises(ClientGone):
        await read(part("file", b"x", "a"), gone=True)


async def test_a_client_that_falls_silent_is_ended() -> None:
    form = Form(request([part("file", b"x", "a")], silent=True), FIELDS, idle_seconds=0.01)
    with pytest.raises(Refused) as refused:
        [chunk async for chunk in form.file()]
    assert refused.value.code == "request_timeout"
