"""What media_api.server uses of uvicorn's protocol, which is no public interface: it must still be there, and the same.

A failure after uvicorn has moved means: read `uvicorn/protocols/http/httptools_impl.py` beside `BoundedProtocol`, above
all `data_received` (`_parse` stands in its place) and the order in which the parser's callbacks come; run the tests
test_errors.py, test_shutdown.py and test_downloads.py of tests/integration/http; then write the new surface here, and
move the pin in api/pyproject.toml.
"""

import ast
import asyncio
import inspect
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import httptools
import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from media_api import server

REPLACED = {
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "on_message_begin": ["self"],
    "on_url": ["self", "url"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "shutdown": ["self"],
    "send_400_response": ["self", "msg"],
}
"""Methods of uvicorn's protocol that ours overrides, and their parameters."""
USED = {
    *(
        "client",
        "config",
        "cycle",
        "flow",
        "headers",
        "loop",
        "parser",
        "scheme",
        "pipeline",
        "scope",
        "transport",
        "url",
    ),
    *("_unset_keepalive_if_required", "expect_100_continue"),
}
"""Attributes of uvicorn's protocol that ours reads, sets or calls beside those."""
OF_FLOW = {"pause_reading", "resume_reading"}
OF_CYCLE = {"body", "disconnected", "message_event", "response_complete", "response_started", "scope"}
OF_PARSER = {"feed_data", "get_http_version", "should_upgrade"}

SAME = f"uvicorn {uvicorn.__version__} is not as media_api.server knows it. {__doc__}"


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        """What each system call would send."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.sent.append(b"".join(list_of_data))

    def close(self) -> None:
        self.sent.append(b"closed")

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


@pytest.fixture
async def connection() -> AsyncIterator[HttpToolsProtocol]:
    """uvicorn's own protocol while a request is answered."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    state = ServerState()
    protocol = HttpToolsProtocol(uvicorn.Config(app, interface="asgi3", log_config=None), state, {})
    protocol.connection_made(_Transport())
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    yield protocol
    for task in state.tasks:
        task.cancel()


def _attributes_of(part: str = "") -> set[str]:
    """The attributes of the protocol, or of its `part`, that the source of media_api.server names."""
    own, others = (f"{owner}.{part}".rstrip(".") for owner in ("self", "self._protocol"))
    tree = ast.parse(Path(server.__file__).read_text())
    (protocol,) = (each for each in ast.walk(tree) if isinstance(each, ast.ClassDef) and each.name == "BoundedProtocol")
    named = [(each, own) for each in ast.walk(protocol)] + [(each, others) for each in ast.walk(tree)]
    return {each.attr for each, owner in named if isinstance(each, ast.Attribute) and ast.unparse(each.value) == owner}


def test_these_lists_say_all_that_ours_uses() -> None:
    own = vars(server.BoundedProtocol)
    assert {name for name in own if hasattr(HttpToolsProtocol, name) and not name.startswith("__")} == set(REPLACED)
    assert {name for name in _attributes_of() if name not in own} == USED
    assert _attributes_of("flow") == OF_FLOW
    assert _attributes_of("cycle") == OF_CYCLE
    assert _attributes_of("parser") == OF_PARSER


@pytest.mark.parametrize("name", REPLACED)
def test_a_method_that_ours_overrides_takes_what_it_took(name: str) -> None:
    method = getattr(HttpToolsProtocol, name, None)
    assert method is not None, SAME
    assert list(inspect.signature(method).parameters) == REPLACED[name], SAME


async def test_the_attributes_that_ours_uses_are_there(connection: HttpToolsProtocol) -> None:
    assert {name for name in USED if not hasattr(connection, name)} == set(), SAME
    assert {name for name in OF_FLOW if not hasattr(connection.flow, name)} == set(), SAME
    assert {name for name in OF_CYCLE if not hasattr(connection.cycle, name)} == set(), SAME
    assert {name for name in OF_PARSER if not hasattr(connection.parser, name)} == set(), SAME


async def test_they_hold_what_they_held(connection: HttpToolsProtocol) -> None:
    assert isinstance(connection.cycle, RequestResponseCycle), SAME
    assert isinstance(connection.cycle.message_event, asyncio.Event), SAME
    states = (connection.cycle.disconnected, connection.cycle.response_complete, connection.cycle.response_started)
    assert states == (False, False, False), SAME
    assert connection.cycle.body == bytearray(), SAME
    assert isinstance(connection.cycle.body, bytearray), SAME
    assert isinstance(connection.parser, httptools.HttpRequestParser), SAME
    assert connection.headers == [(b"host", b"here")], SAME
    assert (connection.url, len(connection.pipeline)) == (b"/", 0), SAME
    assert connection.scope["http_version"] == "1.1", SAME
    assert connection.loop is asyncio.get_running_loop(), SAME


async def test_a_body_comes_whole_in_one_chunk_and_in_many_without_a_copy_of_the_first() -> None:
    bodies: list[list[bytes]] = [[b"x" * 100_000], [b"a", b"bc", b"def"]]
    got: list[bytes] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["more_body"]:
            got.append(message["body"])
        got.append(message["body"])

    state = ServerState()
    for chunks in bodies:
        protocol = server.BoundedProtocol(uvicorn.Config(app, interface="asgi3", log_config=None), state, {})
        protocol.connection_made(_Transport())
        protocol.data_received(b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n")
        for chunk in chunks:
            protocol.on_body(chunk)
        assert (protocol.cycle.body is chunks[0]) == (len(chunks) == 1)
        protocol.on_message_complete()
        await asyncio.wait(state.tasks)
    assert got == [b"".join(chunks) for chunks in bodies]


async def _written(*messages: dict[str, Any], pause: bool = False, head: bytes = b"") -> list[bytes]:
    """What is sent for an answer of these messages, with a pause between them or without."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
            if pause:
                await asyncio.sleep(0)

    state, transport = ServerState(), _Transport()
    protocol = server.BoundedProtocol(uvicorn.Config(app, interface="asgi3", log_config=None), state, {})
    protocol.connection_made(transport)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: here\r\n%b\r\n" % head)
    await asyncio.wait(state.tasks)
    await asyncio.sleep(0)
    sent = [*transport.sent]
    protocol.connection_lost(None)
    return sent


START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100000")]}


async def test_an_answers_head_and_body_are_one_write_whatever_its_size() -> None:
    for size in (0, 1, 100_000):
        start = START | {"headers": [(b"content-length", b"%d" % size)]}
        (sent,) = await _written(start, {"type": "http.response.body", "body": b"x" * size})
        head, _, body = sent.partition(b"\r\n\r\n")
        assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"x" * size)


async def test_what_comes_later_is_not_waited_for() -> None:
    bodies = [{"type": "http.response.body", "body": b"x" * 50_000, "more_body": more} for more in (True, False)]
    sent = await _written(START, *bodies, pause=True)
    assert [len(each) for each in sent[1:]] == [50_000, 50_000]
    assert sent[0].startswith(b"HTTP/1.1 200 OK")
    assert sent[0].endswith(b"\r\n\r\n")


async def test_a_connection_that_ends_with_its_answer_sends_all_of_it_before() -> None:
    start = START | {"status": 304, "headers": []}
    sent = await _written(start, {"type": "http.response.body"}, head=b"Connection: close\r\n")
    assert [each.split(b" ")[0] for each in sent] == [b"HTTP/1.1", b"closed"]


def test_the_server_ends_as_it_ended() -> None:
    assert list(inspect.signature(uvicorn.Server.handle_exit).parameters) == ["self", "sig", "frame"], SAME
    assert list(inspect.signature(uvicorn.Server.shutdown).parameters) == ["self", "sockets"], SAME
    served = uvicorn.Server(uvicorn.Config("no:app", log_config=None))
    assert (served.should_exit, served.force_exit) == (False, False), SAME
