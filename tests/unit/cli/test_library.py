"""`mediactl` as a library. tests/integration/clients/test_mediactl_library.py has the real api."""

import asyncio
import gzip
import inspect
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest

import mediactl
from mediactl import AsyncClient, Client, MediaError, Misuse, Problem, Unreachable
from mediactl.client import Calls

Answer = Callable[[httpx.Request], httpx.Response]
REFUSAL = {
    "type": "urn:media-platform:problem:quota_exceeded",
    "title": "Storage quota exceeded",
    "status": 413,
    "detail": "It is full.",
    "code": "quota_exceeded",
    "used": 7,
}


def client(answer: Answer, **options: Any) -> Client:
    return Client("http://api", "t", http=httpx.Client(transport=httpx.MockTransport(answer)), **options)


def async_client(answer: Answer) -> AsyncClient:
    return AsyncClient("http://api", "t", http=httpx.AsyncClient(transport=httpx.MockTransport(answer)))


def refuse(_: httpx.Request) -> httpx.Response:
    return httpx.Response(413, json=REFUSAL, headers={"X-Request-Id": "req-1"})


def vanish(_: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("gone")


def test_both_clients_have_every_call_with_the_same_parameters() -> None:
    calls = {name: method for name, method in vars(Calls).items() if not name.startswith("_")}
    assert {name for name in vars(Client) if not name.startswith("_")} == {*calls, "close"}
    for name, method in calls.items():
        assert inspect.signature(getattr(Client, name)) == inspect.signature(method)
        assert getattr(Client, name).__doc__ == method.__doc__
        assert not inspect.iscoroutinefunction(getattr(Client, name))


def test_all_of_it_is_there_after_its_import_alone() -> None:
    names = [*mediactl.__all__, "errors.Problem", "models.MediaInfo", "client.Client", "sending.Source"]
    used = "; ".join(["import mediactl", *(f"mediactl.{name}" for name in names)])
    subprocess.run([sys.executable, "-c", used], check=True)
    assert {*mediactl.__all__} <= {*dir(mediactl)}
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        mediactl.Nothing  # type: ignore[attr-defined]  # noqa: B018 (it raises)


def test_its_types_are_for_those_who_import_it() -> None:
    assert (Path(mediactl.__file__).parent / "py.typed").is_file()


def test_a_refusal_has_all_that_the_problem_says() -> None:
    with pytest.raises(MediaError) as refused:
        client(refuse).usage()
    error = refused.value
    assert isinstance(error, Problem)
    assert (error.type, error.title, error.detail) == (REFUSAL["type"], REFUSAL["title"], str(error))
    assert (error.status, error.code, error.request_id) == (413, "quota_exceeded", "req-1")
    assert dict(error.facts) == {"used": 7}


async def test_a_refusal_is_the_same_for_those_who_await() -> None:
    async with async_client(refuse) as media:
        with pytest.raises(MediaError) as refused:
            await media.usage()
    assert (refused.value.type, refused.value.request_id) == (REFUSAL["type"], "req-1")


async def test_a_lost_connection_is_the_same_class_with_nothing_of_the_api() -> None:
    for error in (await _error(async_client(vanish)), _error_of(client(vanish))):
        assert isinstance(error, Unreachable)
        assert (error.type, error.title, error.status, error.request_id) == ("about:blank", "", None, None)
        assert "broke" in error.detail


def test_an_address_that_answers_without_tls_is_named_with_what_to_do() -> None:
    def plain(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1002)")

    assert "give its address with http://" in _error_of(client(plain)).detail


async def _error(media: AsyncClient) -> MediaError:
    with pytest.raises(MediaError) as failed:
        await media.usage()
    return failed.value


def _error_of(media: Client) -> MediaError:
    with pytest.raises(MediaError) as failed:
        media.usage()
    return failed.value


def page_of(request: httpx.Request) -> httpx.Response:
    start, count = int(request.url.params.get("cursor", 0)), int(request.url.params["limit"])
    items = [{"media_id": f"med-{number}"} for number in range(start, min(start + count, 450))]
    return httpx.Response(200, json={"data": items, "next_cursor": str(start + count) if start + count < 450 else None})


async def test_pages_are_iterated_as_far_as_is_asked() -> None:
    for limit, sizes in ((None, [200, 200, 50]), (250, [200, 50]), (3, [3])):
        assert [len(page["data"]) for page in client(page_of).files(limit=limit)] == sizes
        async with async_client(page_of) as media:
            assert [len(page["data"]) async for page in media.files(limit=limit)] == sizes
    first = next(client(page_of).files(limit=3))
    assert [item["media_id"] for item in next(client(page_of).files(limit=2, cursor=first["next_cursor"]))["data"]] == [
        "med-3",
        "med-4",
    ]


@pytest.mark.parametrize("file", [b"hello", io.BytesIO(b"hello")])
async def test_content_and_streams_are_sent_under_a_name(file: Any) -> None:
    bodies: list[bytes] = []

    def take(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read() if isinstance(request.stream, httpx.SyncByteStream) else b"")
        return httpx.Response(201, json={"data": {"media_id": "med-1"}})

    assert client(take).upload(file, filename="a.txt")["media_id"] == "med-1"
    assert b'filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nhello\r\n--' in bodies[0]
    with pytest.raises(MediaError, match="needs a filename"):
        client(take).upload(file)


def sent_by(file: Any, **options: Any) -> bytes:
    """The form that a client sends of it."""
    bodies: list[bytes] = []

    def take(request: httpx.Request) -> httpx.Response:
        bodies.append(request.read())
        return httpx.Response(201, json={"data": {"media_id": "med-1"}})

    client(take).upload(file, **options)
    return bodies[0]


class OnlyRead:
    """As some HTTP libraries give an answer."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._content.read(size)


def test_a_stream_is_sent_to_its_end_whatever_lies_behind_it(tmp_path: Path) -> None:
    content = b"said again and again " * 1000
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with gzip.open(tmp_path / "a.gz") as unpacked:
        assert content + b"\r\n--" in sent_by(unpacked, filename="a.txt")
    with tempfile.SpooledTemporaryFile(max_size=100) as spooled, tempfile.NamedTemporaryFile() as named:
        for file in (spooled, named):
            file.write(content)
            assert content + b"\r\n--" in sent_by(file, filename="a.txt")
    assert content + b"\r\n--" in sent_by(OnlyRead(content), filename="a.txt")
    for held in (bytearray(content), memoryview(content)):
        assert content + b"\r\n--" in sent_by(held, filename="a.txt")


def test_a_file_that_is_open_for_text_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Grüße")
    with (tmp_path / "a.txt").open() as text, pytest.raises(Misuse, match="open it in binary mode"):
        client(vanish).upload(text, filename="a.txt")  # type: ignore[arg-type]  # as who has no type checker


@pytest.mark.parametrize("said", [{"filename": "a.wav"}, {"room_id": "lobby"}, {"labels": {"a": "b"}}])
def test_what_is_said_of_a_file_that_is_stored_already_is_not_passed_over(said: dict[str, Any]) -> None:
    with pytest.raises(Misuse, match="for a file that is sent"):
        client(vanish).transcribe(media_id="med-1", **said)


def test_a_target_may_be_a_text_as_a_file_to_send_may(tmp_path: Path) -> None:
    def give(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=httpx.ByteStream(b"hello"))

    assert client(give).download("med-1", str(tmp_path / "a.bin")).path == tmp_path / "a.bin"
    assert client(give).download("med-1", str(tmp_path)).path == tmp_path / "med-1"
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "med-1").read_bytes() == b"hello"


@pytest.mark.parametrize("labels", [MappingProxyType({}), MappingProxyType({"a": "b"})])
def test_labels_may_be_any_mapping_none_of_them_too(labels: MappingProxyType[str, str]) -> None:
    sent: list[Any] = []

    def changed(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"data": {}})

    client(changed).change("med-1", labels=labels)
    assert sent == [{"labels": dict(labels)}]


@pytest.mark.parametrize(("first", "last", "read"), [(0, None, b"hello"), (1, 3, b"ell"), (3, 99, b"lo")])
def test_a_part_is_read_also_where_the_whole_is_answered(first: int, last: int | None, read: bytes) -> None:
    whole = client(lambda _: httpx.Response(200, content=b"hello"))
    assert whole.read("med-1", first, last) == read
    part = client(lambda _: httpx.Response(206, content=read))
    assert part.read("med-1", first, last) == read


@pytest.mark.parametrize(("first", "last"), [(-5, None), (5, 3)])
def test_a_part_that_no_file_has_is_refused_and_not_answered_with_the_whole(first: int, last: int | None) -> None:
    whole = client(lambda _: httpx.Response(200, content=b"hello"))
    with pytest.raises(Misuse, match="first"):
        whole.read("med-1", first, last)


def test_more_than_two_hundred_are_signed_in_several_requests() -> None:
    asked: list[int] = []

    def sign(request: httpx.Request) -> httpx.Response:
        ids = json.loads(request.read())["media_ids"]
        asked.append(len(ids))
        return httpx.Response(200, json={"data": [{"media_id": each, "url": "u", "error": None} for each in ids]})

    ids = [f"med-{number}" for number in range(450)]
    assert [signed["media_id"] for signed in client(sign).sign(ids)] == ids
    assert asked == [200, 200, 50]


async def test_calls_of_one_client_run_side_by_side() -> None:
    """One that waits because the API said "later" holds up no other."""
    tries: dict[str, int] = {}

    async def answer(request: httpx.Request) -> httpx.Response:
        path = request.url.path
        tries[path] = tries.get(path, 0) + 1
        if "slow" in path and tries[path] == 1:
            return httpx.Response(503, json={"code": "unavailable"}, headers={"Retry-After": "0.2"})
        return httpx.Response(200, json={"data": {"media_id": path}})

    ended: list[str] = []
    media = AsyncClient("http://api", "t", http=httpx.AsyncClient(transport=httpx.MockTransport(answer)))

    async def ask(media_id: str) -> None:
        await media.info(media_id)
        ended.append(media_id)

    async with media:
        await asyncio.gather(ask("slow"), ask("quick"))
    assert ended == ["quick", "slow"]


def events(*messages: dict[str, Any]) -> bytes:
    return "".join(f"id: {n}\ndata: {json.dumps(m)}\n\n" for n, m in enumerate(messages)).encode()


async def test_waiting_for_a_job_gives_it_with_its_result_or_raises_why_not() -> None:
    job = {"job_id": "job-1", "status": "completed", "error": None, "transcript": "Hello."}

    def done(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(
                200, content=events({"status": "running"}), headers={"Content-Type": "text/event-stream"}
            )
        return httpx.Response(200, json={"data": job})

    assert client(done).wait("job-1") == job
    async with async_client(done) as media:
        assert [update["status"] async for update in media.follow("job-1")] == ["running", "completed"]
        job |= {"status": "failed", "error": {"code": "too_long", "detail": "Too long."}}
        with pytest.raises(MediaError, match=r"job-1 failed: Too long\."):
            await media.wait("job-1")


def test_a_list_that_is_left_early_leaves_nothing_open() -> None:
    closed: list[bool] = []

    class Stream(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield events({"status": "running"}, {"status": "running"})
            yield events({"status": "running"})

        def close(self) -> None:
            closed.append(True)

    def stream(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Stream(), headers={"Content-Type": "text/event-stream"})

    updates = client(stream).follow("job-1")
    assert next(updates)["status"] == "running"  # type: ignore[typeddict-item]
    assert closed == []
    updates.close()
    assert closed == [True]


class Slow(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()


async def test_a_call_that_awaits_can_be_cancelled() -> None:
    def stream(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Slow())

    async with async_client(stream) as media:
        task = asyncio.ensure_future(media.download_to(io.BytesIO(), "med-1"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
